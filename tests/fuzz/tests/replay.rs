//! The corpus, without a fuzzer: the seeds, and whatever this machine has found.

#[path = "../../../crates/codec/tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};

use midge_codec::{Framed, PACKET_SIZE_MAX, ProtocolVersion, decode, frame};

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Every input of a target with its name.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder(target)).expect("the corpus is there");
    let paths = entries.map(|entry| entry.expect("can be read").path());
    paths
        .map(|path| (path.display().to_string(), std::fs::read(&path).expect("is a file")))
        .collect()
}

#[test]
fn frame_decode_holds_for_its_corpus() {
    let mut streams = 0;
    for (name, bytes) in inputs("frame_decode") {
        midge_fuzz::frame_decode(&bytes);
        if !name.ends_with("-stream") {
            continue;
        }
        // A seed that stops at its first packet would teach the fuzzer nothing.
        let version = ProtocolVersion::ALL[usize::from(bytes[0] % 3)];
        let Ok(Framed::Packet(raw)) = frame(&bytes[1..], PACKET_SIZE_MAX) else { panic!("{name}") };
        assert!(decode(raw, version).is_ok(), "{name}");
        streams += 1;
    }
    assert_eq!(streams, ProtocolVersion::ALL.len());
}

#[test]
fn roundtrip_holds_for_its_corpus() {
    let inputs = inputs("roundtrip");
    assert!(inputs.len() >= 50);
    for (_, bytes) in inputs {
        midge_fuzz::roundtrip(&bytes);
    }
}

/// Targets whose seeds were found by a fuzzer: the smallest set that reaches what a long run had reached.
#[test]
fn the_others_hold_for_their_corpora() {
    let targets: [(&str, fn(&[u8])); 3] = [
        ("framing", midge_fuzz::framing),
        ("session", midge_fuzz::session),
        ("differential", midge_fuzz::differential),
    ];
    for (target, holds) in targets {
        let inputs = inputs(target);
        assert!(inputs.len() >= 10, "{target}");
        for (name, bytes) in inputs {
            println!("{name}");
            holds(&bytes);
        }
    }
}

/// Files by hand: good ones of every kind, and ones that are refused.
#[test]
fn files_hold_for_their_corpora() {
    let targets: [(&str, fn(&[u8])); 2] =
        [("passwords", midge_fuzz::passwords), ("access", midge_fuzz::access)];
    for (target, holds) in targets {
        let inputs = inputs(target);
        assert!(inputs.len() >= 9, "{target}");
        for (name, bytes) in inputs {
            println!("{name}");
            holds(&bytes);
        }
    }
    let good = inputs("passwords").into_iter().filter(|(_, bytes)| {
        let text = String::from_utf8_lossy(bytes);
        midge_auth::PasswordFile::parse(&text).is_ok_and(|file| !file.is_empty())
    });
    assert!(good.count() >= 4, "seeds that stop at their first line teach nothing");
}

/// Situations that the events of the seeds lead into, by the counter that shows it and, of a family, its label.
const SITUATIONS: [(&str, &str); 18] = [
    ("connections_handed_over", ""),
    ("connections_closed", "taken_over"),
    ("connections_closed", "keep_alive_timeout"),
    ("connections_closed", "connect_timeout"),
    ("connections_closed", "protocol_error"),
    ("connections_closed", "malformed_packet"),
    ("messages_dropped", "output_full"),
    ("messages_dropped", "queue_full"),
    ("messages_dropped", "expired"),
    ("messages_dropped", "too_large"),
    ("messages_dropped", "no_member"),
    ("duplicates_received", ""),
    ("retained_refused", ""),
    ("wills_published", ""),
    ("sessions_expired", ""),
    ("hops_received", ""),
    ("publishers_parked", ""),
    ("publishes_sent", ""),
];

#[test]
fn shard_holds_for_its_corpus_and_meets_everything() {
    let mut met = midge_metrics::Counters::default();
    for (name, bytes) in inputs("shard") {
        println!("{name}");
        met.merge(&midge_fuzz::shard(&bytes));
    }
    for (name, label) in SITUATIONS {
        let fields = met.iter().filter(|(field, _)| field.name == name);
        let counts = fields
            .filter(|(field, _)| label.is_empty() || field.labels().any(|one| one.1 == label))
            .map(|(_, count)| count);
        let count: u64 = counts.sum();
        println!("{name} {label}: {count}");
        assert!(count > 0, "no seed leads to {name} {label}");
    }
}

/// Numbers that come out the same each time.
fn numbers(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some((state >> 32) as u8)
    })
}

/// Without a corpus of their own: rows of any numbers, and records of every kind with any byte changed.
#[test]
fn record_and_segments_hold_for_any_numbers() {
    for seed in 1..400 {
        let bytes: Vec<u8> = numbers(seed).take(120 + seed as usize % 200).collect();
        midge_fuzz::segments(&bytes);
        midge_fuzz::record(&bytes);
    }
    for kind in 0..=20 {
        for seed in 0..200 {
            // Small numbers are lengths and counts that fit.
            let mut bytes: Vec<u8> = numbers(seed).take(40).map(|number| number % 5).collect();
            bytes.insert(0, kind);
            for size in 1..bytes.len() {
                midge_fuzz::record(&bytes[..size]);
            }
        }
    }
}

/// Writes the seeds anew from the corpus of the codec's own tests:
/// `cargo test --manifest-path tests/fuzz/Cargo.toml -- --ignored write_the_seeds`
#[test]
#[ignore = "changes files"]
fn write_the_seeds() {
    for (choice, version) in (0_u8..).zip(ProtocolVersion::ALL) {
        let mut stream = vec![choice];
        for (index, bytes) in common::corpus(version).into_iter().enumerate() {
            let raw = common::cut(&bytes).expect("the corpus is whole");
            let seed = [&[choice, raw.first_byte], raw.body].concat();
            // But for the CONNECT, a packet of MQTT 3.1 is one of 3.1.1.
            if version != ProtocolVersion::V31 || raw.first_byte >> 4 == 1 {
                let name = format!("v{version}-{index:02}-type-{}", raw.first_byte >> 4);
                std::fs::write(folder("roundtrip").join(name), seed).expect("can be written");
            }
            stream.extend(&bytes);
        }
        let name = format!("v{version}-stream");
        std::fs::write(folder("frame_decode").join(name), stream).expect("can be written");
    }
}

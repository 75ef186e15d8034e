//! The corpus of the transports, without a fuzzer.

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = std::fs::read_dir(folder).expect("the corpus is there");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("can be read").path();
        run(&std::fs::read(&path).expect("is a file"));
        count += 1;
    }
    assert!(count >= 5, "{target} has seeds");
}

#[test]
fn transport_holds_for_its_corpus() {
    replay("transport", midge_fuzz::transport);
}

#[test]
fn transport_tls_holds_for_its_corpus() {
    replay("transport_tls", midge_fuzz::transport_tls);
}

/// What a fuzzer does, blindly and for a moment: seeds with bytes changed, cut out and doubled. The seed of the generator is in
/// the name of a failure, which the same command repeats.
#[test]
fn mutated_seeds_hold() {
    let rounds = std::env::var("MIDGE_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok());
    for (target, run) in [
        ("transport", midge_fuzz::transport as fn(&[u8])),
        ("transport_tls", midge_fuzz::transport_tls),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .expect("the corpus is there")
            .map(|entry| entry.expect("can be read").path())
            .collect();
        paths.sort();
        let seeds: Vec<Vec<u8>> =
            paths.iter().map(|path| std::fs::read(path).expect("is a file")).collect();
        for round in 0..rounds.unwrap_or(1000u64) {
            let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = |bound: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % bound.max(1) as u64) as usize
            };
            let mut bytes = seeds[below(seeds.len())].clone();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                match below(4) {
                    0 => bytes[at] = below(256) as u8,
                    1 => bytes[at] ^= 1 << below(8),
                    2 => drop(bytes.drain(at..(at + below(20)).min(bytes.len()))),
                    _ => {
                        let part = bytes[at..(at + below(40)).min(bytes.len())].to_vec();
                        let place = below(bytes.len());
                        bytes.splice(place..place, part);
                    }
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            let name = format!("{target}, round {round}");
            let outcome = std::panic::catch_unwind(|| run(&bytes));
            assert!(outcome.is_ok(), "{name}: {bytes:?}");
        }
    }
}

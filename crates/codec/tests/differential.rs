//! Another codec, written by others, reads the same mutated packets; see `oracle` for it and for its disagreements.

mod common;
mod oracle;

use common::{Random, corpus, cut, mutate, rounds};
use midge_codec::ProtocolVersion::{self, V5, V311};
use oracle::{THEY_ARE_LENIENT, THEY_ARE_STRICT, Verdict, compare};

fn compare_bytes(version: ProtocolVersion, bytes: &[u8]) -> Verdict {
    compare(version, cut(bytes).expect("a whole packet"))
}

#[test]
fn every_exception_is_still_one() {
    for (error, version, bytes) in THEY_ARE_LENIENT {
        assert_eq!(compare_bytes(version, bytes), Verdict::TheyAreLenient(error), "{bytes:02X?}");
    }
    for (version, bytes) in THEY_ARE_STRICT {
        assert_eq!(compare_bytes(version, bytes), Verdict::TheyAreStrict, "{bytes:02X?}");
    }
}

#[test]
fn both_accept_the_corpus() {
    for version in [V311, V5] {
        for bytes in corpus(version) {
            assert_eq!(compare_bytes(version, &bytes), Verdict::BothAccept, "{bytes:02X?}");
        }
    }
}

#[test]
fn mutated_packets_get_the_same_verdict() {
    let (_, first_seed) = Random::seeded(0x6469_6666);
    for version in [V311, V5] {
        let corpus = corpus(version);
        let mut agreed = [0_u64; 2];
        for seed in (first_seed..).take(rounds(120_000) as usize) {
            let bytes = mutate(&mut Random(seed), &corpus);
            if cut(&bytes).is_none() {
                continue;
            }
            match std::panic::catch_unwind(|| compare_bytes(version, &bytes)) {
                Ok(Verdict::BothAccept) => agreed[0] += 1,
                Ok(Verdict::BothRefuse) => agreed[1] += 1,
                Ok(_) => {}
                Err(_) => panic!("MIDGE_SEED={seed} MIDGE_ROUNDS=1 {version}"),
            }
        }
        println!("{version}: {} accepted and {} refused by both", agreed[0], agreed[1]);
        assert!(rounds(0) > 0 || agreed.iter().all(|&count| count > 5_000));
    }
}

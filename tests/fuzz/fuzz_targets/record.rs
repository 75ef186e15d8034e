//! One record of a shard's log: decoded, written, decoded.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::record(bytes));

//! One packet: decoded, written, decoded.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::roundtrip(bytes));

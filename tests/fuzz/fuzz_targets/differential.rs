//! One packet, read by our codec and by one that others wrote.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::differential(bytes));

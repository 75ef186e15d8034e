//! A stream of packets in pieces, beside a naive reading.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::framing(bytes));

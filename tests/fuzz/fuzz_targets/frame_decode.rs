//! A stream of packets, from framing on.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::frame_decode(bytes));

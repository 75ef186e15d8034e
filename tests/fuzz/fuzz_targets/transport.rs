//! A stream below a PROXY header and WebSocket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::transport(bytes));

//! A stream that TLS reads.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::transport_tls(bytes));

//! A file of users.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::passwords(bytes));

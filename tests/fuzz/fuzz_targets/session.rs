//! One session's line, ids and aliases, beside naive models.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::session(bytes));

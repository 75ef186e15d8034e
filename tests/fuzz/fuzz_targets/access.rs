//! A file of rules, and a question.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::access(bytes));

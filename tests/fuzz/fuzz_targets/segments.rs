//! The files of a log that are not as they were written.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| midge_fuzz::segments(bytes));

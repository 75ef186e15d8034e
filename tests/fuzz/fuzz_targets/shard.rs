//! Shards, rings and clients: any row of events.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    midge_fuzz::shard(bytes);
});

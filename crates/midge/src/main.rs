//! Midge, an MQTT broker: thread per core, shared nothing, io_uring.

fn main() {}

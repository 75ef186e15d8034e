//! Every normative statement of MQTT over a real socket.

fn main() {}

//! The connection flooder: opens, holds and drives very many MQTT clients.

fn main() {}

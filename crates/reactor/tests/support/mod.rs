//! What the tests with running shards share: their settings, shards behind one port, and a client of few bytes.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use midge_netring::{ListenOptions, RingConfig, listen_tcp};
use midge_reactor::{Broker, Settings, start};

/// Any port of the kernel's choice.
pub const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Small shards in memory, on any core.
pub fn settings(shards: u16) -> Settings {
    Settings {
        shards,
        cores: Vec::new(),
        shard: Arc::default(),
        ring: RingConfig { slots: 64, ..RingConfig::default() },
        layers: Arc::default(),
        accepts_in_flight: 4,
        mesh_ring_capacity: 64,
        interest_buckets: 1024,
        envelopes_per_turn_max: 64,
        spin: Duration::ZERO,
        log_lines_per_second_max: 20,
        statistics: None,
        doorman: None,
        bans: None,
        audit: None,
        durability: None,
        hash_seeds: [1, 2, 3, 4],
    }
}

/// Starts shards that all listen on one port.
pub fn serve(settings: &Settings) -> (Broker, SocketAddr) {
    let options = ListenOptions::default();
    let first = listen_tcp(ANY, &options).expect("some port is free");
    let address = first.local_addr().expect("is bound");
    let mut listeners = vec![vec![first]];
    listeners.resize_with(settings.shards.into(), || {
        vec![listen_tcp(address, &options).expect("the port is shared")]
    });
    (start(settings, listeners).expect("shards"), address)
}

/// A connected client with an id of one letter, without Keep Alive. A read that waits five seconds fails.
pub fn connect(address: SocketAddr, name: u8) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("is TCP");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("is above zero");
    let packet = [b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01".as_slice(), &[name]].concat();
    stream.write_all(&packet).expect("is taken");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).expect("a CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream
}

/// Settings for shards that are all on the first core that this process may use.
pub fn crew_settings(shards: u16) -> Settings {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = allowed.and_then(|list| list.trim().split([',', '-']).next()?.parse().ok());
    Settings { cores: vec![first.expect("a core"); shards.into()], ..settings(shards) }
}

/// A client of that name, which has subscribed to the topic of that name at QoS 0.
pub fn subscriber(address: SocketAddr, name: u8) -> TcpStream {
    let mut stream = connect(address, name);
    stream.write_all(&[0x82, 6, 0, 1, 0, 1, name, 0]).expect("is taken");
    let mut suback = [0; 5];
    stream.read_exact(&mut suback).expect("a SUBACK");
    assert_eq!(suback, [0x90, 3, 0, 1, 0]);
    stream
}

//! Outgoing connections.

mod support;

use std::net::{IpAddr, TcpListener};

use midge_netring::{Event, NetRing, Receive, RingConfig, Slot, Wait};
use support::{closed, config, listening, next, output, read_exactly, until};

fn connected(ring: &mut NetRing) -> Slot {
    until(ring, |event| match event {
        Event::Connected { slot } => Some(*slot),
        Event::ConnectFailed { errno, .. } => panic!("connecting failed: {errno}"),
        _ => None,
    })
}

/// The process's open descriptors.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn five_hundred_connections_use_no_process_descriptor() {
    let large = RingConfig { slots: 500, ..config() };
    let (mut server, address) = listening(&large);
    let mut client = NetRing::new(&large).unwrap();
    let before = descriptors();
    let source: IpAddr = "127.0.0.9".parse().unwrap();
    let mut slots = Vec::new();
    for _ in 0..500 {
        slots.push(client.connect(address, Some(source)).unwrap());
        client.turn(Wait::No).unwrap();
        server.turn(Wait::No).unwrap();
    }
    let error = client.connect(address, Some(source)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENFILE));
    for _ in 0..500 {
        connected(&mut client);
    }
    let mut peers = 0;
    while peers < 500 {
        if let Event::Accepted { peer, .. } = next(&mut server) {
            assert_eq!(peer.ip(), source);
            peers += 1;
        }
    }
    // Other tests of this process run beside this one, so not exactly none.
    assert!(descriptors() < before + 100);
    for slot in slots {
        client.close(slot);
    }
    while client.slots_in_use() > 0 {
        let _ = next(&mut client);
    }
}

#[test]
fn both_directions_work_over_ipv6() {
    let (listener, address) = support::listener_at("[::1]:0");
    let mut server = NetRing::new(&config()).unwrap();
    server.listen(listener, midge_netring::ListenerId(0), 1).unwrap();
    server.turn(Wait::No).unwrap();
    let mut client = NetRing::new(&config()).unwrap();
    let there = client.connect(address, Some("::1".parse().unwrap())).unwrap();
    // A wish made before the connection stands is kept until it does.
    client.receive(there, Receive::Continuous);
    assert_eq!(connected(&mut client), there);
    let here = support::accepted(&mut server);
    server.receive(here, Receive::Continuous);
    client.send(there, output(b"ping"));
    assert!(matches!(next(&mut client), Event::Sent { .. }));
    assert_eq!(read_exactly(&mut server, here, 4), b"ping");
    server.send(here, output(b"pong"));
    assert!(matches!(next(&mut server), Event::Sent { .. }));
    assert_eq!(read_exactly(&mut client, there, 4), b"pong");
}

#[test]
fn a_refused_connection_is_told_and_closed() {
    // A port that was just given back by the kernel: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut ring = NetRing::new(&config()).unwrap();
    let slot = ring.connect(address, None).unwrap();
    match next(&mut ring) {
        Event::ConnectFailed { slot: failed, errno } => {
            assert_eq!((failed, errno), (slot, libc::ECONNREFUSED));
        }
        other => panic!("unexpected: {other:?}"),
    }
    ring.close(slot);
    closed(&mut ring, slot);
    assert_eq!(ring.slots_in_use(), 0);
}

#[test]
fn a_connect_under_way_can_be_closed() {
    // A backlog of one that nobody empties: further handshakes hang.
    let listener = midge_netring::listen_tcp(
        "127.0.0.1:0".parse().unwrap(),
        &midge_netring::ListenOptions { backlog: 0, ..Default::default() },
    )
    .unwrap();
    let address = listener.local_addr().unwrap();
    let mut ring = NetRing::new(&config()).unwrap();
    let slots: Vec<Slot> = (0..8).map(|_| ring.connect(address, None).unwrap()).collect();
    ring.turn(Wait::No).unwrap();
    for slot in slots {
        ring.close(slot);
    }
    let mut open = 8;
    while open > 0 {
        match next(&mut ring) {
            Event::Closed { .. } => open -= 1,
            Event::Connected { .. } => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(ring.slots_in_use(), 0);
}

#[test]
fn a_source_that_is_not_ours_is_refused_at_once() {
    let mut ring = NetRing::new(&config()).unwrap();
    let error = ring
        .connect("127.0.0.1:1".parse().unwrap(), Some("192.0.2.1".parse().unwrap()))
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    assert_eq!(ring.slots_in_use(), 0);
}

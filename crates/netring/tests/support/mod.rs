//! What the socket tests share: small rings, listeners on a port of the kernel's choice, and a bounded wait.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use midge_netring::{
    Event, ListenOptions, ListenerId, NetRing, RingConfig, Slot, Wait, listen_tcp,
};
use midge_output::Output;

/// Longer than anything here takes on a busy machine; a test that needs more hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn config() -> RingConfig {
    RingConfig {
        entries: 64,
        completion_entries: 256,
        slots: 64,
        receive_buffer_size: 1024,
        receive_buffer_count: 64,
    }
}

pub fn listener_at(address: &str) -> (TcpListener, SocketAddr) {
    let listener = listen_tcp(address.parse().unwrap(), &ListenOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A ring that listens on the loopback.
pub fn listening(config: &RingConfig) -> (NetRing, SocketAddr) {
    let (listener, address) = listener_at("127.0.0.1:0");
    let mut ring = NetRing::new(config).unwrap();
    ring.listen(listener, ListenerId(7), 8).unwrap();
    (ring, address)
}

pub fn output(bytes: &[u8]) -> Box<Output> {
    let mut output = Box::new(Output::new());
    output.extend(bytes);
    output
}

/// Turns the ring until it has an event.
pub fn next(ring: &mut NetRing) -> Event {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(event) = ring.next_event() {
            return event;
        }
        assert!(Instant::now() < deadline, "no event in time: {ring:?}");
        ring.turn(Wait::For(Duration::from_millis(100))).unwrap();
    }
}

/// Turns the ring until `pick` finds what it looks for; other events are dropped, their buffers recycled.
pub fn until<T>(ring: &mut NetRing, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
    loop {
        let event = next(ring);
        let found = pick(&event);
        if let Event::Received { data, .. } = event {
            ring.recycle(data);
        }
        if let Some(found) = found {
            return found;
        }
    }
}

pub fn accepted(ring: &mut NetRing) -> Slot {
    until(ring, |event| match event {
        Event::Accepted { slot, .. } => Some(*slot),
        _ => None,
    })
}

pub fn closed(ring: &mut NetRing, expected: Slot) {
    until(ring, |event| match event {
        Event::Closed { slot } => {
            assert_eq!(*slot, expected);
            Some(())
        }
        _ => None,
    });
}

/// Collects what a slot receives until `size` bytes are there.
pub fn read_exactly(ring: &mut NetRing, from: Slot, size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < size {
        match next(ring) {
            Event::Received { slot, data } => {
                assert_eq!(slot, from);
                bytes.extend_from_slice(ring.bytes(&data));
                ring.recycle(data);
            }
            other => panic!("while reading: {other:?}"),
        }
    }
    assert_eq!(bytes.len(), size);
    bytes
}

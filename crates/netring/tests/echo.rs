//! Accept, receive, send, close: the everyday path, over real sockets.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use midge_netring::{Event, ListenerId, NetRing, Receive, RingConfig, Slot, Wait};
use midge_output::Output;
use support::{accepted, config, listening, output, read_exactly};

/// Echoes until `connections` peers have come and gone.
fn serve(ring: &mut NetRing, connections: usize) {
    let mut outputs: Vec<Option<Box<Output>>> = Vec::new();
    let mut sending: Vec<bool> = Vec::new();
    let mut gone = 0;
    while gone < connections {
        ring.turn(Wait::Forever).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted { slot, .. } => {
                    let index = slot.index() as usize;
                    outputs.resize_with(outputs.len().max(index + 1), || None);
                    sending.resize(sending.len().max(index + 1), false);
                    ring.receive(slot, Receive::Continuous);
                }
                Event::Received { slot, data } => {
                    let index = slot.index() as usize;
                    let waiting = outputs[index].get_or_insert_default();
                    waiting.extend(ring.bytes(&data));
                    ring.recycle(data);
                    if !std::mem::replace(&mut sending[index], true) {
                        ring.send(slot, outputs[index].take().unwrap());
                    }
                }
                Event::Sent { slot, mut output } => {
                    let index = slot.index() as usize;
                    match outputs[index].take() {
                        Some(more) => ring.send(slot, more),
                        None => {
                            output.recycle();
                            sending[index] = false;
                        }
                    }
                }
                Event::PeerClosed { slot } | Event::Failed { slot, .. } => ring.close(slot),
                Event::Closed { .. } => gone += 1,
                other => panic!("unexpected: {other:?}"),
            }
        }
    }
}

#[test]
fn a_thousand_connections_get_their_own_bytes_back() {
    const CONNECTIONS: usize = 1000;
    const ROUNDS: usize = 5;
    let (mut ring, address) = listening(&RingConfig { slots: CONNECTIONS as u32 + 8, ..config() });
    let clients = thread::spawn(move || {
        let mut streams: Vec<TcpStream> =
            (0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
        for round in 0..ROUNDS {
            let text = |index: usize| format!("connection {index} in round {round}");
            for (index, stream) in streams.iter_mut().enumerate() {
                stream.write_all(text(index).as_bytes()).unwrap();
            }
            for (index, stream) in streams.iter_mut().enumerate() {
                let mut back = vec![0; text(index).len()];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, text(index).as_bytes());
            }
        }
    });
    serve(&mut ring, CONNECTIONS);
    clients.join().unwrap();
    assert_eq!(ring.slots_in_use(), 0);
    assert_eq!(ring.receive_buffers_free(), 64);
    let counters = ring.counters();
    assert_eq!(counters.accepts, CONNECTIONS as u64);
    assert_eq!(counters.closes, CONNECTIONS as u64);
    assert_eq!(counters.bytes_received, counters.bytes_sent);
    assert_eq!(counters.stale_completions, 0);
}

#[test]
fn the_peer_and_the_listener_are_named() {
    for (listen, local) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        // A dual-stack listener names an IPv4 peer as IPv4.
        ("[::]:0", "127.0.0.1"),
    ] {
        let (listener, address) = support::listener_at(listen);
        let mut ring = NetRing::new(&config()).unwrap();
        ring.listen(listener, ListenerId(3), 1).unwrap();
        ring.turn(Wait::No).unwrap();
        let client = TcpStream::connect((local, address.port())).unwrap();
        match support::next(&mut ring) {
            Event::Accepted { peer, listener, .. } => {
                assert_eq!(peer, client.local_addr().unwrap());
                assert_eq!(listener, ListenerId(3));
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
}

#[test]
fn an_empty_output_comes_straight_back() {
    let (mut ring, address) = listening(&config());
    let _client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.send(slot, Box::new(Output::new()));
    assert!(matches!(ring.next_event(), Some(Event::Sent { .. })));
}

#[test]
fn once_means_once() {
    let (mut ring, address) = listening(&config());
    let mut client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Once);
    client.write_all(b"first").unwrap();
    assert_eq!(read_exactly(&mut ring, slot, 5), b"first");
    client.write_all(b"second").unwrap();
    for _ in 0..3 {
        ring.turn(Wait::No).unwrap();
        assert!(ring.next_event().is_none(), "nobody asked for the second");
    }
    ring.receive(slot, Receive::Once);
    assert_eq!(read_exactly(&mut ring, slot, 6), b"second");
}

#[test]
fn shutdown_follows_the_output_and_leaves_the_other_direction_open() {
    let (mut ring, address) = listening(&config());
    let mut client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        client.write_all(b"still here").unwrap();
        bytes.len()
    });
    let size = 3_000_000;
    ring.send(slot, output(&vec![1; size]));
    ring.shutdown(slot);
    let mut received = 0;
    loop {
        match support::next(&mut ring) {
            Event::Sent { output, .. } => assert_eq!(output.size(), size),
            Event::Received { data, .. } => {
                received += data.size();
                ring.recycle(data);
            }
            Event::PeerClosed { .. } => break,
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(reader.join().unwrap(), size);
    assert_eq!(received, b"still here".len());
    ring.close(slot);
    support::closed(&mut ring, slot);
}

#[test]
fn a_slot_number_is_used_again_after_closed() {
    let (mut ring, address) = listening(&RingConfig { slots: 2, ..config() });
    let mut seen: Vec<Slot> = Vec::new();
    for _ in 0..20 {
        let mut client = TcpStream::connect(address).unwrap();
        let slot = accepted(&mut ring);
        seen.push(slot);
        ring.receive(slot, Receive::Continuous);
        client.write_all(b"x").unwrap();
        assert_eq!(read_exactly(&mut ring, slot, 1), b"x");
        ring.close(slot);
        support::closed(&mut ring, slot);
        ring.turn(Wait::No).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    assert!(seen.iter().all(|slot| slot.index() < 2));
    assert_eq!(ring.counters().stale_completions, 0);
}

#[test]
fn a_close_leaves_with_the_next_turn_though_a_receive_is_out() {
    let (mut ring, address) = listening(&config());
    // Twice the table: the slots, and with them the receives that end late, come around.
    for round in 0..128 {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let slot = accepted(&mut ring);
        ring.receive(slot, Receive::Continuous);
        client.write_all(b"last words").unwrap();
        assert_eq!(read_exactly(&mut ring, slot, 10), b"last words");
        ring.close(slot);
        match ring.next_event() {
            Some(Event::Closed { slot: closed }) => assert_eq!(closed, slot),
            other => panic!("round {round}: {other:?} instead of Closed"),
        }
        ring.turn(Wait::No).unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "the peer has been told");
    }
    // The last receives have come back, and none was taken for another connection's.
    ring.turn(Wait::No).unwrap();
    assert!(ring.next_event().is_none());
    assert_eq!(ring.counters().stale_completions, 0);
    assert_eq!(ring.slots_in_use(), 0);
}

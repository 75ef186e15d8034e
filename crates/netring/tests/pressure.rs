//! When something is full, slow or gone: buffers, the table, the reader, the peer.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use bytes::Bytes;
use midge_netring::{Event, NetRing, Receive, RingConfig, Slot, Wait};
use midge_output::Output;
use support::{accepted, closed, config, listening, next, output, read_exactly, until};

/// Bytes whose order shows.
fn pattern(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|index| ((index * 31 + seed * 17 + index / 251) % 256) as u8).collect()
}

#[test]
fn spliced_payloads_reach_a_slow_reader_whole() {
    let (mut ring, address) = listening(&config());
    let mut client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);

    // More slices than one vectored send takes, with copied bytes between them, and one large payload.
    let mut spliced = Box::new(Output::new());
    let mut expected = Vec::new();
    for index in 0..1500 {
        let header = pattern(index % 7, index);
        let payload = Bytes::from(pattern(4096 + index % 3, index));
        spliced.extend(&header);
        spliced.payload(&payload);
        expected.extend_from_slice(&header);
        expected.extend_from_slice(&payload);
    }
    let large = Bytes::from(pattern(5_000_000, 3));
    spliced.payload(&large);
    expected.extend_from_slice(&large);

    let size = expected.len();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut piece = [0; 3000];
        while bytes.len() < size {
            let count = client.read(&mut piece).unwrap();
            assert_ne!(count, 0);
            bytes.extend_from_slice(&piece[..count]);
            thread::yield_now();
        }
        (client, bytes)
    });
    ring.send(slot, spliced);
    match next(&mut ring) {
        Event::Sent { output, .. } => assert_eq!(output.size(), size),
        other => panic!("unexpected: {other:?}"),
    }
    let (mut client, bytes) = reader.join().unwrap();
    assert!(bytes == expected, "the bytes arrived in another order");
    assert!(ring.counters().sends_continued > 0);

    // The slot sends plainly again after.
    ring.send(slot, output(b"plain"));
    until(&mut ring, |event| matches!(event, Event::Sent { .. }).then_some(()));
    let mut plain = [0; 5];
    client.read_exact(&mut plain).unwrap();
    assert_eq!(&plain, b"plain");
}

#[test]
fn a_reader_that_never_reads_can_be_closed() {
    let (mut ring, address) = listening(&config());
    let client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    let mut huge = Box::new(Output::new());
    huge.payload(&Bytes::from(vec![0; 64 << 20]));
    ring.send(slot, huge);
    ring.receive(slot, Receive::Continuous);
    for _ in 0..3 {
        ring.turn(Wait::No).unwrap();
        assert!(ring.next_event().is_none());
    }
    ring.close(slot);
    match next(&mut ring) {
        Event::Closed { slot: closed } => assert_eq!(closed, slot),
        other => panic!("unexpected: {other:?}"),
    }
    drop(client);
    assert_eq!(ring.slots_in_use(), 0);
}

#[test]
fn pausing_loses_nothing() {
    const SIZE: usize = 2_000_000;
    let (mut ring, address) = listening(&config());
    let client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    let writer = thread::spawn(move || {
        (&client).write_all(&pattern(SIZE, 5)).unwrap();
    });
    ring.receive(slot, Receive::Continuous);
    let mut bytes = Vec::new();
    let mut step = 0_usize;
    while bytes.len() < SIZE {
        step += 1;
        match step % 7 {
            // Pause and go on within one turn, over several turns, and once in between.
            1 => {
                ring.pause(slot);
                ring.receive(slot, Receive::Continuous);
            }
            3 => ring.pause(slot),
            5 => ring.receive(slot, Receive::Once),
            6 => ring.receive(slot, Receive::Continuous),
            _ => {}
        }
        ring.turn(Wait::No).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Received { data, .. } => {
                    bytes.extend_from_slice(ring.bytes(&data));
                    ring.recycle(data);
                }
                Event::PeerClosed { .. } => assert_eq!(bytes.len(), SIZE),
                other => panic!("unexpected: {other:?}"),
            }
        }
    }
    writer.join().unwrap();
    assert!(bytes == pattern(SIZE, 5), "the bytes arrived in another order");
    assert_eq!(ring.receive_buffers_free(), 64);
}

#[test]
fn two_buffers_serve_twenty_connections() {
    const SIZE: usize = 5000;
    let tiny = RingConfig { receive_buffer_size: 64, receive_buffer_count: 2, ..config() };
    let (mut ring, address) = listening(&tiny);
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut slots: Vec<Slot> = Vec::new();
    for _ in 0..20 {
        clients.push(TcpStream::connect(address).unwrap());
        let slot = accepted(&mut ring);
        ring.receive(slot, Receive::Continuous);
        slots.push(slot);
    }
    for (index, client) in clients.iter_mut().enumerate() {
        client.write_all(&pattern(SIZE, index)).unwrap();
    }
    let mut bytes = vec![Vec::new(); 64];
    let mut total = 0;
    while total < 20 * SIZE {
        // Hold what arrives until the turn is over, so that the others find nothing.
        let mut held = Vec::new();
        ring.turn(Wait::Forever).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Received { slot, data } => held.push((slot, data)),
                other => panic!("unexpected: {other:?}"),
            }
        }
        for (slot, data) in held {
            total += data.size();
            bytes[slot.index() as usize].extend_from_slice(ring.bytes(&data));
            ring.recycle(data);
        }
    }
    for (index, slot) in slots.iter().enumerate() {
        assert!(bytes[slot.index() as usize] == pattern(SIZE, index), "connection {index}");
    }
    assert!(ring.counters().buffers_exhausted > 0);
    assert_eq!(ring.receive_buffers_free(), 2);
}

#[test]
fn without_a_buffer_receiving_waits_without_spinning() {
    let tiny = RingConfig { receive_buffer_size: 64, receive_buffer_count: 1, ..config() };
    let (mut ring, address) = listening(&tiny);
    let mut client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    client.write_all(&[7; 128]).unwrap();
    let held = until_received(&mut ring);
    for _ in 0..3 {
        ring.turn(Wait::No).unwrap();
        assert!(ring.next_event().is_none());
    }
    let before = ring.counters();
    for _ in 0..10 {
        ring.turn(Wait::No).unwrap();
    }
    assert_eq!(ring.counters(), before, "a starving connection costs nothing");
    // Closing it while it starves works, and so does another one after.
    ring.recycle(held);
    assert_eq!(read_exactly(&mut ring, slot, 64), [7; 64]);
    ring.close(slot);
    closed(&mut ring, slot);
}

#[test]
fn buffers_that_come_back_at_once_still_grow_to_what_is_ready_at_a_time() {
    const CLIENTS: usize = 100;
    let (mut ring, address) = listening(&RingConfig {
        slots: 128,
        receive_buffer_size: 64,
        receive_buffer_count: 256,
        ..config()
    });
    let mut clients: Vec<TcpStream> = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(TcpStream::connect(address).unwrap());
        let slot = accepted(&mut ring);
        ring.receive(slot, Receive::Continuous);
    }
    let mut round = || {
        for client in &mut clients {
            client.write_all(&[7; 64]).unwrap();
        }
        let mut received = 0;
        while received < CLIENTS {
            ring.turn(Wait::Forever).unwrap();
            while let Some(event) = ring.next_event() {
                match event {
                    Event::Received { data, .. } => {
                        received += 1;
                        ring.recycle(data);
                    }
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
        ring.counters().buffers_exhausted
    };
    // From 16 to 128 in three steps, one a turn.
    let exhausted = (0..3).map(|_| round()).last().unwrap();
    assert!(exhausted > 0);
    assert_eq!((0..5).map(|_| round()).last().unwrap(), exhausted, "there are enough now");
}

fn until_received(ring: &mut NetRing) -> midge_netring::Received {
    match next(ring) {
        Event::Received { data, .. } => data,
        other => panic!("unexpected: {other:?}"),
    }
}

#[test]
fn a_starving_connection_can_be_closed() {
    let tiny = RingConfig { receive_buffer_size: 64, receive_buffer_count: 1, ..config() };
    let (mut ring, address) = listening(&tiny);
    let mut first = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    first.write_all(&[7; 128]).unwrap();
    let held = until_received(&mut ring);
    ring.turn(Wait::No).unwrap();
    assert!(ring.next_event().is_none());
    ring.close(slot);
    closed(&mut ring, slot);
    // The next life of the slot starves as well, and is fed once.
    let mut second = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    second.write_all(&[8; 64]).unwrap();
    ring.turn(Wait::No).unwrap();
    assert!(ring.next_event().is_none());
    ring.recycle(held);
    assert_eq!(read_exactly(&mut ring, slot, 64), [8; 64]);
}

#[test]
fn a_full_table_leaves_peers_in_the_backlog_until_there_is_room() {
    let (mut ring, address) = listening(&RingConfig { slots: 4, ..config() });
    let mut clients: Vec<TcpStream> =
        (0..6).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut slots = Vec::new();
    let mut paused = 0;
    while slots.len() < 4 || paused == 0 {
        match next(&mut ring) {
            Event::Accepted { slot, .. } => slots.push(slot),
            Event::AcceptPaused { errno, .. } => {
                assert_eq!(errno, libc::ENFILE);
                paused += 1;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    let before = ring.counters();
    for _ in 0..10 {
        ring.turn(Wait::No).unwrap();
        assert!(ring.next_event().is_none());
    }
    assert_eq!(ring.counters(), before, "a full table costs nothing");

    for round in 0..2 {
        ring.close(slots[round]);
        closed(&mut ring, slots[round]);
        // The peer that waited is taken, and it was never cut off.
        let slot = accepted(&mut ring);
        ring.receive(slot, Receive::Once);
        clients[4 + round].write_all(b"hello").unwrap();
        let bytes = until(&mut ring, |event| match event {
            Event::Received { data, .. } => Some(data.size()),
            _ => None,
        });
        assert_eq!(bytes, 5);
    }
    assert_eq!(ring.slots_in_use(), 4);
    assert_eq!(ring.counters().accept_pauses, 3);
}

#[test]
fn two_listeners_share_a_nearly_full_table() {
    // The first could arm an accept for every slot; the second still gets its peer.
    let (mut ring, first) = listening(&RingConfig { slots: 4, ..config() });
    let (listener, second) = support::listener_at("127.0.0.1:0");
    ring.listen(listener, midge_netring::ListenerId(8), 8).unwrap();
    ring.turn(Wait::No).unwrap();
    let _clients: Vec<TcpStream> =
        [second, first, second, first].map(|address| TcpStream::connect(address).unwrap()).into();
    for _ in 0..4 {
        accepted(&mut ring);
    }
    assert_eq!(ring.slots_in_use(), 4);
}

#[test]
fn after_stop_listening_nobody_comes_and_everybody_stays() {
    let (mut ring, address) = listening(&config());
    let mut client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.stop_listening();
    for _ in 0..4 {
        ring.turn(Wait::No).unwrap();
        assert!(ring.next_event().is_none());
    }
    assert!(TcpStream::connect(address).is_err());
    ring.receive(slot, Receive::Once);
    client.write_all(b"here").unwrap();
    assert_eq!(read_exactly(&mut ring, slot, 4), b"here");
    // The place in the ring is used again.
    let (listener, address) = support::listener_at("127.0.0.1:0");
    ring.listen(listener, midge_netring::ListenerId(1), 2).unwrap();
    let _second = TcpStream::connect(address).unwrap();
    accepted(&mut ring);
}

#[test]
fn a_reset_is_one_failure() {
    let (mut ring, address) = listening(&config());
    let client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    ring.send(slot, output(b"never read"));
    until(&mut ring, |event| matches!(event, Event::Sent { .. }).then_some(()));
    let mut peeked = [0; 10];
    while client.peek(&mut peeked).unwrap() < peeked.len() {}
    // A close with bytes unread resets the connection.
    drop(client);
    let mut huge = Box::new(Output::new());
    huge.payload(&Bytes::from(vec![0; 32 << 20]));
    ring.send(slot, huge);
    match next(&mut ring) {
        Event::Failed { slot: failed, errno } => {
            assert_eq!(failed, slot);
            assert!([libc::ECONNRESET, libc::EPIPE].contains(&errno), "{errno}");
        }
        other => panic!("unexpected: {other:?}"),
    }
    // Calls for a broken connection are harmless.
    ring.receive(slot, Receive::Continuous);
    ring.send(slot, output(b"x"));
    ring.shutdown(slot);
    ring.pause(slot);
    for _ in 0..5 {
        ring.turn(Wait::No).unwrap();
        let event = ring.next_event();
        assert!(event.is_none(), "{event:?}");
    }
    ring.close(slot);
    ring.close(slot);
    closed(&mut ring, slot);
    assert_eq!(ring.slots_in_use(), 0);
}

#[test]
fn dropping_a_busy_ring_cuts_everything_off() {
    let (mut ring, address) = listening(&config());
    let handle = ring.handle();
    let mut clients: Vec<TcpStream> =
        (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
    for _ in 0..10 {
        let slot = accepted(&mut ring);
        ring.receive(slot, Receive::Continuous);
        let mut huge = Box::new(Output::new());
        huge.payload(&Bytes::from(vec![0; 16 << 20]));
        ring.send(slot, huge);
    }
    ring.turn(Wait::No).unwrap();
    // Also something that the kernel has not seen yet.
    drop(ring);
    for client in &mut clients {
        let mut sink = Vec::new();
        // Ends, in whichever way.
        let _ = client.read_to_end(&mut sink);
        assert!(sink.len() < 16 << 20);
    }
    drop(handle);
}

//! Moving a connection from one ring to another.

mod support;

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use midge_netring::{Event, NetRing, Receive, RingConfig, RingHandle, Slot, Wait};
use support::{accepted, closed, config, listening, next, output, read_exactly, until};

/// Waits for the answer to a hand-over.
fn handed_over(ring: &mut NetRing) -> (u64, Slot, Slot) {
    until(ring, |event| match event {
        Event::HandedOver { token, slot, target_slot } => Some((*token, *slot, *target_slot)),
        Event::HandOverFailed { errno, .. } => panic!("hand-over failed: {errno}"),
        _ => None,
    })
}

#[test]
fn connections_move_between_threads_with_all_their_bytes() {
    const CONNECTIONS: usize = 200;
    let (handle_sender, handle_receiver) = mpsc::channel();
    let (envelope_sender, envelopes) = mpsc::channel::<(Slot, Vec<u8>)>();
    let home = thread::spawn(move || {
        let mut ring = NetRing::new(&RingConfig { slots: 256, ..config() }).unwrap();
        handle_sender.send(ring.handle()).unwrap();
        let mut gone = 0;
        while gone < CONNECTIONS {
            ring.turn(Wait::Forever).unwrap();
            while let Some(event) = ring.next_event() {
                match event {
                    Event::Doorbell => {
                        for (slot, first_bytes) in envelopes.try_iter() {
                            ring.adopt(slot);
                            ring.receive(slot, Receive::Continuous);
                            // What the first ring had received is said first.
                            ring.send(slot, output(&first_bytes));
                        }
                    }
                    Event::Received { slot, data } => {
                        let echo = output(ring.bytes(&data));
                        ring.recycle(data);
                        ring.send(slot, echo);
                    }
                    Event::Sent { .. } => {}
                    Event::PeerClosed { slot } => ring.close(slot),
                    Event::Closed { .. } => gone += 1,
                    other => panic!("unexpected at home: {other:?}"),
                }
            }
        }
        (ring.slots_in_use(), ring.receive_buffers_free())
    });

    let target = handle_receiver.recv().unwrap();
    let (mut ring, address) = listening(&RingConfig { slots: 256, ..config() });
    let clients = thread::spawn(move || {
        let mut streams: Vec<TcpStream> =
            (0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
        for stream in &mut streams {
            stream.write_all(b"before ").unwrap();
        }
        for stream in &mut streams {
            let mut back = [0; 7];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"before ");
        }
        for stream in &mut streams {
            stream.write_all(b"after").unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"after");
        }
    });
    let mut first_bytes = vec![Vec::new(); 256];
    let mut moved = 0;
    let mut closed = 0;
    while closed < CONNECTIONS {
        ring.turn(Wait::Forever).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted { slot, .. } => ring.receive(slot, Receive::Once),
                Event::Received { slot, data } => {
                    first_bytes[slot.index() as usize] = ring.bytes(&data).to_vec();
                    ring.recycle(data);
                    ring.hand_over(slot, &target, 1000 + u64::from(slot.index()));
                }
                Event::HandedOver { token, slot, target_slot } => {
                    assert_eq!(token, 1000 + u64::from(slot.index()));
                    let bytes = std::mem::take(&mut first_bytes[slot.index() as usize]);
                    envelope_sender.send((target_slot, bytes)).unwrap();
                    ring.ring_doorbell(&target);
                    moved += 1;
                }
                Event::Closed { .. } => closed += 1,
                other => panic!("unexpected at the door: {other:?}"),
            }
        }
    }
    // The last doorbell is still queued.
    ring.turn(Wait::No).unwrap();
    clients.join().unwrap();
    assert_eq!(home.join().unwrap(), (0, 64));
    assert_eq!(moved, CONNECTIONS);
    assert_eq!(ring.slots_in_use(), 0);
    assert_eq!(ring.counters().hand_overs, CONNECTIONS as u64);
    assert_eq!(ring.counters().doorbell_failures, 0);
}

/// One of two shards: echoes, and after some echoes sends the connection to the other. Ends when `left` is zero.
fn wander(
    mut ring: NetRing,
    other: &RingHandle,
    envelopes: &Receiver<(Slot, Vec<u8>)>,
    outbox: &Sender<(Slot, Vec<u8>)>,
    left: &AtomicUsize,
) -> u64 {
    let mut answers = 0_u64;
    // Bytes that arrived for connections on their way out: the other shard answers them.
    let mut luggage: HashMap<Slot, Vec<u8>> = HashMap::new();
    while left.load(Ordering::Relaxed) > 0 {
        ring.turn(Wait::For(Duration::from_millis(2))).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted { slot, .. } => ring.receive(slot, Receive::Once),
                Event::Received { slot, data } => {
                    let bytes = ring.bytes(&data).to_vec();
                    ring.recycle(data);
                    match luggage.get_mut(&slot) {
                        Some(kept) => kept.extend(bytes),
                        None => ring.send(slot, output(&bytes)),
                    }
                }
                Event::Sent { slot, .. } => {
                    answers += 1;
                    // Also with a receive armed, that has to be taken back first.
                    if !answers.is_multiple_of(3) {
                        ring.receive(slot, Receive::Once);
                    }
                    if answers.is_multiple_of(2) {
                        luggage.insert(slot, Vec::new());
                        ring.hand_over(slot, other, answers);
                    } else {
                        ring.receive(slot, Receive::Once);
                    }
                }
                Event::HandedOver { slot, target_slot, .. } => {
                    outbox.send((target_slot, luggage.remove(&slot).unwrap())).unwrap();
                    ring.ring_doorbell(other);
                }
                Event::HandOverFailed { errno, .. } => panic!("hand-over failed: {errno}"),
                Event::PeerClosed { slot } => {
                    left.fetch_sub(1, Ordering::Relaxed);
                    ring.close(slot);
                }
                Event::Closed { .. } | Event::Doorbell => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
        for (slot, bytes) in envelopes.try_iter() {
            ring.adopt(slot);
            if bytes.is_empty() {
                ring.receive(slot, Receive::Once);
            } else {
                ring.send(slot, output(&bytes));
            }
        }
    }
    assert_eq!(ring.counters().stale_completions, 0);
    ring.counters().hand_overs
}

#[test]
fn connections_wander_between_two_threads() {
    const CONNECTIONS: usize = 60;
    const ROUNDS: usize = 60;
    let left = Arc::new(AtomicUsize::new(CONNECTIONS));
    let (to_first, first_inbox) = mpsc::channel();
    let (to_second, second_inbox) = mpsc::channel();
    let (handles, second_handle) = mpsc::channel();
    let (first_handles, first_handle) = mpsc::channel::<RingHandle>();
    let second_left = Arc::clone(&left);
    let second = thread::spawn(move || {
        let ring = NetRing::new(&config()).unwrap();
        handles.send(ring.handle()).unwrap();
        let other = first_handle.recv().unwrap();
        wander(ring, &other, &second_inbox, &to_first, &second_left)
    });
    let (ring, address) = listening(&config());
    first_handles.send(ring.handle()).unwrap();
    let clients = thread::spawn(move || {
        let mut streams: Vec<TcpStream> =
            (0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
        for round in 0..ROUNDS {
            let text = |index: usize| format!("{index} says {round}");
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
    let other = second_handle.recv().unwrap();
    let there = wander(ring, &other, &first_inbox, &to_second, &left);
    let back = second.join().unwrap();
    clients.join().unwrap();
    assert!(there + back > (CONNECTIONS * ROUNDS / 4) as u64, "{there} there, {back} back");
}

#[test]
fn a_hand_over_stops_the_receive_and_finishes_the_send_first() {
    const SIZE: usize = 4_000_000;
    let (mut ring, address) = listening(&config());
    let mut target = NetRing::new(&config()).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    client.write_all(b"early").unwrap();
    assert_eq!(read_exactly(&mut ring, slot, 5), b"early");
    ring.send(slot, output(&vec![1; SIZE]));
    ring.turn(Wait::No).unwrap();
    ring.hand_over(slot, &target.handle(), 9);
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; SIZE];
        client.read_exact(&mut bytes).unwrap();
        client.write_all(b"late").unwrap();
        client
    });
    assert!(matches!(next(&mut ring), Event::Sent { .. }));
    let (token, _, target_slot) = handed_over(&mut ring);
    assert_eq!(token, 9);
    closed(&mut ring, slot);
    assert_eq!(ring.slots_in_use(), 0);
    target.adopt(target_slot);
    target.receive(target_slot, Receive::Continuous);
    assert_eq!(read_exactly(&mut target, target_slot, 4), b"late");
    drop(reader.join().unwrap());
    assert!(matches!(next(&mut target), Event::PeerClosed { .. }));
}

#[test]
fn a_peer_that_leaves_during_the_hand_over_is_news_for_the_target() {
    let (mut ring, address) = listening(&config());
    let mut target = NetRing::new(&config()).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    ring.turn(Wait::No).unwrap();
    drop(client);
    ring.hand_over(slot, &target.handle(), 1);
    let (_, _, target_slot) = handed_over(&mut ring);
    closed(&mut ring, slot);
    target.adopt(target_slot);
    target.receive(target_slot, Receive::Continuous);
    assert!(matches!(next(&mut target), Event::PeerClosed { .. }));
    target.close(target_slot);
    closed(&mut target, target_slot);
}

#[test]
fn a_full_target_leaves_the_connection_usable() {
    let (mut ring, address) = listening(&config());
    let mut target = NetRing::new(&RingConfig { slots: 1, ..config() }).unwrap();
    let mut clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    let slots = [accepted(&mut ring), accepted(&mut ring)];
    ring.hand_over(slots[0], &target.handle(), 1);
    let (_, _, target_slot) = handed_over(&mut ring);
    closed(&mut ring, slots[0]);
    target.adopt(target_slot);

    ring.receive(slots[1], Receive::Continuous);
    ring.hand_over(slots[1], &target.handle(), 2);
    match next(&mut ring) {
        Event::HandOverFailed { token: 2, slot, errno } => {
            assert_eq!((slot, errno), (slots[1], libc::ENFILE));
        }
        other => panic!("unexpected: {other:?}"),
    }
    ring.receive(slots[1], Receive::Continuous);
    clients[1].write_all(b"stays").unwrap();
    assert_eq!(read_exactly(&mut ring, slots[1], 5), b"stays");

    // With room again it goes.
    target.close(target_slot);
    closed(&mut target, target_slot);
    target.turn(Wait::No).unwrap();
    ring.hand_over(slots[1], &target.handle(), 3);
    let (_, _, target_slot) = handed_over(&mut ring);
    target.adopt(target_slot);
    target.receive(target_slot, Receive::Once);
    clients[1].write_all(b"moved").unwrap();
    assert_eq!(read_exactly(&mut target, target_slot, 5), b"moved");
}

#[test]
fn a_slot_is_not_given_away_before_its_owner_has_seen_it_closed() {
    let (mut ring, address) = listening(&config());
    let mut target = NetRing::new(&RingConfig { slots: 1, ..config() }).unwrap();
    let _clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    let slots = [accepted(&mut ring), accepted(&mut ring)];
    ring.hand_over(slots[0], &target.handle(), 1);
    let (_, _, first) = handed_over(&mut ring);
    closed(&mut ring, slots[0]);
    target.adopt(first);
    // The target has closed its only connection, and turns, but has not looked at its events.
    target.close(first);
    for _ in 0..3 {
        target.turn(Wait::No).unwrap();
    }
    ring.hand_over(slots[1], &target.handle(), 2);
    assert!(matches!(next(&mut ring), Event::HandOverFailed { errno: libc::ENFILE, .. }));
    closed(&mut target, first);
    target.turn(Wait::No).unwrap();
    ring.hand_over(slots[1], &target.handle(), 3);
    let (_, _, second) = handed_over(&mut ring);
    target.adopt(second);
    assert_eq!((first, target.slots_in_use()), (second, 1));
}

#[test]
fn a_ring_that_is_gone_takes_nothing() {
    let (mut ring, address) = listening(&config());
    let handle = thread::spawn(|| NetRing::new(&config()).unwrap().handle()).join().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.hand_over(slot, &handle, 1);
    match next(&mut ring) {
        Event::HandOverFailed { token: 1, .. } => {}
        other => panic!("unexpected: {other:?}"),
    }
    // Whether the kernel says that nobody heard it depends on its version; nobody is disturbed.
    ring.ring_doorbell(&handle);
    ring.turn(Wait::No).unwrap();
    assert!(ring.next_event().is_none());
    ring.receive(slot, Receive::Once);
    client.write_all(b"stays").unwrap();
    assert_eq!(read_exactly(&mut ring, slot, 5), b"stays");
}

#[test]
fn closing_during_a_hand_over_answers_it_first() {
    let (mut ring, address) = listening(&config());
    let mut target = NetRing::new(&config()).unwrap();
    // Closed before the descriptor could leave, because the receive had to be cancelled first.
    let _client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    ring.turn(Wait::No).unwrap();
    ring.hand_over(slot, &target.handle(), 1);
    ring.close(slot);
    assert!(matches!(next(&mut ring), Event::HandOverFailed { errno: libc::ECANCELED, .. }));
    closed(&mut ring, slot);
    // Closed after: the target has it, and is told so.
    let _client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.hand_over(slot, &target.handle(), 2);
    ring.close(slot);
    let (token, _, target_slot) = handed_over(&mut ring);
    assert_eq!(token, 2);
    closed(&mut ring, slot);
    target.adopt(target_slot);
    target.close(target_slot);
    closed(&mut target, target_slot);
    // And a slot that is closing is not handed over.
    let _client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.close(slot);
    ring.hand_over(slot, &target.handle(), 3);
    assert!(matches!(next(&mut ring), Event::HandOverFailed { token: 3, .. }));
    closed(&mut ring, slot);
    assert_eq!((ring.slots_in_use(), target.slots_in_use()), (0, 0));
}

/// Found with a full broker of three shards: hand-overs took the slots that accepts in flight counted on. The listener was
/// paused, and nobody remembered to resume it when slots were freed.
#[test]
fn a_listener_whose_slots_were_taken_by_hand_overs_accepts_again() {
    let (mut ring, address) = listening(&config());
    let (mut target, target_address) = listening(&RingConfig { slots: 4, ..config() });
    target.turn(Wait::No).unwrap();
    let handle = target.handle();
    let mut clients = Vec::new();
    let mut adopted = Vec::new();
    for token in 0..4 {
        clients.push(TcpStream::connect(address).unwrap());
        let slot = accepted(&mut ring);
        ring.hand_over(slot, &handle, token);
        let (_, _, target_slot) = handed_over(&mut ring);
        closed(&mut ring, slot);
        target.adopt(target_slot);
        adopted.push(target_slot);
    }
    // Four accepts are in flight there, and no slot is left for them: the kernel cuts these four off.
    let mut cut_off = [(); 4].map(|()| TcpStream::connect(target_address).unwrap());
    until(&mut target, |event| matches!(event, Event::AcceptPaused { .. }).then_some(()));
    target.turn(Wait::No).unwrap();
    assert!(cut_off.iter_mut().all(|client| !matches!(client.read(&mut [0]), Ok(1..))));
    let _waiting = TcpStream::connect(target_address).unwrap();
    target.close(adopted[0]);
    closed(&mut target, adopted[0]);
    accepted(&mut target);
    assert_eq!(target.slots_in_use(), 4);
}

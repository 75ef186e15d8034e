//! Waking a ring that waits: doorbell, waker, notifier.

mod support;

use std::{
    io::Write,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use midge_netring::{Event, NetRing, Notifier, Receive, Wait};
use support::{PATIENCE, accepted, config, listening, next};

#[test]
fn a_doorbell_wakes_a_parked_ring() {
    const ROUNDS: usize = 200;
    let (sender, handles) = mpsc::channel();
    let parked = thread::spawn(move || {
        let mut ring = NetRing::new(&config()).unwrap();
        sender.send(ring.handle()).unwrap();
        let mut heard = 0;
        while heard < ROUNDS {
            ring.turn(Wait::Forever).unwrap();
            while let Some(event) = ring.next_event() {
                assert!(matches!(event, Event::Doorbell));
                heard += 1;
            }
        }
    });
    let target = handles.recv().unwrap();
    let mut ring = NetRing::new(&config()).unwrap();
    for round in 0..ROUNDS {
        ring.ring_doorbell(&target);
        // Alone in a turn, and several in one.
        if round % 3 == 0 {
            ring.turn(Wait::No).unwrap();
        }
    }
    ring.turn(Wait::No).unwrap();
    parked.join().unwrap();
    assert_eq!(ring.counters().doorbells, ROUNDS as u64);
    assert!(ring.next_event().is_none(), "a doorbell says nothing to who rings it");
}

#[test]
fn a_waker_wakes_a_parked_ring_from_any_thread() {
    let mut ring = NetRing::new(&config()).unwrap();
    for _ in 0..50 {
        let waker = ring.waker();
        let alien = thread::spawn(move || waker.wake());
        ring.turn(Wait::Forever).unwrap();
        assert!(matches!(next(&mut ring), Event::Woken));
        alien.join().unwrap();
    }
    // Many calls may be one event, but never none.
    let waker = ring.waker();
    for _ in 0..1000 {
        waker.wake();
    }
    assert!(matches!(next(&mut ring), Event::Woken));
    // Far more than fit anywhere do not block, and one after the ring's end harms nobody.
    for _ in 0..10_000 {
        waker.wake();
    }
    drop(ring);
    waker.wake();
}

#[test]
fn a_wait_ends_with_its_time() {
    let mut ring = NetRing::new(&config()).unwrap();
    let begin = Instant::now();
    ring.turn(Wait::For(Duration::from_millis(20))).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(20));
    assert!(ring.next_event().is_none());
}

/// Whether the notifier becomes readable within the time.
fn readable(notifier: &Notifier, limit: Duration) -> bool {
    let mut entry =
        libc::pollfd { fd: notifier.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry.
    unsafe { libc::poll(&raw mut entry, 1, limit.as_millis() as i32) == 1 }
}

#[test]
fn a_notifier_tells_of_bytes_doorbells_and_wakers() {
    let (mut ring, address) = listening(&config());
    let notifier = ring.notifier().unwrap();
    assert!(ring.notifier().is_err(), "one per ring");
    let mut client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    ring.turn(Wait::No).unwrap();
    let mut other = NetRing::new(&config()).unwrap();
    let target = ring.handle();
    let waker = ring.waker();
    for round in 0..30 {
        let mut stir = || match round % 3 {
            0 => client.write_all(b"x").unwrap(),
            1 => {
                other.ring_doorbell(&target);
                other.turn(Wait::No).unwrap();
            }
            _ => waker.wake(),
        };
        // Stirred before parking, the turn in between finds it; after, the notifier does.
        let early = round % 2 == 0;
        if early {
            stir();
        }
        ring.notify(true);
        ring.turn(Wait::No).unwrap();
        if !early {
            assert!(!ring.has_events());
            stir();
            assert!(readable(&notifier, PATIENCE), "round {round}");
        }
        ring.notify(false);
        notifier.drain();
        if let Event::Received { data, .. } = next(&mut ring) {
            ring.recycle(data);
        }
        assert!(ring.next_event().is_none());
    }
    // Switched off it stays silent.
    waker.wake();
    assert!(!readable(&notifier, Duration::ZERO));
}

#[test]
fn a_leader_wakes_for_the_rings_that_follow_it() {
    let mut leader = NetRing::new(&config()).unwrap();
    let (mut ring, address) = listening(&config());
    let mut idle = NetRing::new(&config()).unwrap();
    leader.lead([&mut ring, &mut idle].into_iter()).unwrap();
    assert!(ring.notifier().is_err(), "one at a time");
    let mut client = TcpStream::connect(address).unwrap();
    let slot = accepted(&mut ring);
    ring.receive(slot, Receive::Continuous);
    let mut other = NetRing::new(&config()).unwrap();
    let (target, waker) = (ring.handle(), ring.waker());
    for round in 0..60 {
        for ring in [&mut leader, &mut ring, &mut idle] {
            while ring.has_work() || ring.has_operations() {
                ring.turn(Wait::No).unwrap();
                assert!(ring.next_event().is_none());
            }
        }
        let mut stir = || match round % 3 {
            0 => client.write_all(b"x").unwrap(),
            1 => {
                other.ring_doorbell(&target);
                other.turn(Wait::No).unwrap();
            }
            _ => waker.wake(),
        };
        // Stirred before parking, the look after it finds it; after, the leader's wait ends.
        let early = round % 2 == 0;
        if early {
            stir();
            assert!(!leader.has_work(), "signals are off");
        }
        for ring in [&mut ring, &mut idle] {
            ring.notify(true);
        }
        if !early {
            assert!(!ring.has_work());
            stir();
            let begin = Instant::now();
            leader.turn(Wait::For(PATIENCE)).unwrap();
            assert!(begin.elapsed() < PATIENCE, "round {round}");
        }
        assert!(ring.has_work(), "round {round}");
        assert!(!idle.has_work());
        for ring in [&mut ring, &mut idle] {
            ring.notify(false);
        }
        if let Event::Received { data, .. } = next(&mut ring) {
            ring.recycle(data);
        }
        assert!(ring.next_event().is_none());
    }
    // Switched off they stay silent.
    while leader.has_work() || leader.has_operations() {
        leader.turn(Wait::No).unwrap();
        assert!(leader.next_event().is_none());
    }
    waker.wake();
    let begin = Instant::now();
    leader.turn(Wait::For(Duration::from_millis(20))).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(20));
}

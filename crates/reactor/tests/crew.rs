//! Several shards on one thread.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::{crew_settings, serve, subscriber};

/// Shards of one crew: enough that most pairs of clients are of two of them.
const SHARDS: u16 = 5;

fn publish(from: &mut TcpStream, topic: u8, payload: &[u8]) {
    let size = u8::try_from(3 + payload.len()).expect("a small message");
    let packet = [&[0x30, size, 0, 1, topic][..], payload].concat();
    from.write_all(&packet).expect("is taken");
}

fn receive(by: &mut TcpStream, topic: u8, payload: &[u8]) {
    let mut packet = vec![0; 5 + payload.len()];
    by.read_exact(&mut packet).expect("a PUBLISH");
    assert_eq!(packet[2..5], [0, 1, topic]);
    assert_eq!(&packet[5..], payload);
}

/// What this process's threads of shards have used, and how many there are.
fn shard_threads() -> (Duration, usize) {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux tells");
    let of_thread = |path: std::path::PathBuf| {
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        let used: u64 = text.split(' ').next()?.parse().ok()?;
        name.starts_with("shard").then_some(used)
    };
    let used: Vec<u64> = threads.flatten().filter_map(|entry| of_thread(entry.path())).collect();
    // The executor has a thread of its own for what blocks, of the same name, which does nothing.
    let working = used.iter().filter(|nanoseconds| **nanoseconds > 1_000_000).count();
    (Duration::from_nanos(used.iter().sum()), working)
}

#[test]
fn a_crew_sleeps_and_wakes_as_one() {
    let (broker, address) = serve(&crew_settings(SHARDS));
    let names = b'a'..=b'p';
    let mut clients: Vec<TcpStream> = names.clone().map(|name| subscriber(address, name)).collect();
    // Asleep in between: whoever's ring it is that hears, the thread has to wake for it, and for the ring of whom it concerns.
    let count = clients.len();
    for round in 0..4 {
        for source in 0..count {
            let target = (source * 7 + round) % count;
            let topic = names.clone().nth(target).expect("a client's");
            std::thread::sleep(Duration::from_millis(2));
            let since = Instant::now();
            publish(&mut clients[source], topic, &[round as u8]);
            receive(&mut clients[target], topic, &[round as u8]);
            assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        }
    }
    // Busy: from everybody to everybody.
    let payload = [7; 100];
    for number in 0..200_usize {
        for (source, client) in clients.iter_mut().enumerate() {
            let topic = names.clone().nth((source + number) % count).expect("a client's");
            publish(client, topic, &payload);
        }
    }
    for (client, topic) in clients.iter_mut().zip(names) {
        (0..200).for_each(|_| receive(client, topic, &payload));
    }
    let (before, working) = shard_threads();
    assert_eq!(working, 1, "one thread for {SHARDS} shards");
    // Quiet: the statistics have to be published, and then there is nothing.
    std::thread::sleep(Duration::from_millis(600));
    let used = shard_threads().0 - before;
    assert!(used < Duration::from_millis(60), "{used:?} while nothing happened");

    broker.stopper().stop(Duration::from_secs(5));
    for client in &mut clients {
        assert_eq!(client.read(&mut [0; 8]).expect("an end"), 0);
    }
    broker.join().expect("no shard failed");
}

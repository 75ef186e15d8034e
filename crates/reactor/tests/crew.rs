//! Several shards on one thread.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use midge_netring::{ListenOptions, RingConfig, listen_tcp};
use midge_reactor::{Broker, Settings, start};

/// Shards of one crew: enough that most pairs of clients are of two of them.
const SHARDS: u16 = 5;

/// Shards on the first core that this process may use, all of them.
fn serve() -> (Broker, SocketAddr) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = allowed.and_then(|list| list.trim().split([',', '-']).next()?.parse().ok());
    let settings = Settings {
        shards: SHARDS,
        cores: vec![first.expect("a core"); SHARDS.into()],
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
    };
    let options = ListenOptions::default();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = listen_tcp(any, &options).expect("some port is free");
    let address = first.local_addr().expect("is bound");
    let mut listeners = vec![vec![first]];
    listeners.resize_with(SHARDS.into(), || {
        vec![listen_tcp(address, &options).expect("the port is shared")]
    });
    (start(&settings, listeners).expect("shards"), address)
}

/// A client of that name, which has subscribed to the topic of that name.
fn connect(address: SocketAddr, name: u8) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("is TCP");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("is above zero");
    stream.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01").expect("is taken");
    stream.write_all(&[name, 0x82, 6, 0, 1, 0, 1, name, 0]).expect("is taken");
    let mut answers = [0; 9];
    stream.read_exact(&mut answers).expect("a CONNACK and a SUBACK");
    assert_eq!(answers, [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0]);
    stream
}

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
    let (broker, address) = serve();
    let names = b'a'..=b'p';
    let mut clients: Vec<TcpStream> = names.clone().map(|name| connect(address, name)).collect();
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

//! Running shards over real sockets: what happens when accepting fails.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use midge_netring::{ListenOptions, RingConfig, listen_tcp};
use midge_reactor::{Settings, start};
use socket2::Socket;

fn settings() -> Settings {
    Settings {
        shards: 1,
        cores: Vec::new(),
        shard: Arc::default(),
        ring: RingConfig { slots: 16, ..RingConfig::default() },
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

/// CONNECT, and how long until the CONNACK is there.
fn connect(address: SocketAddr) -> Duration {
    let since = Instant::now();
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("is above zero");
    stream.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x0a\0\x01c").expect("is taken");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).expect("a CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    since.elapsed()
}

/// Accepting failed while nobody was connected, and nobody was let in any more: only a connection that closed resumed it,
/// of which there was none.
#[test]
fn a_listener_that_fails_with_nobody_connected_recovers() {
    let options = ListenOptions::default();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    // The port is chosen first and then asked for, since a socket that stops listening gives a chosen one back.
    let chosen = listen_tcp(any, &options).expect("some port is free");
    let address = chosen.local_addr().expect("is bound");
    let listener = listen_tcp(address, &options).expect("the port is shared");
    drop(chosen);
    let same = Socket::from(listener.try_clone().expect("a descriptor is free"));
    let broker = start(&settings(), vec![vec![listener]]).expect("one shard");
    connect(address);

    for _ in 0..2 {
        same.shutdown(Shutdown::Read).expect("it listens");
        // While it fails, the shard sleeps: a busy loop would take all of this time.
        let before = processor_time();
        std::thread::sleep(Duration::from_millis(600));
        let used = processor_time() - before;
        assert!(used < Duration::from_millis(60), "{used:?} while nothing could be accepted");

        same.listen(16).expect("the port is still ours");
        let waited = connect(address);
        assert!(waited < Duration::from_secs(1), "{waited:?}");
    }
    broker.stopper().stop(Duration::ZERO);
    broker.join().expect("no shard failed");
}

/// What this process has used, in all of its threads.
fn processor_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux tells");
    let of_thread = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0_u64)
    };
    let nanoseconds = threads.flatten().map(|entry| of_thread(entry.path())).sum();
    Duration::from_nanos(nanoseconds)
}

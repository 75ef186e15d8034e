//! Running shards over real sockets: what happens when accepting fails.

mod support;

use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use midge_netring::{ListenOptions, listen_tcp};
use midge_reactor::start;
use socket2::Socket;
use support::{ANY, connect, settings};

/// How long it takes until a client is connected.
fn time_to_connect(address: SocketAddr) -> Duration {
    let since = Instant::now();
    connect(address, b'c');
    since.elapsed()
}

/// Accepting failed while nobody was connected, and nobody was let in any more: only a connection that closed resumed it,
/// of which there was none.
#[test]
fn a_listener_that_fails_with_nobody_connected_recovers() {
    let options = ListenOptions::default();
    // The port is chosen first and then asked for, since a socket that stops listening gives a chosen one back.
    let chosen = listen_tcp(ANY, &options).expect("some port is free");
    let address = chosen.local_addr().expect("is bound");
    let listener = listen_tcp(address, &options).expect("the port is shared");
    drop(chosen);
    let same = Socket::from(listener.try_clone().expect("a descriptor is free"));
    let broker = start(&settings(1), vec![vec![listener]]).expect("one shard");
    connect(address, b'c');

    for _ in 0..2 {
        same.shutdown(Shutdown::Read).expect("it listens");
        // While it fails, the shard sleeps: a busy loop would take all of this time.
        let before = processor_time();
        std::thread::sleep(Duration::from_millis(600));
        let used = processor_time() - before;
        assert!(used < Duration::from_millis(60), "{used:?} while nothing could be accepted");

        same.listen(16).expect("the port is still ours");
        let waited = time_to_connect(address);
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

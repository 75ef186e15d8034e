//! Row 17: the same client again and again; the older connection is told and closed.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use midge_codec::{QoS, ReasonCode};

use super::MIB;
use crate::client::PATIENCE;
use crate::{Broker, Client, Figure, Hello, Incoming, Kind, Probe, Size};

/// Clients that are taken over side by side.
const CLIENTS: usize = 4;

/// What one client saw.
#[derive(Debug, Default)]
struct Seen {
    untold: usize,
    late: usize,
    longest: Duration,
    without_session: usize,
}

/// Sessions that are taken over without end: each older connection hears 0x8E, nothing is left behind.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let count = size.pick(1000, 100_000);
    let broker = Broker::start(shards, "");
    let probe = Probe::start(broker.address(), 2);
    // Fills what stays: the pools of buffers, and the timers of connections that were opened in the last ten seconds.
    let since = Instant::now();
    while since.elapsed().as_secs() < size.pick(0, 12) {
        let _ = take_over_all(broker.address(), count / 10);
    }
    let before = broker.memory();
    let seen = take_over_all(broker.address(), count);
    let growth = broker.memory() - before;
    let latencies = probe.stop();
    let sum = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>();
    let longest = seen.iter().map(|one| one.longest).max().unwrap_or_default();
    vec![
        Figure::exactly(17, "closed without 0x8E", sum(|one| one.untold), 0),
        Figure::exactly(17, "sessions not found again", sum(|one| one.without_session), 0),
        Figure::at_most(
            17,
            Kind::Speed,
            "from the new CONNECT to the end of the old connection, longest",
            longest.as_secs_f64() * 1000.0,
            100.0,
            "ms",
        ),
        Figure::at_most(
            17,
            Kind::Speed,
            "old connections closed later than 10 ms",
            sum(|one| one.late) as f64 / count as f64 * 100.0,
            1.0,
            "%",
        ),
        Figure::at_most(17, Kind::Memory, "growth over 100,000", growth / MIB, 1.0, "MiB"),
        Figure::at_most(17, Kind::Speed, "others, p99", latencies.p99(), 10.0, "ms"),
        Figure::at_most(17, Kind::Speed, "others, longest", latencies.longest(), 100.0, "ms"),
    ]
}

fn take_over_all(address: SocketAddr, count: usize) -> Vec<Seen> {
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| thread::spawn(move || take_over(address, number, count / CLIENTS)))
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("it is let in each time")).collect()
}

fn take_over(address: SocketAddr, number: usize, count: usize) -> Seen {
    let mut hello = Hello::new(format!("client-{number}")).persistent();
    hello.source = 10 + number as u8;
    let mut seen = Seen::default();
    let mut older = Client::connect(address, &hello);
    older.subscribe(&format!("own/{number}"), QoS::AtLeastOnce);
    for _ in 0..count {
        let mut newer = Client::open(address, hello.source);
        let since = Instant::now();
        newer.hello(&hello);
        let told = older.next(PATIENCE) == Some(Incoming::Disconnect(ReasonCode::SessionTakenOver));
        let ended = older.next(PATIENCE) == Some(Incoming::End);
        let elapsed = since.elapsed();
        seen.longest = seen.longest.max(elapsed);
        seen.late += usize::from(elapsed > Duration::from_millis(10));
        seen.untold += usize::from(!told || !ended);
        match newer.next(PATIENCE) {
            Some(Incoming::ConnAck(present, ReasonCode::Success)) => {
                seen.without_session += usize::from(!present);
            }
            other => panic!("expected CONNACK, received {other:?}"),
        }
        older = newer;
    }
    seen
}

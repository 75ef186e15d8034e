//! Row 13: very many filters of one client, very many sessions without a connection; and all of it given back.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use midge_codec::QoS;

use super::MIB;
use crate::{Broker, Client, Figure, Hello, Incoming, Kind, Probe, Size};

/// Filters in one SUBSCRIBE.
const FILTERS_PER_PACKET: usize = 1000;
/// Threads of clients that come and go.
const VISITORS: usize = 4;

/// One client subscribes to very many filters, leaves, and does so again.
pub(super) fn run_filters(shards: u16, size: Size) -> Vec<Figure> {
    let count = size.pick(5000, 100_000);
    let broker = Broker::start(shards, "");
    let probe = Probe::start(broker.address(), 2);
    let before = broker.memory();
    let mut client = Client::connect(broker.address(), &Hello::new("many"));
    let filters: Vec<String> =
        (0..count).map(|number| format!("building/{}/+/{number}", number % 1000)).collect();
    let since = Instant::now();
    let granted = subscribe_all(&mut client, &filters);
    let seconds = since.elapsed().as_secs_f64();
    let each = (broker.memory() - before) / count as f64;

    let latencies = probe.stop();
    let probe = Probe::start(broker.address(), 2);
    // Gone with the connection, then taken back one by one: nothing is left for a third time.
    client.leave();
    let leaving = probe.stop();
    let mut client = Client::connect(broker.address(), &Hello::new("many"));
    subscribe_all(&mut client, &filters);
    let twice = broker.memory();
    for part in filters.chunks(FILTERS_PER_PACKET) {
        client.send(&client.unsubscribe_packet(1, part));
        assert_eq!(client.expect_answer(), Incoming::Subscribed(part.len(), 0));
    }
    subscribe_all(&mut client, &filters);
    let thrice = broker.memory();
    vec![
        Figure::exactly(13, "filters granted to one client", granted, count),
        Figure::at_most(13, Kind::Speed, "all of them granted", seconds, 1.0, "s"),
        Figure::at_most(13, Kind::Memory, "each filter", each, 300.0, "B"),
        Figure::at_most(
            13,
            Kind::Memory,
            "filters not given back",
            (thrice - twice) / MIB,
            2.0,
            "MiB",
        ),
        Figure::at_most(13, Kind::Speed, "others, longest", latencies.longest(), 10.0, "ms"),
        Figure::at_most(
            13,
            Kind::Speed,
            "others as that client leaves, longest",
            leaving.longest(),
            10.0,
            "ms",
        ),
    ]
}

fn subscribe_all(client: &mut Client, filters: &[String]) -> usize {
    let parts = filters.chunks(FILTERS_PER_PACKET);
    let packets: Vec<_> =
        parts.map(|part| client.subscribe_packet(1, part, QoS::AtLeastOnce)).collect();
    let mut granted = 0;
    for packet in &packets {
        client.send(packet);
        match client.expect_answer() {
            Incoming::Subscribed(count, errors) => granted += count - errors,
            other => panic!("expected SUBACK, received {other:?}"),
        }
    }
    granted
}

/// Clients that connect, subscribe once and leave their session behind; then end it.
pub(super) fn run_sessions(shards: u16, size: Size) -> Vec<Figure> {
    let count = size.pick(1000, 50_000);
    let broker = Broker::start(shards, "");
    // What connections cost is not to be counted for sessions.
    visit_all(&broker, count / 10, "warm", false);
    visit_all(&broker, count / 10, "warm", true);
    let before = broker.memory();
    visit_all(&broker, count, "sleeper", false);
    let kept = broker.memory();
    let found = visit_all(&broker, count, "sleeper", true);
    // Stale timers and emptied tables have a bound of their own: the first round fills it, and the second adds nothing.
    visit_all(&broker, count, "later", false);
    visit_all(&broker, count, "later", true);
    let emptied_once = broker.memory();
    visit_all(&broker, count, "last", false);
    visit_all(&broker, count, "last", true);
    let emptied_twice = broker.memory();
    vec![
        Figure::exactly(13, "sessions found again", found, count),
        Figure::at_most(
            13,
            Kind::Memory,
            "persistent session with one subscription",
            (kept - before) / count as f64,
            500.0,
            "B",
        ),
        Figure::at_most(
            13,
            Kind::Memory,
            "sessions not given back",
            (emptied_twice - emptied_once) / MIB,
            2.0,
            "MiB",
        ),
    ]
}

/// Each client comes once and goes: leaving its session behind, or ending it. How many had a session.
fn visit_all(broker: &Broker, count: usize, name: &'static str, end: bool) -> usize {
    let address = broker.address();
    let threads: Vec<_> = (0..VISITORS)
        .map(|visitor| {
            thread::spawn(move || {
                let numbers = (visitor..count).step_by(VISITORS);
                let source = 2 + visitor as u8;
                numbers.filter(|number| visit(address, source, name, *number, end)).count()
            })
        })
        .collect();
    let found = threads.into_iter().map(|thread| thread.join().expect("every client is let in"));
    let found = found.sum();
    // The last ones are still leaving.
    thread::sleep(Duration::from_millis(200));
    found
}

/// Whether there was a session.
fn visit(address: SocketAddr, source: u8, name: &str, number: usize, end: bool) -> bool {
    let mut hello = Hello::new(format!("{name}-{number}")).persistent();
    hello.source = source;
    if end {
        // The session goes on, and ends with this connection.
        hello.session_expiry_interval_seconds = 0;
    }
    let mut client = Client::connect(address, &hello);
    let found = client.session_present;
    if !end {
        client.subscribe(&format!("house/{number}/state"), QoS::AtLeastOnce);
    }
    client.reset();
    found
}

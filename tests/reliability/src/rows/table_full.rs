//! Row 15: as many connections as there are slots, and more at the door.

use std::time::{Duration, Instant};

use midge_codec::ReasonCode;

use crate::{Broker, Client, Figure, Hello, Incoming, Kind, Probe, Size};

/// Slots of each shard.
const SLOTS: usize = 100;

/// The table is full: nobody spins, nobody who is in notices, and who leaves makes room at once.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let configuration = format!("performance: {{ connections_per_shard: {SLOTS} }}");
    let broker = Broker::start(shards, &configuration);
    let probe = Probe::start(broker.address(), 2);
    let attempts = SLOTS * usize::from(shards) * 2;
    let mut waiting = Vec::new();
    for number in 0..attempts {
        let mut client = Client::open(broker.address(), 1);
        client.hello(&Hello::new(format!("client-{number}")));
        waiting.push(client);
    }
    let (mut inside, outside) = sort(waiting);
    let let_in = inside.len();

    // At the door: connections that wait in the listeners' queues, and others that come and are sent away.
    let seconds = size.pick(1.0, 5.0);
    let before = broker.processor_seconds();
    let since = Instant::now();
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let share = (broker.processor_seconds() - before) / since.elapsed().as_secs_f64();
    inside.iter_mut().for_each(Client::ping);
    let latencies = probe.stop();

    // Some leave: whoever waits is served at once.
    let leaving: Vec<_> = inside.drain(..inside.len() / 2).collect();
    let since = Instant::now();
    leaving.into_iter().for_each(Client::cut);
    drop(outside);
    let mut number = attempts;
    let recovery = loop {
        let mut client = Client::open(broker.address(), 1);
        client.hello(&Hello::new(format!("client-{number}")));
        let patience = Duration::from_secs(10);
        match client.next(patience) {
            Some(Incoming::ConnAck(_, ReasonCode::Success)) => break since.elapsed(),
            None => break patience,
            _ => number += 1,
        }
    };
    inside.iter_mut().for_each(Client::ping);
    vec![
        // The probes have their slots, and shards fill unevenly: a home that is full refuses while others have room.
        Figure::at_least(
            15,
            Kind::Exact,
            "let in, of all slots",
            let_in as f64 / (SLOTS * usize::from(shards) - 2) as f64,
            0.75,
            "",
        ),
        Figure::at_most(
            15,
            Kind::Speed,
            "processor while more wait (5 s)",
            share * 100.0,
            5.0,
            "%",
        ),
        Figure::at_most(15, Kind::Speed, "others, p99", latencies.p99(), 10.0, "ms"),
        Figure::at_most(
            15,
            Kind::Speed,
            "until a new client is in, after some have left",
            recovery.as_secs_f64(),
            1.0,
            "s",
        ),
    ]
}

/// Those that were let in, and those that wait; who was sent away is neither.
fn sort(clients: Vec<Client>) -> (Vec<Client>, Vec<Client>) {
    let (mut inside, mut waiting) = (Vec::new(), Vec::new());
    // The first ones answer in their own time; after that, whoever has no answer yet will not have one soon.
    let deadline = Instant::now() + Duration::from_secs(2);
    for mut client in clients {
        let left = deadline.saturating_duration_since(Instant::now());
        match client.next(left.max(Duration::from_millis(2))) {
            Some(Incoming::ConnAck(_, ReasonCode::Success)) => inside.push(client),
            None => waiting.push(client),
            Some(_) => {}
        }
    }
    (inside, waiting)
}

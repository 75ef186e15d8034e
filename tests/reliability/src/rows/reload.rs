//! Row 24: a broker that is given new settings again and again drops nobody and nothing, and does not grow.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use midge_codec::QoS;

use super::MIB;
use crate::{Ack, Broker, Client, Figure, Hello, Incoming, Kind, Probe, Size};

/// Reloads under load: a listener comes and goes, limits and rules change.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let count = size.pick(20, 1000);
    let broker = Broker::start_with(shards, &configuration(0), |_| {});
    let address = broker.address();
    let mut reader = Client::connect(address, &Hello::new("reload-reader"));
    reader.subscribe("reload", QoS::AtLeastOnce);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flow = thread::spawn(move || {
        let mut writer = Client::connect(address, &Hello::new("reload-writer"));
        let (mut sent, mut received, mut cut) = (0_usize, 0_usize, 0_usize);
        while !stopped.load(Ordering::Relaxed) {
            let mut bytes = Vec::new();
            writer.write_publish(&mut bytes, "reload", b"m", QoS::AtLeastOnce, 1, false);
            writer.send(&bytes);
            sent += 1;
            cut += usize::from(!matches!(writer.expect(), Incoming::Ack(Ack::PubAck, 1, _)));
            match reader.expect() {
                Incoming::Message(message) => {
                    received += 1;
                    bytes.clear();
                    reader.write_ack(&mut bytes, Ack::PubAck, message.id);
                    reader.send(&bytes);
                }
                _ => cut += 1,
            }
        }
        (sent, received, cut)
    });
    let probe = Probe::start(address, 2);
    // The first ones fill what stays.
    let mut refused = 0;
    let mut reload = |number: usize| {
        broker.configure(&configuration(number));
        refused += usize::from(!broker.midge(&["reload"]));
    };
    (1..=count / 10).for_each(&mut reload);
    let (memory, descriptors) = (broker.memory(), broker.descriptors());
    (1..=count).for_each(&mut reload);
    broker.configure(&configuration(0));
    let back = broker.midge(&["reload"]);
    // Connections to the control socket end a moment later.
    thread::sleep(Duration::from_millis(500));
    let growth = broker.memory() - memory;
    let more = broker.descriptors().saturating_sub(descriptors);
    let latencies = probe.stop();
    stop.store(true, Ordering::Relaxed);
    let (sent, received, cut) = flow.join().expect("nobody is disconnected");
    vec![
        Figure::exactly(24, "reloads that were refused", refused + usize::from(!back), 0),
        Figure::exactly(24, "clients that were cut off", cut, 0),
        Figure::exactly(24, "messages lost", sent - received, 0),
        Figure::exactly(24, "descriptors that stay", more, 0),
        Figure::at_most(24, Kind::Memory, "growth", growth / MIB, 2.0, "MiB"),
        Figure::at_most(24, Kind::Speed, "others, p99", latencies.p99(), 10.0, "ms"),
    ]
}

/// The settings of a reload: the first listener stays, the second is there every other time.
fn configuration(number: usize) -> String {
    let queued = 1000 + number % 7;
    let more = if number % 2 == 1 {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = free.expect("loopback has a free port").port();
        format!(", {{name: second, address: \"127.0.0.1:{port}\"}}")
    } else {
        String::new()
    };
    format!(
        "listeners: [{{name: first, address: \"127.0.0.1:@PORT@\", backlog: {}}}{more}]\n\
         limits: {{queued_messages_max: {queued}}}\n",
        100 + number % 5
    )
}

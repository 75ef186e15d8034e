//! What an uninvolved client notices: the time from a PUBLISH to its PUBACK and delivery, again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use midge_codec::QoS;

use crate::client::{Ack, Client, Hello, Incoming};

/// Between two probes.
const INTERVAL: Duration = Duration::from_millis(2);

/// A client of its own on each of several shards, that publishes to itself with QoS 1 until it is asked to stop.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<f64>>,
}

/// Times in milliseconds, sorted.
#[derive(Debug)]
pub struct Latencies(Vec<f64>);

impl Probe {
    /// Starts probing with `clients` clients in turn, so that their homes are likely on different shards.
    #[must_use]
    pub fn start(address: SocketAddr, clients: usize) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let probe = STARTED.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut clients: Vec<_> = (0..clients)
            .map(|number| {
                let name = format!("probe-{probe}-{number}");
                let mut client = Client::connect(address, &Hello::new(&*name));
                client.subscribe(&name, QoS::AtLeastOnce);
                (client, name)
            })
            .collect();
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            // Whoever stops it at once wants to know all the same.
            loop {
                for (client, topic) in &mut clients {
                    times.push(round_trip(client, topic));
                    thread::sleep(INTERVAL);
                }
                if stopped.load(Ordering::Relaxed) {
                    return times;
                }
            }
        });
        Self { stop, thread }
    }

    /// Stops, and gives back what it noticed.
    ///
    /// # Panics
    /// When a probe went wrong: the broker did not answer, or closed.
    #[must_use]
    pub fn stop(self) -> Latencies {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().expect("every probe was answered");
        times.sort_by(f64::total_cmp);
        assert!(!times.is_empty(), "at least one probe");
        Latencies(times)
    }
}

/// Publishes to itself; the time until both the acknowledgement and the message are there, in milliseconds.
fn round_trip(client: &mut Client, topic: &str) -> f64 {
    let mut bytes = Vec::new();
    client.write_publish(&mut bytes, topic, b"probe", QoS::AtLeastOnce, 1, false);
    let since = Instant::now();
    client.send(&bytes);
    let (mut acknowledged, mut delivered) = (false, false);
    while !(acknowledged && delivered) {
        match client.expect() {
            Incoming::Ack(Ack::PubAck, 1, _) => acknowledged = true,
            Incoming::Message(message) => {
                delivered = true;
                bytes.clear();
                client.write_ack(&mut bytes, Ack::PubAck, message.id);
                client.send(&bytes);
            }
            other => panic!("a probe was answered with {other:?}"),
        }
    }
    since.elapsed().as_secs_f64() * 1000.0
}

impl Latencies {
    /// The time that 99 of 100 probes stay below, in milliseconds.
    #[must_use]
    pub fn p99(&self) -> f64 {
        self.0[(self.0.len() * 99 / 100).min(self.0.len() - 1)]
    }

    /// The longest, in milliseconds.
    #[must_use]
    pub fn longest(&self) -> f64 {
        *self.0.last().expect("never empty")
    }
}

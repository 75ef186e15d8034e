//! Row 9: connections that never say CONNECT, or never finish saying it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::MIB;
use crate::client::PATIENCE;
use crate::{Broker, Client, Figure, Hello, Incoming, Kind, Probe, Size};

/// Silent connections, some of them with half a CONNECT, from two processes: each may hold 20,000 descriptors.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    // One shard has as many slots as it may have descriptors, and the probes need some.
    let count = size.pick(300, if shards == 1 { 19_000 } else { 20_000 });
    // As it is by default, and the time within which the last of them has to be gone: what never says a word is
    // accepted a second late (`listeners[].tcp_defer_accept`).
    let (timeout_seconds, gone_seconds): (f64, f64) = size.pick((1.0, 3.0), (8.0, 10.0));
    let broker =
        Broker::start(shards, &format!("limits: {{ connect_timeout: {timeout_seconds}s }}"));
    let probe = Probe::start(broker.address(), 2);
    let before = broker.memory();
    let (sender, lifetimes) = std::sync::mpsc::channel();
    let mut growth: f64 = 0.0;
    match size {
        Size::Modest => {
            let address = broker.address();
            let holding = thread::spawn(move || hold(address, count, 2, || {}));
            let _ = sender.send(holding.join().expect("all were closed"));
        }
        Size::Full => {
            let mut helpers = [2, 3].map(|source| {
                let mut child = help(broker.address(), count / 2, source);
                let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
                (child, move || lines.next().expect("a line").expect("text"))
            });
            for (_, line) in &mut helpers {
                assert_eq!(line(), "opened");
            }
            growth = broker.memory() - before;
            for (child, line) in &mut helpers {
                let spoken = line();
                let (shortest, longest) = spoken.split_once(' ').expect("two numbers");
                let parse = |text: &str| text.parse().expect("a number");
                let _ = sender.send((parse(shortest), parse(longest)));
                let _ = child.wait();
            }
        }
    }
    drop(sender);
    let (mut shortest, mut longest) = (f64::INFINITY, 0.0_f64);
    for (first, last) in lifetimes {
        shortest = shortest.min(first);
        longest = longest.max(last);
    }
    let latencies = probe.stop();
    vec![
        Figure::at_most(9, Kind::Speed, "last one dropped", longest, gone_seconds, "s"),
        Figure::at_least(9, Kind::Exact, "first one dropped", shortest, timeout_seconds * 0.7, "s"),
        Figure::at_most(9, Kind::Memory, "growth for each", growth / count as f64, 1024.0, "B"),
        Figure::at_most(9, Kind::Speed, "others, p99", latencies.p99(), 10.0, "ms"),
    ]
}

fn help(address: SocketAddr, count: usize, source: u8) -> Child {
    let own = std::env::current_exe().expect("a program knows its own path");
    let mut command = Command::new(own);
    command.arg("hold").args([address.to_string(), count.to_string(), source.to_string()]);
    command.stdout(Stdio::piped()).spawn().expect("this program starts again")
}

/// Opens `count` connections from 127.0.0.`source`, every other one with half a CONNECT; says so through `opened`; waits
/// until the broker has closed them. Returns the shortest and the longest life, in seconds.
///
/// # Panics
/// When one of them is never closed.
pub fn hold(address: SocketAddr, count: usize, source: u8, opened: impl FnOnce()) -> (f64, f64) {
    let half_connect = b"\x10\x20\0\x04MQTT\x05\x02";
    let mut held: Vec<_> = (0..count)
        .map(|number| {
            let mut client = Client::open(address, source);
            let since = Instant::now();
            if number % 2 == 1 {
                client.send(half_connect);
            }
            (client, since)
        })
        .collect();
    opened();
    let (mut shortest, mut longest) = (f64::INFINITY, 0.0_f64);
    for (client, since) in &mut held {
        assert_eq!(client.next(PATIENCE), Some(Incoming::End));
        let life = since.elapsed().as_secs_f64();
        shortest = shortest.min(life);
        longest = longest.max(life);
    }
    (shortest, longest)
}

/// Peers that send much before they have proved to be clients: nothing is kept for a first packet that is no CONNECT, and
/// what is kept for CONNECTs that are never finished has a bound for all of them together.
pub(super) fn run_unproven(shards: u16, size: Size) -> Vec<Figure> {
    let count = size.pick(50, 500);
    let broker = Broker::start(shards, "");
    let probe = Probe::start(broker.address(), 2);
    // A remaining length of 1,000,000, and all but a little of it.
    let mut packet = vec![0x30, 0xc0, 0x84, 0x3d];
    packet.resize(900_000, b'x');
    let mut growth = [0.0_f64; 2];
    let mut unclosed = 0;
    // Several rounds, for a percentile worth the name.
    for round in 0..size.pick(2, 20) {
        let first_byte = [0x30, 0x10][round % 2];
        packet[0] = first_byte;
        if first_byte == 0x10 {
            packet[4..14].copy_from_slice(b"\0\x04MQTT\x05\x02\0\0");
        }
        let before = broker.memory();
        broker.forget_peak();
        let mut peers: Vec<_> = (0..count)
            .map(|_| {
                let mut peer = Client::open(broker.address(), 1);
                let _ = peer.send_within(&packet, Duration::from_millis(200));
                peer
            })
            .collect();
        if first_byte != 0x10 {
            for peer in &mut peers {
                let ended = peer.next(Duration::from_secs(2)) == Some(Incoming::End);
                unclosed += usize::from(!ended);
            }
        }
        let most = &mut growth[round % 2];
        *most = f64::max(*most, (broker.memory_peak() - before) / MIB);
    }
    let latencies = probe.stop();
    Client::connect(broker.address(), &Hello::new("afterwards")).ping();
    vec![
        Figure::exactly(9, "first packets other than CONNECT left waiting", unclosed, 0),
        Figure::at_most(
            9,
            Kind::Memory,
            "growth for 500 large first packets that are no CONNECT",
            growth[0],
            16.0,
            "MiB",
        ),
        Figure::at_most(
            9,
            Kind::Memory,
            "growth for 500 large CONNECTs that are never finished",
            growth[1],
            64.0,
            "MiB",
        ),
        Figure::at_most(9, Kind::Speed, "others meanwhile, p99", latencies.p99(), 10.0, "ms"),
    ]
}

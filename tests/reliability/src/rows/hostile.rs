//! Rows 1 and 2: mutated packets; the process goes on, grows little, and passes nothing invalid on.

use std::thread;
use std::time::{Duration, Instant};

use midge_codec::{
    Connect, PacketId, ProtocolVersion, PubRec, PubRel, QoS, ReasonCode, UserProperties, Will,
};

use super::MIB;
use crate::{Broker, Client, Figure, Hello, Incoming, Kind, Probe, Random, Size};

/// Packets that one peer sends before it is given up.
const PACKETS_PER_CONNECTION: usize = 20;

/// Sessions of packets, each changed in a few places, while a witness reads everything that the broker passes on. The
/// witness decodes strictly: an invalid packet is a panic.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let count = size.pick(10_000, 1_000_000);
    let broker = Broker::start(shards, "");
    let mut witness = Client::connect(broker.address(), &Hello::new("witness"));
    for filter in ["#", "+/#", "$share/g/#", "$share/g/+"] {
        witness.subscribe(filter, QoS::AtLeastOnce);
    }
    let (sender, stop) = std::sync::mpsc::channel::<()>();
    let watching = thread::spawn(move || watch(witness, &stop));
    let probe = Probe::start(broker.address(), 2);
    // The first part fills what stays for good: buffers, tables, a thousand sessions.
    attack(&broker, count / 5, 1);
    let before = broker.memory();
    attack(&broker, count, 2);
    let growth = broker.memory() - before;
    let latencies = probe.stop();
    drop(sender);
    let passed_on = watching.join().expect("nothing invalid was passed on");
    vec![
        Figure::at_least(
            1,
            Kind::Exact,
            "messages passed on to a strict witness, all valid",
            passed_on as f64,
            1.0,
            "",
        ),
        Figure::at_most(
            2,
            Kind::Memory,
            "growth per 20,000 mutated packets",
            growth / MIB / (count as f64 / 20_000.0),
            16.0,
            "MiB",
        ),
        Figure::at_most(2, Kind::Memory, "growth in all", growth / MIB, 16.0, "MiB"),
        Figure::at_most(2, Kind::Speed, "others, p99", latencies.p99(), 10.0, "ms"),
    ]
}

/// Reads and acknowledges until told to stop; how many messages there were.
fn watch(mut witness: Client, stop: &std::sync::mpsc::Receiver<()>) -> usize {
    let mut count = 0;
    let mut bytes = Vec::new();
    while stop.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
        match witness.next(Duration::from_millis(100)) {
            Some(Incoming::Message(message)) => {
                count += 1;
                assert!(!message.topic.is_empty() && !message.topic.contains(['#', '+', '\0']));
                bytes.clear();
                match message.qos {
                    QoS::AtMostOnce => continue,
                    QoS::AtLeastOnce => {
                        witness.write_ack(&mut bytes, crate::Ack::PubAck, message.id)
                    }
                    QoS::ExactlyOnce => {
                        witness.write_ack(&mut bytes, crate::Ack::PubRec, message.id)
                    }
                }
                witness.send(&bytes);
            }
            Some(Incoming::End) => panic!("the witness was sent away"),
            _ => {}
        }
    }
    count
}

fn attack(broker: &Broker, packets: usize, seed: u64) {
    let mut random = Random::new(seed);
    let since = Instant::now();
    for number in 0..packets / PACKETS_PER_CONNECTION {
        let version =
            [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5][random.below(3)];
        let mut hello = Hello::new(format!("mutant-{}", random.below(1000)));
        hello.version = version;
        hello.clean_start = random.below(2) == 0;
        hello.source = 40 + (number % 8) as u8;
        let mut peer = Client::open(broker.address(), hello.source);
        // Usually a sound CONNECT, so that the rest is looked at.
        if random.below(10) > 0 {
            peer.hello(&hello);
        } else {
            let mut bytes = connect(version, &hello.client_id);
            mutate(&mut bytes, &mut random);
            peer.send(&bytes);
        }
        let mut bytes = Vec::new();
        for _ in 0..PACKETS_PER_CONNECTION {
            let mut packet = packet(&peer, version, &mut random);
            if random.below(4) > 0 {
                mutate(&mut packet, &mut random);
            }
            bytes.extend(packet);
        }
        peer.send_within(&bytes, Duration::from_secs(1));
        // A hang would show as a peer that is neither answered nor closed; the probes see it, too.
        let _ = peer.stream().shutdown(std::net::Shutdown::Write);
        if number % 100 == 0 {
            drain(&peer);
        }
        assert!(since.elapsed() < Duration::from_secs(300), "the broker is slow: {number}");
    }
}

/// Reads whatever comes until the broker has closed: not decoded, because answers to a mutant may be of any version.
fn drain(peer: &Client) {
    use std::io::Read;
    let mut stream = peer.stream();
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the broker keeps a connection whose peer has closed")
            }
            Err(_) => return,
        }
    }
}

fn connect(version: ProtocolVersion, client_id: &str) -> Vec<u8> {
    let mut connect = Connect::new(version, client_id);
    connect.will = Some(Will { topic: "will/t", payload: b"will", ..Will::default() });
    connect.username = Some("user");
    connect.password = Some(b"password");
    let mut bytes = Vec::new();
    connect.encode(&mut bytes);
    bytes
}

/// A sound packet of some kind.
fn packet(peer: &Client, version: ProtocolVersion, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let id = PacketId::new(random.below(20) as u16 + 1).expect("not zero");
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][random.below(3)];
    match random.below(8) {
        0..3 => {
            let topic = ["a/b", "a", "$SYS/x", "a//c", "\u{e9}/x"][random.below(5)];
            let retain = random.below(8) == 0;
            let payload = vec![b'p'; random.below(60)];
            peer.write_publish(&mut bytes, topic, &payload, qos, id.get(), retain);
        }
        3 => {
            let filter = ["a/+", "#", "$share/g/a", "+/b/#", "/"][random.below(5)];
            bytes = peer.subscribe_packet(id.get(), &[filter, "a/b"], qos);
        }
        4 => bytes = peer.unsubscribe_packet(id.get(), &["a/+", "x"]),
        5 => PubRel::new(id, ReasonCode::Success).encode(version, &mut bytes),
        6 => {
            let mut rec = PubRec::new(id, ReasonCode::Success);
            rec.user_properties = UserProperties::EMPTY;
            rec.encode(version, &mut bytes);
        }
        _ => bytes = vec![0xc0, 0],
    }
    bytes
}

/// Changes a few bytes, cuts, doubles or lies about the length.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.number() as u8,
            2 => bytes[at] = [0, 0xff, 0x7f, 0x80, b'+', b'#', b'/', b'$'][random.below(8)],
            3 => bytes.insert(at, random.number() as u8),
            4 => {
                bytes.remove(at);
            }
            5 => bytes.truncate(at),
            _ => {
                let rest = bytes[at..].to_vec();
                bytes.extend(rest);
            }
        }
        // The length is made to fit again, usually: else nothing behind it is looked at.
        if random.below(3) > 0 && bytes.len() > 2 && bytes.len() < 130 {
            bytes[1] = (bytes.len() - 2) as u8;
        }
    }
}

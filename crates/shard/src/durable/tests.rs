//! Shards over disks in memory that are killed at any point: whatever was promised is there afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use midge_codec::{
    Connect, Framed, Packet, PacketId, ProtocolVersion, PubAck, PubComp, PubRec, PubRel, Publish,
    QoS, ReasonCode, Subscribe, SubscribeFilter, Unsubscribe, Will, decode, frame,
};
use midge_mesh::{InterestMap, ShardId};
use midge_session::Time;
use midge_store::memory::MemoryDisk;
use midge_store::{Item, Level, Log, LogId, RecordReader, Recovery};

use super::WallTime;
use super::restore::Image;
use crate::{ConnectionId, ListenerId, RetainedCounts, Settings, Shard, Shared, home_shard};

mod again;
mod authors;
mod backlog;
mod damage;
mod levels;
mod regression;

const V5: ProtocolVersion = ProtocolVersion::V5;
/// Wall time at the first start, in milliseconds.
const WALL_MS: u64 = 1_800_000_000_000;

fn store_settings() -> midge_store::Settings {
    midge_store::Settings {
        block_size: 512,
        segment_size_min: 64 << 10,
        segment_size_max: 64 << 10,
        ..midge_store::Settings::default()
    }
}

fn new_disks(shards: u16) -> Vec<MemoryDisk> {
    (0..shards).map(|n| MemoryDisk::new(u64::from(n) + 7)).collect()
}

/// Shards with a disk each. Time goes on over restarts.
struct Broker {
    shards: Vec<Shard>,
    disks: Vec<MemoryDisk>,
    settings: Arc<Settings>,
    log: midge_store::Settings,
    /// What acknowledgements wait for, from the next start on.
    level: Level,
    now: Time,
    wall_ms: u64,
    /// What has left for each connection and was not looked at.
    left: HashMap<u32, Vec<u8>>,
}

impl Broker {
    fn new(shards: u16) -> Self {
        // What is queued leaves memory as soon as it may.
        Self::with(shards, Settings { queued_memory_max: 0, ..Settings::default() })
    }

    fn with(shards: u16, settings: Settings) -> Self {
        Self::of(new_disks(shards), settings, store_settings())
    }

    /// With logs of these sizes.
    fn with_log(shards: u16, log: midge_store::Settings) -> Self {
        Self::of(new_disks(shards), Settings::default(), log)
    }

    /// On disks that another one has left.
    fn on(disks: Vec<MemoryDisk>, log: midge_store::Settings) -> Self {
        Self::of(disks, Settings::default(), log)
    }

    fn of(disks: Vec<MemoryDisk>, settings: Settings, log: midge_store::Settings) -> Self {
        let mut broker = Self {
            shards: Vec::new(),
            disks,
            settings: Arc::new(settings),
            log,
            level: Level::Fsync,
            now: Time::from_seconds(1000),
            wall_ms: WALL_MS,
            left: HashMap::new(),
        };
        broker.start();
        broker
    }

    fn start(&mut self) {
        let count = u16::try_from(self.disks.len()).unwrap();
        let shared = Shared {
            interest: (count > 1).then(|| Arc::new(InterestMap::new(count, 64))),
            retained_counts: Arc::new(RetainedCounts::new(count)),
        };
        let wall = WallTime::new(self.wall_ms, self.now);
        self.shards = (0..count)
            .map(|number| {
                let id = ShardId::new(number);
                let settings = Arc::clone(&self.settings);
                Shard::new(id, count, settings, shared.clone(), [1, 2, 3, 4], self.now)
            })
            .collect();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let disk = &mut self.disks[number];
            let id = LogId([number as u8 + 1; 16]);
            let mut image = Image::new(wall);
            let mut recovery = Recovery::open(&mut *disk, number as u16, id).unwrap();
            while let Some(item) = recovery.next_item().unwrap() {
                if let Item::Record(position, record) = item {
                    image.apply(position, record.kind, record.payload).unwrap();
                }
            }
            let (recovered, _) = recovery.finish().unwrap();
            shard.keep_in(Log::resume(self.log.clone(), &recovered), self.level, wall);
            shard.restore(image, &recovered);
        }
        self.settle();
        self.turn();
    }

    /// Everything in memory is gone, and whatever the disks had not synced perhaps too.
    fn power_cut(&mut self, away_seconds: u64) {
        self.shards.clear();
        self.left.clear();
        for disk in &mut self.disks {
            disk.power_cut();
        }
        self.wall_ms += away_seconds * 1000;
        // The clock of another process begins anywhere.
        self.now = Time::from_seconds(5);
        self.start();
    }

    fn turn(&mut self) {
        for shard in &mut self.shards {
            shard.handle_turn(self.now);
        }
        self.settle();
    }

    fn later(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now = self.now.plus_millis(250);
            self.wall_ms += 250;
            self.turn();
        }
    }

    /// Disks and rings do what they were asked to, until nobody asks any more.
    fn settle(&mut self) {
        while self.step() {}
        for shard in &self.shards {
            shard.check_integrity();
        }
    }

    /// One operation of each disk, and all envelopes; whether there was anything.
    fn step(&mut self) -> bool {
        let mut moved = false;
        for (shard, disk) in self.shards.iter_mut().zip(&mut self.disks) {
            while let Some((id, operation)) = shard.poll_log_operation() {
                disk.submit(id, operation);
                moved = true;
            }
            if let Some((id, completion)) = disk.poll_completion() {
                shard.handle_log_completion(id, completion, self.now);
                moved = true;
            }
        }
        moved | self.exchange()
    }

    fn exchange(&mut self) -> bool {
        let mut moved = false;
        for source in 0..self.shards.len() {
            let mut targets = Vec::new();
            self.shards[source].take_waiting_targets(&mut targets);
            for target in targets {
                while let Some(envelope) = self.shards[source].poll_envelope(target) {
                    moved = true;
                    let from = ShardId::new(source as u16);
                    self.shards[target.index()].handle_envelope(from, envelope, self.now);
                }
            }
        }
        moved
    }

    /// A client id whose home is a shard.
    fn client_of(&self, shard: usize, name: &str) -> String {
        let count = self.disks.len() as u16;
        let mut ids = (0..).map(|n| format!("{name}-{n}"));
        ids.find(|id| home_shard(id, count).index() == shard).unwrap()
    }

    fn send(&mut self, client: &Client, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        self.shards[client.shard].handle_received(ConnectionId(client.id), &bytes, self.now);
    }

    /// What a connection has been sent by now.
    fn sent(&mut self, client: &Client) -> Vec<u8> {
        let shard = &mut self.shards[client.shard];
        while let Some((to, output)) = shard.next_flush() {
            let left = self.left.entry(to.0).or_default();
            left.extend(output.segments().flatten());
            shard.handle_sent(to, output, self.now);
        }
        self.left.remove(&client.id).unwrap_or_default()
    }

    /// The same in words: `connack 1`, `puback 3`, `publish 2 1 a=x dup` …
    fn heard(&mut self, client: &Client) -> Vec<String> {
        let bytes = self.sent(client);
        let mut rest = &bytes[..];
        let mut words = Vec::new();
        while let Ok(Framed::Packet(raw)) = frame(rest, u32::MAX) {
            rest = &rest[raw.size..];
            words.push(match decode(raw, V5).unwrap() {
                Packet::ConnAck(ack) if ack.reason_code.is_error() => "refused".to_owned(),
                Packet::ConnAck(ack) => format!("connack {}", u8::from(ack.session_present)),
                Packet::PubAck(ack) if ack.reason_code == ReasonCode::QuotaExceeded => {
                    format!("full {}", ack.packet_id.get())
                }
                Packet::PubAck(ack) => format!("puback {}", ack.packet_id.get()),
                Packet::PubRec(ack) => format!("pubrec {}", ack.packet_id.get()),
                Packet::PubRel(ack) => format!("pubrel {}", ack.packet_id.get()),
                Packet::PubComp(ack) => format!("pubcomp {}", ack.packet_id.get()),
                Packet::SubAck(ack) => format!("suback {}", ack.packet_id.get()),
                Packet::UnsubAck(ack) => format!("unsuback {}", ack.packet_id.get()),
                Packet::Publish(publish) => format!(
                    "publish {} {}={}{}{}",
                    publish.qos as u8,
                    publish.topic,
                    std::str::from_utf8(publish.payload).unwrap(),
                    if publish.dup { " dup" } else { "" },
                    if publish.retain { " retained" } else { "" },
                ),
                other => format!("{other:?}"),
            });
        }
        words
    }

    /// Connects; the CONNACK is left to be heard.
    fn connect(&mut self, client: &Client, change: impl FnOnce(&mut Connect<'_>)) {
        self.connect_at(client, ListenerId(0), change);
    }

    fn connect_at(
        &mut self,
        client: &Client,
        listener: ListenerId,
        change: impl FnOnce(&mut Connect<'_>),
    ) {
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let shard = &mut self.shards[client.shard];
        shard.handle_accepted(ConnectionId(client.id), peer, listener, self.now);
        let mut connect = Connect::new(V5, &client.client_id);
        connect.clean_start = false;
        connect.properties.session_expiry_interval_seconds = Some(3600);
        change(&mut connect);
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        shard.handle_received(ConnectionId(client.id), &bytes, self.now);
    }

    fn connected(&mut self, client: &Client) -> Vec<String> {
        self.connect(client, |_| {});
        self.settle();
        self.heard(client)
    }

    /// A client that has connected for the first time.
    fn newcomer(&mut self, shard: usize, name: &str, id: u32) -> Client {
        let client = Client::new(self, shard, name, id);
        self.connected(&client);
        client
    }

    fn lose(&mut self, client: &Client) {
        let shard = &mut self.shards[client.shard];
        shard.handle_lost(ConnectionId(client.id), self.now);
        shard.handle_closed(ConnectionId(client.id), self.now);
        self.settle();
    }
}

struct Client {
    shard: usize,
    id: u32,
    client_id: String,
}

impl Client {
    fn new(broker: &Broker, shard: usize, name: &str, id: u32) -> Self {
        Self { shard, id, client_id: broker.client_of(shard, name) }
    }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn publish(
    topic: &'static str,
    payload: &'static str,
    qos: QoS,
    number: u16,
) -> impl Fn(&mut Vec<u8>) {
    move |out| message(topic, payload, qos, number).encode(V5, out)
}

fn message<'a>(topic: &'a str, payload: &'a str, qos: QoS, number: u16) -> Publish<'a> {
    let packet_id = PacketId::new(number);
    let payload = payload.as_bytes();
    Publish { topic, payload, qos, packet_id, ..Publish::default() }
}

fn subscribe(filter: &'static str, qos: QoS, number: u16) -> impl Fn(&mut Vec<u8>) {
    move |out| {
        let filters = [SubscribeFilter { filter, qos, ..SubscribeFilter::default() }];
        Subscribe::new(id(number), &filters).encode(V5, out);
    }
}

/// A session, its subscription and an acknowledged message outlive a power cut, with one shard and over two.
#[test]
fn what_was_acknowledged_is_there_after_a_power_cut() {
    for (shards, away, at) in [(1, 0, 0), (2, 0, 1), (2, 1, 0), (3, 2, 2)] {
        let mut broker = Broker::new(shards);
        let subscriber = Client::new(&broker, away, "subscriber", 1);
        let publisher = Client::new(&broker, at, "publisher", 2);
        assert_eq!(broker.connected(&subscriber), ["connack 0"]);
        broker.send(&subscriber, subscribe("a/+", QoS::ExactlyOnce, 1));
        broker.settle();
        assert_eq!(broker.heard(&subscriber), ["suback 1"]);
        broker.lose(&subscriber);
        broker.connected(&publisher);
        broker.send(&publisher, publish("a/b", "one", QoS::AtLeastOnce, 1));
        broker.send(&publisher, publish("a/b", "two", QoS::ExactlyOnce, 2));
        broker.send(&publisher, publish("a/b", "three", QoS::AtLeastOnce, 3));
        broker.settle();
        assert_eq!(broker.heard(&publisher), ["puback 1", "pubrec 2", "puback 3"]);
        for _ in 0..2 {
            broker.power_cut(60);
        }
        let heard = broker.connected(&subscriber);
        let expected =
            ["connack 1", "publish 1 a/b=one", "publish 2 a/b=two", "publish 1 a/b=three"];
        let mut sorted = heard.clone();
        sorted.sort_unstable();
        let mut wanted = expected.map(str::to_owned).to_vec();
        wanted.sort_unstable();
        assert_eq!(sorted, wanted, "{shards} shards: {heard:?}");
        // The order holds for each QoS: a QoS 2 message waits for its own commit before it goes to another shard.
        if away == at {
            assert_eq!(heard, expected);
        }
    }
}

/// No acknowledgement leaves before the disk has what it promises.
#[test]
fn nothing_is_said_before_the_commit() {
    let mut broker = Broker::new(1);
    let subscriber = Client::new(&broker, 0, "subscriber", 1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    broker.connect(&subscriber, |_| {});
    assert_eq!(broker.heard(&subscriber), Vec::<String>::new(), "CONNACK of a new session");
    broker.settle();
    assert_eq!(broker.heard(&subscriber), ["connack 0"]);
    broker.send(&subscriber, subscribe("a", QoS::ExactlyOnce, 1));
    assert_eq!(broker.heard(&subscriber), Vec::<String>::new(), "SUBACK");
    broker.settle();
    assert_eq!(broker.heard(&subscriber), ["suback 1"]);
    broker.connected(&publisher);
    broker.send(&publisher, publish("a", "x", QoS::AtLeastOnce, 1));
    assert_eq!(broker.heard(&publisher), Vec::<String>::new(), "PUBACK");
    assert_eq!(broker.heard(&subscriber), ["publish 1 a=x"], "at least once may leave at once");
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["puback 1"]);
    // Nobody must keep this.
    broker.send(&publisher, publish("nobody", "x", QoS::AtLeastOnce, 2));
    assert_eq!(broker.heard(&publisher), ["puback 2"]);
    broker.send(&publisher, publish("a", "y", QoS::ExactlyOnce, 3));
    assert_eq!(broker.heard(&publisher), Vec::<String>::new(), "PUBREC");
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubrec 3"]);
    broker.send(&publisher, |out| PubRel::new(id(3), ReasonCode::Success).encode(V5, out));
    assert_eq!(broker.heard(&publisher), Vec::<String>::new(), "PUBCOMP");
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubcomp 3"]);
}

/// A client without a session that lasts costs the log nothing.
#[test]
fn a_client_that_leaves_nothing_behind_writes_nothing() {
    let mut broker = Broker::new(1);
    let clients = [1, 2].map(|n| Client::new(&broker, 0, &format!("client-{n}"), n));
    let before = broker.shards[0].durable.as_ref().unwrap().log.appended();
    for client in &clients {
        broker.connect(client, |connect| {
            connect.clean_start = true;
            connect.properties.session_expiry_interval_seconds = None;
        });
        assert_eq!(broker.heard(client), ["connack 0"]);
        broker.send(client, subscribe("a", QoS::ExactlyOnce, 1));
        assert_eq!(broker.heard(client), ["suback 1"]);
    }
    broker.send(&clients[0], publish("a", "x", QoS::ExactlyOnce, 1));
    broker.send(&clients[0], publish("a", "x", QoS::AtLeastOnce, 2));
    broker.settle();
    assert_eq!(broker.heard(&clients[1]), ["publish 2 a=x", "publish 1 a=x"]);
    broker.lose(&clients[0]);
    assert_eq!(broker.shards[0].durable.as_ref().unwrap().log.appended(), before);
}

/// A QoS 2 handshake towards us, cut at every step: the message is there once.
#[test]
fn a_publication_comes_once_wherever_the_cut_falls() {
    for shards in [1, 2] {
        for cut in 0..40 {
            let mut broker = Broker::new(shards);
            let away = usize::from(shards) - 1;
            let publisher = Client::new(&broker, 0, "publisher", 2);
            let subscriber = broker.newcomer(away, "subscriber", 1);
            broker.send(&subscriber, subscribe("a", QoS::ExactlyOnce, 1));
            broker.settle();
            broker.heard(&subscriber);
            broker.lose(&subscriber);
            broker.connected(&publisher);
            let mut steps = 0;
            let mut state = "publish";
            let mut duplicate = false;
            let say = |broker: &mut Broker, state: &str, duplicate: bool| match state {
                "publish" => broker.send(&publisher, |out| {
                    let mut publish = message("a", "once", QoS::ExactlyOnce, 1);
                    publish.dup = duplicate;
                    publish.encode(V5, out);
                }),
                _ => broker.send(&publisher, |out| {
                    PubRel::new(id(1), ReasonCode::Success).encode(V5, out)
                }),
            };
            say(&mut broker, state, duplicate);
            let mut cuts = 0;
            while state != "done" {
                if steps == cut {
                    broker.power_cut(1);
                    let heard = broker.connected(&publisher);
                    assert_eq!(heard, ["connack 1"], "{shards} shards, cut {cut}");
                    duplicate = true;
                    cuts += 1;
                    say(&mut broker, state, duplicate);
                }
                steps += 1;
                assert!(steps < 1000, "{shards} shards, cut {cut}: stuck at {state}");
                if !broker.step() {
                    broker.now = broker.now.plus_millis(150);
                    for shard in &mut broker.shards {
                        shard.handle_turn(broker.now);
                    }
                }
                for heard in broker.heard(&publisher) {
                    match &*heard {
                        "pubrec 1" if state == "publish" => {
                            state = "release";
                            say(&mut broker, state, duplicate);
                        }
                        "pubcomp 1" => state = "done",
                        _ => {}
                    }
                }
            }
            assert!(cuts <= 1);
            broker.settle();
            broker.power_cut(1);
            let heard = broker.connected(&subscriber);
            let publishes = heard.iter().filter(|one| one.starts_with("publish")).count();
            assert_eq!(publishes, 1, "{shards} shards, cut {cut} of {steps}: {heard:?}");
        }
    }
}

/// A QoS 2 handshake towards a client, cut at every step: it hears of the message once, DUP apart, and under one id.
#[test]
fn a_delivery_comes_once_wherever_the_cut_falls() {
    for cut in 0..40 {
        let mut broker = Broker::new(1);
        let publisher = Client::new(&broker, 0, "publisher", 2);
        let subscriber = broker.newcomer(0, "subscriber", 1);
        broker.send(&subscriber, subscribe("a", QoS::ExactlyOnce, 1));
        broker.connected(&publisher);
        broker.settle();
        broker.heard(&subscriber);
        broker.send(&publisher, publish("a", "once", QoS::ExactlyOnce, 9));
        broker.settle();
        assert_eq!(broker.heard(&publisher), ["pubrec 9"]);
        let (mut taken, mut released, mut done) = (0, false, false);
        let mut steps = 0;
        while !done {
            if steps == cut {
                broker.power_cut(1);
                broker.connect(&subscriber, |_| {});
            }
            steps += 1;
            assert!(steps < 1000, "cut {cut}: stuck, taken {taken}, released {released}");
            if !broker.step() {
                broker.now = broker.now.plus_millis(150);
                broker.shards[0].handle_turn(broker.now);
            }
            for heard in broker.heard(&subscriber) {
                if heard.starts_with("publish") {
                    // [MQTT-4.3.3-12]: under an id that was released it would be a new message.
                    assert!(!released, "cut {cut}: again after its PUBREL");
                    taken = 1;
                    broker.send(&subscriber, |out| {
                        PubRec::new(id(1), ReasonCode::Success).encode(V5, out);
                    });
                }
                if heard == "pubrel 1" {
                    released = true;
                    done = true;
                    broker.send(&subscriber, |out| {
                        PubComp::new(id(1), ReasonCode::Success).encode(V5, out);
                    });
                }
            }
        }
        assert_eq!(taken, 1);
        broker.settle();
        broker.power_cut(1);
        let heard = broker.connected(&subscriber);
        assert!(!heard.iter().any(|one| one.starts_with("publish")), "cut {cut}: {heard:?}");
    }
}

/// In flight under a packet id: again with DUP and the same id, then what was queued, in order.
#[test]
fn what_was_in_flight_comes_again_before_what_was_queued() {
    let mut broker = Broker::new(1);
    let subscriber = Client::new(&broker, 0, "subscriber", 1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    broker.connect(&subscriber, |connect| {
        connect.properties.receive_maximum = std::num::NonZeroU16::new(2);
    });
    broker.settle();
    broker.send(&subscriber, subscribe("a", QoS::AtLeastOnce, 1));
    broker.settle();
    broker.heard(&subscriber);
    broker.connected(&publisher);
    for (number, payload) in [(1, "1"), (2, "2"), (3, "3"), (4, "4")] {
        broker.send(&publisher, publish("a", payload, QoS::AtLeastOnce, number));
    }
    broker.settle();
    assert_eq!(broker.heard(&subscriber), ["publish 1 a=1", "publish 1 a=2"]);
    broker.send(&subscriber, |out| PubAck::new(id(1), ReasonCode::Success).encode(V5, out));
    broker.settle();
    assert_eq!(broker.heard(&subscriber), ["publish 1 a=3"]);
    broker.later(1);
    broker.power_cut(1);
    let heard = broker.connected(&subscriber);
    assert_eq!(heard, ["connack 1", "publish 1 a=2 dup", "publish 1 a=3 dup", "publish 1 a=4"]);
}

/// Retained messages: the last one is there, a deleted one is not.
#[test]
fn retained_messages_survive() {
    for shards in [1, 3] {
        let mut broker = Broker::new(shards);
        let publisher = broker.newcomer(0, "publisher", 1);
        let retain = |broker: &mut Broker, topic: &'static str, payload: &'static str, number| {
            broker.send(&publisher, |out| {
                let mut publish = message(topic, payload, QoS::AtLeastOnce, number);
                publish.retain = true;
                publish.encode(V5, out);
            });
            broker.settle();
            assert_eq!(broker.heard(&publisher), [format!("puback {number}")]);
        };
        retain(&mut broker, "a", "first", 1);
        retain(&mut broker, "a", "last", 2);
        retain(&mut broker, "b", "gone", 3);
        retain(&mut broker, "b", "", 4);
        retain(&mut broker, "c", "stays", 5);
        broker.power_cut(1);
        broker.power_cut(1);
        let subscriber = broker.newcomer(0, "subscriber", 2);
        broker.send(&subscriber, subscribe("#", QoS::AtLeastOnce, 1));
        broker.settle();
        broker.later(1);
        let mut heard = broker.heard(&subscriber);
        heard.sort_unstable();
        assert_eq!(heard, ["publish 1 a=last retained", "publish 1 c=stays retained", "suback 1"]);
    }
}

/// A subscription that was taken back stays so; a session that was ended is gone.
#[test]
fn what_was_ended_stays_ended() {
    let mut broker = Broker::new(1);
    let client = broker.newcomer(0, "client", 1);
    broker.send(&client, subscribe("a", QoS::AtLeastOnce, 1));
    broker.send(&client, subscribe("b", QoS::AtLeastOnce, 2));
    broker.send(&client, |out| Unsubscribe::new(id(3), &["a"]).encode(V5, out));
    broker.settle();
    assert_eq!(broker.heard(&client), ["suback 1", "suback 2", "unsuback 3"]);
    broker.power_cut(1);
    assert_eq!(broker.shards[0].counters().subscriptions_now, 1);
    broker.connect(&client, |connect| connect.clean_start = true);
    broker.settle();
    assert_eq!(broker.heard(&client), ["connack 0"]);
    broker.power_cut(1);
    assert_eq!(broker.shards[0].counters().subscriptions_now, 0);
    assert_eq!(broker.connected(&client), ["connack 1"]);
}

/// Expiry counts on while the broker is down: of sessions and of messages.
#[test]
fn expiries_count_across_restarts() {
    let mut broker = Broker::new(1);
    let (short, long) = (Client::new(&broker, 0, "short", 1), Client::new(&broker, 0, "long", 2));
    for (client, expiry) in [(&short, 100), (&long, 10_000)] {
        broker.connect(client, |connect| {
            connect.properties.session_expiry_interval_seconds = Some(expiry);
        });
        broker.settle();
        broker.send(client, subscribe("a", QoS::AtLeastOnce, 1));
        broker.settle();
        broker.lose(client);
    }
    let publisher = broker.newcomer(0, "publisher", 3);
    for (number, payload, expiry) in [(1, "soon", 300), (2, "late", 3000)] {
        broker.send(&publisher, |out| {
            let mut publish = message("a", payload, QoS::AtLeastOnce, number);
            publish.properties.message_expiry_interval_seconds = Some(expiry);
            publish.encode(V5, out);
        });
    }
    broker.later(1);
    broker.power_cut(200);
    broker.power_cut(200);
    broker.later(1);
    assert_eq!(broker.connected(&short), ["connack 0"]);
    assert_eq!(broker.connected(&long), ["connack 1", "publish 1 a=late"]);
}

/// A delayed will is published when its delay is over, also when that is after a restart; one that the crash itself
/// brought about, too.
#[test]
fn wills_outlive_the_broker() {
    let mut broker = Broker::new(1);
    let watcher = broker.newcomer(0, "watcher", 1);
    broker.send(&watcher, subscribe("will/#", QoS::AtLeastOnce, 1));
    broker.settle();
    for (number, topic, delay) in [(2, "will/lost", 100), (3, "will/cut", 0)] {
        let client = Client::new(&broker, 0, topic, number);
        broker.connect(&client, |connect| {
            let mut will =
                Will { topic, payload: b"gone", qos: QoS::AtLeastOnce, ..Will::default() };
            will.properties.delay_interval_seconds = Some(delay);
            connect.will = Some(will);
        });
        broker.settle();
        if delay > 0 {
            broker.lose(&client);
        }
    }
    broker.later(1);
    broker.power_cut(30);
    assert_eq!(broker.connected(&watcher), ["connack 1"]);
    broker.later(1);
    assert_eq!(broker.heard(&watcher), ["publish 1 will/cut=gone"]);
    broker.later(75);
    assert_eq!(broker.heard(&watcher), ["publish 1 will/lost=gone"]);
}

/// Old segments go while what counts of them stays: a retained message and a sleeping session survive a hundred times
/// their own size in traffic, cut in between.
#[test]
fn cleaning_keeps_what_counts() {
    let mut broker = Broker::new(1);
    let sleeper = broker.newcomer(0, "sleeper", 1);
    broker.send(&sleeper, subscribe("keep", QoS::ExactlyOnce, 1));
    broker.settle();
    broker.lose(&sleeper);
    let reader = broker.newcomer(0, "reader", 2);
    broker.send(&reader, subscribe("flow", QoS::AtLeastOnce, 1));
    let publisher = broker.newcomer(0, "publisher", 3);
    broker.send(&publisher, publish("keep", "me", QoS::ExactlyOnce, 1));
    broker.send(&publisher, |out| {
        let mut publish = message("retained", "too", QoS::AtLeastOnce, 2);
        publish.retain = true;
        publish.encode(V5, out);
    });
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubrec 1", "puback 2"]);
    let payload = "x".repeat(1000);
    for round in 0..4 {
        let mut taken = 0;
        for number in 1..=500u16 {
            broker.send(&publisher, |out| {
                message("flow", &payload, QoS::AtLeastOnce, 1000 + number).encode(V5, out);
            });
            broker.settle();
            broker.heard(&publisher);
            for heard in broker.heard(&reader) {
                if heard.starts_with("publish") {
                    taken += 1;
                    let next = PacketId::new(taken).unwrap();
                    broker.send(&reader, |out| {
                        PubAck::new(next, ReasonCode::Success).encode(V5, out);
                    });
                }
            }
            if number % 50 == 0 {
                broker.later(1);
            }
        }
        let log = &broker.shards[0].durable.as_ref().unwrap().log;
        assert!(log.statistics().bytes_total < 400 << 10, "{:?}", log.statistics());
        assert!(round == 0 || log.oldest().0 > 1, "nothing was cleaned");
        broker.later(1);
        broker.power_cut(1);
        broker.connected(&publisher);
        broker.connect(&reader, |connect| connect.clean_start = true);
        broker.settle();
        broker.send(&reader, subscribe("flow", QoS::AtLeastOnce, 1));
        broker.settle();
        broker.heard(&reader);
    }
    assert_eq!(broker.connected(&sleeper), ["connack 1", "publish 2 keep=me"]);
    broker.send(&sleeper, subscribe("retained", QoS::AtLeastOnce, 2));
    broker.settle();
    assert_eq!(broker.heard(&sleeper), ["suback 2", "publish 1 retained=too retained"]);
}

/// A full disk: nothing is acknowledged that is not kept, QoS 0 goes on, and with room everything does.
#[test]
fn a_full_disk_is_told_and_heals() {
    let mut broker = Broker::new(1);
    broker.disks[0].set_capacity(300 << 10);
    let sleeper = broker.newcomer(0, "sleeper", 1);
    broker.send(&sleeper, subscribe("a", QoS::AtLeastOnce, 1));
    broker.settle();
    broker.lose(&sleeper);
    let publisher = broker.newcomer(0, "publisher", 2);
    let payload = "x".repeat(1000);
    let (mut acknowledged, mut refused) = (0, 0);
    for number in 1..=600u16 {
        broker.send(&publisher, |out| {
            message("a", &payload, QoS::AtLeastOnce, number).encode(V5, out);
        });
        broker.settle();
        for heard in broker.heard(&publisher) {
            acknowledged += usize::from(heard.starts_with("puback"));
            refused += usize::from(heard.starts_with("full"));
        }
        broker.later(1);
    }
    assert_eq!(acknowledged + refused, 600);
    assert!(acknowledged > 50 && refused > 50, "{acknowledged} {refused}");
    // Others go on.
    broker.send(&publisher, subscribe("live", QoS::AtMostOnce, 7));
    broker.send(&publisher, publish("live", "x", QoS::AtMostOnce, 0));
    broker.settle();
    assert!(broker.heard(&publisher).contains(&"publish 0 live=x".to_owned()));
    broker.disks[0].set_capacity(10 << 20);
    broker.later(2);
    broker.send(&publisher, publish("a", "room", QoS::AtLeastOnce, 1));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["puback 1"]);
    broker.power_cut(1);
    broker.connect(&sleeper, |_| {});
    broker.settle();
    let mut got = broker.heard(&sleeper).len() - 1;
    let mut taken = 0;
    while taken < got {
        taken += 1;
        let next = id(u16::try_from(taken).unwrap());
        broker.send(&sleeper, |out| PubAck::new(next, ReasonCode::Success).encode(V5, out));
        broker.settle();
        got += broker.heard(&sleeper).len();
    }
    assert_eq!(got, acknowledged + 1);
}

/// A disk that fails a sync: whoever waited hears nothing and is closed, what was kept before is written again.
#[test]
fn a_failed_sync_acknowledges_nothing() {
    let mut broker = Broker::new(1);
    let sleeper = broker.newcomer(0, "sleeper", 1);
    broker.send(&sleeper, subscribe("a", QoS::AtLeastOnce, 1));
    broker.settle();
    broker.lose(&sleeper);
    let publisher = broker.newcomer(0, "publisher", 2);
    broker.send(&publisher, publish("a", "before", QoS::AtLeastOnce, 1));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["puback 1"]);
    broker.disks[0].set_faults(midge_store::memory::Faults {
        sync_per_million: 1_000_000,
        ..Default::default()
    });
    broker.send(&publisher, publish("a", "lost", QoS::AtLeastOnce, 2));
    broker.settle();
    assert!(!broker.heard(&publisher).contains(&"puback 2".to_owned()));
    broker.disks[0].set_faults(midge_store::memory::Faults::default());
    broker.shards[0].handle_closed(ConnectionId(publisher.id), broker.now);
    broker.later(2);
    assert_eq!(broker.connected(&publisher), ["connack 1"]);
    broker.send(&publisher, publish("a", "after", QoS::AtLeastOnce, 3));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["puback 3"]);
    broker.later(1);
    broker.power_cut(1);
    let heard = broker.connected(&sleeper);
    assert_eq!(heard.first().map(String::as_str), Some("connack 1"));
    assert_eq!(heard[1], "publish 1 a=before");
    assert!(heard.contains(&"publish 1 a=after".to_owned()), "{heard:?}");
}

/// The number of shards changes between two runs: everything is at its new home.
#[test]
fn the_number_of_shards_may_change() {
    for (before, after) in [(1, 3), (3, 1), (2, 5)] {
        let mut broker = Broker::new(before);
        let names: Vec<String> = (0..8).map(|n| format!("sleeper-{n}")).collect();
        let at = |name: &str, shards: u16, id| Client {
            shard: home_shard(name, shards).index(),
            id,
            client_id: name.to_owned(),
        };
        for (name, number) in names.iter().zip(10..) {
            let client = at(name, before, number);
            broker.connected(&client);
            broker.send(&client, subscribe("a/#", QoS::ExactlyOnce, 1));
            broker.settle();
            assert_eq!(broker.heard(&client), ["suback 1"]);
            broker.lose(&client);
        }
        let publisher = broker.newcomer(0, "publisher", 2);
        for (number, payload) in [(1, "1"), (2, "2"), (3, "3")] {
            broker.send(&publisher, |out| {
                let mut publish = message("a/b", payload, QoS::AtLeastOnce, number);
                publish.retain = number == 3;
                publish.encode(V5, out);
            });
        }
        broker.settle();
        assert_eq!(broker.heard(&publisher), ["puback 1", "puback 2", "puback 3"]);
        broker.change_shards(after);
        for (name, number) in names.iter().zip(10..) {
            let client = at(name, after, number);
            assert_eq!(
                broker.connected(&client),
                ["connack 1", "publish 1 a/b=1", "publish 1 a/b=2", "publish 1 a/b=3"]
            );
        }
        let late = at("late", after, 30);
        broker.connected(&late);
        broker.send(&late, subscribe("a/b", QoS::AtMostOnce, 1));
        broker.settle();
        broker.later(1);
        assert_eq!(broker.heard(&late), ["suback 1", "publish 0 a/b=3 retained"]);
    }
}

impl Broker {
    /// A restart with another number of shards, by way of images and new logs.
    fn change_shards(&mut self, shards: u16) {
        self.shards.clear();
        let wall = WallTime::new(self.wall_ms, self.now);
        let mut images = Vec::new();
        let mut readers = Vec::new();
        for (number, disk) in self.disks.iter_mut().enumerate() {
            disk.power_cut();
            let mut image = Image::new(wall);
            let id = LogId([number as u8 + 1; 16]);
            let mut recovery = Recovery::open(&mut *disk, number as u16, id).unwrap();
            while let Some(item) = recovery.next_item().unwrap() {
                if let Item::Record(position, record) = item {
                    image.apply(position, record.kind, record.payload).unwrap();
                }
            }
            images.push(image);
            readers.push(RecordReader::new(disk.copy(1), id));
        }
        let images = super::restore::split(images, shards, wall);
        self.disks = (0..shards).map(|n| MemoryDisk::new(u64::from(n) + 70)).collect();
        for (number, image) in images.iter().enumerate() {
            let disk = &mut self.disks[number];
            let id = LogId([number as u8 + 1; 16]);
            let mut log = Log::create(store_settings(), id, number as u16);
            disk.drive(&mut log);
            let mut payload = Vec::new();
            let fetch = |log: u16, position, bytes: &mut Vec<u8>| {
                let record = readers[usize::from(log)].record(position).unwrap();
                let record = record.expect("nothing is damaged");
                bytes.extend_from_slice(record.payload);
                Ok(Some(record.kind))
            };
            let lost = image.records(fetch, |record| {
                payload.clear();
                let kind = record.encode(&mut payload);
                disk.drive(&mut log);
                let room = midge_store::Room::Normal;
                log.append(kind, &[&payload], Level::Memory, room).map(drop)
            });
            assert_eq!(lost, Ok(0));
            log.close();
            disk.drive(&mut log);
            assert!(log.is_closed());
        }
        self.start();
    }
}

/// A shared subscription: what its members were not there for is in the chooser's backlog or a member's queue, and is
/// delivered to one of them.
#[test]
fn shared_messages_survive() {
    for shards in [1, 2, 3] {
        let mut broker = Broker::new(shards);
        let members: Vec<Client> = (0..usize::from(shards))
            .map(|shard| Client::new(&broker, shard, "member", 10 + shard as u32))
            .collect();
        for member in &members {
            broker.connected(member);
            broker.send(member, subscribe("$share/g/a", QoS::ExactlyOnce, 1));
            broker.settle();
            assert_eq!(broker.heard(member), ["suback 1"]);
            broker.lose(member);
        }
        broker.power_cut(1);
        let publisher = broker.newcomer(0, "publisher", 2);
        for (number, payload) in [(1, "1"), (2, "2"), (3, "3"), (4, "4"), (5, "5"), (6, "6")] {
            broker.send(&publisher, publish("a", payload, QoS::AtLeastOnce, number));
        }
        broker.settle();
        assert_eq!(broker.heard(&publisher).len(), 6);
        broker.power_cut(1);
        let mut got = Vec::new();
        for member in &members {
            got.extend(broker.connected(member).into_iter().skip(1));
        }
        got.sort_unstable();
        let wanted: Vec<String> = (1..=6).map(|n| format!("publish 1 a={n}")).collect();
        assert_eq!(got, wanted, "{shards} shards");
    }
}

/// What a mate says takes no ring, and must not overtake what took one when the log had no room for it.
#[test]
fn what_a_mate_says_waits_behind_what_has_stalled() {
    let mut broker = Broker::new(2);
    broker.shards[0].set_mates([ShardId::new(1)].into_iter().collect());
    let reader = Client::new(&broker, 1, "reader", 1);
    let writer = Client::new(&broker, 0, "writer", 2);
    broker.connected(&reader);
    broker.connected(&writer);
    broker.send(&reader, subscribe("a", QoS::AtMostOnce, 1));
    broker.settle();
    broker.heard(&reader);
    let earlier = (ShardId::new(0), Box::default(), 0);
    broker.shards[1].durable.as_mut().unwrap().stalled.push_back(earlier);
    broker.send(&writer, publish("a", "one", QoS::AtMostOnce, 0));
    let (now, (source, mates)) = (broker.now, broker.shards.split_at_mut(1));
    source[0].give_crossing(|_, crossed| mates[0].handle_crossed(crossed, now));
    assert_eq!(broker.shards[1].durable.as_ref().unwrap().stalled.len(), 2);
    assert!(broker.sent(&reader).is_empty());
    broker.shards[1].go_on_with_stalled();
    assert_eq!(broker.heard(&reader), ["publish 0 a=one"]);
}

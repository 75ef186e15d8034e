//! Levels of listeners and topics: who is acknowledged when.
//!
//! Where one level waits for the disk, what is to be written only waits for it as well: one commit does both.

use midge_session::Keeping;

use super::*;
use crate::Levels;

/// Listener 0 waits for the disk, listener 1 for nothing; some topics have rules of their own.
fn settings() -> Settings {
    let topics = vec![("quick/".into(), Keeping::Memory), ("sure/".into(), Keeping::Fsync)];
    let levels = Levels::new(Keeping::Fsync, vec![Keeping::Fsync, Keeping::Memory], topics);
    Settings { levels, ..Settings::default() }
}

/// A broker with a session that is away, on the last shard, and a publisher on the first.
fn broker(shards: u16, listener: u16) -> (Broker, Client, Client) {
    let mut broker = Broker::with(shards, settings());
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let subscriber = broker.newcomer(usize::from(shards) - 1, "subscriber", 1);
    broker.send(&subscriber, subscribe("#", QoS::ExactlyOnce, 1));
    broker.settle();
    broker.heard(&subscriber);
    broker.lose(&subscriber);
    broker.connect_at(&publisher, ListenerId(listener), |_| {});
    broker.settle();
    broker.heard(&publisher);
    (broker, subscriber, publisher)
}

#[test]
fn the_listener_and_the_topic_say_what_is_waited_for() {
    for shards in [1, 2] {
        for (listener, topic, waits) in [
            (0, "a", true),
            (0, "quick/a", false),
            (0, "sure/a", true),
            (1, "a", false),
            (1, "sure/a", true),
            (1, "quick/a", false),
        ] {
            let (mut broker, subscriber, publisher) = broker(shards, listener);
            broker.send(&publisher, publish(topic, "x", QoS::AtLeastOnce, 1));
            // Shards talk, and no disk does anything.
            while broker.exchange() {}
            let context = format!("{shards} shards, listener {listener}, {topic}");
            let expected: &[&str] = if waits { &[] } else { &["puback 1"] };
            assert_eq!(broker.heard(&publisher), expected, "{context}");
            broker.settle();
            let expected: &[&str] = if waits { &["puback 1"] } else { &[] };
            assert_eq!(broker.heard(&publisher), expected, "{context}");
            // What nobody waits for is on the disk soon enough all the same.
            broker.later(1);
            broker.power_cut(1);
            let heard = broker.connected(&subscriber);
            assert_eq!(heard, ["connack 1", &format!("publish 1 {topic}=x")], "{context}");
        }
    }
}

#[test]
fn a_client_is_told_the_level_of_its_listener() {
    for (listener, level) in [(0, "fsync"), (1, "memory")] {
        let mut broker = Broker::with(1, settings());
        let client = Client::new(&broker, 0, "client", 1);
        broker.connect_at(&client, ListenerId(listener), |_| {});
        broker.settle();
        let said = String::from_utf8_lossy(&broker.sent(&client)).into_owned();
        assert!(said.contains("acknowledge-after") && said.contains(level), "{said:?}");
        // A client without room for it gets its CONNACK without.
        let narrow = Client::new(&broker, 0, "narrow", 2);
        broker.connect_at(&narrow, ListenerId(listener), |connect| {
            connect.properties.maximum_packet_size = std::num::NonZeroU32::new(30);
        });
        broker.settle();
        assert_eq!(broker.heard(&narrow), ["connack 0"]);
    }
}

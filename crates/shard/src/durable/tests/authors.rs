//! Who wrote what is retained, over a restart.

use midge_auth::AccessRules;

use super::*;
use crate::Security;

fn rules(text: &str) -> Security {
    let access = Some(Arc::new(AccessRules::parse(text).unwrap()));
    Security { access, ..Security::default() }
}

/// A right that is taken back while the broker is down counts for what was retained before, also of what cleaning has copied,
/// and of a shard that got it from another.
#[test]
fn writers_outlive_the_process() {
    for shards in [1, 2] {
        for (later, expected) in [
            ("topic readwrite #\n", vec!["publish 1 a=kept retained", "suback 1"]),
            ("topic read #\n", vec!["suback 1"]),
        ] {
            let security = rules("topic readwrite #\n");
            let settings = Settings { security, recheck_retained: true, ..Settings::default() };
            let mut broker = Broker::with(shards, settings);
            let writer = broker.newcomer(0, "writer", 1);
            broker.send(&writer, |out| {
                let mut publish = message("a", "kept", QoS::AtLeastOnce, 1);
                publish.retain = true;
                publish.encode(V5, out);
            });
            broker.settle();
            for away_seconds in [1, 1] {
                broker.power_cut(away_seconds);
                broker.later(3);
            }
            let settings = Settings { security: rules(later), ..(*broker.settings).clone() };
            broker.settings = Arc::new(settings);
            broker.power_cut(1);
            let reader = broker.newcomer(usize::from(shards) - 1, "reader", 2);
            broker.send(&reader, subscribe("#", QoS::AtLeastOnce, 1));
            broker.later(1);
            let mut heard = broker.heard(&reader);
            heard.sort();
            assert_eq!(heard, expected, "{shards} {later}");
        }
    }
}

/// What a listener's clients have retained counts after a restart as well, with its writer or without.
#[test]
fn listeners_outlive_the_process() {
    use crate::protection::{ListenerMeters, ListenerProtection, Protection, RetainedQuota};
    for (shards, recheck_retained) in [(1, false), (2, true)] {
        let quota = RetainedQuota {
            listener: ListenerId(0),
            label: "in".into(),
            messages_max: 2,
            bytes_max: 0,
        };
        let own =
            ListenerProtection { retained: Some(Arc::new(quota)), ..ListenerProtection::default() };
        // Another process counts from nothing.
        let settings = || {
            let protection = Protection {
                listeners: vec![own.clone()],
                meters: Some(Arc::new(ListenerMeters::new())),
                ..Protection::default()
            };
            let security = rules("topic readwrite #\n");
            Settings { security, recheck_retained, protection, ..Settings::default() }
        };
        let mut broker = Broker::with(shards, settings());
        let writer = Client::new(&broker, 0, "writer", 1);
        let retain = |broker: &mut Broker, topic: &str| {
            broker.send(&writer, |out| {
                let mut publish = message(topic, "kept", QoS::AtLeastOnce, 1);
                publish.retain = true;
                publish.encode(V5, out);
            });
            broker.settle();
            broker.heard(&writer)
        };
        broker.connected(&writer);
        assert_eq!(retain(&mut broker, "a"), ["puback 1"]);
        assert_eq!(retain(&mut broker, "b"), ["puback 1"]);
        for _ in 0..2 {
            broker.settings = Arc::new(settings());
            broker.power_cut(1);
            broker.later(3);
            broker.connected(&writer);
            assert_eq!(retain(&mut broker, "c"), ["full 1"], "{shards}");
            assert_eq!(retain(&mut broker, "b"), ["puback 1"], "{shards}");
        }
    }
}

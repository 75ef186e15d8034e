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
            let writer = Client::new(&broker, 0, "writer", 1);
            broker.connected(&writer);
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
            let reader = Client::new(&broker, usize::from(shards) - 1, "reader", 2);
            broker.connected(&reader);
            broker.send(&reader, subscribe("#", QoS::AtLeastOnce, 1));
            broker.later(1);
            let mut heard = broker.heard(&reader);
            heard.sort();
            assert_eq!(heard, expected, "{shards} {later}");
        }
    }
}

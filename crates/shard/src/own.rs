//! What the broker itself publishes, below `$SYS`.
//!
//! Nobody else may publish there, and a filter that begins with a wildcard does not match it [MQTT-4.7.2-1]. Apart from that it
//! is routed like any publication. Its retained messages are kept apart from the clients': they count neither as retained
//! messages nor against their limits, are not written to a log, and do not make every new subscription ask every shard for
//! retained messages.

use std::sync::Arc;

use midge_mesh::{ShardId, ShardSet};
use midge_session::Publication;
use midge_session::Time;

use crate::ids::keeper_shard;
use crate::retained::RetainedMessage;
use crate::shard::Shard;

/// Whether a topic, or all that a filter can match, is the broker's own: its first level is `$SYS`.
pub(crate) fn is_own(text: &str) -> bool {
    text.strip_prefix("$SYS").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Shard {
    /// Publishes a message of the broker's own, on any shard; hand over those of one topic on the same. `false`: another
    /// shard that must have it is behind with what it was sent; try again later.
    ///
    /// # Panics
    /// When its topic is not below `$SYS`.
    pub fn handle_own_publication(&mut self, publication: &Arc<Publication>, now: Time) -> bool {
        assert!(is_own(publication.topic()), "only what is below $SYS is the broker's own");
        self.now = now;
        let mut targets = ShardSet::new();
        if let Some(interest) = &self.interest {
            interest.map().interested(publication.topic(), &mut targets);
            targets.insert(keeper_shard(publication.topic(), self.shards));
        }
        if targets.iter().any(|target| target != self.id && self.outboxes.is_full(target)) {
            return false;
        }
        let busy = self.route(publication, None, false, false).busy;
        self.settle();
        !busy
    }

    /// Keeps, replaces or removes a retained message of the broker's own.
    pub(crate) fn retain_own(&mut self, publication: &Arc<Publication>) {
        if publication.payload().is_empty() {
            self.own_retained.remove(publication.topic());
            return;
        }
        let message = RetainedMessage::new(Arc::clone(publication), self.now, None);
        self.own_retained.insert(message);
    }

    /// Whether a shard may keep retained messages that match a filter.
    pub(crate) fn may_keep(&self, shard: ShardId, filter: &str) -> bool {
        is_own(filter) || !self.retained_counts.is_zero(shard)
    }
}

#[cfg(test)]
mod tests {
    use midge_codec::{Connect, ProtocolVersion, QoS};

    use super::*;
    use crate::regression::{Broker, subscribe};
    use crate::{OutboxLimits, Settings};

    fn uptime(payload: &str) -> Arc<Publication> {
        let payload = payload.as_bytes();
        let topic = "$SYS/broker/uptime";
        Arc::new(Publication::new(topic, b"", payload, QoS::ExactlyOnce, true, None))
    }

    impl Broker {
        fn publish_own(&mut self, shard: usize, publication: &Arc<Publication>) -> bool {
            let now = self.now;
            self.shards[shard].handle_own_publication(publication, now)
        }
    }

    #[test]
    fn the_first_level_decides() {
        for (text, own) in [
            ("$SYS", true),
            ("$SYS/#", true),
            ("$SYS/broker/uptime", true),
            ("$SYSTEM", false),
            ("a/$SYS", false),
            ("+/broker", false),
            ("#", false),
        ] {
            assert_eq!(is_own(text), own, "{text}");
        }
    }

    /// On whatever shard it is published: subscribers get it, later ones as retained, and `#` does not.
    #[test]
    fn subscribers_get_it_now_and_later() {
        for (shards, source) in [(1, 0), (3, 0), (3, 1), (3, 2)] {
            // Not a single retained message of a client fits.
            let settings = Settings { retained_messages_max: 0, ..Settings::default() };
            let mut broker = Broker::new(shards, settings);
            let home = usize::from(shards) - 1;
            let ids = broker.client_of(home);
            let connect = |broker: &mut Broker, id: u32, filter: &str| {
                let client_id = if id == 1 { ids.clone() } else { format!("{ids}-{id}") };
                // The shard that accepted it is taken for its home, wherever its id would lead.
                let client_id = match crate::home_shard(&client_id, shards).index() == home {
                    true => client_id,
                    false => (0..)
                        .map(|n| format!("{client_id}-{n}"))
                        .find(|id| crate::home_shard(id, shards).index() == home)
                        .expect("one of many"),
                };
                broker.connect(home, id, &Connect::new(ProtocolVersion::V311, &client_id));
                broker.receive(home, id, &subscribe(filter, QoS::AtMostOnce));
                broker.exchange();
                broker.payloads(home, id)
            };
            assert_eq!(connect(&mut broker, 1, "$SYS/#"), Vec::<String>::new());
            assert_eq!(connect(&mut broker, 2, "#"), Vec::<String>::new());
            for payload in ["1 seconds", "2 seconds"] {
                assert!(broker.publish_own(source, &uptime(payload)));
                broker.exchange();
                assert_eq!(broker.payloads(home, 1), [payload]);
                assert_eq!(broker.sent(home, 2), []);
            }
            broker.later(10_000, home);
            assert_eq!(connect(&mut broker, 3, "$SYS/broker/+"), ["2 seconds"]);
            assert_eq!(connect(&mut broker, 4, "$SYS/broker/uptime"), ["2 seconds"]);
            assert_eq!(connect(&mut broker, 5, "#"), Vec::<String>::new());
            assert_eq!(connect(&mut broker, 6, "+/broker/uptime"), Vec::<String>::new());
            for shard in &broker.shards {
                let counters = shard.counters();
                assert_eq!((counters.retained_now, counters.retained_refused), (0, 0));
            }
        }
    }

    /// A shard that is behind is not given more, however long that lasts.
    #[test]
    fn it_waits_for_shards_that_are_behind() {
        let outbox = OutboxLimits { bytes_max: 300, envelopes_max: 100 };
        let mut broker = Broker::new(2, Settings { outbox, ..Settings::default() });
        let keeper = keeper_shard("$SYS/broker/uptime", 2).index();
        let source = 1 - keeper;
        let taken =
            (0..100).take_while(|n| broker.publish_own(source, &uptime(&n.to_string()))).count();
        assert!((1..10).contains(&taken), "{taken}");
        broker.exchange();
        assert!(broker.publish_own(source, &uptime("again")));
        assert!(broker.publish_own(keeper, &uptime("here")), "nothing has to travel");
    }
}

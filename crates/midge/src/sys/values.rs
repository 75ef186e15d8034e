//! From one look at all shards to topics and payloads. `docs/operating.md` has the list for people.

use std::time::Duration;

use midge_metrics::{ConnectionState, Counters, PacketType, Reading};

use super::load::Load;

/// What must be remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Values {
    loads: [Load; LOADS.len()],
    looked_at: Duration,
    /// Most clients that were connected at once, at any look.
    connected_max: u64,
    /// Each shard's busy time and the time of its page, at the last look.
    busy: Vec<(u64, u64)>,
}

/// One number of all that was counted.
type Count = fn(&Counters) -> u64;

/// Counters with load averages, by name.
const LOADS: [(&str, Count); 9] = [
    ("messages/received", |counters| sum(&counters.packets_received)),
    ("messages/sent", |counters| sum(&counters.packets_sent)),
    ("publish/received", |counters| sum(&counters.publishes_received)),
    ("publish/sent", |counters| sum(&counters.publishes_sent)),
    ("publish/dropped", Counters::messages_dropped),
    ("bytes/received", |counters| counters.bytes_received),
    ("bytes/sent", |counters| counters.bytes_sent),
    ("sockets", |counters| counters.connections_accepted),
    ("connections", |counters| counters.packets_received[PacketType::Connect as usize]),
];

impl Values {
    /// All topics with their values, `since_start` after the start.
    pub(super) fn update(
        &mut self,
        reading: &Reading,
        since_start: Duration,
    ) -> Vec<(String, String)> {
        let mut total = Counters::default();
        for shard in &reading.shards {
            total.merge(&shard.counters);
        }
        let mut known = Vec::new();
        let mut tell = |name: &str, value: String| known.push((format!("{ROOT}{name}"), value));

        tell("version", format!("midge version {}", env!("CARGO_PKG_VERSION")));
        tell("uptime", format!("{} seconds", since_start.as_secs()));

        let connected = clients_connected(&total);
        let away = total.sessions_now.saturating_sub(connected);
        self.connected_max = self.connected_max.max(connected);
        for (name, value) in [
            ("clients/total", total.sessions_now),
            ("clients/maximum", self.connected_max),
            ("clients/connected", connected),
            ("clients/active", connected),
            ("clients/disconnected", away),
            ("clients/inactive", away),
            ("clients/expired", total.sessions_expired),
            ("connections/socket/count", total.connections_now),
            ("messages/stored", stored(&total)),
            ("store/messages/count", stored(&total)),
            ("store/messages/bytes", total.retained_bytes_now),
            ("shared_subscriptions/count", total.shared_subscriptions_now),
        ] {
            tell(name, value.to_string());
        }
        for (name, value) in of_any(&total) {
            tell(name, value.to_string());
        }
        let publish = PacketType::Publish as usize;
        tell("publish/bytes/received", total.packet_bytes_received[publish].to_string());
        tell("publish/bytes/sent", total.packet_bytes_sent[publish].to_string());

        let elapsed = since_start.saturating_sub(self.looked_at);
        self.looked_at = since_start;
        for (load, (name, count)) in self.loads.iter_mut().zip(LOADS) {
            load.update(count(&total), elapsed);
            for (time, value) in load.values() {
                tell(&format!("load/{name}/{time}"), value);
            }
        }

        self.busy.resize(reading.shards.len(), (0, 0));
        for (number, (shard, busy)) in reading.shards.iter().zip(&mut self.busy).enumerate() {
            let counters = &shard.counters;
            let mut tell = |name: &str, value: String| {
                known.push((format!("{ROOT}cores/{number}/{name}"), value));
            };
            for (name, value) in of_any(counters) {
                tell(name, value.to_string());
            }
            for (name, value) in [
                ("clients/connected", clients_connected(counters)),
                ("hops/received", counters.hops_received),
                ("hops/sent", counters.hops_sent),
                ("hops/unwanted", counters.hops_unwanted),
            ] {
                tell(name, value.to_string());
            }
            let (busy_before, at_before) = *busy;
            *busy = (counters.loop_busy_ns, shard.published_at_ns);
            tell(
                "busy/percent",
                percent(busy.0 - busy_before.min(busy.0), busy.1 - at_before.min(busy.1)),
            );
        }
        known
    }
}

/// What is told of the whole and of each core.
fn of_any(counters: &Counters) -> [(&'static str, u64); 9] {
    [
        ("bytes/received", counters.bytes_received),
        ("bytes/sent", counters.bytes_sent),
        ("messages/received", sum(&counters.packets_received)),
        ("messages/sent", sum(&counters.packets_sent)),
        ("publish/messages/received", sum(&counters.publishes_received)),
        ("publish/messages/sent", sum(&counters.publishes_sent)),
        ("publish/messages/dropped", counters.messages_dropped()),
        ("retained messages/count", counters.retained_now),
        ("subscriptions/count", counters.subscriptions_now),
    ]
}

fn clients_connected(counters: &Counters) -> u64 {
    counters.connections_by_state_now[ConnectionState::Connected as usize]
}

fn stored(counters: &Counters) -> u64 {
    counters.retained_now + counters.messages_queued_now + counters.messages_in_flight_now
}

fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().sum()
}

/// A part of a whole, two digits behind the point.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

const ROOT: &str = "$SYS/broker/";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use midge_metrics::ShardReading;

    use super::*;

    fn reading(shards: impl IntoIterator<Item = Counters>) -> Reading {
        let shards = shards.into_iter().map(|counters| {
            let mut shard = ShardReading::default();
            shard.published_at_ns = 1_000_000_000;
            shard.counters = counters;
            shard
        });
        Reading { shards: shards.collect() }
    }

    fn look(values: &mut Values, reading: &Reading, seconds: u64) -> BTreeMap<String, String> {
        let known = values.update(reading, Duration::from_secs(seconds));
        let count = known.len();
        let known: BTreeMap<_, _> = known.into_iter().collect();
        assert_eq!(known.len(), count, "each topic once");
        known
    }

    #[test]
    fn shards_are_added_up() {
        let mut one = Counters { sessions_now: 5, retained_now: 1, ..Counters::default() };
        one.connections_by_state_now[ConnectionState::Connected as usize] = 3;
        one.packets_received[PacketType::Connect as usize] = 4;
        one.packets_received[PacketType::Publish as usize] = 6;
        one.publishes_received = [1, 2, 3];
        one.loop_busy_ns = 250_000_000;
        let two = Counters { messages_queued_now: 7, dropped_expired: 2, ..one };
        let mut values = Values::default();
        let known = look(&mut values, &reading([one, two]), 10);
        for (name, value) in [
            ("version", concat!("midge version ", env!("CARGO_PKG_VERSION"))),
            ("uptime", "10 seconds"),
            ("clients/total", "10"),
            ("clients/connected", "6"),
            ("clients/active", "6"),
            ("clients/disconnected", "4"),
            ("clients/maximum", "6"),
            ("messages/received", "20"),
            ("publish/messages/received", "12"),
            ("publish/messages/dropped", "2"),
            ("messages/stored", "9"),
            ("retained messages/count", "2"),
            ("load/connections/1min", "7.37"),
            ("cores/0/messages/received", "10"),
            ("cores/1/publish/messages/dropped", "2"),
            ("cores/1/clients/connected", "3"),
            ("cores/0/busy/percent", "25.00"),
        ] {
            let topic = format!("$SYS/broker/{name}");
            assert_eq!(known.get(&topic).map(String::as_str), Some(value), "{topic}");
        }
        // The most stays when they are gone.
        let known = look(&mut values, &reading([Counters::default(); 2]), 20);
        assert_eq!(known["$SYS/broker/clients/maximum"], "6");
        assert_eq!(known["$SYS/broker/clients/connected"], "0");
    }

    /// The list of mosquitto that exporters and dashboards expect, without what is not known here.
    #[test]
    fn the_names_are_mosquittos() {
        let known = look(&mut Values::default(), &reading([Counters::default()]), 0);
        let mut expected: Vec<String> = "version uptime clients/total clients/maximum \
             clients/connected clients/active clients/disconnected clients/inactive clients/expired \
             bytes/received bytes/sent messages/received messages/sent messages/stored \
             store/messages/count store/messages/bytes publish/messages/received \
             publish/messages/sent publish/messages/dropped publish/bytes/received \
             publish/bytes/sent subscriptions/count shared_subscriptions/count \
             connections/socket/count"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        expected.push("retained messages/count".into());
        for (name, _) in LOADS {
            expected.extend(["1min", "5min", "15min"].map(|time| format!("load/{name}/{time}")));
        }
        let cores = known.keys().filter(|topic| topic.contains("/cores/0/")).count();
        assert_eq!(known.len(), expected.len() + cores);
        for name in expected {
            assert!(known.contains_key(&format!("$SYS/broker/{name}")), "{name}");
        }
    }
}

//! Who says what to whom: the plan of a run, and the roles that follow from it.
//!
//! Pure values. Client numbers run over the subscribers first, then the publishers, so that every subscription stands
//! before the first publisher connects.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::wire::Protocol;

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Idle clients.
    Connect,
    /// Publisher n to subscriber n.
    Pairs,
    /// One publisher to all subscribers.
    FanOut,
    /// All publishers to one subscriber.
    FanIn,
    /// Connect, subscribe, disconnect, again.
    Cycle,
    /// All publishers to the members of one shared subscription.
    Shared {
        /// Subscribers in the group.
        members: u32,
    },
}

impl Mode {
    /// Whether messages flow.
    pub(crate) fn has_publishers(self) -> bool {
        !matches!(self, Self::Connect | Self::Cycle)
    }

    /// Publishers when `--count` is `count`.
    pub(crate) fn publisher_count(self, count: u32) -> u32 {
        match self {
            Self::Connect | Self::Cycle => 0,
            Self::Pairs | Self::FanIn | Self::Shared { .. } => count,
            Self::FanOut => 1,
        }
    }

    /// Subscribers (or, without publishers, clients) when `--count` is `count`.
    pub(crate) fn subscriber_count(self, count: u32) -> u32 {
        match self {
            Self::Connect | Self::Cycle | Self::Pairs | Self::FanOut => count,
            Self::FanIn => 1,
            Self::Shared { members } => members,
        }
    }

    /// How many subscribers get each message when `--count` is `count`.
    pub(crate) fn deliveries_per_message(self, count: u32) -> u32 {
        if self == Self::FanOut { count } else { 1 }
    }

    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Pairs => "pairs",
            Self::FanOut => "fan-out",
            Self::FanIn => "fan-in",
            Self::Cycle => "cycle",
            Self::Shared { .. } => "shared",
        }
    }
}

/// Everything a run needs to know, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub mode: Mode,
    pub remote: SocketAddr,
    pub count: u32,
    /// Per second in total: messages where there are publishers, connections elsewhere. `None`: closed loop.
    pub rate: Option<f64>,
    pub topic: String,
    pub qos: u8,
    /// Bytes.
    pub payload_size: usize,
    /// 0: none.
    pub keep_alive_seconds: u16,
    /// Messages per publisher.
    pub inflight: u32,
    pub duration: Duration,
    pub warmup: Duration,
    pub hold: Duration,
    pub protocol: Protocol,
    /// Empty: chosen by [`crate::sources`].
    pub sources: Vec<IpAddr>,
    /// Whether a client of `connect` or `cycle` subscribes.
    pub subscribe: bool,
    pub handshakes_max: u32,
    pub connect_timeout: Duration,
    pub username: Option<String>,
    pub password: Option<String>,
    pub clean_start: bool,
    pub json: bool,
    pub core: Option<usize>,
    pub spin: bool,
    pub broker_pid: Option<u32>,
}

/// What one client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Neither: it only stands there.
    Idle,
    /// Subscriber by index.
    Subscriber(u32),
    /// Publisher by index.
    Publisher(u32),
}

impl Plan {
    /// Clients in total.
    pub(crate) fn client_count(&self) -> u32 {
        self.subscriber_count() + self.publisher_count()
    }

    /// Publishers in total.
    pub(crate) fn publisher_count(&self) -> u32 {
        self.mode.publisher_count(self.count)
    }

    /// Subscribers, or idle clients, in total.
    pub(crate) fn subscriber_count(&self) -> u32 {
        self.mode.subscriber_count(self.count)
    }

    /// How many subscribers get each message.
    pub(crate) fn deliveries_per_message(&self) -> u32 {
        self.mode.deliveries_per_message(self.count)
    }

    /// What client number `client` is for.
    pub(crate) fn role(&self, client: u32) -> Role {
        if !self.mode.has_publishers() {
            return Role::Idle;
        }
        match client.checked_sub(self.subscriber_count()) {
            Some(publisher) => Role::Publisher(publisher),
            None => Role::Subscriber(client),
        }
    }

    /// The filter that client number `client` subscribes to, if it subscribes.
    pub(crate) fn filter(&self, client: u32) -> Option<String> {
        let topic = &self.topic;
        match (self.role(client), self.mode) {
            (Role::Publisher(_), _) => None,
            (Role::Idle, _) => self.subscribe.then(|| format!("{topic}/{client}")),
            (Role::Subscriber(_), Mode::FanIn) => Some(format!("{topic}/+")),
            (Role::Subscriber(_), Mode::FanOut) => Some(format!("{topic}/0")),
            (Role::Subscriber(_), Mode::Shared { .. }) => Some(format!("$share/flood/{topic}/+")),
            (Role::Subscriber(index), _) => Some(format!("{topic}/{index}")),
        }
    }

    /// The topic of publisher number `publisher`.
    pub(crate) fn publish_topic(&self, publisher: u32) -> String {
        format!("{}/{publisher}", self.topic)
    }

    /// Streams to track, see [`Plan::stream`].
    pub(crate) fn stream_count(&self) -> usize {
        match self.mode {
            Mode::FanOut => self.subscriber_count() as usize,
            _ => self.publisher_count() as usize,
        }
    }

    /// The stream that a message of `publisher` at `subscriber` belongs to; `None` when it should not be there.
    #[inline]
    pub(crate) fn stream(&self, subscriber: u32, publisher: u32) -> Option<usize> {
        if publisher >= self.publisher_count() {
            return None;
        }
        match self.mode {
            Mode::FanOut => Some(subscriber as usize),
            Mode::Pairs if subscriber != publisher => None,
            _ => Some(publisher as usize),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plan to start tests from.
    pub(crate) fn plan(mode: Mode, count: u32) -> Plan {
        Plan {
            mode,
            remote: ([127, 0, 0, 1], 1883).into(),
            count,
            rate: None,
            topic: "t".into(),
            qos: 0,
            payload_size: 64,
            keep_alive_seconds: 60,
            inflight: 16,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            hold: Duration::ZERO,
            protocol: Protocol::V311,
            sources: Vec::new(),
            subscribe: true,
            handshakes_max: 100,
            connect_timeout: Duration::from_secs(5),
            username: None,
            password: None,
            clean_start: true,
            json: false,
            core: None,
            spin: false,
            broker_pid: None,
        }
    }

    #[test]
    fn roles_and_filters_by_mode() {
        let cases = [
            (Mode::Connect, 2, 0, [Some("t/0"), Some("t/1")], [None, None]),
            (Mode::Pairs, 4, 1, [Some("t/0"), Some("t/1")], [Some(0), None]),
            (Mode::FanOut, 3, 2, [Some("t/0"), Some("t/0")], [Some(0), None]),
            (Mode::FanIn, 3, 1, [Some("t/+"), None], [Some(0), Some(1)]),
            (
                Mode::Shared { members: 1 },
                3,
                1,
                [Some("$share/flood/t/+"), None],
                [Some(0), Some(1)],
            ),
        ];
        for (mode, clients, deliveries, filters, streams) in cases {
            let plan = plan(mode, 2);
            assert_eq!(plan.client_count(), clients, "{mode:?}");
            if plan.mode.has_publishers() {
                assert_eq!(plan.deliveries_per_message(), deliveries, "{mode:?}");
            }
            for client in [0, 1] {
                let filter = plan.filter(client);
                assert_eq!(filter.as_deref(), filters[client as usize], "{mode:?} {client}");
            }
            for publisher in [0, 1] {
                let expected = streams[publisher as usize];
                assert_eq!(plan.stream(0, publisher), expected, "{mode:?} {publisher}");
            }
            assert_eq!(plan.stream(0, 1000), None);
        }
    }
}

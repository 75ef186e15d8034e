//! Who says what to whom: the plan of a run, and the roles that follow from it.
//!
//! Pure values. A run has groups; a group is publishers, subscribers and the shape between them. The modes of the command
//! line are one group each, a scenario file ([`crate::scenario_file`]) has several. Clients are numbered over all
//! groups, the subscribers first, so that every subscription stands before the first publisher connects.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::transport::Transport;
use crate::wire::Protocol;

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Clients connect and stay.
    Connect,
    /// Messages flow.
    Flow,
    /// Connect, subscribe, disconnect, again.
    Cycle,
    /// Each publisher stores one retained message, then all subscribers ask for all of them.
    Retained,
    /// All clients are cut off at once and come back, so many times.
    Storm {
        /// How often.
        waves: u32,
    },
}

/// How the publishers and subscribers of a group belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// There are no publishers.
    Idle,
    /// Publisher n to subscriber n.
    Pairs,
    /// Every publisher to every subscriber: fan-out and fan-in are the ends of it.
    All,
    /// Every publisher to one subscriber of all, which are one shared subscription.
    Shared,
}

/// Clients that do the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub name: String,
    pub shape: Shape,
    pub publishers: u32,
    pub subscribers: u32,
    /// The number of the publisher (or idle client) follows after a slash.
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    /// Bytes.
    pub payload_size: usize,
    /// Messages per publisher.
    pub inflight: u32,
    /// Messages per second of all publishers together. `None`: closed loop.
    pub rate: Option<f64>,
    /// Whether an idle client subscribes.
    pub subscribe: bool,
}

/// Everything a run needs to know, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What the mode was called on the command line.
    pub name: &'static str,
    pub mode: Mode,
    /// At least one, at most [`GROUPS_MAX`].
    pub groups: Vec<Group>,
    pub remote: SocketAddr,
    /// Connections per second. `None`: as fast as the broker accepts.
    pub connect_rate: Option<f64>,
    /// 0: none.
    pub keep_alive_seconds: u16,
    pub duration: Duration,
    pub warmup: Duration,
    pub hold: Duration,
    pub protocol: Protocol,
    /// `None`: MQTT directly over TCP.
    pub transport: Option<Transport>,
    /// Empty: chosen by [`crate::sources`].
    pub sources: Vec<IpAddr>,
    pub handshakes_max: u32,
    pub connect_timeout: Duration,
    pub username: Option<String>,
    pub password: Option<String>,
    pub clean_start: bool,
    /// A CONNACK that refuses ends a cycle as it should.
    pub refusals: bool,
    pub json: bool,
    pub core: Option<usize>,
    pub spin: bool,
    pub broker_pid: Option<u32>,
}

/// Groups of one run at most.
pub(crate) const GROUPS_MAX: usize = 1000;

/// What one client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Subscriber (or idle client) `index` of its group.
    Subscriber { group: u16, index: u32 },
    /// Publisher by its number over all groups.
    Publisher(u32),
}

impl Group {
    /// How many subscribers get each message.
    pub(crate) fn fan(&self) -> u32 {
        match self.shape {
            Shape::Idle => 0,
            Shape::Pairs | Shape::Shared => 1,
            Shape::All => self.subscribers,
        }
    }

    /// Streams to track, see [`Group::stream`].
    pub(crate) fn stream_count(&self) -> usize {
        let fan = if self.shape == Shape::All { self.subscribers as usize } else { 1 };
        self.publishers as usize * fan
    }

    /// The stream, within the group, that a message of `publisher` at `subscriber` belongs to; `None` when it should
    /// not be there.
    #[inline]
    pub(crate) fn stream(&self, subscriber: u32, publisher: u32) -> Option<usize> {
        match self.shape {
            Shape::Pairs if subscriber == publisher => Some(publisher as usize),
            Shape::Idle | Shape::Pairs => None,
            Shape::All => Some(subscriber as usize * self.publishers as usize + publisher as usize),
            Shape::Shared => Some(publisher as usize),
        }
    }

    /// The filter of subscriber (or idle client) `index`.
    fn filter(&self, index: u32) -> Option<String> {
        let topic = &self.topic;
        match self.shape {
            Shape::Idle => self.subscribe.then(|| format!("{topic}/{index}")),
            Shape::Pairs => Some(format!("{topic}/{index}")),
            // One publisher's topic is taken literally: a fan-out is no test of wildcards.
            Shape::All if self.publishers == 1 => Some(format!("{topic}/0")),
            Shape::All => Some(format!("{topic}/+")),
            Shape::Shared => Some(format!("$share/flood/{topic}/+")),
        }
    }

    /// The topic of publisher `index` of the group.
    pub(crate) fn publish_topic(&self, index: u32) -> String {
        format!("{}/{index}", self.topic)
    }
}

impl Plan {
    /// Clients in total.
    pub(crate) fn client_count(&self) -> u32 {
        self.subscriber_count() + self.publisher_count()
    }

    /// Publishers in total.
    pub(crate) fn publisher_count(&self) -> u32 {
        self.groups.iter().map(|group| group.publishers).sum()
    }

    /// Subscribers and idle clients in total.
    pub(crate) fn subscriber_count(&self) -> u32 {
        self.groups.iter().map(|group| group.subscribers).sum()
    }

    /// What each client is for, by its number.
    pub(crate) fn roles(&self) -> impl Iterator<Item = Role> {
        let subscribers = self.groups.iter().zip(0..).flat_map(|(group, number)| {
            (0..group.subscribers).map(move |index| Role::Subscriber { group: number, index })
        });
        subscribers.chain((0..self.publisher_count()).map(Role::Publisher))
    }

    /// The filter that a client subscribes to, and its QoS, if it subscribes.
    pub(crate) fn filter(&self, role: Role) -> Option<(String, u8)> {
        match role {
            Role::Publisher(_) => None,
            Role::Subscriber { group, index } => {
                let group = &self.groups[usize::from(group)];
                group.filter(index).map(|filter| (filter, group.qos))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A group to start tests from.
    pub(crate) fn group(shape: Shape, publishers: u32, subscribers: u32) -> Group {
        Group {
            name: "g".into(),
            shape,
            publishers,
            subscribers,
            topic: "t".into(),
            qos: 0,
            retain: false,
            payload_size: 64,
            inflight: 16,
            rate: None,
            subscribe: true,
        }
    }

    /// A plan to start tests from.
    pub(crate) fn plan(mode: Mode, groups: Vec<Group>) -> Plan {
        Plan {
            name: "test",
            mode,
            groups,
            remote: ([127, 0, 0, 1], 1883).into(),
            connect_rate: None,
            keep_alive_seconds: 60,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            hold: Duration::ZERO,
            protocol: Protocol::V311,
            transport: None,
            sources: Vec::new(),
            handshakes_max: 100,
            connect_timeout: Duration::from_secs(5),
            username: None,
            password: None,
            clean_start: true,
            refusals: false,
            json: false,
            core: None,
            spin: false,
            broker_pid: None,
        }
    }

    #[test]
    fn filters_and_streams_by_shape() {
        let cases = [
            (group(Shape::Idle, 0, 2), 0, 0, ["t/0", "t/1"], [None, None]),
            (group(Shape::Pairs, 2, 2), 1, 2, ["t/0", "t/1"], [None, Some(1)]),
            (group(Shape::All, 1, 2), 2, 2, ["t/0", "t/0"], [Some(1), None]),
            (group(Shape::All, 2, 2), 2, 4, ["t/+", "t/+"], [Some(2), Some(3)]),
            (
                group(Shape::Shared, 2, 2),
                1,
                2,
                ["$share/flood/t/+", "$share/flood/t/+"],
                [Some(0), Some(1)],
            ),
        ];
        for (group, fan, stream_count, filters, streams_of_second) in cases {
            let what = format!("{:?}", group.shape);
            assert_eq!(group.fan(), fan, "{what}");
            assert_eq!(group.stream_count(), stream_count, "{what}");
            for index in [0, 1] {
                let filter = group.filter(index);
                assert_eq!(filter.as_deref(), Some(filters[index as usize]), "{what}");
            }
            for publisher in 0..group.publishers {
                let expected = streams_of_second[publisher as usize];
                assert_eq!(group.stream(1, publisher), expected, "{what}");
            }
        }
    }

    #[test]
    fn subscribers_of_all_groups_come_first() {
        let groups = vec![group(Shape::Pairs, 1, 1), group(Shape::Idle, 0, 1)];
        let plan = plan(Mode::Flow, groups);
        let roles: Vec<Role> = plan.roles().collect();
        let expected = [
            Role::Subscriber { group: 0, index: 0 },
            Role::Subscriber { group: 1, index: 0 },
            Role::Publisher(0),
        ];
        assert_eq!(roles, expected);
        assert_eq!(plan.client_count(), 3);
    }
}

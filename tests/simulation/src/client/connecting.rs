//! How a client comes: its CONNECT, and with what it is said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};

use midge_codec::{Connect, ConnectProperties, ProtocolVersion, QoS, Will, WillProperties};

use super::{Client, EXPIRY_NEVER, Kind, Link, payload};
use crate::net::{NEVER, Net, SECOND};
use crate::oracle::{Oracle, Pub, WillLog};

impl Client {
    pub(super) fn connect(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let v5 = self.version.is_v5();
        let clean_start = match (self.leaving, self.persistent, v5) {
            (true, ..) => true,
            (_, false, _) => true,
            _ if self.must_clean => true,
            // A 3.1 client is not told whether there was a session, so it never asks for another kind.
            (_, true, _) if self.version == ProtocolVersion::V31 || self.calm => false,
            (_, true, _) => self.prng.permille(60) && self.kind == Kind::Plain,
        };
        let expiry = match (v5, self.persistent && !self.leaving) {
            (true, true) => Some(self.prng.pick(&[2, 10, 30, EXPIRY_NEVER, EXPIRY_NEVER])),
            (true, false) => self.prng.pick(&[None, Some(0)]),
            (false, _) => None,
        };
        let effective = match (v5, clean_start) {
            (true, _) => expiry.unwrap_or(0),
            (false, true) => 0,
            (false, false) => EXPIRY_NEVER,
        };
        let keep_alive = match self.kind {
            Kind::Watcher => 0,
            _ => self.prng.pick(&[0, 0, 2, 4, 10]),
        };
        let receive_maximum = self.prng.pick(&[0, 1, 2, 7, 100]) as u16;
        let alias_maximum = self.prng.pick(&[0, 0, 1, 2, 10]) as u16;
        let maximum_packet_size =
            if self.prng.permille(100) { self.prng.pick(&[150, 400]) } else { 0 };
        let has_will = !self.calm && self.kind != Kind::Watcher && self.prng.permille(400);
        let will_qos = self.prng.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
        let delay = if v5 { self.prng.pick(&[0, 0, 1, 4, 20]) } else { 0 };
        let will_expiry = (v5 && self.prng.permille(200)).then_some(1000);
        let will = has_will.then(|| {
            let id = oracle.publish(Pub {
                publisher: self.index,
                topic: format!("w/{}", self.index),
                qos: will_qos,
                retain: false,
                empty: false,
                size: 10,
                expiry: will_expiry,
                first_sent: net.now,
                last_sent: net.now,
                sends: 1,
                accepted: None,
                unmatched: false,
                processed: false,
                will: true,
                version: self.version,
            });
            (id, format!("w/{}", self.index), payload(id, 10))
        });

        let pipe = net.connect(self.index);
        let mut connect = Connect::new(self.version, &self.id);
        connect.clean_start = clean_start;
        connect.keep_alive_seconds = keep_alive as u16;
        if v5 {
            connect.properties = ConnectProperties {
                session_expiry_interval_seconds: expiry,
                receive_maximum: NonZeroU16::new(receive_maximum),
                maximum_packet_size: NonZeroU32::new(maximum_packet_size as u32),
                topic_alias_maximum: (alias_maximum > 0).then_some(alias_maximum),
                ..ConnectProperties::default()
            };
        }
        if let Some((_, topic, payload)) = &will {
            connect.will = Some(Will {
                qos: will_qos,
                retain: false,
                topic,
                payload,
                properties: WillProperties {
                    delay_interval_seconds: (delay > 0).then_some(delay as u32),
                    message_expiry_interval_seconds: will_expiry,
                    ..WillProperties::default()
                },
            });
        }
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        if let Some((publication, ..)) = will {
            oracle.wills.push(WillLog {
                publication,
                pipe,
                registered: false,
                goodbye: None,
                left_at: None,
                delay: delay.min(u64::from(effective)),
                verdict: crate::oracle::Verdict::Open,
            });
        }
        let cap = u64::from(net.knobs.keep_alive_seconds_max);
        let in_force = match keep_alive {
            0 if v5 => cap,
            asked if v5 && cap > 0 => asked.min(cap),
            asked => asked,
        };
        net.pipes[pipe].keep_alive = if in_force == 0 { NEVER } else { in_force * SECOND };
        net.pipes[pipe].packet_at = net.now;
        net.trace.line(
            net.now,
            format_args!(
                "{} connects as pipe {pipe}, {:?}, clean {clean_start}, expiry {effective}, will {:?}",
                self.id,
                self.version,
                will.as_ref().map(|will| will.0)
            ),
        );
        self.link = Some(Link {
            pipe,
            since: net.now,
            answered: None,
            clean_start,
            expiry: effective,
            no_expiry: expiry.unwrap_or(0) == 0,
            input: Vec::new(),
            aliases_in: BTreeMap::new(),
            aliases_out: BTreeMap::new(),
            alias_maximum: 0,
            receive_maximum: u16::MAX,
            own_receive_maximum: if v5 && receive_maximum > 0 { receive_maximum } else { u16::MAX },
            own_alias_maximum: if v5 { alias_maximum } else { 0 },
            maximum_packet_size: if v5 && maximum_packet_size > 0 {
                maximum_packet_size as u32
            } else {
                u32::MAX
            },
            keep_alive: in_force,
            written_at: net.now,
            pings: VecDeque::new(),
            plain: Vec::new(),
            unacknowledged: BTreeSet::new(),
            held: VecDeque::new(),
            expected: [VecDeque::new(), VecDeque::new()],
            goodbye: false,
            deaf_until: 0,
        });
        let limit = self.link.as_ref().map_or(u32::MAX, |link| link.maximum_packet_size);
        self.packet_size_min = self.packet_size_min.min(limit);
        net.write(pipe, bytes);
        // Packets may follow at once; the hand-over has to carry them.
        if self.outgoing.is_empty()
            && !self.calm
            && self.prng.permille(200)
            && self.kind == Kind::Plain
        {
            let topic = self.topic();
            self.publish_plain(net, oracle, topic);
        }
    }

    /// Writes bytes on the present connection.
    pub fn write(&mut self, net: &mut Net, bytes: Vec<u8>) {
        // Nothing follows a DISCONNECT [MQTT-3.14.4-2].
        if let Some(link) = self.link.as_mut().filter(|link| !link.goodbye) {
            link.written_at = net.now;
            net.write(link.pipe, bytes);
        }
    }
}

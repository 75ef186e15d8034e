//! What a client publishes, and publishes again.

use std::num::NonZeroU16;

use midge_codec::{PacketId, PubRel, Publish, PublishProperties, QoS, ReasonCode, UserProperties};

use super::{Client, Outgoing, has_properties, payload};
use crate::coverage::Situation;
use crate::net::{NEVER, Net};
use crate::oracle::{Oracle, Pub, PubId};

impl Client {
    pub(super) fn publication(&self, topic: String, qos: QoS, retain: bool, size: usize) -> Pub {
        Pub {
            publisher: self.index,
            topic,
            qos,
            retain,
            empty: false,
            size,
            expiry: None,
            first_sent: NEVER,
            last_sent: NEVER,
            sends: 0,
            accepted: None,
            unmatched: false,
            processed: false,
            will: false,
            version: self.version,
        }
    }

    pub(super) fn publish_plain(&mut self, net: &mut Net, oracle: &mut Oracle, topic: String) {
        let id = oracle.publish(self.publication(topic, QoS::AtMostOnce, false, 12));
        self.write_publish(net, oracle, id, None, false);
    }

    pub(super) fn publish(
        &mut self,
        net: &mut Net,
        oracle: &mut Oracle,
        topic: String,
        plain: bool,
    ) {
        let qos = if plain && self.prng.permille(600) {
            QoS::AtMostOnce
        } else {
            self.prng.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
        };
        let Some(link) = &self.link else { return };
        let window = usize::from(link.receive_maximum.min(20));
        if qos > QoS::AtMostOnce && self.outgoing.len() >= window {
            return;
        }
        let size = match self.prng.below(100) {
            0..90 => self.prng.between(8, 60),
            90..97 => self.prng.between(100, 1500),
            _ => self.prng.between(4000, 9000),
        } as usize;
        let retain = topic.starts_with("r/") && self.prng.permille(500);
        let mut publication = self.publication(topic, qos, retain, size);
        publication.empty = retain && self.prng.permille(150);
        if self.version.is_v5() && self.prng.permille(100) {
            publication.expiry = Some(self.prng.pick(&[1, 3, 10, 60]) as u32);
        }
        let id = oracle.publish(publication);
        if qos == QoS::AtMostOnce {
            self.write_publish(net, oracle, id, None, false);
            return;
        }
        let Some(number) = self.packet_id() else { return };
        self.outgoing.push_back(Outgoing {
            packet_id: number,
            publication: id,
            qos,
            released: false,
        });
        self.write_publish(net, oracle, id, PacketId::new(number), false);
    }

    /// Writes a PUBLISH, for the first time or again.
    pub(super) fn write_publish(
        &mut self,
        net: &mut Net,
        oracle: &mut Oracle,
        id: PubId,
        packet_id: Option<PacketId>,
        again: bool,
    ) {
        let v5 = self.version.is_v5();
        let alias_dice = self.prng.permille(300);
        let Some(link) = self.link.as_mut() else { return };
        let publication = &mut oracle.pubs[id as usize];
        if publication.sends == 0 {
            publication.first_sent = net.now;
        }
        publication.sends += 1;
        publication.last_sent = net.now;
        let publication = publication.clone();
        let body = if publication.empty { Vec::new() } else { payload(id, publication.size) };
        let number = id.to_string();
        let pairs = [("n", number.as_str())];
        let mut publish = Publish {
            dup: again,
            qos: publication.qos,
            retain: publication.retain,
            topic: &publication.topic,
            packet_id,
            payload: &body,
            ..Publish::default()
        };
        if v5 {
            publish.properties = PublishProperties {
                message_expiry_interval_seconds: publication.expiry,
                ..PublishProperties::default()
            };
            if has_properties(id) {
                publish.properties.content_type = Some("text/x-number");
                publish.properties.user_properties = UserProperties::from_pairs(&pairs);
            }
            if alias_dice && link.alias_maximum > 0 {
                let count = link.aliases_out.len() as u16;
                let known = link.aliases_out.get(&publication.topic).copied();
                let alias = known.or((count < link.alias_maximum).then_some(count + 1));
                if let Some(alias) = alias {
                    net.hit(Situation::AliasToBroker);
                    publish.properties.topic_alias = NonZeroU16::new(alias);
                    link.aliases_out.insert(publication.topic.clone(), alias);
                    if known.is_some() {
                        publish.topic = "";
                    }
                }
            }
        }
        let mut bytes = Vec::new();
        publish.encode(self.version, &mut bytes);
        match publication.qos {
            QoS::AtMostOnce => link.plain.push(id),
            qos => link.expected[qos as usize - 1].push_back(packet_id.map_or(0, PacketId::get)),
        }
        if again {
            net.hit(Situation::PublishAgain);
        }
        net.trace.line(
            net.now,
            format_args!(
                "{} publishes {id} {:?} to {} id {packet_id:?}{}{}",
                self.id,
                publication.qos,
                publication.topic,
                if publication.retain { " retain" } else { "" },
                if again { " again" } else { "" }
            ),
        );
        self.write(net, bytes);
    }

    /// After a CONNACK with a session: everything that was not acknowledged again, in order [MQTT-4.4.0-1].
    pub fn send_again(&mut self, net: &mut Net, oracle: &mut Oracle) {
        for outgoing in self.outgoing.clone() {
            let Some(packet_id) = PacketId::new(outgoing.packet_id) else { continue };
            if outgoing.released {
                let mut bytes = Vec::new();
                PubRel::new(packet_id, ReasonCode::Success).encode(self.version, &mut bytes);
                self.write(net, bytes);
            } else {
                self.write_publish(net, oracle, outgoing.publication, Some(packet_id), true);
            }
        }
    }
}

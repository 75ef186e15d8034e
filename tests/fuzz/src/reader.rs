//! What one client is sent: every byte of it must be MQTT that a server may send, in an order that it may send it in.

use std::collections::BTreeMap;

use midge_codec::{Framed, PACKET_SIZE_MAX, Packet, ProtocolVersion, QoS, decode, frame};

use crate::packets::Announced;

/// The receiving end of one connection.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    /// What the CONNACK was written in.
    version: Option<ProtocolVersion>,
    /// After a refusal or a DISCONNECT nothing may follow.
    ended: bool,
    aliases: BTreeMap<u16, String>,
    /// What the client's CONNECT has announced; `None` when it, or an acknowledgement, was made of any bytes.
    pub(crate) announced: Option<Announced>,
    /// Ids of QoS 1 and 2 publications that the client has not acknowledged, nor taken back by coming again.
    unacknowledged: BTreeMap<u16, QoS>,
}

impl Reader {
    /// The client has acknowledged a publication; `release` is the first half of QoS 2.
    pub(crate) fn acknowledged(&mut self, id: u16, qos: QoS) {
        if self.unacknowledged.get(&id) == Some(&qos) {
            self.unacknowledged.remove(&id);
        }
    }

    /// Bytes that have arrived at the client.
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        let mut bytes = [std::mem::take(&mut self.bytes), bytes.to_vec()].concat();
        let mut at = 0;
        while let Framed::Packet(raw) = frame(&bytes[at..], PACKET_SIZE_MAX).expect("a packet") {
            let version = *self.version.get_or_insert_with(|| {
                assert_eq!(raw.first_byte, 0x20, "the first packet is a CONNACK");
                match raw.body.len() {
                    // Only older ones have no properties.
                    2 => ProtocolVersion::V311,
                    _ => ProtocolVersion::V5,
                }
            });
            assert!(!self.ended, "something after the last words: {raw:02X?}");
            if let Some(Announced { maximum_packet_size: maximum @ 1.., .. }) = self.announced {
                assert!(raw.size <= maximum, "[MQTT-3.1.2-24] {raw:02X?}");
            }
            let packet = decode(raw, version);
            let packet = packet.unwrap_or_else(|error| panic!("{error} of {version}: {raw:02X?}"));
            at += raw.size;
            self.take(version, packet);
        }
        self.bytes = bytes.split_off(at);
    }

    fn take(&mut self, version: ProtocolVersion, packet: Packet<'_>) {
        match packet {
            Packet::ConnAck(connack) => {
                self.ended = connack.reason_code.is_error();
                assert!(!(self.ended && connack.session_present), "[MQTT-3.2.2-6]");
            }
            Packet::Disconnect(_) => {
                assert!(version.is_v5(), "no DISCONNECT to an older client");
                self.ended = true;
            }
            Packet::Publish(publish) => {
                if let Some(alias) = publish.properties.topic_alias {
                    if publish.topic.is_empty() {
                        assert!(self.aliases.contains_key(&alias.get()), "[MQTT-3.3.2-8]");
                    } else {
                        self.aliases.insert(alias.get(), publish.topic.to_owned());
                    }
                } else {
                    assert!(!publish.topic.is_empty());
                }
                assert!(!publish.topic.contains(['+', '#']), "[MQTT-3.3.2-2]");
                let (Some(id), Some(announced)) = (publish.packet_id, self.announced) else {
                    return;
                };
                let earlier = self.unacknowledged.insert(id.get(), publish.qos);
                assert_eq!(earlier, None, "[MQTT-2.2.1-3] {id:?} is in use");
                let maximum = announced.receive_maximum;
                assert!(self.unacknowledged.len() <= maximum, "[MQTT-3.3.4-9]");
            }
            Packet::Connect(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) => {
                panic!("a packet of a client: {packet:?}")
            }
            Packet::PingReq | Packet::Auth(_) => panic!("nobody asked for {packet:?}"),
            Packet::PubAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => {}
        }
    }
}

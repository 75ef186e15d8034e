//! PUBLISH, both ways.

use super::packet::Kind;
use super::property::decode_properties;
use super::{Encode, Property, Reader, Version, encode_properties, frame, prefixed};

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Whether it is sent again.
    pub dup: bool,
    /// 0, 1 or 2; 3 can be written but never read.
    pub qos: u8,
    /// The RETAIN flag.
    pub retain: bool,
    /// Topic name.
    pub topic: String,
    /// Packet identifier; written whenever it is there, whatever the QoS.
    pub id: Option<u16>,
    /// Empty before 5.0.
    pub properties: Vec<Property>,
    /// Application message.
    pub payload: Vec<u8>,
}

/// A QoS 0 message with an empty payload.
#[must_use]
pub fn publish(topic: impl Into<String>) -> Publish {
    Publish {
        dup: false,
        qos: 0,
        retain: false,
        topic: topic.into(),
        id: None,
        properties: Vec::new(),
        payload: Vec::new(),
    }
}

impl Publish {
    /// The same at another QoS and with a packet identifier.
    #[must_use]
    pub fn qos(mut self, qos: u8, id: u16) -> Self {
        self.qos = qos;
        self.id = Some(id);
        self
    }

    /// The same with a payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The same, retained.
    #[must_use]
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// The same with DUP set.
    #[must_use]
    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    /// The same with one more property.
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// The payload as text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("this test sends text")
    }

    pub(super) fn decode(flags: u8, reader: &mut Reader<'_>, version: Version) -> Self {
        let qos = flags >> 1 & 0b11;
        assert_ne!(qos, 3, "[MQTT-3.3.1-4]");
        let dup = flags & 0b1000 != 0;
        assert!(qos > 0 || !dup, "[MQTT-3.3.1-2]");
        let topic = reader.string();
        assert!(!topic.contains(['+', '#']), "[MQTT-3.3.2-2] {topic}");
        assert!(!topic.is_empty() || version.is_v5(), "[MQTT-4.7.3-1]");
        // [MQTT-2.2.1-2] [MQTT-2.2.1-4]
        let id = (qos > 0).then(|| reader.packet_id());
        let properties = match version {
            Version::V5 => decode_properties(reader, Kind::Publish),
            _ => Vec::new(),
        };
        let payload = reader.rest().to_vec();
        Self { dup, qos, retain: flags & 1 != 0, topic, id, properties, payload }
    }
}

impl Encode for Publish {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = prefixed(&self.topic);
        if let Some(id) = self.id {
            body.extend(id.to_be_bytes());
        }
        if version.is_v5() {
            body.extend(encode_properties(&self.properties));
        }
        body.extend(&self.payload);
        frame(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

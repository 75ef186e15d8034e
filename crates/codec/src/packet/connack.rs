//! CONNACK: the server's answer to a CONNECT, with what it allows.

use core::num::{NonZeroU16, NonZeroU32};

use crate::packet::acknowledgement::reason_code;
use crate::property::{Carrier, Property, PropertyReader, PropertySink, id};
use crate::user_properties::Collector;
use crate::write::{self, Body, Content, Sink};
use crate::{DecodeError, PacketType, ProtocolVersion, QoS, RawPacket, ReasonCode, UserProperties};

/// The answer to a CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// The server had a session and goes on with it. Never with a refusal [MQTT-3.2.2-6]; not told by MQTT 3.1.
    pub session_present: bool,
    /// The outcome. Older versions say it with [`ReasonCode::connect_return_code`].
    pub reason_code: ReasonCode,
    /// MQTT 5.0 only.
    pub properties: ConnAckProperties<'a>,
}

/// The properties of a CONNACK: what the server allows where it differs from what the client would assume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties<'a> {
    /// How long the session outlives the connection, in seconds; absent means what the client asked for.
    pub session_expiry_interval_seconds: Option<u32>,
    /// How many QoS 1 and 2 publications the server takes at once; absent means 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest QoS that the server supports, 0 or 1; absent means 2. `ExactlyOnce` is not written.
    pub maximum_qos: Option<QoS>,
    /// Absent means yes.
    pub retain_available: Option<bool>,
    /// The largest packet that the server takes, in bytes; absent means no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The identifier that the server gave to a client without one. [MQTT-3.2.2-16]
    pub assigned_client_id: Option<&'a str>,
    /// How many Topic Aliases the server accepts; absent means 0.
    pub topic_alias_maximum: Option<u16>,
    /// For people reading logs.
    pub reason_string: Option<&'a str>,
    /// For the client's own use.
    pub user_properties: UserProperties<'a>,
    /// Absent means yes.
    pub wildcard_subscription_available: Option<bool>,
    /// Absent means yes.
    pub subscription_identifiers_available: Option<bool>,
    /// Absent means yes.
    pub shared_subscription_available: Option<bool>,
    /// Keep Alive in seconds that the client must use instead of its own. [MQTT-3.2.2-21]
    pub server_keep_alive_seconds: Option<u16>,
    /// From which the client builds response topics.
    pub response_information: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// The name of the method of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// Data of that method.
    pub authentication_data: Option<&'a [u8]>,
}

/// The one bit of the Connect Acknowledge Flags that is not reserved. [MQTT-3.2.2-1]
const SESSION_PRESENT: u8 = 1;

impl<'a> ConnAck<'a> {
    /// One without properties.
    #[must_use]
    pub fn new(session_present: bool, reason_code: ReasonCode) -> Self {
        Self { session_present, reason_code, properties: ConnAckProperties::default() }
    }

    /// Decodes the packet.
    ///
    /// # Errors
    /// Everything that the specification forbids in it.
    pub fn decode(raw: RawPacket<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = raw.open(PacketType::ConnAck, version)?;
        let flags = reader.u8()?;
        let code = reader.u8()?;
        // MQTT 3.1 does not use the flags.
        let session_present = match version {
            ProtocolVersion::V31 => false,
            _ if flags & !SESSION_PRESENT != 0 => return Err(DecodeError::ConnAckFlagsReserved),
            _ => flags & SESSION_PRESENT != 0,
        };
        let (reason_code, properties) = if version.is_v5() {
            let properties = PropertyReader::open(&mut reader, Carrier::ConnAck)?;
            (reason_code(code, PacketType::ConnAck)?, ConnAckProperties::decode(properties)?)
        } else {
            let reason_code =
                ReasonCode::from_connect_return_code(code).ok_or(DecodeError::ReasonCodeInvalid)?;
            (reason_code, ConnAckProperties::default())
        };
        reader.finish()?;
        // [MQTT-3.2.2-6] [MQTT-3.2.2-4 @3.1.1]
        if session_present && reason_code != ReasonCode::Success {
            return Err(DecodeError::SessionPresentOnRefusal);
        }
        Ok(Self { session_present, reason_code, properties })
    }

    /// Appends the packet; before MQTT 5.0 without properties, before 3.1.1 without session present.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        debug_assert!(!(self.session_present && self.reason_code != ReasonCode::Success));
        debug_assert!(self.reason_code.is_allowed_in(PacketType::ConnAck));
        write::packet(PacketType::ConnAck, self, version, out);
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self, version: ProtocolVersion) -> usize {
        write::packet_size(self, version)
    }
}

impl Body for ConnAck<'_> {
    fn write_body(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        let tells_session = version != ProtocolVersion::V31;
        sink.put_u8(if self.session_present && tells_session { SESSION_PRESENT } else { 0 });
        if version.is_v5() {
            sink.put_u8(self.reason_code as u8);
            sink.put_properties(&self.properties);
        } else {
            sink.put_u8(self.reason_code.connect_return_code());
        }
    }
}

impl<'a> ConnAckProperties<'a> {
    fn decode(mut reader: PropertyReader<'a>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut user_properties = Collector::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::SessionExpiryInterval(seconds) => {
                    properties.session_expiry_interval_seconds = Some(seconds);
                }
                Property::ReceiveMaximum(count) => properties.receive_maximum = Some(count),
                Property::MaximumQos(qos) => properties.maximum_qos = Some(qos),
                Property::RetainAvailable(is) => properties.retain_available = Some(is),
                Property::MaximumPacketSize(size) => properties.maximum_packet_size = Some(size),
                Property::AssignedClientIdentifier(client_id) => {
                    properties.assigned_client_id = Some(client_id);
                }
                Property::TopicAliasMaximum(count) => properties.topic_alias_maximum = Some(count),
                Property::ReasonString(text) => properties.reason_string = Some(text),
                Property::UserProperty(name, value) => user_properties.add(&reader, name, value),
                Property::WildcardSubscriptionAvailable(is) => {
                    properties.wildcard_subscription_available = Some(is);
                }
                Property::SubscriptionIdentifiersAvailable(is) => {
                    properties.subscription_identifiers_available = Some(is);
                }
                Property::SharedSubscriptionAvailable(is) => {
                    properties.shared_subscription_available = Some(is);
                }
                Property::ServerKeepAlive(seconds) => {
                    properties.server_keep_alive_seconds = Some(seconds);
                }
                Property::ResponseInformation(text) => properties.response_information = Some(text),
                Property::ServerReference(text) => properties.server_reference = Some(text),
                Property::AuthenticationMethod(name) => {
                    properties.authentication_method = Some(name);
                }
                Property::AuthenticationData(data) => properties.authentication_data = Some(data),
                _ => return Err(DecodeError::PropertyMisplaced),
            }
        }
        properties.user_properties = user_properties.finish(&reader);
        Ok(properties)
    }
}

impl Content for ConnAckProperties<'_> {
    fn write(&self, sink: &mut impl Sink) {
        let maximum_qos = match self.maximum_qos {
            Some(QoS::ExactlyOnce) | None => None,
            Some(qos) => Some(qos as u8),
        };
        sink.put_property_u32(id::SESSION_EXPIRY_INTERVAL, self.session_expiry_interval_seconds);
        sink.put_property_u16(id::RECEIVE_MAXIMUM, self.receive_maximum.map(NonZeroU16::get));
        sink.put_property_u8(id::MAXIMUM_QOS, maximum_qos);
        sink.put_property_flag(id::RETAIN_AVAILABLE, self.retain_available);
        sink.put_property_u32(
            id::MAXIMUM_PACKET_SIZE,
            self.maximum_packet_size.map(NonZeroU32::get),
        );
        sink.put_property_string(id::ASSIGNED_CLIENT_IDENTIFIER, self.assigned_client_id);
        sink.put_property_u16(id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        sink.put_property_string(id::REASON_STRING, self.reason_string);
        sink.put_property_flag(
            id::WILDCARD_SUBSCRIPTION_AVAILABLE,
            self.wildcard_subscription_available,
        );
        sink.put_property_flag(
            id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE,
            self.subscription_identifiers_available,
        );
        sink.put_property_flag(
            id::SHARED_SUBSCRIPTION_AVAILABLE,
            self.shared_subscription_available,
        );
        sink.put_property_u16(id::SERVER_KEEP_ALIVE, self.server_keep_alive_seconds);
        sink.put_property_string(id::RESPONSE_INFORMATION, self.response_information);
        sink.put_property_string(id::SERVER_REFERENCE, self.server_reference);
        sink.put_property_string(id::AUTHENTICATION_METHOD, self.authentication_method);
        sink.put_property_binary(id::AUTHENTICATION_DATA, self.authentication_data);
        self.user_properties.write(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Packet;
    use crate::testing::{OLD, V5, V31, V311, is, reads, refuses, text, wire};

    #[test]
    fn the_old_versions_have_six_return_codes() {
        for version in OLD {
            for code in 0..=5 {
                let reason_code = ReasonCode::from_connect_return_code(code).unwrap();
                let expected = ConnAck::new(false, reason_code);
                is(version, &[0x20, 2, 0, code], Packet::ConnAck(expected));
            }
            refuses(version, &[0x20, 2, 0, 6], DecodeError::ReasonCodeInvalid);
            refuses(version, &[0x20, 2, 0, 0x80], DecodeError::ReasonCodeInvalid);
            refuses(version, &[0x20, 1, 0], DecodeError::BodyTooShort);
            refuses(version, &[0x20, 0], DecodeError::BodyTooShort);
            refuses(version, &[0x20, 3, 0, 0, 0], DecodeError::TrailingBytes);
        }
    }

    /// [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-6] [MQTT-3.2.2-4 @3.1.1]
    #[test]
    fn session_present() {
        let present = ConnAck::new(true, ReasonCode::Success);
        is(V311, &[0x20, 2, 1, 0], Packet::ConnAck(present));
        is(V5, &[0x20, 3, 1, 0, 0], Packet::ConnAck(present));
        refuses(V311, &[0x20, 2, 1, 5], DecodeError::SessionPresentOnRefusal);
        refuses(V5, &[0x20, 3, 1, 0x87, 0], DecodeError::SessionPresentOnRefusal);
        refuses(V311, &[0x20, 2, 2, 0], DecodeError::ConnAckFlagsReserved);
        refuses(V5, &[0x20, 3, 0x81, 0, 0], DecodeError::ConnAckFlagsReserved);
        // MQTT 3.1 neither tells nor looks.
        reads(V31, &[0x20, 2, 0xFF, 0], Packet::ConnAck(ConnAck::default()));
        let mut out = Vec::new();
        present.encode(V31, &mut out);
        assert_eq!(out, [0x20, 2, 0, 0]);
    }

    #[test]
    fn v5_has_properties() {
        let block = [
            &[0x11, 0, 0, 0, 1][..],
            &[0x21, 0, 2],
            &[0x24, 1],
            &[0x25, 0],
            &[0x27, 0, 0, 0, 3],
            &[0x12],
            &text("auto-1"),
            &[0x22, 0, 4],
            &[0x1F],
            &text("why"),
            &[0x28, 1, 0x29, 0, 0x2A, 1],
            &[0x13, 0, 5],
            &[0x1A],
            &text("info"),
            &[0x1C],
            &text("other:1883"),
            &[0x15],
            &text("m"),
            &[0x16],
            &text([0]),
            &[0x26],
            &text("k"),
            &text("v"),
        ]
        .concat();
        let properties = ConnAckProperties {
            session_expiry_interval_seconds: Some(1),
            receive_maximum: NonZeroU16::new(2),
            maximum_qos: Some(QoS::AtLeastOnce),
            retain_available: Some(false),
            maximum_packet_size: NonZeroU32::new(3),
            assigned_client_id: Some("auto-1"),
            topic_alias_maximum: Some(4),
            reason_string: Some("why"),
            user_properties: UserProperties::from_pairs(&[("k", "v")]),
            wildcard_subscription_available: Some(true),
            subscription_identifiers_available: Some(false),
            shared_subscription_available: Some(true),
            server_keep_alive_seconds: Some(5),
            response_information: Some("info"),
            server_reference: Some("other:1883"),
            authentication_method: Some("m"),
            authentication_data: Some(&[0]),
        };
        let bytes = wire(0x20, &[&[0, 0, block.len() as u8], &block]);
        is(V5, &bytes, Packet::ConnAck(ConnAck { properties, ..ConnAck::default() }));
    }

    #[test]
    fn refused_in_v5() {
        for (body, error) in [
            (&[0, 0][..], DecodeError::BodyTooShort),
            (&[0, 0, 1], DecodeError::BodyTooShort),
            (&[0, 0, 0, 0], DecodeError::TrailingBytes),
            // [MQTT-3.2.2-7] [MQTT-3.2.2-8]
            (&[0, 1, 0], DecodeError::ReasonCodeInvalid),
            (&[0, 0x8E, 0], DecodeError::ReasonCodeInvalid),
            (&[0, 0xFF, 0], DecodeError::ReasonCodeInvalid),
            // A Maximum QoS of 2 is said by leaving it out. [MQTT-3.2.2-9]
            (&[0, 0, 2, 0x24, 2], DecodeError::PropertyValueInvalid),
            (&[0, 0, 2, 0x25, 2], DecodeError::PropertyValueInvalid),
            (&[0, 0, 2, 0x28, 3], DecodeError::PropertyValueInvalid),
            (&[0, 0, 2, 0x29, 3], DecodeError::PropertyValueInvalid),
            (&[0, 0, 2, 0x2A, 3], DecodeError::PropertyValueInvalid),
            (&[0, 0, 3, 0x21, 0, 0], DecodeError::ReceiveMaximumZero),
            (&[0, 0, 5, 0x27, 0, 0, 0, 0], DecodeError::MaximumPacketSizeZero),
            (&[0, 0, 4, 0x25, 1, 0x25, 1], DecodeError::PropertyDuplicate),
            (&[0, 0, 2, 0x17, 1], DecodeError::PropertyMisplaced),
        ] {
            refuses(V5, &wire(0x20, &[body]), error);
        }
    }

    #[test]
    fn a_maximum_qos_of_2_is_left_out() {
        let properties =
            ConnAckProperties { maximum_qos: Some(QoS::ExactlyOnce), ..Default::default() };
        let mut out = Vec::new();
        ConnAck { properties, ..ConnAck::default() }.encode(V5, &mut out);
        assert_eq!(out, [0x20, 3, 0, 0, 0]);
    }
}

//! CONNECT: the first packet of a connection, and the one that says which version it speaks.
//!
//! The three versions differ in small ways that all stand here, because this is the packet that a hostile peer gets to
//! send before anybody knows it. Nothing is allocated and no length is believed before its bytes are there.

use core::num::{NonZeroU16, NonZeroU32};

use crate::packet::will::Will;
use crate::property::{Carrier, Property, PropertyReader, PropertySink, id};
use crate::read::Reader;
use crate::user_properties::Collector;
use crate::write::{self, Body, Content, Sink};
use crate::{DecodeError, PacketType, ProtocolVersion, QoS, RawPacket, UserProperties};

/// A client's wish for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the whole connection speaks.
    pub version: ProtocolVersion,
    /// The Client Identifier, possibly empty. Its allowed length and characters are the session's to judge, and so is
    /// an empty one without Clean Session `[MQTT-3.1.3-8 @3.1.1]`.
    pub client_id: &'a str,
    /// Clean Start, called Clean Session before MQTT 5.0.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_seconds: u16,
    /// What to publish when the client is gone. [MQTT-3.1.2-9]
    pub will: Option<Will<'a>>,
    /// The User Name.
    pub username: Option<&'a str>,
    /// The Password: any bytes. Without a user name only in MQTT 5.0.
    pub password: Option<&'a [u8]>,
    /// MQTT 5.0 only.
    pub properties: ConnectProperties<'a>,
    /// The top bit of the protocol level is set: the peer is a bridge (a habit of mosquitto, `try_private`; 3.1 and 3.1.1
    /// only). It must not get its own publications back, and retain flags stay as published.
    pub bridge: bool,
}

/// The properties of a CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// How long the session outlives the connection, in seconds; absent means 0, `u32::MAX` for ever.
    pub session_expiry_interval_seconds: Option<u32>,
    /// How many QoS 1 and 2 publications the client takes at once; absent means 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The largest packet that the client takes, in bytes; absent means no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// How many Topic Aliases the client accepts; absent means 0.
    pub topic_alias_maximum: Option<u16>,
    /// Whether the client would like Response Information; absent means no.
    pub request_response_information: Option<bool>,
    /// Whether the client wants reason strings and user properties on failures; absent means yes.
    pub request_problem_information: Option<bool>,
    /// For the server's own use.
    pub user_properties: UserProperties<'a>,
    /// The name of the method of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// Data of that method. Not without a method.
    pub authentication_data: Option<&'a [u8]>,
}

/// The Connect Flags byte.
mod flag {
    pub(super) const RESERVED: u8 = 1;
    pub(super) const CLEAN_START: u8 = 1 << 1;
    pub(super) const WILL: u8 = 1 << 2;
    pub(super) const WILL_QOS_SHIFT: u8 = 3;
    pub(super) const WILL_RETAIN: u8 = 1 << 5;
    pub(super) const PASSWORD: u8 = 1 << 6;
    pub(super) const USER_NAME: u8 = 1 << 7;
}

/// The bit of the protocol level that marks a bridge.
const BRIDGE: u8 = 0x80;

impl<'a> Connect<'a> {
    /// A client with this identifier and a clean start, without keep alive, will, credentials and properties.
    #[must_use]
    pub fn new(version: ProtocolVersion, client_id: &'a str) -> Self {
        Self {
            version,
            client_id,
            clean_start: true,
            keep_alive_seconds: 0,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
            bridge: false,
        }
    }

    /// The version that a CONNECT claims, whatever else is wrong with it: an answer to a CONNECT that was refused is
    /// written in it. `None` when it is not a CONNECT, or of no version that we speak.
    #[must_use]
    pub fn claimed_version(raw: RawPacket<'_>) -> Option<ProtocolVersion> {
        if raw.packet_type() != Some(PacketType::Connect) {
            return None;
        }
        decode_version(&mut Reader::new(raw.body)).ok().map(|(version, _)| version)
    }

    /// Decodes the first packet of a connection.
    ///
    /// # Errors
    /// Everything that the specification forbids in it; [`DecodeError::PacketTypeUnexpected`] when it is not a CONNECT
    /// [MQTT-3.1.0-1].
    pub fn decode(raw: RawPacket<'a>) -> Result<Self, DecodeError> {
        if raw.packet_type() != Some(PacketType::Connect) {
            return Err(DecodeError::PacketTypeUnexpected);
        }
        let (version, bridge) = decode_version(&mut Reader::new(raw.body))?;
        let mut reader = raw.open(PacketType::Connect, version)?;
        decode_version(&mut reader)?;

        let flags = Flags::decode(reader.u8()?, version)?;
        let keep_alive_seconds = reader.u16()?;
        let properties = match version.is_v5() {
            true => {
                ConnectProperties::decode(PropertyReader::open(&mut reader, Carrier::Connect)?)?
            }
            false => ConnectProperties::default(),
        };
        // The payload has its fields in this order. [MQTT-3.1.3-1]
        let client_id = reader.string()?;
        let will = match flags.will {
            Some((qos, retain)) => Some(Will::decode(qos, retain, &mut reader, version)?),
            None => None,
        };
        // MQTT 3.1 section 3.1: for compatibility with version 3 "the Remaining Length field takes precedence over the
        // User Name flag", and the same for the password: the last two strings may be missing.
        let may_be_missing = version == ProtocolVersion::V31;
        let username = match flags.username && !(may_be_missing && reader.is_empty()) {
            true => Some(reader.string()?),
            false => None,
        };
        let password = match flags.password && !(may_be_missing && reader.is_empty()) {
            true => Some(reader.binary()?),
            false => None,
        };
        reader.finish()?;
        Ok(Self {
            version,
            client_id,
            clean_start: flags.clean_start,
            keep_alive_seconds,
            will,
            username,
            password,
            properties,
            bridge,
        })
    }

    /// Appends the packet, in the version it names.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write::packet(PacketType::Connect, self, self.version, out);
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self) -> usize {
        write::packet_size(self, self.version)
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.clean_start {
            flags |= flag::CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= flag::WILL | (will.qos as u8) << flag::WILL_QOS_SHIFT;
            if will.retain {
                flags |= flag::WILL_RETAIN;
            }
        }
        if self.username.is_some() {
            flags |= flag::USER_NAME;
        }
        if self.password.is_some() {
            flags |= flag::PASSWORD;
        }
        flags
    }
}

impl Body for Connect<'_> {
    fn write_body(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_string(version.name());
        sink.put_u8(version.level() | if self.bridge { BRIDGE } else { 0 });
        sink.put_u8(self.flags());
        sink.put_u16(self.keep_alive_seconds);
        if version.is_v5() {
            sink.put_properties(&self.properties);
        }
        sink.put_string(self.client_id);
        if let Some(will) = &self.will {
            will.write(version, sink);
        }
        if let Some(username) = self.username {
            sink.put_string(username);
        }
        if let Some(password) = self.password {
            sink.put_binary(password);
        }
    }
}

/// Protocol name and level. [MQTT-3.1.2-1] [MQTT-3.1.2-2]
fn decode_version(reader: &mut Reader<'_>) -> Result<(ProtocolVersion, bool), DecodeError> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::ProtocolNameUnknown);
    }
    let level = reader.u8()?;
    let version = match (name, level & !BRIDGE) {
        (b"MQIsdp", 3) => ProtocolVersion::V31,
        (b"MQTT", 4) => ProtocolVersion::V311,
        (b"MQTT", 5) if level == 5 => ProtocolVersion::V5,
        _ => return Err(DecodeError::ProtocolVersionUnsupported),
    };
    Ok((version, level & BRIDGE != 0))
}

/// The Connect Flags, taken apart.
struct Flags {
    clean_start: bool,
    /// Will QoS and Will Retain.
    will: Option<(QoS, bool)>,
    username: bool,
    password: bool,
}

impl Flags {
    fn decode(flags: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let has = |bit| flags & bit != 0;
        let will_qos = flags >> flag::WILL_QOS_SHIFT & 0b11;
        let will = if has(flag::WILL) {
            // [MQTT-3.1.2-12]
            let qos = QoS::from_u8(will_qos).ok_or(DecodeError::WillQosInvalid)?;
            Some((qos, has(flag::WILL_RETAIN)))
        } else {
            None
        };
        // MQTT 3.1 disregards the reserved bit, and the fields of a Will that is not there.
        if version != ProtocolVersion::V31 {
            // [MQTT-3.1.2-3]
            if has(flag::RESERVED) {
                return Err(DecodeError::ConnectFlagsReserved);
            }
            // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
            if will.is_none() && will_qos != 0 {
                return Err(DecodeError::WillQosWithoutWill);
            }
            if will.is_none() && has(flag::WILL_RETAIN) {
                return Err(DecodeError::WillRetainWithoutWill);
            }
        }
        // [MQTT-3.1.2-22 @3.1.1]; MQTT 3.1 section 3.1 says the same, MQTT 5.0 allows it.
        if !version.is_v5() && has(flag::PASSWORD) && !has(flag::USER_NAME) {
            return Err(DecodeError::PasswordWithoutUserName);
        }
        Ok(Self {
            clean_start: has(flag::CLEAN_START),
            will,
            username: has(flag::USER_NAME),
            password: has(flag::PASSWORD),
        })
    }
}

impl<'a> ConnectProperties<'a> {
    fn decode(mut reader: PropertyReader<'a>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut user_properties = Collector::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::SessionExpiryInterval(seconds) => {
                    properties.session_expiry_interval_seconds = Some(seconds);
                }
                Property::ReceiveMaximum(count) => properties.receive_maximum = Some(count),
                Property::MaximumPacketSize(size) => properties.maximum_packet_size = Some(size),
                Property::TopicAliasMaximum(count) => properties.topic_alias_maximum = Some(count),
                Property::RequestResponseInformation(wanted) => {
                    properties.request_response_information = Some(wanted);
                }
                Property::RequestProblemInformation(wanted) => {
                    properties.request_problem_information = Some(wanted);
                }
                Property::UserProperty(name, value) => user_properties.add(&reader, name, value),
                Property::AuthenticationMethod(name) => {
                    properties.authentication_method = Some(name);
                }
                Property::AuthenticationData(data) => properties.authentication_data = Some(data),
                _ => return Err(DecodeError::PropertyMisplaced),
            }
        }
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationDataAlone);
        }
        properties.user_properties = user_properties.finish(&reader);
        Ok(properties)
    }
}

impl Content for ConnectProperties<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.put_property_u32(id::SESSION_EXPIRY_INTERVAL, self.session_expiry_interval_seconds);
        sink.put_property_u16(id::RECEIVE_MAXIMUM, self.receive_maximum.map(NonZeroU16::get));
        sink.put_property_u32(
            id::MAXIMUM_PACKET_SIZE,
            self.maximum_packet_size.map(NonZeroU32::get),
        );
        sink.put_property_u16(id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        sink.put_property_flag(id::REQUEST_RESPONSE_INFORMATION, self.request_response_information);
        sink.put_property_flag(id::REQUEST_PROBLEM_INFORMATION, self.request_problem_information);
        sink.put_property_string(id::AUTHENTICATION_METHOD, self.authentication_method);
        sink.put_property_binary(id::AUTHENTICATION_DATA, self.authentication_data);
        self.user_properties.write(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{V5, V31, V311, cut, is, reads, refuses, text, wire};
    use crate::{Packet, WillProperties};

    /// Protocol name and level as the versions have them.
    fn head(version: ProtocolVersion) -> Vec<u8> {
        [text(version.name()), vec![version.level()]].concat()
    }

    /// A CONNECT with these flags, a keep alive of 60 seconds, and this payload behind it.
    fn connect(version: ProtocolVersion, flags: u8, rest: &[&[u8]]) -> Vec<u8> {
        wire(0x10, &[&head(version), &[flags, 0, 60], &rest.concat()])
    }

    /// The same with an empty property block where the version has one.
    fn plain(version: ProtocolVersion, flags: u8, payload: &[&[u8]]) -> Vec<u8> {
        let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
        connect(version, flags, &[properties, &payload.concat()])
    }

    fn client(version: ProtocolVersion) -> Connect<'static> {
        Connect { keep_alive_seconds: 60, ..Connect::new(version, "me") }
    }

    #[test]
    fn every_version_with_every_combination_of_fields() {
        for version in ProtocolVersion::ALL {
            let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
            for choice in 0..64_u8 {
                let with = |bit: u8| choice >> bit & 1 == 1;
                let (clean, has_will, retain) = (with(0), with(1), with(2));
                let (username, password, is_qos_2) = (with(3), with(4), with(5));
                // [MQTT-3.1.2-13], [MQTT-3.1.2-11], [MQTT-3.1.2-22 @3.1.1]
                if !has_will && (retain || is_qos_2) || password && !username && !version.is_v5() {
                    continue;
                }
                let flags = u8::from(clean) << 1
                    | u8::from(has_will) << 2
                    | u8::from(is_qos_2) << 4
                    | u8::from(retain) << 5
                    | u8::from(password) << 6
                    | u8::from(username) << 7;
                let mut payload = text("me");
                if has_will {
                    payload.extend([properties, &text("will/topic"), &text([0, 255])].concat());
                }
                if username {
                    payload.extend(text("user"));
                }
                if password {
                    payload.extend(text([0xFF, 0x00]));
                }
                let will = Will {
                    qos: if is_qos_2 { QoS::ExactlyOnce } else { QoS::AtMostOnce },
                    retain,
                    topic: "will/topic",
                    payload: &[0, 255],
                    properties: WillProperties::default(),
                };
                let expected = Connect {
                    clean_start: clean,
                    will: has_will.then_some(will),
                    username: username.then_some("user"),
                    password: password.then_some(&[0xFF, 0x00]),
                    ..client(version)
                };
                is(version, &plain(version, flags, &[&payload]), Packet::Connect(expected));
            }
        }
    }

    #[test]
    fn v5_has_properties() {
        let block = [
            &[0x11, 0xFF, 0xFF, 0xFF, 0xFF][..],
            &[0x21, 0, 20],
            &[0x27, 0, 1, 0, 0],
            &[0x22, 0, 10],
            &[0x19, 1],
            &[0x17, 0],
            &[0x15],
            &text("SCRAM-SHA-1"),
            &[0x16],
            &text([1, 0]),
            &[0x26],
            &text("k"),
            &text("v"),
        ]
        .concat();
        let will_block = [
            &[0x18, 0, 0, 0, 5, 0x02, 0, 0, 1, 0, 0x01, 1, 0x03][..],
            &text("t"),
            &[0x08],
            &text("r"),
            &[0x09],
            &text("c"),
            &[0x26],
            &text("a"),
            &text("b"),
        ]
        .concat();
        let bytes = connect(
            V5,
            0x06,
            &[
                &[block.len() as u8],
                &block,
                &text("me"),
                &[will_block.len() as u8],
                &will_block,
                &text("w"),
                &text(""),
            ],
        );
        let properties = ConnectProperties {
            session_expiry_interval_seconds: Some(u32::MAX),
            receive_maximum: NonZeroU16::new(20),
            maximum_packet_size: NonZeroU32::new(65_536),
            topic_alias_maximum: Some(10),
            request_response_information: Some(true),
            request_problem_information: Some(false),
            user_properties: UserProperties::from_pairs(&[("k", "v")]),
            authentication_method: Some("SCRAM-SHA-1"),
            authentication_data: Some(&[1, 0]),
        };
        let will = Will {
            topic: "w",
            properties: WillProperties {
                delay_interval_seconds: Some(5),
                payload_format_indicator: Some(1),
                message_expiry_interval_seconds: Some(256),
                content_type: Some("t"),
                response_topic: Some("r"),
                correlation_data: Some(b"c"),
                user_properties: UserProperties::from_pairs(&[("a", "b")]),
            },
            ..Will::default()
        };
        let expected = Connect { properties, will: Some(will), ..client(V5) };
        is(V5, &bytes, Packet::Connect(expected));

        // The published Will carries what a PUBLISH would, without delay and expiry.
        let mut forwarded = Vec::new();
        will.properties.encode_forwarded(&mut forwarded);
        assert_eq!(forwarded, will_block[10..]);
    }

    #[test]
    fn an_empty_client_id_is_for_the_session_to_judge() {
        // [MQTT-3.1.3-6] [MQTT-3.1.3-6 @3.1.1]; and 3.1 has a rule of its own.
        for version in ProtocolVersion::ALL {
            for flags in [0x00, 0x02] {
                let expected =
                    Connect { client_id: "", clean_start: flags == 0x02, ..client(version) };
                is(version, &plain(version, flags, &[&text("")]), Packet::Connect(expected));
            }
        }
    }

    /// MQTT 3.1 section 3.1, on the User Name flag: the remaining length takes precedence.
    #[test]
    fn mqtt_3_1_may_lack_the_last_two_strings() {
        for (flags, payload, username, password) in [
            (0xC2, text("me"), None, None),
            (0x82, text("me"), None, None),
            (0xC2, [text("me"), text("user")].concat(), Some("user"), None),
            (0xC2, [text("me"), text("user"), text("pw")].concat(), Some("user"), Some(&b"pw"[..])),
        ] {
            let expected = Connect { username, password, ..client(V31) };
            reads(V31, &plain(V31, flags, &[&payload]), Packet::Connect(expected));
            if password.is_none() {
                // [MQTT-3.1.2-17] [MQTT-3.1.2-19]
                refuses(V311, &plain(V311, flags, &[&payload]), DecodeError::BodyTooShort);
                refuses(V5, &plain(V5, flags, &[&payload]), DecodeError::BodyTooShort);
            }
        }
        // Half a string is still malformed.
        refuses(V31, &plain(V31, 0x82, &[&text("me"), &[0]]), DecodeError::BodyTooShort);
    }

    /// MQTT 3.1 does not use the reserved bit, and disregards the details of a Will without its flag.
    #[test]
    fn mqtt_3_1_does_not_look_at_unused_flags() {
        for flags in [0x03, 0x0A, 0x1A, 0x22] {
            reads(V31, &plain(V31, flags, &[&text("me")]), Packet::Connect(client(V31)));
        }
    }

    #[test]
    fn connect_flags_refused() {
        for version in [V311, V5] {
            for (flags, error) in [
                // [MQTT-3.1.2-3]
                (0x01, DecodeError::ConnectFlagsReserved),
                (0x03, DecodeError::ConnectFlagsReserved),
                // [MQTT-3.1.2-12] [MQTT-3.1.2-14 @3.1.1]
                (0x1C, DecodeError::WillQosInvalid),
                // [MQTT-3.1.2-11] [MQTT-3.1.2-13 @3.1.1]
                (0x08, DecodeError::WillQosWithoutWill),
                (0x10, DecodeError::WillQosWithoutWill),
                (0x18, DecodeError::WillQosWithoutWill),
                // [MQTT-3.1.2-13] [MQTT-3.1.2-15 @3.1.1]
                (0x20, DecodeError::WillRetainWithoutWill),
            ] {
                refuses(version, &plain(version, flags, &[&text("me"), &text("x")]), error);
            }
        }
        refuses(V31, &plain(V31, 0x1C, &[&text("me")]), DecodeError::WillQosInvalid);
        // [MQTT-3.1.2-22 @3.1.1]; allowed in MQTT 5.0.
        for version in [V31, V311] {
            let bytes = plain(version, 0x42, &[&text("me"), &text("pw")]);
            refuses(version, &bytes, DecodeError::PasswordWithoutUserName);
        }
        let expected = Connect { password: Some(b"pw"), ..client(V5) };
        is(V5, &plain(V5, 0x42, &[&text("me"), &text("pw")]), Packet::Connect(expected));
    }

    /// [MQTT-3.1.2-16] [MQTT-3.1.2-18] [MQTT-3.1.2-9]: no field without its flag, none missing with it.
    #[test]
    fn payload_and_flags_agree() {
        for version in [V311, V5] {
            let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
            for (flags, payload, error) in [
                (0x02, [text("me"), text("user")].concat(), DecodeError::TrailingBytes),
                (0x82, [text("me"), text("u"), text("p")].concat(), DecodeError::TrailingBytes),
                (0x02, text("me\0"), DecodeError::StringHasNull),
                (0x02, text([0xFF]), DecodeError::StringNotUtf8),
                (0x82, [text("me"), text([0xFF])].concat(), DecodeError::StringNotUtf8),
                (0x06, text("me"), DecodeError::BodyTooShort),
                (0x06, [&text("me"), properties, &text("w")].concat(), DecodeError::BodyTooShort),
                (
                    0x06,
                    [&text("me"), properties, &text(""), &text("")].concat(),
                    DecodeError::TopicNameEmpty,
                ),
                (
                    0x06,
                    [&text("me"), properties, &text("w/#"), &text("")].concat(),
                    DecodeError::TopicNameWildcard,
                ),
                (
                    0x06,
                    [&text("me"), properties, &text([0xED, 0xA0, 0x80]), &text("")].concat(),
                    DecodeError::StringNotUtf8,
                ),
                (0x02, vec![], DecodeError::BodyTooShort),
                (0x02, vec![0], DecodeError::BodyTooShort),
                (0x02, vec![0xFF, 0xFF, b'm'], DecodeError::BodyTooShort),
            ] {
                refuses(version, &plain(version, flags, &[&payload]), error);
            }
        }
    }

    #[test]
    fn protocol_name_and_level() {
        let after: &[u8] = &[2, 0, 0, 0, 0];
        for (name, level, error) in [
            // [MQTT-3.1.2-1] [MQTT-3.1.2-1 @3.1.1]
            (&b"MQTt"[..], 4, DecodeError::ProtocolNameUnknown),
            (b"", 4, DecodeError::ProtocolNameUnknown),
            (b"MQTT\0", 4, DecodeError::ProtocolNameUnknown),
            (b"HTTP", 4, DecodeError::ProtocolNameUnknown),
            // [MQTT-3.1.2-2] [MQTT-3.1.2-2 @3.1.1]
            (b"MQTT", 0, DecodeError::ProtocolVersionUnsupported),
            (b"MQTT", 3, DecodeError::ProtocolVersionUnsupported),
            (b"MQTT", 6, DecodeError::ProtocolVersionUnsupported),
            (b"MQTT", 0x83, DecodeError::ProtocolVersionUnsupported),
            (b"MQTT", 0x85, DecodeError::ProtocolVersionUnsupported),
            (b"MQTT", 0xFF, DecodeError::ProtocolVersionUnsupported),
            (b"MQIsdp", 4, DecodeError::ProtocolVersionUnsupported),
            (b"MQIsdp", 5, DecodeError::ProtocolVersionUnsupported),
        ] {
            let bytes = wire(0x10, &[&text(name), &[level], after]);
            refuses(V311, &bytes, error);
            assert_eq!(Connect::claimed_version(cut(&bytes).unwrap()), None);
        }
    }

    #[test]
    fn the_claimed_version_survives_other_errors() {
        for version in ProtocolVersion::ALL {
            let bytes = plain(version, 0x02, &[&text("me"), b"trailing"]);
            refuses(version, &bytes, DecodeError::TrailingBytes);
            assert_eq!(Connect::claimed_version(cut(&bytes).unwrap()), Some(version));
        }
        assert_eq!(Connect::claimed_version(cut(&[0xC0, 0]).unwrap()), None);
    }

    #[test]
    fn the_top_bit_of_the_level_marks_a_bridge() {
        for version in [V31, V311] {
            let mut bytes = plain(version, 0x02, &[&text("me")]);
            bytes[2 + 2 + version.name().len()] |= 0x80;
            is(version, &bytes, Packet::Connect(Connect { bridge: true, ..client(version) }));
        }
    }

    #[test]
    fn properties_refused() {
        let method = [&[0x15][..], &text("m")].concat();
        for (block, error) in [
            (&[0x21, 0, 0][..], DecodeError::ReceiveMaximumZero),
            (&[0x27, 0, 0, 0, 0], DecodeError::MaximumPacketSizeZero),
            (&[0x19, 2], DecodeError::PropertyValueInvalid),
            (&[0x17, 0xFF], DecodeError::PropertyValueInvalid),
            (&[0x16, 0, 0], DecodeError::AuthenticationDataAlone),
            (&[0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1], DecodeError::PropertyDuplicate),
            (&[&method[..], &method].concat(), DecodeError::PropertyDuplicate),
            (&[0x18, 0, 0, 0, 1], DecodeError::PropertyMisplaced),
            (&[0x12, 0, 0], DecodeError::PropertyMisplaced),
            (&[0x7E], DecodeError::PropertyUnknown),
        ] {
            let bytes = connect(V5, 0x02, &[&[block.len() as u8], block, &text("me")]);
            refuses(V5, &bytes, error);
        }
        // The same in the Will.
        for (block, error) in [
            (&[0x01, 2][..], DecodeError::PropertyValueInvalid),
            (&[0x18, 0, 0, 0, 1, 0x18, 0, 0, 0, 1], DecodeError::PropertyDuplicate),
            (&[0x08, 0, 1, b'#'], DecodeError::ResponseTopicWildcard),
            (&[0x23, 0, 1], DecodeError::PropertyMisplaced),
            (&[0x0B, 1], DecodeError::PropertyMisplaced),
            (&[0x11, 0, 0, 0, 1], DecodeError::PropertyMisplaced),
        ] {
            let payload =
                [&text("me"), &[block.len() as u8][..], block, &text("w"), &text("")].concat();
            refuses(V5, &plain(V5, 0x06, &[&payload]), error);
        }
    }

    /// [MQTT-3.1.0-1]: the first packet is a CONNECT, whatever its version would be.
    #[test]
    fn nothing_else_is_a_connect() {
        for bytes in
            [&[0xC0, 0][..], &[0x20, 2, 0, 0], &[0x30, 3, 0, 1, b'a'], &[0xE0, 0], &[0xF0, 0]]
        {
            let raw = cut(bytes).unwrap();
            assert_eq!(Connect::decode(raw), Err(DecodeError::PacketTypeUnexpected));
        }
    }

    /// [MQTT-2.1.3-1]; MQTT 3.1 does not use the flags of a CONNECT.
    #[test]
    fn header_flags_belong_to_the_version_inside() {
        for version in ProtocolVersion::ALL {
            let mut bytes = plain(version, 0x02, &[&text("me")]);
            bytes[0] = 0x1A;
            match version {
                V31 => reads(version, &bytes, Packet::Connect(client(version))),
                _ => refuses(version, &bytes, DecodeError::HeaderFlagsInvalid),
            }
        }
    }
}

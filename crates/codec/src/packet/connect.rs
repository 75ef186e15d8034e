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
    /// an empty one without Clean Session [MQTT-3.1.3-8 @3.1.1].
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

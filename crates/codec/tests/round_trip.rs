//! Whatever a packet says is read as it was written: random values of every field, in every version.
//!
//! The strategies make owned values, since packets borrow; each test builds the packet from them, writes it, measures it
//! and reads it. A failure shrinks and prints its smallest values.

mod common;

use std::num::{NonZeroU16, NonZeroU32};

use common::cut;
use midge_codec::{
    Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, OutgoingPublish,
    Packet, PacketId, PacketType, ProtocolVersion, PubAck, PubComp, PubRec, PubRel, Publish,
    PublishProperties, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFilter,
    SubscriptionIdentifiers, UnsubAck, Unsubscribe, UserProperties, Will, WillProperties, decode,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Text of any kind, U+0000 excepted.
fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

/// A topic: one character or more, no wildcards.
fn topic() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z/$ ]{1,40}", "[^\0+#]{1,12}"]
}

fn binary() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..20)
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((text(), text()), 0..4)
}

fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn version() -> impl Strategy<Value = ProtocolVersion> {
    prop::sample::select(&ProtocolVersion::ALL[..])
}

fn qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..])
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|value| PacketId::new(value).unwrap())
}

/// Any code that a packet of this type may carry.
fn reason_code(packet_type: PacketType) -> impl Strategy<Value = ReasonCode> {
    let allowed = (0..=u8::MAX)
        .filter_map(ReasonCode::from_u8)
        .filter(|code| code.is_allowed_in(packet_type))
        .collect::<Vec<_>>();
    prop::sample::select(allowed)
}

/// What a publication and a Will have in common: format, expiry, content type, response topic, correlation data, pairs.
type Common = (
    Option<u8>,
    Option<u32>,
    Option<String>,
    Option<String>,
    Option<Vec<u8>>,
    Vec<(String, String)>,
);

fn common_properties() -> impl Strategy<Value = Common> {
    (
        option::of(0..=1_u8),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(topic()),
        option::of(binary()),
        pairs(),
    )
}

/// Writes, measures and reads. `expected` is what the version lets through of `packet`.
fn check(
    version: ProtocolVersion,
    packet: Packet<'_>,
    expected: Packet<'_>,
) -> Result<(), TestCaseError> {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    prop_assert_eq!(bytes.len(), packet.size(version));
    let raw = cut(&bytes).expect("what we write is whole");
    prop_assert_eq!(raw.size, bytes.len());
    prop_assert_eq!(raw.packet_type(), Some(packet.packet_type()));
    prop_assert_eq!(decode(raw, version), Ok(expected));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn publish(
        version in version(), dup: bool, qos in qos(), retain: bool, topic in topic(), id in packet_id(),
        payload in prop_oneof![binary(), vec(any::<u8>(), 100..140)],
        common in common_properties(),
        alias in option::of(1..=u16::MAX),
        identifiers in vec(1..=268_435_455_u32, 0..4),
    ) {
        let (payload_format_indicator, expiry, content_type, response_topic, correlation, pairs) = common;
        let pairs = borrowed(&pairs);
        let properties = PublishProperties {
            payload_format_indicator,
            message_expiry_interval_seconds: expiry,
            topic_alias: alias.and_then(NonZeroU16::new),
            response_topic: response_topic.as_deref(),
            correlation_data: correlation.as_deref(),
            content_type: content_type.as_deref(),
            subscription_identifiers: SubscriptionIdentifiers::from_values(&identifiers),
            user_properties: UserProperties::from_pairs(&pairs),
        };
        let packet = Publish {
            dup: dup && qos > QoS::AtMostOnce,
            qos,
            retain,
            topic: &topic,
            packet_id: (qos > QoS::AtMostOnce).then_some(id),
            properties,
            payload: &payload,
        };
        let without = Publish { properties: PublishProperties::default(), ..packet };
        let expected = if version.is_v5() { packet } else { without };
        check(version, Packet::Publish(packet), Packet::Publish(expected))?;

        // The header of a shared payload, with the properties passed on as bytes, is the same packet.
        let mut forwarded = Vec::new();
        properties.encode_forwarded(&mut forwarded);
        prop_assert_eq!(properties.has_forwarded(), !forwarded.is_empty());
        let outgoing = OutgoingPublish {
            dup: packet.dup,
            qos,
            retain,
            topic: &topic,
            packet_id: packet.packet_id,
            forwarded_properties: &forwarded,
            message_expiry_interval_seconds: expiry,
            topic_alias: alias,
            subscription_identifiers: &identifiers,
            payload_size: payload.len(),
        };
        let (mut shared, mut whole) = (Vec::new(), Vec::new());
        let offset = outgoing.encode_header(version, &mut shared);
        shared.extend_from_slice(&payload);
        packet.encode(version, &mut whole);
        prop_assert_eq!(&shared, &whole);
        prop_assert_eq!(outgoing.size(version), whole.len());
        if let Some(offset) = offset {
            prop_assert_eq!(&whole[offset..offset + 2], id.get().to_be_bytes());
        }
    }

    #[test]
    fn connect(
        version in version(), bridge: bool, clean_start: bool, keep_alive_seconds: u16,
        client_id in text(),
        will in option::of((qos(), any::<bool>(), topic(), binary(), option::of(any::<u32>()), common_properties())),
        username in option::of(text()),
        password in option::of(binary()),
        numbers in (option::of(any::<u32>()), option::of(1..=u16::MAX), option::of(1..=u32::MAX), option::of(any::<u16>())),
        wishes in (option::of(any::<bool>()), option::of(any::<bool>())),
        authentication in option::of((text(), option::of(binary()))),
        pairs in pairs(),
    ) {
        let will_pairs = will.as_ref().map(|will| borrowed(&will.5.5)).unwrap_or_default();
        let will_properties = will.as_ref().map(|(.., delay, common)| WillProperties {
            delay_interval_seconds: *delay,
            payload_format_indicator: common.0,
            message_expiry_interval_seconds: common.1,
            content_type: common.2.as_deref(),
            response_topic: common.3.as_deref(),
            correlation_data: common.4.as_deref(),
            user_properties: UserProperties::from_pairs(&will_pairs),
        });
        let packet_will = will.as_ref().map(|(qos, retain, topic, payload, ..)| Will {
            qos: *qos,
            retain: *retain,
            topic,
            payload,
            properties: will_properties.unwrap_or_default(),
        });
        let pairs = borrowed(&pairs);
        let properties = ConnectProperties {
            session_expiry_interval_seconds: numbers.0,
            receive_maximum: numbers.1.and_then(NonZeroU16::new),
            maximum_packet_size: numbers.2.and_then(NonZeroU32::new),
            topic_alias_maximum: numbers.3,
            request_response_information: wishes.0,
            request_problem_information: wishes.1,
            user_properties: UserProperties::from_pairs(&pairs),
            authentication_method: authentication.as_ref().map(|(method, _)| method.as_str()),
            authentication_data: authentication.as_ref().and_then(|(_, data)| data.as_deref()),
        };
        let packet = Connect {
            version,
            client_id: &client_id,
            clean_start,
            keep_alive_seconds,
            will: packet_will,
            username: username.as_deref(),
            // [MQTT-3.1.2-22 @3.1.1]
            password: password.as_deref().filter(|_| version.is_v5() || username.is_some()),
            properties,
            bridge: bridge && !version.is_v5(),
        };
        let without = Connect {
            will: packet.will.map(|will| Will { properties: WillProperties::default(), ..will }),
            properties: ConnectProperties::default(),
            ..packet
        };
        let expected = if version.is_v5() { packet } else { without };
        check(version, Packet::Connect(packet), Packet::Connect(expected))?;
    }

    #[test]
    fn connack(
        version in version(), session_present: bool,
        reason_code in reason_code(PacketType::ConnAck),
        numbers in (option::of(any::<u32>()), option::of(1..=u16::MAX), option::of(1..=u32::MAX), option::of(any::<u16>()), option::of(any::<u16>())),
        maximum_qos in option::of(prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce][..])),
        flags in vec(option::of(any::<bool>()), 4),
        texts in vec(option::of(text()), 5),
        authentication_data in option::of(binary()),
        pairs in pairs(),
    ) {
        let session_present = session_present && reason_code == ReasonCode::Success;
        let pairs = borrowed(&pairs);
        let properties = ConnAckProperties {
            session_expiry_interval_seconds: numbers.0,
            receive_maximum: numbers.1.and_then(NonZeroU16::new),
            maximum_qos,
            retain_available: flags[0],
            maximum_packet_size: numbers.2.and_then(NonZeroU32::new),
            assigned_client_id: texts[0].as_deref(),
            topic_alias_maximum: numbers.3,
            reason_string: texts[1].as_deref(),
            user_properties: UserProperties::from_pairs(&pairs),
            wildcard_subscription_available: flags[1],
            subscription_identifiers_available: flags[2],
            shared_subscription_available: flags[3],
            server_keep_alive_seconds: numbers.4,
            response_information: texts[2].as_deref(),
            server_reference: texts[3].as_deref(),
            authentication_method: texts[4].as_deref(),
            authentication_data: authentication_data.as_deref(),
        };
        let packet = ConnAck { session_present, reason_code, properties };
        let code = ReasonCode::from_connect_return_code(reason_code.connect_return_code()).unwrap();
        let expected = match version {
            ProtocolVersion::V5 => packet,
            ProtocolVersion::V311 => ConnAck::new(session_present, code),
            ProtocolVersion::V31 => ConnAck::new(false, code),
        };
        check(version, Packet::ConnAck(packet), Packet::ConnAck(expected))?;
    }

    #[test]
    fn acknowledgements(
        version in version(), id in packet_id(), reason_string in option::of(text()), pairs in pairs(),
        puback in reason_code(PacketType::PubAck), pubrec in reason_code(PacketType::PubRec),
        pubrel in reason_code(PacketType::PubRel), pubcomp in reason_code(PacketType::PubComp),
    ) {
        let pairs = borrowed(&pairs);
        let user_properties = UserProperties::from_pairs(&pairs);
        let reason_string = reason_string.as_deref();
        macro_rules! check_one {
            ($name:ident, $code:ident) => {
                let packet =
                    $name { packet_id: id, reason_code: $code, reason_string, user_properties };
                let short = $name::new(id, ReasonCode::Success);
                let expected = if version.is_v5() { packet } else { short };
                check(version, Packet::$name(packet), Packet::$name(expected))?;
            };
        }
        check_one!(PubAck, puback);
        check_one!(PubRec, pubrec);
        check_one!(PubRel, pubrel);
        check_one!(PubComp, pubcomp);
    }

    #[test]
    fn subscribe(
        version in version(), id in packet_id(), identifier in option::of(1..=268_435_455_u32), pairs in pairs(),
        filters in vec((text(), qos(), any::<bool>(), any::<bool>(), 0..3_u8), 1..5),
    ) {
        let pairs = borrowed(&pairs);
        // A filter has a character.
        let names: Vec<String> = filters.iter().map(|row| format!("f{}", row.0)).collect();
        let full: Vec<SubscribeFilter<'_>> = filters
            .iter()
            .zip(&names)
            .map(|(&(_, qos, no_local, retain_as_published, handling), filter)| SubscribeFilter {
                filter,
                qos,
                no_local,
                retain_as_published,
                retain_handling: RetainHandling::from_u8(handling).unwrap(),
            })
            .collect();
        let plain: Vec<SubscribeFilter<'_>> =
            full.iter().map(|row| SubscribeFilter::new(row.filter, row.qos)).collect();
        let packet = Subscribe {
            subscription_identifier: identifier,
            user_properties: UserProperties::from_pairs(&pairs),
            ..Subscribe::new(id, &full)
        };
        let expected = if version.is_v5() { packet } else { Subscribe::new(id, &plain) };
        check(version, Packet::Subscribe(packet), Packet::Subscribe(expected))?;
    }

    #[test]
    fn unsubscribe(
        version in version(), id in packet_id(), pairs in pairs(), filters in vec("[^\0]{1,12}", 1..5),
    ) {
        let pairs = borrowed(&pairs);
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let plain = Unsubscribe::new(id, &filters);
        let packet = Unsubscribe { user_properties: UserProperties::from_pairs(&pairs), ..plain };
        let expected = if version.is_v5() { packet } else { plain };
        check(version, Packet::Unsubscribe(packet), Packet::Unsubscribe(expected))?;
    }

    #[test]
    fn suback_and_unsuback(
        version in version(), id in packet_id(), reason_string in option::of(text()), pairs in pairs(),
        suback in vec(reason_code(PacketType::SubAck), 1..5),
        unsuback in vec(reason_code(PacketType::UnsubAck), 1..5),
    ) {
        let pairs = borrowed(&pairs);
        let user_properties = UserProperties::from_pairs(&pairs);
        let reason_string = reason_string.as_deref();
        let packet = SubAck { reason_string, user_properties, ..SubAck::new(id, &suback) };
        // What each version can say of a failure.
        let said: Vec<ReasonCode> = suback
            .iter()
            .map(|&code| match version {
                ProtocolVersion::V311 if code.is_error() => ReasonCode::UnspecifiedError,
                ProtocolVersion::V31 if code.is_error() => ReasonCode::Success,
                _ => code,
            })
            .collect();
        let expected = if version.is_v5() { packet } else { SubAck::new(id, &said) };
        check(version, Packet::SubAck(packet), Packet::SubAck(expected))?;

        let packet = UnsubAck { reason_string, user_properties, ..UnsubAck::new(id, &unsuback) };
        let expected = if version.is_v5() { packet } else { UnsubAck::new(id, &[]) };
        check(version, Packet::UnsubAck(packet), Packet::UnsubAck(expected))?;
    }

    #[test]
    fn disconnect_and_auth(
        version in version(), pairs in pairs(), texts in vec(option::of(text()), 2), method in text(),
        expiry in option::of(any::<u32>()), data in option::of(binary()),
        disconnect in reason_code(PacketType::Disconnect), auth in reason_code(PacketType::Auth),
    ) {
        let pairs = borrowed(&pairs);
        let user_properties = UserProperties::from_pairs(&pairs);
        let packet = Disconnect {
            reason_code: disconnect,
            session_expiry_interval_seconds: expiry,
            reason_string: texts[0].as_deref(),
            server_reference: texts[1].as_deref(),
            user_properties,
        };
        let expected = if version.is_v5() { packet } else { Disconnect::default() };
        check(version, Packet::Disconnect(packet), Packet::Disconnect(expected))?;

        let packet = Packet::Auth(Auth {
            reason_code: auth,
            authentication_method: Some(&method),
            authentication_data: data.as_deref(),
            reason_string: texts[0].as_deref(),
            user_properties,
        });
        check(ProtocolVersion::V5, packet, packet)?;
    }
}

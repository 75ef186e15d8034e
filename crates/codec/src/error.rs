//! What a peer's bytes can do wrong, in the specification's words.
//!
//! One byte, no text built: an attacker sends a million a second. Every variant knows its kind (who is at fault, and so
//! which reason code), the statement it stands for and one sentence; all three stand in one table, [`DecodeError::facts`].

use crate::ReasonCode;

/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum DecodeError {
    /// The packet type is 0, or 15 (AUTH) before MQTT 5.0.
    PacketTypeReserved,
    /// Another packet type than the one asked for; in particular the first packet is not CONNECT.
    PacketTypeUnexpected,
    /// The lower four bits of the fixed header are not what this packet type requires.
    HeaderFlagsInvalid,
    /// A Variable Byte Integer goes on after its fourth byte.
    VariableByteIntegerTooLong,
    /// A Variable Byte Integer in more bytes than needed (MQTT 5.0 only).
    VariableByteIntegerNotMinimal,
    /// The packet is larger than we accept, as known from its header alone.
    PacketTooLarge,
    /// A field ends after the packet (or after the property block) does.
    BodyTooShort,
    /// Bytes remain after the last field.
    TrailingBytes,
    /// A string is not well-formed UTF-8; surrogates are not.
    StringNotUtf8,
    /// A string contains U+0000.
    StringHasNull,
    /// A Packet Identifier is zero.
    PacketIdZero,
    /// QoS 3 in a PUBLISH.
    QosInvalid,
    /// DUP is set on a QoS 0 PUBLISH.
    DupWithoutQos,
    /// A Topic Name has no characters, and no Topic Alias replaces it.
    TopicNameEmpty,
    /// A Topic Name of a PUBLISH or a Will contains `+` or `#`.
    TopicNameWildcard,
    /// A Response Topic contains `+` or `#`.
    ResponseTopicWildcard,
    /// A Response Topic has no characters.
    ResponseTopicEmpty,
    /// A Topic Alias is zero.
    TopicAliasZero,
    /// A Subscription Identifier is zero.
    SubscriptionIdentifierZero,
    /// A property identifier that no version defines.
    PropertyUnknown,
    /// A property that does not belong to this packet.
    PropertyMisplaced,
    /// A property twice that may appear once.
    PropertyDuplicate,
    /// A property whose value must be 0 or 1 has another.
    PropertyValueInvalid,
    /// Receive Maximum is zero.
    ReceiveMaximumZero,
    /// Maximum Packet Size is zero.
    MaximumPacketSizeZero,
    /// Authentication Data without Authentication Method.
    AuthenticationDataAlone,
    /// An AUTH packet without Authentication Method.
    AuthenticationMethodMissing,
    /// The protocol name is neither `MQTT` nor `MQIsdp`.
    ProtocolNameUnknown,
    /// The protocol level is not one we speak.
    ProtocolVersionUnsupported,
    /// The reserved bit of the Connect Flags is set.
    ConnectFlagsReserved,
    /// Will QoS is 3.
    WillQosInvalid,
    /// Will QoS without Will Flag.
    WillQosWithoutWill,
    /// Will Retain without Will Flag.
    WillRetainWithoutWill,
    /// A password without a user name (before MQTT 5.0).
    PasswordWithoutUserName,
    /// The reserved bits of the Connect Acknowledge Flags are set.
    ConnAckFlagsReserved,
    /// Session Present together with a refusal.
    SessionPresentOnRefusal,
    /// A SUBSCRIBE without Topic Filter.
    SubscribeWithoutFilter,
    /// An UNSUBSCRIBE without Topic Filter.
    UnsubscribeWithoutFilter,
    /// A Topic Filter has no characters.
    TopicFilterEmpty,
    /// The reserved bits of the Subscription Options are set.
    SubscriptionOptionsReserved,
    /// QoS 3 is asked for in a SUBSCRIBE.
    SubscriptionQosInvalid,
    /// Retain Handling is 3.
    RetainHandlingInvalid,
    /// No Local on a Shared Subscription.
    NoLocalOnShared,
    /// A reason code that does not exist, or not for this packet.
    ReasonCodeInvalid,
    /// A SUBACK or UNSUBACK without reason code.
    ReasonCodesMissing,
}

/// Who is at fault, and what the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The peer: the bytes cannot be parsed. Close. [MQTT-4.13.1-1]
    MalformedPacket,
    /// The peer: well-formed, but not allowed. Close. [MQTT-4.13.1-1]
    ProtocolError,
    /// The peer: a Topic Alias that is not one. Close.
    TopicAliasInvalid,
    /// Our limit was exceeded: a wish to be more generous is a setting. Close.
    PacketTooLarge,
    /// Nobody: the peer speaks another version. Answer the CONNECT with a refusal, then close.
    UnsupportedProtocolVersion,
}

impl ErrorKind {
    /// The reason code to close with.
    #[must_use]
    pub const fn reason_code(self) -> ReasonCode {
        match self {
            Self::MalformedPacket => ReasonCode::MalformedPacket,
            Self::ProtocolError => ReasonCode::ProtocolError,
            Self::TopicAliasInvalid => ReasonCode::TopicAliasInvalid,
            Self::PacketTooLarge => ReasonCode::PacketTooLarge,
            Self::UnsupportedProtocolVersion => ReasonCode::UnsupportedProtocolVersion,
        }
    }
}

impl DecodeError {
    /// Who is at fault.
    #[must_use]
    pub const fn kind(self) -> ErrorKind {
        self.facts().0
    }

    /// The reason code to close the connection with.
    #[must_use]
    pub const fn reason_code(self) -> ReasonCode {
        self.kind().reason_code()
    }

    /// The statement that was broken: a tag such as `MQTT-3.3.1-2`, with ` @3.1.1` behind it when only that version has
    /// it, or the section where the specification says it without a tag.
    #[must_use]
    pub const fn statement(self) -> &'static str {
        self.facts().1
    }

    /// One sentence for a log line or a reason string.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        self.facts().2
    }

    /// Kind, statement and sentence: the one table.
    #[cold]
    const fn facts(self) -> (ErrorKind, &'static str, &'static str) {
        use ErrorKind::{MalformedPacket as Malformed, ProtocolError as Protocol};
        match self {
            Self::PacketTypeReserved => (Malformed, "section 2.1.2", "packet type is reserved"),
            Self::PacketTypeUnexpected => (Protocol, "MQTT-3.1.0-1", "unexpected packet type"),
            Self::HeaderFlagsInvalid => {
                (Malformed, "MQTT-2.1.3-1", "fixed header flags are reserved")
            }
            Self::VariableByteIntegerTooLong => {
                (Malformed, "section 1.5.5", "variable byte integer is longer than four bytes")
            }
            Self::VariableByteIntegerNotMinimal => {
                (Malformed, "MQTT-1.5.5-1", "variable byte integer is longer than needed")
            }
            Self::PacketTooLarge => (
                ErrorKind::PacketTooLarge,
                "MQTT-3.2.2-15",
                "packet exceeds the maximum packet size",
            ),
            Self::BodyTooShort => (Malformed, "section 4.13.1", "field ends after the packet does"),
            Self::TrailingBytes => {
                (Malformed, "section 4.13.1", "bytes remain after the last field")
            }
            Self::StringNotUtf8 => (Malformed, "MQTT-1.5.4-1", "string is not UTF-8"),
            Self::StringHasNull => (Malformed, "MQTT-1.5.4-2", "string contains U+0000"),
            Self::PacketIdZero => (Protocol, "MQTT-2.2.1-3", "packet identifier is zero"),
            Self::QosInvalid => (Malformed, "MQTT-3.3.1-4", "QoS is 3"),
            Self::DupWithoutQos => (Malformed, "MQTT-3.3.1-2", "DUP is set on QoS 0"),
            Self::TopicNameEmpty => (Protocol, "MQTT-4.7.3-1", "topic name is empty"),
            Self::TopicNameWildcard => {
                (Malformed, "MQTT-3.3.2-2", "topic name contains a wildcard")
            }
            Self::ResponseTopicWildcard => {
                (Protocol, "MQTT-3.3.2-14", "response topic contains a wildcard")
            }
            Self::ResponseTopicEmpty => (Protocol, "MQTT-4.7.3-1", "response topic is empty"),
            Self::TopicAliasZero => {
                (ErrorKind::TopicAliasInvalid, "MQTT-3.3.2-8", "topic alias is zero")
            }
            Self::SubscriptionIdentifierZero => {
                (Protocol, "section 3.8.2.1.2", "subscription identifier is zero")
            }
            Self::PropertyUnknown => {
                (Malformed, "section 2.2.2.2", "property identifier is unknown")
            }
            Self::PropertyMisplaced => {
                (Malformed, "section 2.2.2.2", "property does not belong to this packet")
            }
            Self::PropertyDuplicate => (Protocol, "section 2.2.2.2", "property is included twice"),
            Self::PropertyValueInvalid => {
                (Protocol, "section 2.2.2.2", "property has a value other than 0 or 1")
            }
            Self::ReceiveMaximumZero => (Protocol, "section 3.1.2.11.3", "receive maximum is zero"),
            Self::MaximumPacketSizeZero => {
                (Protocol, "section 3.1.2.11.4", "maximum packet size is zero")
            }
            Self::AuthenticationDataAlone => {
                (Protocol, "section 3.1.2.11.10", "authentication data without method")
            }
            Self::AuthenticationMethodMissing => {
                (Protocol, "section 3.15.2.2.2", "authentication method is missing")
            }
            Self::ProtocolNameUnknown => {
                (ErrorKind::UnsupportedProtocolVersion, "MQTT-3.1.2-1", "protocol name is unknown")
            }
            Self::ProtocolVersionUnsupported => (
                ErrorKind::UnsupportedProtocolVersion,
                "MQTT-3.1.2-2",
                "protocol version is not supported",
            ),
            Self::ConnectFlagsReserved => {
                (Malformed, "MQTT-3.1.2-3", "reserved connect flag is set")
            }
            Self::WillQosInvalid => (Malformed, "MQTT-3.1.2-12", "will QoS is 3"),
            Self::WillQosWithoutWill => (Malformed, "MQTT-3.1.2-11", "will QoS without will"),
            Self::WillRetainWithoutWill => (Malformed, "MQTT-3.1.2-13", "will retain without will"),
            Self::PasswordWithoutUserName => {
                (Malformed, "MQTT-3.1.2-22 @3.1.1", "password without user name")
            }
            Self::ConnAckFlagsReserved => {
                (Malformed, "MQTT-3.2.2-1", "reserved connect acknowledge flag is set")
            }
            Self::SessionPresentOnRefusal => {
                (Protocol, "MQTT-3.2.2-6", "session present on a refusal")
            }
            Self::SubscribeWithoutFilter => {
                (Protocol, "MQTT-3.8.3-2", "SUBSCRIBE without topic filter")
            }
            Self::UnsubscribeWithoutFilter => {
                (Protocol, "MQTT-3.10.3-2", "UNSUBSCRIBE without topic filter")
            }
            Self::TopicFilterEmpty => (Malformed, "MQTT-4.7.3-1", "topic filter is empty"),
            Self::SubscriptionOptionsReserved => {
                (Malformed, "MQTT-3.8.3-5", "reserved subscription option is set")
            }
            Self::SubscriptionQosInvalid => (Protocol, "section 3.8.3.1", "maximum QoS is 3"),
            Self::RetainHandlingInvalid => (Protocol, "section 3.8.3.1", "retain handling is 3"),
            Self::NoLocalOnShared => {
                (Protocol, "MQTT-3.8.3-4", "no local on a shared subscription")
            }
            Self::ReasonCodeInvalid => {
                (Protocol, "section 2.4", "reason code does not belong to this packet")
            }
            Self::ReasonCodesMissing => {
                (Malformed, "MQTT-3.9.3-1", "acknowledgement without reason code")
            }
        }
    }
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (_, statement, sentence) = self.facts();
        write!(f, "{sentence} [{statement}]")
    }
}

impl core::error::Error for DecodeError {}

const _: () = assert!(size_of::<DecodeError>() == 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_reason_codes_of_their_names() {
        for (error, reason_code) in [
            (DecodeError::TrailingBytes, ReasonCode::MalformedPacket),
            (DecodeError::PropertyDuplicate, ReasonCode::ProtocolError),
            (DecodeError::PacketTooLarge, ReasonCode::PacketTooLarge),
            (DecodeError::ProtocolVersionUnsupported, ReasonCode::UnsupportedProtocolVersion),
            (DecodeError::TopicAliasZero, ReasonCode::TopicAliasInvalid),
        ] {
            assert_eq!(error.reason_code(), reason_code);
        }
    }

    #[test]
    fn display_says_what_and_by_which_statement() {
        assert_eq!(DecodeError::DupWithoutQos.to_string(), "DUP is set on QoS 0 [MQTT-3.3.1-2]");
        assert_eq!(DecodeError::DupWithoutQos.statement(), "MQTT-3.3.1-2");
    }
}

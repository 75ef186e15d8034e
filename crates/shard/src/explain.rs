//! Reason strings: what a reason code means here, for the person who reads the client's log.
//!
//! Constant sentences only: a peer's mistake costs no allocation. They are sent to clients that asked for problem
//! information [MQTT-3.1.2-29] and when they fit [MQTT-3.4.2-2]; CONNACK and DISCONNECT may always carry one.

use midge_codec::ReasonCode;

use crate::action::{PeerError, Violation};

/// Why a packet that was otherwise fine is answered with an error.
pub(crate) const fn of_reason_code(reason_code: ReasonCode) -> Option<&'static str> {
    Some(match reason_code {
        ReasonCode::NotAuthorized => "not allowed here, or a topic of the broker's own",
        ReasonCode::TopicNameInvalid => "the topic has more levels than this broker allows",
        ReasonCode::TopicFilterInvalid => {
            "not a topic filter, or it has more levels than this broker allows"
        }
        ReasonCode::QuotaExceeded => "a limit of this broker is reached",
        ReasonCode::PayloadFormatInvalid => {
            "the payload is not UTF-8, as its format indicator says"
        }
        ReasonCode::PacketIdentifierNotFound => "no message is in flight under this packet id",
        ReasonCode::SharedSubscriptionsNotSupported => "shared subscriptions are switched off",
        ReasonCode::WildcardSubscriptionsNotSupported => "wildcards are switched off",
        _ => return None,
    })
}

/// Why a connection is closed.
pub(crate) const fn of_error(error: PeerError) -> &'static str {
    match error {
        PeerError::Decode(error) => error.sentence(),
        PeerError::Protocol(violation) => match violation {
            Violation::SecondConnect => "a second CONNECT",
            Violation::ServerPacket => "a packet that only a server sends",
            Violation::TopicAlias => "a topic alias that was not set or is above the maximum",
            Violation::SubscriptionIdentifierInPublish => {
                "a subscription identifier in a client's PUBLISH"
            }
            Violation::QosNotSupported => "a higher QoS than the maximum announced",
            Violation::RetainNotSupported => "RETAIN, although retained messages are switched off",
            Violation::ReceiveMaximumExceeded => {
                "more unacknowledged publications than the receive maximum announced"
            }
            Violation::TopicNameInvalid => "the topic has more levels than this broker allows",
            Violation::PayloadFormatInvalid => {
                "the payload is not UTF-8, as its format indicator says"
            }
            Violation::TopicFilterInvalid => "not a topic filter",
            Violation::AcknowledgementMismatch => {
                "an acknowledgement that does not fit the message with this packet id"
            }
            Violation::SessionExpiryRaised => {
                "a session expiry interval in DISCONNECT although CONNECT had none"
            }
            Violation::ServerDisconnect => "a DISCONNECT that only a server sends",
            Violation::NotAuthorized => "not allowed to publish to this topic",
            Violation::AuthenticationNotStarted => "AUTH without an authentication method",
            Violation::AuthenticationMisplaced => "not the next step of this authentication",
            Violation::SubscriptionIdentifiersNotSupported => {
                "subscription identifiers are switched off"
            }
        },
    }
}

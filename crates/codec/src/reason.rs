//! Reason codes: the table of MQTT 5.0 section 2.4, and how the older versions say the same.
//!
//! [`TABLE`] says which packets may carry which code; everything else here is derived from it.

use crate::{PacketType, ProtocolVersion, QoS};

/// Outcome of an operation. Codes below 0x80 are successes. The numbers are those of MQTT 5.0.
///
/// 0x00 has three names in the specification (Success, Normal disconnection, Granted QoS 0) and one here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    missing_docs,
    reason = "the names are the specification's, which says all there is to say"
)]
#[repr(u8)]
pub enum ReasonCode {
    #[default]
    Success = 0x00,
    GrantedQoS1 = 0x01,
    GrantedQoS2 = 0x02,
    DisconnectWithWill = 0x04,
    NoMatchingSubscribers = 0x10,
    NoSubscriptionExisted = 0x11,
    ContinueAuthentication = 0x18,
    ReAuthenticate = 0x19,
    UnspecifiedError = 0x80,
    MalformedPacket = 0x81,
    ProtocolError = 0x82,
    ImplementationSpecificError = 0x83,
    UnsupportedProtocolVersion = 0x84,
    ClientIdentifierNotValid = 0x85,
    BadUserNameOrPassword = 0x86,
    NotAuthorized = 0x87,
    ServerUnavailable = 0x88,
    ServerBusy = 0x89,
    Banned = 0x8A,
    ServerShuttingDown = 0x8B,
    BadAuthenticationMethod = 0x8C,
    KeepAliveTimeout = 0x8D,
    SessionTakenOver = 0x8E,
    TopicFilterInvalid = 0x8F,
    TopicNameInvalid = 0x90,
    PacketIdentifierInUse = 0x91,
    PacketIdentifierNotFound = 0x92,
    ReceiveMaximumExceeded = 0x93,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    MessageRateTooHigh = 0x96,
    QuotaExceeded = 0x97,
    AdministrativeAction = 0x98,
    PayloadFormatInvalid = 0x99,
    RetainNotSupported = 0x9A,
    QoSNotSupported = 0x9B,
    UseAnotherServer = 0x9C,
    ServerMoved = 0x9D,
    SharedSubscriptionsNotSupported = 0x9E,
    ConnectionRateExceeded = 0x9F,
    MaximumConnectTime = 0xA0,
    SubscriptionIdentifiersNotSupported = 0xA1,
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// The code of this number; `None` when MQTT 5.0 has none.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match BY_NUMBER[value as usize] {
            0 => None,
            place => Some(TABLE[place as usize - 1].0),
        }
    }

    /// Whether the operation failed: 0x80 and above.
    #[inline]
    #[must_use]
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// Whether a packet of this type may carry this code in MQTT 5.0.
    #[must_use]
    pub const fn is_allowed_in(self, packet_type: PacketType) -> bool {
        match BY_NUMBER[self as usize] {
            0 => false,
            place => TABLE[place as usize - 1].1 & bit(packet_type) != 0,
        }
    }

    /// The code that grants this QoS in a SUBACK.
    #[must_use]
    pub const fn granted(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::Success,
            QoS::AtLeastOnce => Self::GrantedQoS1,
            QoS::ExactlyOnce => Self::GrantedQoS2,
        }
    }

    /// The return code that says the same in a CONNACK of MQTT 3.1 and 3.1.1: 0 to 5.
    ///
    /// The old versions have five refusals. A reason without counterpart becomes 3, "Server unavailable"; a caller that
    /// rather obeys "if none of the return codes is applicable, close without CONNACK" `[MQTT-3.2.2-6 @3.1.1]` asks
    /// [`has_connect_return_code`](Self::has_connect_return_code) first.
    #[must_use]
    pub const fn connect_return_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword | Self::BadAuthenticationMethod => 4,
            Self::NotAuthorized | Self::Banned => 5,
            _ => 3,
        }
    }

    /// Whether MQTT 3.1.1 has a CONNACK return code for this reason, so that a CONNACK says something true.
    #[must_use]
    pub const fn has_connect_return_code(self) -> bool {
        self.connect_return_code() != 3
            || matches!(
                self,
                Self::ServerUnavailable
                    | Self::ServerBusy
                    | Self::QuotaExceeded
                    | Self::UseAnotherServer
                    | Self::ServerMoved
                    | Self::ConnectionRateExceeded
            )
    }

    /// The reason that a CONNACK return code of MQTT 3.1 or 3.1.1 stands for; `None` above 5.
    #[must_use]
    pub const fn from_connect_return_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }

    /// The return code that says the same in a SUBACK of MQTT 3.1.1: 0, 1, 2, or 0x80 for every failure. `[MQTT-3.9.3-2 @3.1.1]`
    #[must_use]
    pub const fn subscribe_return_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::GrantedQoS1 => 1,
            Self::GrantedQoS2 => 2,
            _ => 0x80,
        }
    }

    /// The SUBACK byte of this code in that version.
    ///
    /// MQTT 3.1 cannot say no: a server that does not authorise a subscription "must make a positive acknowledgement
    /// with a SUBACK" (3.1, section 3.8), so every failure becomes 0.
    pub(crate) const fn subscribe_byte(self, version: ProtocolVersion) -> u8 {
        match version {
            ProtocolVersion::V5 => self as u8,
            ProtocolVersion::V311 => self.subscribe_return_code(),
            ProtocolVersion::V31 => match self.subscribe_return_code() {
                0x80 => 0,
                granted => granted,
            },
        }
    }
}

impl core::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self:?} (0x{:02X})", *self as u8)
    }
}

const fn bit(packet_type: PacketType) -> u16 {
    1 << packet_type as u16
}

const CONNACK: u16 = bit(PacketType::ConnAck);
const PUBACK: u16 = bit(PacketType::PubAck);
const PUBREC: u16 = bit(PacketType::PubRec);
const PUBREL: u16 = bit(PacketType::PubRel);
const PUBCOMP: u16 = bit(PacketType::PubComp);
const SUBACK: u16 = bit(PacketType::SubAck);
const UNSUBACK: u16 = bit(PacketType::UnsubAck);
const DISCONNECT: u16 = bit(PacketType::Disconnect);
const AUTH: u16 = bit(PacketType::Auth);

/// Every code with the packets that may carry it: table 2-6 of MQTT 5.0.
#[rustfmt::skip]
const TABLE: [(ReasonCode, u16); 43] = {
    use ReasonCode::*;
    [
        (Success, CONNACK | PUBACK | PUBREC | PUBREL | PUBCOMP | SUBACK | UNSUBACK | DISCONNECT | AUTH),
        (GrantedQoS1, SUBACK),
        (GrantedQoS2, SUBACK),
        (DisconnectWithWill, DISCONNECT),
        (NoMatchingSubscribers, PUBACK | PUBREC),
        (NoSubscriptionExisted, UNSUBACK),
        (ContinueAuthentication, AUTH),
        (ReAuthenticate, AUTH),
        (UnspecifiedError, CONNACK | PUBACK | PUBREC | SUBACK | UNSUBACK | DISCONNECT),
        (MalformedPacket, CONNACK | DISCONNECT),
        (ProtocolError, CONNACK | DISCONNECT),
        (ImplementationSpecificError, CONNACK | PUBACK | PUBREC | SUBACK | UNSUBACK | DISCONNECT),
        (UnsupportedProtocolVersion, CONNACK),
        (ClientIdentifierNotValid, CONNACK),
        (BadUserNameOrPassword, CONNACK),
        (NotAuthorized, CONNACK | PUBACK | PUBREC | SUBACK | UNSUBACK | DISCONNECT),
        (ServerUnavailable, CONNACK),
        (ServerBusy, CONNACK | DISCONNECT),
        (Banned, CONNACK),
        (ServerShuttingDown, DISCONNECT),
        (BadAuthenticationMethod, CONNACK | DISCONNECT),
        (KeepAliveTimeout, DISCONNECT),
        (SessionTakenOver, DISCONNECT),
        (TopicFilterInvalid, SUBACK | UNSUBACK | DISCONNECT),
        (TopicNameInvalid, CONNACK | PUBACK | PUBREC | DISCONNECT),
        (PacketIdentifierInUse, PUBACK | PUBREC | SUBACK | UNSUBACK),
        (PacketIdentifierNotFound, PUBREL | PUBCOMP),
        (ReceiveMaximumExceeded, DISCONNECT),
        (TopicAliasInvalid, DISCONNECT),
        (PacketTooLarge, CONNACK | DISCONNECT),
        (MessageRateTooHigh, DISCONNECT),
        (QuotaExceeded, CONNACK | PUBACK | PUBREC | SUBACK | DISCONNECT),
        (AdministrativeAction, DISCONNECT),
        (PayloadFormatInvalid, CONNACK | PUBACK | PUBREC | DISCONNECT),
        (RetainNotSupported, CONNACK | DISCONNECT),
        (QoSNotSupported, CONNACK | DISCONNECT),
        (UseAnotherServer, CONNACK | DISCONNECT),
        (ServerMoved, CONNACK | DISCONNECT),
        (SharedSubscriptionsNotSupported, SUBACK | DISCONNECT),
        (ConnectionRateExceeded, CONNACK | DISCONNECT),
        (MaximumConnectTime, DISCONNECT),
        (SubscriptionIdentifiersNotSupported, SUBACK | DISCONNECT),
        (WildcardSubscriptionsNotSupported, SUBACK | DISCONNECT),
    ]
};

/// One more than the place in [`TABLE`] of each number; zero where MQTT 5.0 has no code.
const BY_NUMBER: [u8; 256] = {
    let mut places = [0; 256];
    let mut place = 0;
    while place < TABLE.len() {
        places[TABLE[place].0 as usize] = place as u8 + 1;
        place += 1;
    }
    places
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_no_others_exist() {
        let known: Vec<u8> =
            (0..=255).filter(|&value| ReasonCode::from_u8(value).is_some()).collect();
        for &value in &known {
            assert_eq!(ReasonCode::from_u8(value).map(|code| code as u8), Some(value));
        }
        let expected =
            [0x00, 0x01, 0x02, 0x04, 0x10, 0x11, 0x18, 0x19].into_iter().chain(0x80..=0xA2);
        assert_eq!(known, expected.collect::<Vec<u8>>());
    }

    /// The value tables of each packet's own section, against the one table of section 2.4.
    #[test]
    fn packets_carry_the_codes_of_their_sections() {
        let cases: [(PacketType, &[u8]); 9] = [
            // [MQTT-3.2.2-8]
            (
                PacketType::ConnAck,
                &[
                    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C,
                    0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
                ],
            ),
            // [MQTT-3.4.2-1]
            (PacketType::PubAck, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
            // [MQTT-3.5.2-1]
            (PacketType::PubRec, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
            // [MQTT-3.6.2-1]
            (PacketType::PubRel, &[0x00, 0x92]),
            // [MQTT-3.7.2-1]
            (PacketType::PubComp, &[0x00, 0x92]),
            // [MQTT-3.9.3-2]
            (
                PacketType::SubAck,
                &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
            ),
            // [MQTT-3.11.3-2]
            (PacketType::UnsubAck, &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
            // [MQTT-3.14.2-1]; 0x8C stands in section 2.4 only, and is let pass.
            (
                PacketType::Disconnect,
                &[
                    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F,
                    0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E,
                    0x9F, 0xA0, 0xA1, 0xA2,
                ],
            ),
            // [MQTT-3.15.2-1]
            (PacketType::Auth, &[0x00, 0x18, 0x19]),
        ];
        for packet_type in PacketType::ALL {
            let allowed = |&value: &u8| {
                ReasonCode::from_u8(value).is_some_and(|code| code.is_allowed_in(packet_type))
            };
            let expected =
                cases.iter().find(|case| case.0 == packet_type).map_or(&[][..], |case| case.1);
            assert_eq!((0..=255).filter(allowed).collect::<Vec<u8>>(), expected, "{packet_type:?}");
        }
    }

    #[test]
    fn old_return_codes_round_trip() {
        for code in 0..=5 {
            let reason_code = ReasonCode::from_connect_return_code(code).unwrap();
            assert_eq!(reason_code.connect_return_code(), code);
            assert!(reason_code.has_connect_return_code());
        }
        assert_eq!(ReasonCode::from_connect_return_code(6), None);
        assert!(!ReasonCode::MalformedPacket.has_connect_return_code());
        assert!(!ReasonCode::ProtocolError.has_connect_return_code());
        for (reason_code, code, byte_v31) in [
            (ReasonCode::Success, 0, 0),
            (ReasonCode::GrantedQoS1, 1, 1),
            (ReasonCode::GrantedQoS2, 2, 2),
            (ReasonCode::NotAuthorized, 0x80, 0),
            (ReasonCode::QuotaExceeded, 0x80, 0),
        ] {
            assert_eq!(reason_code.subscribe_return_code(), code);
            assert_eq!(reason_code.subscribe_byte(ProtocolVersion::V311), code);
            assert_eq!(reason_code.subscribe_byte(ProtocolVersion::V31), byte_v31);
            assert_eq!(reason_code.subscribe_byte(ProtocolVersion::V5), reason_code as u8);
        }
        assert_eq!(ReasonCode::granted(QoS::ExactlyOnce), ReasonCode::GrantedQoS2);
    }
}

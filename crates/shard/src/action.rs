//! What the hands are asked to do.

use midge_auth::Login;
use midge_codec::DecodeError;
use midge_mesh::ShardId;
use midge_session::Refusal;

use crate::audit::AuditNote;
use crate::envelope::{Carried, Luggage};
use crate::ids::{ConnectionId, PeerAddress};
use crate::protection::Ban;

/// One thing to do, in the order given. Sends are not among them: connections with output are taken from
/// [`crate::Shard::next_flush`] at the end of a loop turn.
#[derive(Debug)]
pub enum Action {
    /// Receive once: the connection may still move to another shard.
    ReceiveOnce(ConnectionId),
    /// Receive until told otherwise.
    Receive(ConnectionId),
    /// A connection that another shard's ring put into ours: take note of it.
    Adopt {
        /// Its number here.
        connection: ConnectionId,
        /// What the other shard's hands have sent along ([`Luggage::carried`]).
        carried: Option<Carried>,
    },
    /// Stop receiving; what comes meanwhile is still accepted.
    Pause(ConnectionId),
    /// Close now; [`crate::Shard::handle_closed`] ends it.
    Close(ConnectionId),
    /// Move the descriptor to another shard's ring, then call [`crate::Shard::handle_handed_over`].
    HandOver {
        /// The connection; nothing is being received or sent.
        connection: ConnectionId,
        /// Its client's home.
        target: ShardId,
        /// To be sent along with the number that the descriptor got there.
        luggage: Box<Luggage>,
    },
    /// Have somebody asked about a client, elsewhere, then call [`crate::Shard::handle_authenticated`].
    Authenticate {
        /// The connection; nothing is read from it meanwhile.
        connection: ConnectionId,
        /// Tells it from a later one in the same slot.
        serial: u32,
        /// Who is asked, and what the client shows.
        login: Box<Login>,
    },
    /// Somebody is to be banned, by all shards ([`crate::Shard::handle_bans`]).
    Ban(Ban),
    /// Something for the audit log; only where [`crate::Settings::audit`] is set.
    Audit(Box<AuditNote>),
    /// Something worth a (rate-limited) line in the log.
    Note(Note),
    /// Queued messages are lost: what the log has of them is damaged or cannot be read. To be told loudly.
    Lost {
        /// Whose they were.
        client_id: Box<str>,
        /// How many.
        messages: usize,
    },
}

/// What happened to a connection, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whose connection.
    pub peer: PeerAddress,
    /// The client's id, when it is known.
    pub client_id: Option<Box<str>>,
    /// What.
    pub event: Event,
}

/// The events of a connection that the log knows. A closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Bytes that the specification forbids.
    PeerError(PeerError),
    /// A CONNECT was refused.
    Refused(Refusal),
    /// No CONNECT came in time.
    ConnectTimeout,
    /// Nothing came for one and a half Keep Alives [MQTT-3.1.2-22].
    KeepAliveTimeout,
    /// Another connection with the same client id.
    TakenOver,
    /// An operator asked for it.
    Kicked,
    /// The disk did not take what it was to be told is kept; it says it again on its next connection.
    NotKept,
}

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerError {
    /// The codec refused it.
    Decode(DecodeError),
    /// Well-formed, but not allowed now.
    Protocol(Violation),
}

/// Protocol errors that only the state of a connection reveals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A second CONNECT [MQTT-3.1.0-2].
    SecondConnect,
    /// A packet that only a server sends.
    ServerPacket,
    /// A Topic Alias above the announced maximum, or one that was never set [MQTT-3.3.2-9].
    TopicAlias,
    /// A Subscription Identifier in a client's PUBLISH [MQTT-3.3.4-6].
    SubscriptionIdentifierInPublish,
    /// A higher QoS than announced [MQTT-3.2.2-11].
    QosNotSupported,
    /// RETAIN although retained messages are switched off [MQTT-3.2.2-14].
    RetainNotSupported,
    /// More unacknowledged publications than the announced Receive Maximum [MQTT-3.3.4-7].
    ReceiveMaximumExceeded,
    /// A topic that breaks a limit, from a client that cannot be told in an acknowledgement.
    TopicNameInvalid,
    /// The Payload Format Indicator says UTF-8 and the payload is not.
    PayloadFormatInvalid,
    /// A Topic Filter that is none [MQTT-4.7.1-1].
    TopicFilterInvalid,
    /// An acknowledgement for a message of another QoS or stage.
    AcknowledgementMismatch,
    /// DISCONNECT sets a Session Expiry Interval although CONNECT had none [MQTT-3.14.2-2].
    SessionExpiryRaised,
    /// A DISCONNECT with a reason code or a property that only a server sends.
    ServerDisconnect,
    /// AUTH without an authentication method.
    AuthenticationNotStarted,
    /// Something that does not fit a step of enhanced authentication, or comes in its place [MQTT-3.1.2-30]
    /// [MQTT-4.12.0-5].
    AuthenticationMisplaced,
    /// It published where it must not, and the configuration says that this ends the connection.
    NotAuthorized,
    /// A Subscription Identifier although they are switched off.
    SubscriptionIdentifiersNotSupported,
}

impl Violation {
    /// The reason code of the DISCONNECT that answers it, in the only place that says so.
    #[must_use]
    pub const fn reason_code(self) -> midge_codec::ReasonCode {
        use midge_codec::ReasonCode;
        match self {
            Self::SecondConnect
            | Self::ServerPacket
            | Self::SubscriptionIdentifierInPublish
            | Self::AcknowledgementMismatch
            | Self::SessionExpiryRaised
            | Self::ServerDisconnect
            // "Bad authentication method" is for CONNACK; DISCONNECT has no such code (5.0 §3.14.2.1).
            | Self::AuthenticationNotStarted
            | Self::AuthenticationMisplaced => ReasonCode::ProtocolError,
            Self::NotAuthorized => ReasonCode::NotAuthorized,
            Self::TopicAlias => ReasonCode::TopicAliasInvalid,
            Self::QosNotSupported => ReasonCode::QoSNotSupported,
            Self::RetainNotSupported => ReasonCode::RetainNotSupported,
            Self::ReceiveMaximumExceeded => ReasonCode::ReceiveMaximumExceeded,
            Self::TopicNameInvalid => ReasonCode::TopicNameInvalid,
            Self::PayloadFormatInvalid => ReasonCode::PayloadFormatInvalid,
            Self::TopicFilterInvalid => ReasonCode::TopicFilterInvalid,
            Self::SubscriptionIdentifiersNotSupported => {
                ReasonCode::SubscriptionIdentifiersNotSupported
            }
        }
    }
}

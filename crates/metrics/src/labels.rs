//! Closed sets of label values.

macro_rules! labels {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $key:literal { $($(#[doc = $value_doc:literal])+ $value:ident = $text:literal,)+ }
    )+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $name { $($(#[doc = $value_doc])+ $value,)+ }

        impl $name {
            /// The label's key.
            pub const KEY: &'static str = $key;
            /// The text of each value, in order; a value's index is `value as usize`.
            pub const NAMES: [&'static str; Self::COUNT] = [$($text),+];
            /// How many values there are.
            pub const COUNT: usize = [$(Self::$value),+].len();
        }
    )+};
}

labels! {
    /// Quality of service.
    Qos "qos" {
        /// At most once.
        AtMostOnce = "0",
        /// At least once.
        AtLeastOnce = "1",
        /// Exactly once.
        ExactlyOnce = "2",
    }

    /// Why a transport closed a connection.
    TransportRefusal "reason" {
        /// Not a trusted proxy, on a listener for trusted proxies only.
        ProxyStranger = "proxy_stranger",
        /// No valid PROXY header.
        ProxyHeader = "proxy_header",
        /// Not TLS, or TLS that breaks its rules.
        TlsInvalid = "tls_invalid",
        /// No TLS version, cipher suite or protocol name in common.
        TlsIncompatible = "tls_incompatible",
        /// No client certificate.
        TlsNoCertificate = "tls_no_certificate",
        /// A client certificate that is not acceptable.
        TlsCertificate = "tls_certificate",
        /// A client certificate that is revoked, or that no list covers.
        TlsRevoked = "tls_revoked",
        /// The client refused the TLS connection.
        TlsAlert = "tls_alert",
        /// TLS failed on our side.
        TlsInternal = "tls_internal",
        /// Not a request that opens a WebSocket.
        HttpRequest = "http_request",
        /// A WebSocket request with too large a header.
        HttpRequestTooLarge = "http_request_too_large",
        /// A WebSocket request for another path.
        WebSocketPath = "websocket_path",
        /// A WebSocket request from a page of another origin.
        WebSocketOrigin = "websocket_origin",
        /// A WebSocket request without the sub-protocol.
        WebSocketSubprotocol = "websocket_subprotocol",
        /// A frame that breaks the WebSocket protocol.
        WebSocketFrame = "websocket_frame",
        /// Too much unfinished input of unproven connections.
        UnprovenInput = "unproven_input",
    }

    /// How a TLS handshake went.
    TlsHandshake "kind" {
        /// With certificates and signatures.
        Full = "full",
        /// With a ticket of an earlier session.
        Resumed = "resumed",
    }

    /// What a connection is doing.
    ConnectionState "state" {
        /// Waiting for its CONNECT, or moving to its home.
        Handshaking = "handshaking",
        /// Serving a session.
        Connected = "connected",
        /// Saying its last words, or waiting for the socket to be closed.
        Ending = "ending",
    }

    /// Type of a Control Packet; the index is the number in the packet's first four bits.
    PacketType "type" {
        /// No packet has this number.
        Reserved = "reserved",
        /// CONNECT.
        Connect = "connect",
        /// CONNACK.
        ConnAck = "connack",
        /// PUBLISH.
        Publish = "publish",
        /// PUBACK.
        PubAck = "puback",
        /// PUBREC.
        PubRec = "pubrec",
        /// PUBREL.
        PubRel = "pubrel",
        /// PUBCOMP.
        PubComp = "pubcomp",
        /// SUBSCRIBE.
        Subscribe = "subscribe",
        /// SUBACK.
        SubAck = "suback",
        /// UNSUBSCRIBE.
        Unsubscribe = "unsubscribe",
        /// UNSUBACK.
        UnsubAck = "unsuback",
        /// PINGREQ.
        PingReq = "pingreq",
        /// PINGRESP.
        PingResp = "pingresp",
        /// DISCONNECT.
        Disconnect = "disconnect",
        /// AUTH.
        Auth = "auth",
    }

    /// Why a connection was closed before anybody looked at what it sent.
    ConnectionRefusal "reason" {
        /// The shard has as many connections as it may.
        Limit = "limit",
        /// It could not move to its home shard.
        HandOver = "hand_over",
        /// Too much was kept of unfinished CONNECT packets.
        Unproven = "unproven",
        /// Its address is banned.
        Banned = "banned",
        /// Its address has as many connections as it may.
        AddressLimit = "address_limit",
        /// Its address connects too often.
        AddressRate = "address_rate",
        /// Its listener has as many connections as it may.
        ListenerLimit = "listener_limit",
        /// Its listener's clients connect too often.
        ListenerRate = "listener_rate",
        /// As many connections as may had sent no CONNECT yet.
        Handshakes = "handshakes",
    }

    /// Why a CONNECT was refused.
    ConnectRefusal "reason" {
        /// The protocol version is not supported.
        ProtocolVersion = "protocol_version",
        /// The client id is not acceptable.
        ClientId = "client_id",
        /// User name or password is wrong, or the way to authenticate.
        Credentials = "credentials",
        /// This client may not connect.
        NotAuthorized = "not_authorized",
        /// A limit was reached.
        Quota = "quota",
        /// The broker is busy or not available.
        Unavailable = "unavailable",
        /// Anything else.
        Other = "other",
    }

    /// What the disk lets a durable log do.
    LogCondition "condition" {
        /// Everything.
        Healthy = "healthy",
        /// There is no room: nothing that must be kept is acknowledged.
        Full = "full",
        /// A write or a sync has failed: the same until the disk works again.
        Failed = "failed",
    }

    /// What memory is held for.
    MemoryKind "kind" {
        /// Connections, without their buffers.
        Connections = "connections",
        /// Sessions, without what they have queued.
        Sessions = "sessions",
        /// The subscription table.
        Subscriptions = "subscriptions",
        /// Retained messages.
        Retained = "retained",
        /// Envelopes that wait for rings to other shards.
        Outboxes = "outboxes",
        /// Buffers that receives share.
        ReceiveBuffers = "receive_buffers",
    }
}

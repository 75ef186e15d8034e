//! Every reason for which a layer closes a connection.

/// Why a layer closes a connection. A closed list: a peer's mistake costs no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The listener expects a PROXY header and the connection comes from an address that may not send one.
    ProxyStranger,
    /// A PROXY header that is none, is too long or contradicts itself.
    ProxyHeader,
    /// Bytes that are no TLS, or TLS that breaks its own rules.
    TlsInvalid,
    /// No version, cipher suite, protocol name or signature in common.
    TlsIncompatible,
    /// A client certificate is required and none came.
    TlsNoCertificate,
    /// The client's certificate is not from one of the authorities, has expired, or is not for clients.
    TlsCertificate,
    /// The client's certificate has been revoked, or no list says that it has not.
    TlsRevoked,
    /// The client has refused us with an alert: mostly because it does not trust our certificate.
    TlsAlert,
    /// A failure of our own in TLS.
    TlsInternal,
    /// No HTTP request, or not the one that opens a WebSocket.
    HttpRequest,
    /// A request of more bytes or header fields than any client's.
    HttpRequestTooLarge,
    /// Another path than the listener's.
    WebSocketPath,
    /// A web page from elsewhere.
    WebSocketOrigin,
    /// The client does not offer the sub-protocol `mqtt` [MQTT-6.0.0-3].
    WebSocketSubprotocol,
    /// A frame that breaks RFC 6455, or no binary frame [MQTT-6.0.0-1].
    WebSocketFrame,
    /// Too much unfinished input of connections that have proved nothing yet.
    UnprovenInput,
}

impl CloseReason {
    /// All of them, in the order of [`CloseReason::index`].
    pub const ALL: [Self; 16] = [
        Self::ProxyStranger,
        Self::ProxyHeader,
        Self::TlsInvalid,
        Self::TlsIncompatible,
        Self::TlsNoCertificate,
        Self::TlsCertificate,
        Self::TlsRevoked,
        Self::TlsAlert,
        Self::TlsInternal,
        Self::HttpRequest,
        Self::HttpRequestTooLarge,
        Self::WebSocketPath,
        Self::WebSocketOrigin,
        Self::WebSocketSubprotocol,
        Self::WebSocketFrame,
        Self::UnprovenInput,
    ];

    /// Its place in [`CloseReason::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in statistics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProxyStranger => "proxy_stranger",
            Self::ProxyHeader => "proxy_header",
            Self::TlsInvalid => "tls_invalid",
            Self::TlsIncompatible => "tls_incompatible",
            Self::TlsNoCertificate => "tls_no_certificate",
            Self::TlsCertificate => "tls_certificate",
            Self::TlsRevoked => "tls_revoked",
            Self::TlsAlert => "tls_alert",
            Self::TlsInternal => "tls_internal",
            Self::HttpRequest => "http_request",
            Self::HttpRequestTooLarge => "http_request_too_large",
            Self::WebSocketPath => "websocket_path",
            Self::WebSocketOrigin => "websocket_origin",
            Self::WebSocketSubprotocol => "websocket_subprotocol",
            Self::WebSocketFrame => "websocket_frame",
            Self::UnprovenInput => "unproven_input",
        }
    }

    /// One sentence for the log.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::ProxyStranger => "not a trusted proxy, on a listener for trusted proxies only",
            Self::ProxyHeader => "no valid PROXY protocol header",
            Self::TlsInvalid => "not TLS, or TLS that breaks its rules",
            Self::TlsIncompatible => "no TLS version, cipher suite or protocol name in common",
            Self::TlsNoCertificate => "no client certificate",
            Self::TlsCertificate => "the client certificate is not acceptable",
            Self::TlsRevoked => "the client certificate is revoked, or no list covers it",
            Self::TlsAlert => "the client refused the TLS connection",
            Self::TlsInternal => "TLS failed on our side",
            Self::HttpRequest => "not a request that opens a WebSocket",
            Self::HttpRequestTooLarge => "a WebSocket request with too large a header",
            Self::WebSocketPath => "a WebSocket request for another path",
            Self::WebSocketOrigin => "a WebSocket request from a web page of another origin",
            Self::WebSocketSubprotocol => "a WebSocket request without the sub-protocol mqtt",
            Self::WebSocketFrame => "a frame that breaks the WebSocket protocol",
            Self::UnprovenInput => "too much unfinished input of unproven connections",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_and_a_name_of_its_own() {
        for (place, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
        let names: std::collections::BTreeSet<_> =
            CloseReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), CloseReason::ALL.len());
    }
}

//! Who a peer is, as far as its transport says so.
//!
//! The shard does not know transports. Whoever drives it tells what TLS, a PROXY header or a WebSocket request have proved
//! about a connection, before its first byte of MQTT; whoever decides who may connect finds it here.

/// What the transport of one connection has proved. Beside it, the connection's peer address is the client's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The client came over TLS: to us, or to the trusted proxy that says so.
    pub tls: bool,
    /// The names in the client's certificate, which was verified here or by the trusted proxy. `None`: it has shown none.
    pub certificate: Option<CertificateIdentity>,
    /// The host name that the client asked a trusted proxy for.
    pub authority: Option<Box<str>>,
}

/// The names in a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateIdentity {
    /// The Common Name of its subject.
    pub common_name: Option<Box<str>>,
    /// The whole subject as RFC 4514 writes it: `CN=sensor-7,O=Example`. Empty when only a proxy has seen it.
    pub subject: Box<str>,
    /// Alternative names with their kind in front: `DNS:a.example`, `email:a@b.example`, `URI:spiffe://a/b`, `IP:192.0.2.1`.
    pub alternative_names: Box<[Box<str>]>,
}

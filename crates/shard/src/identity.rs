//! Who a peer is, as far as its transport says so.
//!
//! The shard does not know transports. Whoever drives it tells what TLS, a PROXY header or a WebSocket request have proved
//! about a connection, before its first byte of MQTT; whoever decides who may connect finds it here.

use midge_auth::CertificateName;

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

impl CertificateIdentity {
    /// The name that stands at a place of the certificate, if one does.
    #[must_use]
    pub fn name(&self, which: CertificateName) -> Option<&str> {
        let alternative = |kind| self.alternative_names.iter().find_map(|n| n.strip_prefix(kind));
        match which {
            CertificateName::CommonName => self.common_name.as_deref(),
            CertificateName::Subject => Some(&*self.subject).filter(|subject| !subject.is_empty()),
            CertificateName::Dns => alternative("DNS:"),
            CertificateName::Email => alternative("email:"),
            CertificateName::Uri => alternative("URI:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_they_stand() {
        let certificate = CertificateIdentity {
            common_name: Some("sensor".into()),
            subject: "CN=sensor,O=Example".into(),
            alternative_names: ["IP:192.0.2.1", "URI:spiffe://a/b", "DNS:a.example", "DNS:b"]
                .map(Into::into)
                .into(),
        };
        for (which, expected) in [
            (CertificateName::CommonName, Some("sensor")),
            (CertificateName::Subject, Some("CN=sensor,O=Example")),
            (CertificateName::Dns, Some("a.example")),
            (CertificateName::Uri, Some("spiffe://a/b")),
            (CertificateName::Email, None),
        ] {
            assert_eq!(certificate.name(which), expected, "{which:?}");
            assert_eq!(CertificateIdentity::default().name(which), None, "{which:?}");
        }
    }
}

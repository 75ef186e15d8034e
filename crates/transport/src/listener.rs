//! What is spoken on a listener: which layers its connections have.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::close::CloseReason;
use crate::network::{Network, any_contains};
use crate::tls_settings::TlsSettings;

/// The layers of one listener, shared by all its connections. Changed by being replaced: connections keep the one with
/// which they came.
#[derive(Debug, Clone, Default)]
pub struct Listener {
    /// A PROXY header comes first; `None`: none is accepted.
    pub proxy: Option<ProxySettings>,
    /// TLS; `None`: none.
    pub tls: Option<Arc<TlsSettings>>,
    /// WebSocket; `None`: none.
    pub websocket: Option<WebSocketSettings>,
}

/// Who may send a PROXY header. On such a listener everybody must.
#[derive(Debug, Clone, Default)]
pub struct ProxySettings {
    /// The proxies' addresses.
    pub trusted: Vec<Network>,
    /// Trusts every peer: for a socket that only the proxy can reach, as a unix-domain socket with its file's rights.
    pub trust_all: bool,
}

/// What a WebSocket request must say.
#[derive(Debug, Clone, Default)]
pub struct WebSocketSettings {
    /// The path of the request, without a query: `/mqtt`.
    pub path: String,
    /// Origins whose pages may connect, such as `https://page.example`. Empty: all. Clients that are no browsers send no
    /// origin and are not asked.
    pub origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed. Empty: nobody's.
    pub trusted_proxies: Vec<Network>,
}

impl Listener {
    /// Whether MQTT is spoken directly on the socket.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none() && self.websocket.is_none()
    }

    /// Whether a connection from this address may begin at all.
    ///
    /// # Errors
    /// When a PROXY header is expected and the peer may not send one.
    pub fn admit(&self, peer: SocketAddr) -> Result<(), CloseReason> {
        match &self.proxy {
            Some(proxy) if !proxy.trust_all && !any_contains(&proxy.trusted, peer.ip()) => {
                Err(CloseReason::ProxyStranger)
            }
            _ => Ok(()),
        }
    }
}

//! What sits between a socket's bytes and MQTT: PROXY protocol, TLS, WebSocket, in any combination.
//!
//! A [`Layer`] belongs to one connection. It is a plain value without I/O, clock or thread: bytes from the socket go in and
//! the bytes of MQTT come out, what MQTT says goes in and bytes for the socket come out.
//!
//! ```text
//!   socket ──bytes──> PROXY header ──> TLS ──> WebSocket ──> MQTT        Layer::receive
//!   socket <──bytes────────────────── TLS <── WebSocket <── MQTT        Layer::send, Layer::close
//! ```
//!
//! | file | what it knows |
//! |---|---|
//! | [`layer`](mod@layer) | the order of the layers, and what to do when one of them refuses |
//! | [`listener`](mod@listener) | what is spoken on a listener: which layers its connections have |
//! | `proxy` | PROXY protocol versions 1 and 2 |
//! | `tls`, [`tls_settings`] | TLS by rustls; certificates, keys and revocation lists from files |
//! | `websocket` | RFC 6455, the server's side: `upgrade` is the HTTP part, `frames` the rest |
//! | `certificate` | the names in a client's certificate |
//! | [`network`] | address ranges whose word is trusted |
//! | [`close`] | every reason to close a connection |
//!
//! # Invariants worth naming
//! - Total over bytes: whatever a peer sends, a layer answers with progress or with a [`CloseReason`]; it neither panics
//!   nor loops.
//! - The way the stream is cut into pieces changes nothing: each byte of MQTT comes out once and in order.
//! - Nothing is kept while a connection is idle but the keys of TLS and a few words: no buffer.
//! - What is kept of unfinished records, headers and frames is bounded, and [`Layer::kept_bytes`] tells it.
//! - Who the peer is (its address, its certificate) is believed only from where the listener's settings say so.
//!
//! # Deliberately absent
//! WebSocket extensions (no compression: MQTT payloads mostly are, and it would cost memory for each connection), early
//! data of TLS 1.3 (it can be replayed), renegotiation.
#![forbid(unsafe_code)]

mod certificate;
pub mod close;
pub mod layer;
pub mod listener;
pub mod network;
mod proxy;
mod tls;
pub mod tls_settings;
mod websocket;

pub use certificate::{ALTERNATIVE_NAMES_MAX, AlternativeName, CertificateNames};
pub use close::CloseReason;
pub use layer::{Layer, PeerIdentity, Received, Scratch};
pub use listener::{Listener, ProxySettings, WebSocketSettings};
pub use network::Network;
pub use tls_settings::{
    CertificateFiles, ClientCertificates, PemFile, TlsFiles, TlsSettings, TlsSettingsError,
};

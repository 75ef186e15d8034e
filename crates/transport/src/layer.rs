//! The layers of one connection, in their order.

use std::net::SocketAddr;

use midge_output::Output;

use crate::certificate::CertificateNames;
use crate::close::CloseReason;
use crate::listener::Listener;
use crate::proxy::{self, Parsed};
use crate::tls::{self, Tls};
use crate::websocket::{self, Accepted, Frames, Upgrade};

/// Segments below this size are joined before they are encrypted: a record costs more than copying so much.
const JOINED_SIZE_MAX: usize = 8 * 1024;

/// One connection's layers. See the room's documentation.
#[derive(Debug)]
pub struct Layer {
    peer: SocketAddr,
    /// The header that is still coming, with what has come of it.
    proxy: Option<Vec<u8>>,
    tls: Option<Tls>,
    websocket: WebSocket,
    /// What a PROXY header said beside the address.
    header: Option<Box<proxy::Header>>,
    told: bool,
    ended: bool,
}

#[derive(Debug)]
enum WebSocket {
    None,
    Opening(Box<(Upgrade, crate::listener::WebSocketSettings)>),
    Open(Box<Frames>),
}

/// What a peer is, as far as its transport says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The client's address: the socket's, or what a trusted proxy said.
    pub address: SocketAddr,
    /// The client came to us, or to the proxy that says so, over TLS.
    pub tls: bool,
    /// Our TLS handshake resumed an earlier session. `None`: without TLS of our own.
    pub resumed: Option<bool>,
    /// The names in the certificate that the client has shown and that was verified: here, or by the trusted proxy (which
    /// tells the Common Name only).
    pub certificate: Option<CertificateNames>,
    /// The host name that the client asked a trusted proxy for.
    pub authority: Option<Box<str>>,
}

/// How things stand after bytes were received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The connection goes on.
    Open,
    /// The peer has ended it in good order. Nothing more comes.
    Ended,
}

/// Memory that all connections of a shard use in turn.
#[derive(Debug, Default)]
pub struct Scratch {
    records: Vec<u8>,
    content: Vec<u8>,
    frames: Vec<u8>,
}

/// What [`Scratch::trim`] leaves of each buffer, in bytes.
const SCRATCH_KEPT_MAX: usize = 64 * 1024;

impl Scratch {
    /// Gives back what a burst has left behind.
    pub fn trim(&mut self) {
        for buffer in [&mut self.records, &mut self.content, &mut self.frames] {
            buffer.clear();
            buffer.shrink_to(SCRATCH_KEPT_MAX);
        }
    }
}

impl Layer {
    /// The layers of a connection that `listener` has accepted from `peer`.
    ///
    /// # Errors
    /// When the peer may not connect here, or TLS cannot be had.
    pub fn new(listener: &Listener, peer: SocketAddr) -> Result<Self, CloseReason> {
        listener.admit(peer)?;
        Ok(Self {
            peer,
            proxy: listener.proxy.as_ref().map(|_| Vec::new()),
            tls: listener.tls.as_ref().map(|tls| Tls::new(tls)).transpose()?,
            websocket: match &listener.websocket {
                None => WebSocket::None,
                Some(settings) => {
                    WebSocket::Opening(Box::new((Upgrade::default(), settings.clone())))
                }
            },
            header: None,
            told: false,
            ended: false,
        })
    }

    /// Where the client is, as far as it is known by now.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether MQTT can be spoken.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.proxy.is_none()
            && self.tls.as_ref().is_none_or(Tls::is_ready)
            && !matches!(self.websocket, WebSocket::Opening(_))
    }

    /// Whether the next bytes may cost the time of a handshake: hundreds of microseconds instead of one.
    #[must_use]
    pub fn is_costly(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_ready())
    }

    /// Whether nothing is left to do: MQTT is spoken directly on the socket from here on.
    #[must_use]
    pub fn is_transparent(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none() && matches!(self.websocket, WebSocket::None)
    }

    /// Memory held for what is unfinished, in bytes.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        let websocket = match &self.websocket {
            WebSocket::None => 0,
            WebSocket::Opening(opening) => opening.0.kept_bytes(),
            WebSocket::Open(frames) => frames.kept_bytes(),
        };
        self.proxy.as_ref().map_or(0, Vec::capacity)
            + self.tls.as_ref().map_or(0, Tls::kept_bytes)
            + websocket
    }

    /// Who the peer is, once: at the first call when the connection is ready.
    pub fn take_identity(&mut self) -> Option<PeerIdentity> {
        if self.told || !self.is_ready() {
            return None;
        }
        self.told = true;
        let header = self.header.take().map(|header| *header).unwrap_or_default();
        let shown = self.tls.as_ref().and_then(Tls::certificate_names);
        let told = header.certificate_common_name.map(|name| CertificateNames {
            common_name: Some(name),
            ..CertificateNames::default()
        });
        Some(PeerIdentity {
            address: self.peer,
            tls: self.tls.is_some() || header.tls,
            resumed: self.tls.as_ref().map(Tls::is_resumed),
            certificate: shown.or(told),
            authority: header.authority,
        })
    }

    /// Bytes from the socket. Bytes of MQTT are appended to `plain`, what has to be answered is appended to `wire`. A peer's
    /// pings are answered only if `answers`: let that be false while it does not read.
    ///
    /// # Errors
    /// When the connection must be closed. `plain` and `wire` may have got something before: the peer should still be told.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        answers: bool,
        scratch: &mut Scratch,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Received, CloseReason> {
        if self.ended {
            return Ok(Received::Ended);
        }
        let outcome = self.receive_proxy(bytes, answers, scratch, plain, wire);
        self.ended |= outcome != Ok(Received::Open);
        outcome
    }

    fn receive_proxy(
        &mut self,
        bytes: &[u8],
        answers: bool,
        scratch: &mut Scratch,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Received, CloseReason> {
        let Some(mut kept) = self.proxy.take() else {
            return self.receive_tls(bytes, answers, scratch, plain, wire);
        };
        kept.extend_from_slice(bytes);
        match proxy::parse(&kept) {
            Err(proxy::Invalid) => Err(CloseReason::ProxyHeader),
            Ok(Parsed::Incomplete) => {
                self.proxy = Some(kept);
                Ok(Received::Open)
            }
            Ok(Parsed::Complete(header, size)) => {
                if let Some(source) = header.source {
                    self.peer = source;
                }
                self.header = Some(header);
                self.receive_tls(&kept[size..], answers, scratch, plain, wire)
            }
        }
    }

    fn receive_tls(
        &mut self,
        bytes: &[u8],
        answers: bool,
        scratch: &mut Scratch,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Received, CloseReason> {
        let Some(tls) = &mut self.tls else {
            return self.receive_websocket(bytes, answers, plain, wire);
        };
        if bytes.is_empty() {
            return Ok(Received::Open);
        }
        if matches!(self.websocket, WebSocket::None) {
            let flow = tls.receive(bytes, &mut scratch.records, plain, wire)?;
            return Ok(match flow {
                tls::Flow::Open => Received::Open,
                tls::Flow::Closed => Received::Ended,
            });
        }
        let mut content = std::mem::take(&mut scratch.content);
        let mut frames = std::mem::take(&mut scratch.frames);
        content.clear();
        frames.clear();
        let flow = tls.receive(bytes, &mut scratch.records, &mut content, wire);
        let mut outcome = self.receive_websocket(&content, answers, plain, &mut frames);
        if flow == Ok(tls::Flow::Closed) && outcome.is_ok() {
            outcome = Ok(Received::Ended);
        }
        if !frames.is_empty()
            && flow.is_ok()
            && let Some(tls) = &mut self.tls
        {
            outcome = tls.send(&frames, wire).and(outcome);
        }
        scratch.content = content;
        scratch.frames = frames;
        flow.and(outcome)
    }

    fn receive_websocket(
        &mut self,
        bytes: &[u8],
        answers: bool,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Received, CloseReason> {
        if bytes.is_empty() {
            return Ok(Received::Open);
        }
        let flow = match &mut self.websocket {
            WebSocket::None => {
                plain.extend_from_slice(bytes);
                return Ok(Received::Open);
            }
            WebSocket::Opening(opening) => {
                let (upgrade, settings) = &mut **opening;
                let Some(accepted) = upgrade.receive(bytes, settings, self.peer, wire)? else {
                    return Ok(Received::Open);
                };
                let Accepted { rest, client } = accepted;
                if let Some(client) = client {
                    // The port is the proxy's own, and tells nothing about the client.
                    self.peer = SocketAddr::new(client, 0);
                }
                let mut frames = Box::new(Frames::default());
                let flow = frames.receive(&rest, answers, plain, wire);
                self.websocket = WebSocket::Open(frames);
                flow?
            }
            WebSocket::Open(frames) => frames.receive(bytes, answers, plain, wire)?,
        };
        Ok(match flow {
            websocket::Flow::Open => Received::Open,
            websocket::Flow::Closed => Received::Ended,
        })
    }

    /// Bytes of MQTT, to be appended to `wire` as the socket wants them. `output` is empty afterwards; large payloads stay
    /// shared unless TLS changes their bytes.
    ///
    /// # Errors
    /// When TLS cannot encrypt any more; the connection must be closed.
    pub fn send(
        &mut self,
        output: &mut Output,
        scratch: &mut Scratch,
        wire: &mut Output,
    ) -> Result<(), CloseReason> {
        if output.is_empty() {
            return Ok(());
        }
        let framed = matches!(self.websocket, WebSocket::Open(_));
        let Some(tls) = &mut self.tls else {
            if framed {
                websocket::write_data_header(output.size(), wire.buffer());
            }
            wire.append(output);
            return Ok(());
        };
        let outcome = match output.as_single() {
            Some(bytes) if !framed => tls.send(bytes, wire.buffer()),
            _ => {
                let joined = &mut scratch.frames;
                joined.clear();
                if framed {
                    websocket::write_data_header(output.size(), joined);
                }
                send_segments(tls, output, joined, wire.buffer())
            }
        };
        output.recycle();
        outcome
    }

    /// What is said before the connection is closed: the peer then knows that nothing was cut off.
    pub fn close(&mut self, scratch: &mut Scratch, wire: &mut Vec<u8>) {
        if !self.is_ready() {
            return;
        }
        let say = matches!(self.websocket, WebSocket::Open(_)) && !self.ended;
        match &mut self.tls {
            None if say => websocket::write_close(websocket::NORMAL, wire),
            None => {}
            Some(tls) => {
                if say {
                    scratch.frames.clear();
                    websocket::write_close(websocket::NORMAL, &mut scratch.frames);
                    if tls.send(&scratch.frames, wire).is_err() {
                        return;
                    }
                }
                tls.close(wire);
            }
        }
        self.ended = true;
    }
}

/// Encrypts segment by segment, small ones together.
fn send_segments(
    tls: &mut Tls,
    output: &Output,
    joined: &mut Vec<u8>,
    wire: &mut Vec<u8>,
) -> Result<(), CloseReason> {
    for segment in output.segments() {
        if joined.len() + segment.len() <= JOINED_SIZE_MAX {
            joined.extend_from_slice(segment);
            continue;
        }
        if !joined.is_empty() {
            tls.send(joined, wire)?;
            joined.clear();
        }
        if segment.len() <= JOINED_SIZE_MAX {
            joined.extend_from_slice(segment);
        } else {
            tls.send(segment, wire)?;
        }
    }
    if joined.is_empty() { Ok(()) } else { tls.send(joined, wire) }
}

#[cfg(test)]
mod tests;

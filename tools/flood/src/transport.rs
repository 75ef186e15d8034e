//! What may stand between a client's socket and MQTT: TLS, WebSocket, or both. The client's side, without I/O.
//!
//! [`Transport`] is what all clients of a run have in common, [`Layer`] belongs to one connection: bytes of the socket go
//! in and bytes of MQTT come out, and the other way round. The engine keeps layers only where there is a transport, so
//! that plain TCP costs one comparison for each event.
//!
//! TLS is rustls' buffered client. It holds a few KiB for each connection, which is the generator's memory and not the
//! broker's.

mod connections;
mod sessions;
mod tls;
mod websocket;

use midge_output::Output;

use crate::statistics::Failure;
pub(crate) use connections::{Connections, Handshakes, News};
use tls::Tls;
pub(crate) use tls::{TlsFiles, TlsTransport};
pub(crate) use websocket::Request;
use websocket::WebSocket;

/// What the clients of a run speak below MQTT.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    /// `None`: no TLS.
    pub tls: Option<TlsTransport>,
    /// `None`: no WebSocket.
    pub websocket: Option<Request>,
}

impl Transport {
    /// What reports call it.
    pub(crate) fn name(&self) -> &'static str {
        match (&self.tls, &self.websocket) {
            (Some(_), None) => "tls",
            (Some(_), Some(_)) => "wss",
            (None, _) => "ws",
        }
    }
}

/// How a connection stands after bytes were received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It goes on.
    Open,
    /// The broker has ended it in good order.
    Ended,
}

/// The layers of one connection.
#[derive(Debug)]
pub(crate) struct Layer {
    tls: Option<Tls>,
    websocket: Option<WebSocket>,
    /// What lies between TLS and WebSocket, used again.
    content: Vec<u8>,
}

impl Layer {
    /// A new connection's layers. What it says first is appended to `wire`.
    pub(crate) fn open(transport: &Transport, wire: &mut Vec<u8>) -> Result<Self, Failure> {
        let mut layer = Self {
            tls: transport.tls.as_ref().map(Tls::new).transpose()?,
            websocket: transport.websocket.as_ref().map(|_| WebSocket::default()),
            content: Vec::new(),
        };
        let request = transport.websocket.as_ref().map(Request::encode).unwrap_or_default();
        layer.write(&request, wire)?;
        Ok(layer)
    }

    /// Whether MQTT can be spoken.
    pub(crate) fn is_ready(&self) -> bool {
        self.tls.as_ref().is_none_or(Tls::is_ready)
            && self.websocket.as_ref().is_none_or(WebSocket::is_open)
    }

    /// Whether TLS resumed an earlier session; `None`: there is no TLS.
    pub(crate) fn is_resumed(&self) -> Option<bool> {
        self.tls.as_ref().map(Tls::is_resumed)
    }

    /// Bytes of the socket. Those of MQTT are appended to `plain`, answers of the layers themselves to `wire`.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Flow, Failure> {
        let Self { tls, websocket, content } = self;
        match (tls, websocket) {
            (None, None) => plain.extend_from_slice(bytes),
            (None, Some(websocket)) => return websocket.receive(bytes, plain, wire),
            (Some(tls), None) => return tls.receive(bytes, plain, wire),
            (Some(tls), Some(websocket)) => {
                content.clear();
                let ended = tls.receive(bytes, content, wire)?;
                let mut frames = Vec::new();
                let flow = websocket.receive(content, plain, &mut frames)?;
                tls.send(&[&frames], wire)?;
                return Ok(if ended == Flow::Ended { ended } else { flow });
            }
        }
        Ok(Flow::Open)
    }

    /// Bytes of MQTT, appended to `wire` as the socket wants them. `output` is not changed.
    pub(crate) fn send(&mut self, output: &Output, wire: &mut Vec<u8>) -> Result<(), Failure> {
        match &mut self.websocket {
            None => match (&mut self.tls, output.as_single()) {
                (Some(tls), Some(bytes)) => tls.send(&[bytes], wire),
                _ => self.write(&output.segments().collect::<Vec<_>>().concat(), wire),
            },
            Some(websocket) => {
                let mut frame = std::mem::take(&mut self.content);
                frame.clear();
                websocket.frame(output.size(), output.segments(), &mut frame);
                let outcome = self.write(&frame, wire);
                self.content = frame;
                outcome
            }
        }
    }

    fn write(&mut self, bytes: &[u8], wire: &mut Vec<u8>) -> Result<(), Failure> {
        match &mut self.tls {
            Some(tls) => tls.send(&[bytes], wire),
            None => {
                wire.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;

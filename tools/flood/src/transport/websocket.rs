//! The client's side of RFC 6455, as far as MQTT needs it.
//!
//! The key of the request is the example of the RFC, so that the answer that proves an upgrade is known without a hash:
//! this side checks a broker, it does not protect itself from caches.

use super::Flow;
use crate::statistics::Failure;

/// What a broker's answer to the request may take, bytes.
const ANSWER_SIZE_MAX: usize = 8 * 1024;

/// RFC 6455, 1.3: a key, and what the server makes of it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Control frames carry no more than this [RFC 6455, 5.5].
const CONTROL_SIZE_MAX: u64 = 125;

/// The request that every client of a run opens its connection with.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// With the port: `localhost:8080`.
    pub host: String,
    pub path: String,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
            self.path, self.host
        )
        .into_bytes()
    }
}

/// The WebSocket of one connection.
#[derive(Debug, Default)]
pub(crate) struct WebSocket {
    open: bool,
    /// The broker's answer or a frame's header (of a control frame, all of it), as far as it has come.
    kept: Vec<u8>,
    /// Bytes of a data frame that are still to come.
    data_left: u64,
    /// Of the next mask: different for each frame, so that a broker has something to undo.
    mask: u32,
}

impl WebSocket {
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Flow, Failure> {
        if self.open {
            return self.receive_frames(bytes, plain, wire);
        }
        self.kept.extend_from_slice(bytes);
        let Some(end) = find(&self.kept, b"\r\n\r\n") else {
            return if self.kept.len() > ANSWER_SIZE_MAX {
                Err(Failure::WebSocket)
            } else {
                Ok(Flow::Open)
            };
        };
        let answer = std::mem::take(&mut self.kept);
        check_answer(&answer[..end])?;
        self.open = true;
        self.receive_frames(&answer[end + 4..], plain, wire)
    }

    fn receive_frames(
        &mut self,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Flow, Failure> {
        while !bytes.is_empty() {
            if self.data_left > 0 {
                let size = bytes.len().min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
                plain.extend_from_slice(&bytes[..size]);
                self.data_left -= size as u64;
                bytes = &bytes[size..];
                continue;
            }
            // Byte by byte: a header has 2 to 10 of them, a control frame 125 more.
            self.kept.push(bytes[0]);
            bytes = &bytes[1..];
            if let Some(frame) = Frame::read(&self.kept)? {
                let flow = self.take(frame, wire)?;
                if flow == Flow::Ended {
                    return Ok(flow);
                }
            }
        }
        Ok(Flow::Open)
    }

    /// A header that is complete, or a control frame.
    fn take(&mut self, frame: Frame, wire: &mut Vec<u8>) -> Result<Flow, Failure> {
        match frame {
            Frame::Data(size) => {
                self.data_left = size;
                self.kept.clear();
            }
            Frame::Control(kind, start) => {
                let kept = std::mem::take(&mut self.kept);
                match kind {
                    CLOSE => return Ok(Flow::Ended),
                    PING => self.write(PONG, kept.len() - start, [&kept[start..]], wire),
                    PONG => {}
                    _ => return Err(Failure::WebSocket),
                }
            }
        }
        Ok(Flow::Open)
    }

    /// One binary frame of `size` bytes.
    pub(crate) fn frame<'a>(
        &mut self,
        size: usize,
        parts: impl IntoIterator<Item = &'a [u8]>,
        wire: &mut Vec<u8>,
    ) {
        self.write(BINARY, size, parts, wire);
    }

    fn write<'a>(
        &mut self,
        kind: u8,
        size: usize,
        parts: impl IntoIterator<Item = &'a [u8]>,
        wire: &mut Vec<u8>,
    ) {
        wire.push(FINAL | kind);
        match size {
            0..=125 => wire.push(MASKED | size as u8),
            126..=65_535 => {
                wire.push(MASKED | 126);
                wire.extend_from_slice(&(size as u16).to_be_bytes());
            }
            _ => {
                wire.push(MASKED | 127);
                wire.extend_from_slice(&(size as u64).to_be_bytes());
            }
        }
        // A step of Weyl's sequence.
        self.mask = self.mask.wrapping_add(0x9E37_79B9);
        let mask = self.mask.to_be_bytes();
        wire.extend_from_slice(&mask);
        let start = wire.len();
        for part in parts {
            wire.extend_from_slice(part);
        }
        for (place, byte) in wire[start..].iter_mut().enumerate() {
            *byte ^= mask[place % 4];
        }
    }
}

/// What the bytes kept so far are.
enum Frame {
    /// The header of a data frame of so many bytes.
    Data(u64),
    /// A whole control frame, and where its content begins.
    Control(u8, usize),
}

impl Frame {
    fn read(bytes: &[u8]) -> Result<Option<Self>, Failure> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        let (size, header) = match second & 0x7f {
            126 => match rest.first_chunk() {
                Some(size) => (u64::from(u16::from_be_bytes(*size)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(size) => (u64::from_be_bytes(*size), 10),
                None => return Ok(None),
            },
            size => (u64::from(size), 2),
        };
        let kind = first & 0x0f;
        // No extension was agreed on, and a server does not mask [RFC 6455, 5.1].
        if first & 0x70 != 0 || second & MASKED != 0 {
            return Err(Failure::WebSocket);
        }
        match kind {
            CONTINUATION | BINARY => Ok(Some(Self::Data(size))),
            _ if size > CONTROL_SIZE_MAX => Err(Failure::WebSocket),
            _ if ((bytes.len() - header) as u64) < size => Ok(None),
            _ => Ok(Some(Self::Control(kind, header))),
        }
    }
}

fn check_answer(answer: &[u8]) -> Result<(), Failure> {
    let text = std::str::from_utf8(answer).map_err(|_| Failure::WebSocket)?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).unwrap_or_default();
    let status: u16 = status.get(..3).and_then(|code| code.parse().ok()).unwrap_or_default();
    if status != 101 {
        return Err(Failure::Http(status));
    }
    let accepted = lines.filter_map(|line| line.split_once(':')).any(|(name, value)| {
        name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
    });
    if accepted { Ok(()) } else { Err(Failure::WebSocket) }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

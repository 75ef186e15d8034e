//! TLS of one connection, by rustls' unbuffered interface.
//!
//! rustls keeps the keys; the bytes are ours. What has come of an unfinished record is kept until the rest comes, and an
//! idle connection keeps nothing.

use std::fmt;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};
use rustls::{CertificateError, Error, HandshakeKind};

use crate::certificate::CertificateNames;
use crate::close::CloseReason;
use crate::tls_settings::TlsSettings;

/// What is kept of an unfinished handshake: rustls takes messages of 64 KiB at most, in records with headers of their own.
const HANDSHAKE_KEPT_MAX: usize = 80 * 1024;

/// What is kept afterwards: one record (RFC 8446 §5.2) and its header, in round numbers.
const RECORD_KEPT_MAX: usize = 20 * 1024;

/// What a record adds to its content, generously: header, content type, nonce, tag.
const RECORD_OVERHEAD: usize = 64;
const RECORD_CONTENT: usize = 16 * 1024;

pub(crate) struct Tls {
    connection: UnbufferedServerConnection,
    /// Received and not used.
    kept: Vec<u8>,
    ready: bool,
    /// rustls has given up, and is not asked again: its state after an error is for nobody's use.
    failed: bool,
}

/// Without rustls' part, which holds keys.
impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.len();
        formatter
            .debug_struct("Tls")
            .field("kept", &kept)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// Whether the peer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Open,
    /// It has said `close_notify`.
    Closed,
}

impl Tls {
    pub(crate) fn new(settings: &TlsSettings) -> Result<Self, CloseReason> {
        let connection = UnbufferedServerConnection::new(settings.config.clone())
            .map_err(|_| CloseReason::TlsInternal)?;
        Ok(Self { connection, kept: Vec::new(), ready: false, failed: false })
    }

    /// The handshake is done.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Memory held for unfinished records, in bytes.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.capacity()
    }

    /// Whether the handshake resumed an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The names in the certificate that the client has shown.
    pub(crate) fn certificate_names(&self) -> Option<CertificateNames> {
        let chain = self.connection.peer_certificates()?;
        chain.first().map(|certificate| CertificateNames::from_der(certificate))
    }

    /// Content goes to `plain`, answers of TLS itself to `wire`. `room` is memory that is used again.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        room: &mut Vec<u8>,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Flow, CloseReason> {
        if self.failed {
            return Err(CloseReason::TlsInternal);
        }
        room.clear();
        room.extend_from_slice(&std::mem::take(&mut self.kept));
        room.extend_from_slice(bytes);
        let mut at = 0;
        let mut flow = Flow::Open;
        let outcome = loop {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut room[at..]);
            at += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    let mut more = 0;
                    let mut failed = None;
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                plain.extend_from_slice(record.payload);
                                more += record.discard;
                            }
                            Err(error) => {
                                failed = Some(reason(&error));
                                break;
                            }
                        }
                    }
                    at += more;
                    if let Some(reason) = failed {
                        break Err(reason);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, wire),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.ready = true;
                    break Ok(());
                }
                Ok(ConnectionState::BlockedHandshake) => break Ok(()),
                Ok(ConnectionState::PeerClosed) => flow = Flow::Closed,
                Ok(ConnectionState::Closed) => {
                    flow = Flow::Closed;
                    break Ok(());
                }
                // Early data is never offered.
                Ok(_) => break Err(CloseReason::TlsInternal),
                Err(error) => break Err(reason(&error)),
            }
        };
        if let Err(reason) = outcome {
            self.failed = true;
            self.encode_last_words(&mut room[at..], wire);
            return Err(reason);
        }
        let rest = &room[at..];
        let bound = if self.ready { RECORD_KEPT_MAX } else { HANDSHAKE_KEPT_MAX };
        if rest.len() > bound {
            self.failed = true;
            return Err(CloseReason::TlsInvalid);
        }
        if flow == Flow::Open && !rest.is_empty() {
            self.kept = rest.to_vec();
        }
        Ok(flow)
    }

    /// What rustls wants to tell the peer about a failure. That comes before anything else that it does; behind the alert it
    /// must not be asked for more.
    fn encode_last_words(&mut self, room: &mut [u8], wire: &mut Vec<u8>) {
        loop {
            let start = wire.len();
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(room);
            let Ok(ConnectionState::EncodeTlsData(data)) = state else { return };
            encode(data, wire);
            if is_alert(&wire[start..]) {
                return;
            }
        }
    }

    /// Encrypts; may be called once the connection is ready.
    pub(crate) fn send(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), CloseReason> {
        let records = plain.len() / RECORD_CONTENT + 1;
        self.write(wire, plain.len() + records * RECORD_OVERHEAD, |traffic, out| {
            traffic.encrypt(plain, out)
        })
    }

    /// Says `close_notify`, once the connection is ready.
    pub(crate) fn close(&mut self, wire: &mut Vec<u8>) {
        // A connection that cannot say goodbye is closed without.
        let _ = self.write(wire, RECORD_OVERHEAD, |traffic, out| traffic.queue_close_notify(out));
    }

    fn write(
        &mut self,
        wire: &mut Vec<u8>,
        room: usize,
        mut put: impl FnMut(
            &mut rustls::unbuffered::WriteTraffic<'_, ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), CloseReason> {
        while !self.failed {
            // The record that is still coming lies here, and rustls wants to see it each time.
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut self.kept);
            let outcome = match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let start = wire.len();
                    let mut room = room;
                    loop {
                        wire.resize(start + room, 0);
                        match put(&mut traffic, &mut wire[start..]) {
                            Ok(size) => {
                                wire.truncate(start + size);
                                break Some(Ok(()));
                            }
                            Err(EncryptError::InsufficientSize(size))
                                if size.required_size > room =>
                            {
                                room = size.required_size;
                            }
                            Err(_) => {
                                wire.truncate(start);
                                break Some(Err(CloseReason::TlsInternal));
                            }
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, wire);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => None,
                Ok(_) => Some(Err(CloseReason::TlsInternal)),
                Err(error) => Some(Err(reason(&error))),
            };
            self.kept.drain(..discard);
            if let Some(outcome) = outcome {
                self.failed |= outcome.is_err();
                return outcome;
            }
        }
        Err(CloseReason::TlsInternal)
    }
}

fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, wire: &mut Vec<u8>) {
    let start = wire.len();
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        wire.resize(start + size.required_size, 0);
        let written = data.encode(&mut wire[start..]).unwrap_or(0);
        wire.truncate(start + written);
    }
}

/// An alert: by its type, or (TLS 1.3, where the type is encrypted too) by its size of two bytes, one of type and a tag of 16,
/// which no handshake message has.
fn is_alert(record: &[u8]) -> bool {
    const ALERT: u8 = 21;
    const ENCRYPTED: u8 = 23;
    match record.first() {
        Some(&ALERT) => true,
        Some(&ENCRYPTED) => record.len() == 5 + 2 + 1 + 16,
        _ => false,
    }
}

/// rustls' errors by who is at fault.
fn reason(error: &Error) -> CloseReason {
    match error {
        Error::NoCertificatesPresented => CloseReason::TlsNoCertificate,
        Error::InvalidCertificate(
            CertificateError::Revoked | CertificateError::UnknownRevocationStatus,
        ) => CloseReason::TlsRevoked,
        Error::InvalidCertificate(_) => CloseReason::TlsCertificate,
        Error::AlertReceived(_) => CloseReason::TlsAlert,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => CloseReason::TlsIncompatible,
        Error::FailedToGetCurrentTime
        | Error::FailedToGetRandomBytes
        | Error::EncryptError
        | Error::General(_)
        | Error::HandshakeNotComplete => CloseReason::TlsInternal,
        _ => CloseReason::TlsInvalid,
    }
}

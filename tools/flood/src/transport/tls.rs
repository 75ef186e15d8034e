//! TLS of a client, by rustls.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, DigitallySignedStruct, Error, HandshakeKind,
    NamedGroup, RootCertStore, SignatureScheme, version,
};

use super::Flow;
use super::sessions::Sessions;
use crate::statistics::Failure;

/// Where Debian and its kin keep the authorities that everybody trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What the command line says about TLS.
#[derive(Debug, Default)]
pub(crate) struct TlsFiles {
    /// Authorities of the broker's certificate; `None`: the system's.
    pub cafile: Option<PathBuf>,
    /// Whether any certificate will do.
    pub insecure: bool,
    /// The clients' certificate, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether each handshake is a full one.
    pub full_handshakes: bool,
    /// Only TLS 1.2.
    pub only_tls12: bool,
    /// Offer no post-quantum key exchange.
    pub classical: bool,
}

/// TLS of all clients of a run.
#[derive(Clone, Debug)]
pub(crate) struct TlsTransport {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsTransport {
    /// Reads the files. `host` is the name or address that the broker's certificate must be for.
    pub(crate) fn new(
        files: &TlsFiles,
        host: &str,
        protocol_name: &'static str,
    ) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("--host {host}: no name that a certificate could be for"))?;
        let mut provider = aws_lc_rs::default_provider();
        if files.classical {
            provider.kx_groups.retain(|group| group.name() != NamedGroup::X25519MLKEM768);
        }
        let provider = Arc::new(provider);
        let versions = if files.only_tls12 { &[&version::TLS12][..] } else { rustls::ALL_VERSIONS };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| format!("TLS: {error}"))?;
        let builder = if files.insecure {
            let verifier = Arc::new(Anybody(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(authorities(files)?)
        };
        let mut config = with_identity(builder, files)?;
        config.alpn_protocols = vec![protocol_name.as_bytes().to_vec()];
        config.resumption = if files.full_handshakes {
            Resumption::disabled()
        } else {
            Resumption::store(Arc::new(Sessions::default()))
        };
        Ok(Self { config: Arc::new(config), name })
    }
}

fn authorities(files: &TlsFiles) -> Result<RootCertStore, String> {
    let path = files.cafile.clone().unwrap_or_else(|| SYSTEM_AUTHORITIES.into());
    let shown = path.display();
    let hint = if files.cafile.is_some() { "" } else { "; give --cafile or --insecure" };
    let list = CertificateDer::pem_file_iter(&path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("--cafile {shown}: {error}{hint}"))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(list);
    if added == 0 {
        return Err(format!("--cafile {shown}: holds no certificate in PEM{hint}"));
    }
    Ok(roots)
}

fn with_identity(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    files: &TlsFiles,
) -> Result<ClientConfig, String> {
    let Some((certificate, key)) = &files.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let (shown, key_shown) = (certificate.display(), key.display());
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("--cert {shown}: {error}"))?;
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|error| format!("--key {key_shown}: {error}"))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("--cert {shown}, --key {key_shown}: {error}"))
}

/// TLS of one connection.
#[derive(Debug)]
pub(crate) struct Tls(Box<ClientConnection>);

impl Tls {
    pub(crate) fn new(transport: &TlsTransport) -> Result<Self, Failure> {
        let mut connection =
            ClientConnection::new(Arc::clone(&transport.config), transport.name.clone())
                .map_err(|error| failure(&error))?;
        // What goes in comes out in the same call.
        connection.set_buffer_limit(None);
        Ok(Self(Box::new(connection)))
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.0.is_handshaking()
    }

    /// Whether the handshake resumed an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.0.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(crate) fn receive(
        &mut self,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Flow, Failure> {
        let mut ended = false;
        while !bytes.is_empty() {
            // Reading from and writing to memory does not fail, but for records that no buffer can take.
            self.0.read_tls(&mut bytes).map_err(|_| Failure::Tls)?;
            let outcome = self.0.process_new_packets();
            let _ = self.flush(wire);
            let state = outcome.map_err(|error| failure(&error))?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            if start < plain.len() {
                self.0.reader().read_exact(&mut plain[start..]).map_err(|_| Failure::Tls)?;
            }
            ended |= state.peer_has_closed();
            if ended {
                break;
            }
        }
        Ok(if ended { Flow::Ended } else { Flow::Open })
    }

    /// What is sent before the handshake is done goes out with its end.
    pub(crate) fn send(&mut self, parts: &[&[u8]], wire: &mut Vec<u8>) -> Result<(), Failure> {
        for part in parts {
            self.0.writer().write_all(part).map_err(|_| Failure::Tls)?;
        }
        self.flush(wire)
    }

    fn flush(&mut self, wire: &mut Vec<u8>) -> Result<(), Failure> {
        while self.0.wants_write() {
            self.0.write_tls(wire).map_err(|_| Failure::Tls)?;
        }
        Ok(())
    }
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Failure::TlsCertificate,
        Error::AlertReceived(alert) => Failure::TlsAlert(u8::from(*alert)),
        _ => Failure::Tls,
    }
}

/// `--insecure`: any certificate will do, but whoever shows it must have its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

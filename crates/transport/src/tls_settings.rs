//! TLS as a listener has it: certificates, keys, client authorities and revocation lists, from PEM.
//!
//! Files are read by the program; here their content comes with their name, so that every refusal can say which file it is
//! about.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

/// Tickets that a client gets after a handshake with TLS 1.3. An MQTT client needs one for its next connection; each costs
/// an encryption and 200 bytes or so.
const TICKETS: usize = 1;

/// One PEM file, read.
#[derive(Clone)]
pub struct PemFile {
    /// How the operator called it.
    pub name: String,
    /// Its content. Never shown.
    pub bytes: Vec<u8>,
}

/// Without the content: it may be a key.
impl fmt::Debug for PemFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PemFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A certificate chain, its key, and for which names it is.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// Host names for which it is chosen (SNI): `a.example` or `*.a.example`. Empty: for all that no other is for.
    pub server_names: Vec<String>,
    /// The server's certificate first, then those of the authorities between it and the root.
    pub certificate: PemFile,
    /// PKCS#8, PKCS#1 (RSA) or SEC1 (elliptic curve).
    pub key: PemFile,
}

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They are asked; one that is shown must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// What a [`TlsSettings`] is made of.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The first one is also for clients that ask for no name, or for an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show a certificate.
    pub client_certificates: ClientCertificates,
    /// Authorities of client certificates.
    pub client_ca: Option<PemFile>,
    /// Revocation lists. Empty: nobody is revoked. Otherwise each client certificate's authority must have one here.
    pub revocation_lists: Vec<PemFile>,
    /// Refuse TLS 1.2.
    pub only_tls13: bool,
    /// Names of cipher suites ([`cipher_suites`]), the most wanted first. Empty: all, as the client prefers.
    pub cipher_suites: Vec<String>,
    /// Protocol name that is agreed on with clients that offer any (ALPN): `mqtt`, or `http/1.1` below WebSocket.
    pub protocol_name: &'static str,
}

/// TLS of one listener, ready for connections.
#[derive(Debug)]
pub struct TlsSettings {
    pub(crate) config: Arc<ServerConfig>,
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettingsError {
    /// The file, as the operator called it; `None` when it is about no file.
    pub file: Option<String>,
    /// Why, and what to do.
    pub reason: String,
}

impl fmt::Display for TlsSettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(formatter, "{file}: {}", self.reason),
            None => formatter.write_str(&self.reason),
        }
    }
}

impl std::error::Error for TlsSettingsError {}

fn refuse(file: &PemFile, reason: impl Into<String>) -> TlsSettingsError {
    TlsSettingsError { file: Some(file.name.clone()), reason: reason.into() }
}

/// The names of all cipher suites there are, the preferred first.
#[must_use]
pub fn cipher_suites() -> Vec<&'static str> {
    aws_lc_rs::ALL_CIPHER_SUITES.iter().filter_map(|suite| suite.suite().as_str()).collect()
}

impl TlsSettings {
    /// Reads and checks everything: certificates with their keys and names, authorities, lists.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn new(files: &TlsFiles) -> Result<Self, TlsSettingsError> {
        let provider = Arc::new(provider(&files.cipher_suites)?);
        let versions: &[&SupportedProtocolVersion] =
            if files.only_tls13 { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
        let resolver = Certificates::new(&files.certificates, &provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| TlsSettingsError { file: None, reason: error.to_string() })?;
        let builder = match files.client_certificates {
            ClientCertificates::None => builder.with_no_client_auth(),
            wanted => builder.with_client_cert_verifier(client_verifier(files, wanted, &provider)?),
        };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![files.protocol_name.as_bytes().to_vec()];
        config.ignore_client_order = !files.cipher_suites.is_empty();
        // Sessions are resumed with tickets only: nothing is kept here, and every shard understands them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new()
            .map_err(|error| TlsSettingsError { file: None, reason: error.to_string() })?;
        config.send_tls13_tickets = TICKETS;
        Ok(Self { config: Arc::new(config) })
    }
}

fn provider(names: &[String]) -> Result<CryptoProvider, TlsSettingsError> {
    let mut provider = aws_lc_rs::default_provider();
    if !names.is_empty() {
        provider.cipher_suites.clear();
    }
    for name in names {
        let suite = aws_lc_rs::ALL_CIPHER_SUITES
            .iter()
            .find(|suite| suite.suite().as_str() == Some(name))
            .ok_or_else(|| TlsSettingsError {
                file: None,
                reason: format!("no cipher suite {name}; there are {}", cipher_suites().join(", ")),
            })?;
        provider.cipher_suites.push(*suite);
    }
    Ok(provider)
}

fn client_verifier(
    files: &TlsFiles,
    wanted: ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsSettingsError> {
    let Some(authorities) = &files.client_ca else {
        return Err(TlsSettingsError {
            file: None,
            reason: "client certificates need the authorities that they come from".into(),
        });
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate).map_err(|error| {
            refuse(authorities, format!("holds a certificate that is no authority: {error}"))
        })?;
    }
    let mut lists = Vec::new();
    for file in &files.revocation_lists {
        let before = lists.len();
        for list in CertificateRevocationListDer::pem_slice_iter(&file.bytes) {
            lists.push(list.map_err(|error| refuse(file, not_pem(&error)))?);
        }
        if lists.len() == before {
            return Err(refuse(file, "holds no revocation list (X509 CRL) in PEM"));
        }
        // One at a time, so that a bad one is named.
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(provider))
            .with_crls(lists[before..].iter().cloned())
            .build()
            .map_err(|error| {
                let needed = "a list of version 2 with a CRL number (RFC 5280) is needed";
                refuse(file, format!("cannot be used: {error}; {needed}"))
            })?;
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .with_crls(lists)
            .only_check_end_entity_revocation();
    if wanted == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| refuse(authorities, format!("cannot be used: {error}")))
}

fn not_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "holds nothing of the kind in PEM".into(),
        other => format!("is no PEM: {other}"),
    }
}

fn certificates(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.bytes).collect();
    let list = list.map_err(|error| refuse(file, not_pem(&error)))?;
    if list.is_empty() {
        return Err(refuse(file, "holds no certificate in PEM"));
    }
    Ok(list)
}

/// Chooses a certificate by the name that the client asks for.
#[derive(Debug)]
struct Certificates {
    default: Arc<CertifiedKey>,
    /// In lower case; a wildcard without its star: `.a.example`.
    named: Vec<(String, Arc<CertifiedKey>)>,
}

impl Certificates {
    fn new(list: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, TlsSettingsError> {
        let mut default = None;
        let mut named = Vec::new();
        for files in list {
            let chain = certificates(&files.certificate)?;
            let end_entity = chain[0].clone();
            let key =
                PrivateKeyDer::from_pem_slice(&files.key.bytes).map_err(|error| match error {
                    pem::Error::NoItemsFound => {
                        let encrypted = b"ENCRYPTED PRIVATE KEY";
                        if files.key.bytes.windows(encrypted.len()).any(|part| part == encrypted) {
                            refuse(
                                &files.key,
                                "holds an encrypted key; store it without a passphrase",
                            )
                        } else {
                            refuse(&files.key, "holds no private key in PEM")
                        }
                    }
                    other => refuse(&files.key, not_pem(&other)),
                })?;
            let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
                let reason = match error {
                    rustls::Error::InconsistentKeys(_) => {
                        format!("is not the key of {}", files.certificate.name)
                    }
                    rustls::Error::InvalidCertificate(_) => {
                        return refuse(&files.certificate, format!("cannot be used: {error}"));
                    }
                    other => format!("cannot be used: {other}"),
                };
                refuse(&files.key, reason)
            })?;
            let parsed = ParsedCertificate::try_from(&end_entity)
                .map_err(|error| refuse(&files.certificate, format!("cannot be used: {error}")))?;
            let certified = Arc::new(certified);
            for name in &files.server_names {
                let name = name.to_ascii_lowercase();
                check_name(&name, &parsed, &files.certificate)?;
                named.push((
                    name.strip_prefix('*').unwrap_or(&name).to_owned(),
                    Arc::clone(&certified),
                ));
            }
            default.get_or_insert(certified);
        }
        match default {
            Some(default) => Ok(Self { default, named }),
            None => Err(TlsSettingsError { file: None, reason: "no certificate".into() }),
        }
    }

    fn choose(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return &self.default };
        let wildcard = name.find('.').map(|dot| &name[dot..]);
        let find = |wanted: &str| self.named.iter().find(|(own, _)| own == wanted);
        find(&name)
            .or_else(|| wildcard.and_then(find))
            .map_or(&self.default, |(_, certified)| certified)
    }
}

/// A certificate must be for the names for which it is chosen, or clients would refuse it.
fn check_name(
    name: &str,
    parsed: &ParsedCertificate<'_>,
    file: &PemFile,
) -> Result<(), TlsSettingsError> {
    // What a wildcard stands for.
    let example = match name.strip_prefix('*') {
        Some(rest) => format!("x{rest}"),
        None => name.to_owned(),
    };
    let server_name = ServerName::try_from(example)
        .map_err(|_| refuse(file, format!("cannot be chosen for `{name}`: no host name")))?;
    rustls::client::verify_server_name(parsed, &server_name)
        .map_err(|_| refuse(file, format!("is not for the server name `{name}`")))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.choose(hello.server_name())))
    }
}

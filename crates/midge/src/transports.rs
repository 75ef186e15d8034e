//! What each listener speaks: from settings and certificate files to the layers of its connections.
//!
//! Files are read here, at the start and at SIGHUP. What cannot be used is refused as a whole: at the start the broker does
//! not begin, later it keeps what it has.

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use midge_config::{ClientCertificates, Listener, NamedCertificate, Tls, TlsVersion};
use midge_transport::{
    CertificateFiles, PemFile, ProxySettings, TlsFiles, TlsSettings, WebSocketSettings,
};

use crate::{failure::Failure, settings::Settings};

/// Bytes of one file: a bundle of every public authority is a quarter of it.
const FILE_SIZE_MAX: u64 = 1024 * 1024;

/// Bytes of a revocation list, which grows with what is revoked.
const LIST_SIZE_MAX: u64 = 64 * 1024 * 1024;

/// Layers by listener, as the shards take them.
pub(crate) type Layers = Arc<[Arc<midge_transport::Listener>]>;

/// What the listeners speak now, and how to read it again.
#[derive(Debug)]
pub(crate) struct Transports {
    listeners: Vec<Listener>,
    layers: Layers,
    /// Of the files behind each listener's TLS: what has not changed is kept, with the keys of its tickets.
    digests: Vec<u64>,
    hasher: RandomState,
}

/// One problem: the key that it is about, and a sentence.
type Problem = (String, String);

impl Transports {
    /// Reads all files. Warnings are for the log, which does not run yet.
    ///
    /// # Errors
    /// Every problem, each with its place in the configuration.
    pub(crate) fn load(settings: &Settings) -> Result<(Self, Vec<String>), Failure> {
        let mut transports = Self {
            listeners: settings.config().listeners.clone(),
            layers: Arc::default(),
            digests: Vec::new(),
            hasher: RandomState::new(),
        };
        let mut warnings = Vec::new();
        match transports.read(&mut warnings) {
            Ok((layers, digests)) => {
                transports.layers = layers;
                transports.digests = digests;
                Ok((transports, warnings))
            }
            Err(problems) => Err(Failure::Configuration(
                problems.iter().map(|(key, what)| settings.loaded.problem(key, what)).collect(),
            )),
        }
    }

    /// For the shards.
    pub(crate) fn layers(&self) -> Layers {
        Arc::clone(&self.layers)
    }

    /// Whether any listener has files to read again.
    pub(crate) fn has_files(&self) -> bool {
        self.listeners.iter().any(|listener| listener.tls.is_some())
    }

    /// Reads all files again. `None`: nothing has changed.
    ///
    /// # Errors
    /// Every problem as a sentence; nothing has changed then.
    pub(crate) fn reload(&mut self) -> Result<Option<Layers>, Vec<String>> {
        let mut warnings = Vec::new();
        let (layers, digests) = self.read(&mut warnings).map_err(|problems| {
            problems.into_iter().map(|(key, what)| format!("{key}: {what}")).collect::<Vec<_>>()
        })?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        if digests == self.digests {
            return Ok(None);
        }
        self.digests = digests;
        self.layers = layers;
        Ok(Some(self.layers()))
    }

    fn read(&self, warnings: &mut Vec<String>) -> Result<(Layers, Vec<u64>), Vec<Problem>> {
        let (mut layers, mut digests, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (index, listener) in self.listeners.iter().enumerate() {
            let key = format!("listeners[{index}]");
            let mut digest = 0;
            let tls = match &listener.tls {
                None => None,
                Some(tls) => match read_tls(tls, listener, &format!("{key}.tls"), warnings) {
                    Ok(files) => {
                        digest = self.digest(&files);
                        let same = self.digests.get(index) == Some(&digest);
                        let earlier = self.layers.get(index).filter(|_| same);
                        match earlier.and_then(|layer| layer.tls.clone()) {
                            Some(earlier) => Some(earlier),
                            None => match TlsSettings::new(&files) {
                                Ok(settings) => Some(Arc::new(settings)),
                                Err(error) => {
                                    problems.push((format!("{key}.tls"), error.to_string()));
                                    None
                                }
                            },
                        }
                    }
                    Err(mut found) => {
                        problems.append(&mut found);
                        None
                    }
                },
            };
            digests.push(digest);
            layers.push(Arc::new(midge_transport::Listener {
                proxy: listener.proxy_protocol.as_ref().map(|proxy| ProxySettings {
                    trusted: networks(&proxy.trusted),
                    trust_all: listener.address.ip().is_none(),
                }),
                tls,
                websocket: listener.protocol.has_websocket().then(|| WebSocketSettings {
                    path: listener.websocket.path.clone(),
                    origins: listener.websocket.origins.clone(),
                    trusted_proxies: networks(&listener.websocket.trusted_proxies),
                }),
            }));
        }
        if problems.is_empty() { Ok((layers.into(), digests)) } else { Err(problems) }
    }

    fn digest(&self, files: &TlsFiles) -> u64 {
        let bytes = |file: &PemFile| self.hasher.hash_one(&file.bytes);
        let certificates: Vec<(u64, u64)> = files
            .certificates
            .iter()
            .map(|files| (bytes(&files.certificate), bytes(&files.key)))
            .collect();
        let lists: Vec<u64> = files.revocation_lists.iter().map(bytes).collect();
        self.hasher.hash_one((certificates, files.client_ca.as_ref().map(bytes), lists))
    }
}

/// The configuration's validation has read them once already.
fn networks(texts: &[String]) -> Vec<midge_transport::Network> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn read_tls(
    tls: &Tls,
    listener: &Listener,
    key: &str,
    warnings: &mut Vec<String>,
) -> Result<TlsFiles, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut read = |path: &Path, field: &str, size_max: u64| {
        read_file(path, size_max)
            .map_err(|reason| problems.push((format!("{key}.{field}"), reason)))
            .ok()
    };
    let first = NamedCertificate {
        server_names: Vec::new(),
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
    };
    let mut certificates = Vec::new();
    for (place, named) in std::iter::once(&first).chain(&tls.certificates).enumerate() {
        let field = |name: &str| match place {
            0 => name.to_owned(),
            place => format!("certificates[{}].{name}", place - 1),
        };
        let certificate = read(&named.certificate, &field("certificate"), FILE_SIZE_MAX);
        let private = read(&named.key, &field("key"), FILE_SIZE_MAX);
        if private.is_some() && is_readable_by_others(&named.key) {
            warnings.push(format!(
                "{}: others may read this private key; chmod o-r it",
                named.key.display()
            ));
        }
        if let (Some(certificate), Some(key)) = (certificate, private) {
            let server_names = named.server_names.clone();
            certificates.push(CertificateFiles { server_names, certificate, key });
        }
    }
    let client_ca = tls.client_ca.as_ref().and_then(|path| read(path, "client_ca", FILE_SIZE_MAX));
    let revocation_lists = tls
        .crl
        .iter()
        .enumerate()
        .filter_map(|(place, path)| read(path, &format!("crl[{place}]"), LIST_SIZE_MAX))
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(TlsFiles {
        certificates,
        client_certificates: match tls.client_certificates {
            ClientCertificates::None => midge_transport::ClientCertificates::None,
            ClientCertificates::Optional => midge_transport::ClientCertificates::Optional,
            ClientCertificates::Required => midge_transport::ClientCertificates::Required,
        },
        client_ca,
        revocation_lists,
        only_tls13: tls.minimum_version == TlsVersion::Tls13,
        cipher_suites: tls.cipher_suites.clone(),
        protocol_name: if listener.protocol.has_websocket() { "http/1.1" } else { "mqtt" },
    })
}

fn read_file(path: &Path, size_max: u64) -> Result<PemFile, String> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(size_max + 1).read_to_end(&mut bytes)).map_err(
        |error| {
            let reason = error.to_string();
            let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
            format!("{name}: cannot be read: {reason}; check the path and its rights")
        },
    )?;
    if bytes.len() as u64 > size_max {
        return Err(format!("{name}: larger than {} MiB, so no PEM file", size_max >> 20));
    }
    Ok(PemFile { name, bytes })
}

fn is_readable_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0)
}

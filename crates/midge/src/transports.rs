//! What each listener speaks: from settings and certificate files to the layers of its connections.
//!
//! Files are read here, at the start and at each reload. What cannot be used is refused as a whole: at the start the broker
//! does not begin, later it keeps what it has.

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use midge_config::{ClientCertificates, Listener, Loaded, NamedCertificate, Tls, TlsVersion};
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
    layers: Layers,
    /// Of everything behind each listener's TLS: what has not changed is kept, with the keys of its tickets.
    digests: Vec<u64>,
    hasher: RandomState,
}

/// What the listeners may speak from now on: everything is read.
#[derive(Debug)]
pub(crate) struct Spoken {
    layers: Layers,
    digests: Vec<u64>,
    /// Labels of listeners whose TLS differs.
    pub(crate) changed: Vec<String>,
    /// For the log.
    pub(crate) warnings: Vec<String>,
}

/// One problem: the key that it is about, and a sentence.
type Problem = (String, String);

impl Transports {
    /// Reads all files. Warnings are for the log, which does not run yet.
    ///
    /// # Errors
    /// Every problem, each with its place in the configuration.
    pub(crate) fn load(settings: &Settings) -> Result<(Self, Vec<String>), Failure> {
        let mut transports =
            Self { layers: Arc::default(), digests: Vec::new(), hasher: RandomState::new() };
        let listeners = settings.config().listeners.iter().enumerate().map(Some);
        let spoken = transports
            .prepare(&listeners.collect::<Vec<_>>(), &settings.loaded)
            .map_err(Failure::Configuration)?;
        let warnings = spoken.warnings.clone();
        transports.apply(spoken);
        Ok((transports, warnings))
    }

    /// For the shards.
    pub(crate) fn layers(&self) -> Layers {
        Arc::clone(&self.layers)
    }

    /// Reads all files of these listeners, which stand by number, each with its place in the configuration. A number without
    /// a listener keeps what it has.
    ///
    /// # Errors
    /// Every problem as a sentence.
    pub(crate) fn prepare(
        &self,
        listeners: &[Option<(usize, &Listener)>],
        loaded: &Loaded,
    ) -> Result<Spoken, Vec<String>> {
        let (mut layers, mut digests) = (Vec::new(), Vec::new());
        let (mut changed, mut warnings, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (number, listener) in listeners.iter().enumerate() {
            let known = self.digests.get(number).copied();
            let earlier = self.layers.get(number);
            let Some((place, listener)) = listener else {
                layers.push(earlier.cloned().unwrap_or_default());
                digests.push(known.unwrap_or_default());
                continue;
            };
            let earlier = earlier.and_then(|layer| layer.tls.as_ref().zip(known));
            match self.speak(listener, *place, earlier, &mut warnings) {
                Ok((layer, digest)) => {
                    if known.is_some_and(|known| known != digest) {
                        changed.push(listener.label());
                    }
                    layers.push(Arc::new(layer));
                    digests.push(digest);
                }
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Err(problems.iter().map(|(key, what)| loaded.problem(key, what)).collect());
        }
        Ok(Spoken { layers: layers.into(), digests, changed, warnings })
    }

    /// It counts from now on.
    pub(crate) fn apply(&mut self, spoken: Spoken) -> Layers {
        self.layers = spoken.layers;
        self.digests = spoken.digests;
        self.layers()
    }

    fn speak(
        &self,
        listener: &Listener,
        place: usize,
        earlier: Option<(&Arc<TlsSettings>, u64)>,
        warnings: &mut Vec<String>,
    ) -> Result<(midge_transport::Listener, u64), Vec<Problem>> {
        let key = format!("listeners[{place}].tls");
        let mut digest = 0;
        let tls = match &listener.tls {
            None => None,
            Some(tls) => {
                let files = read_tls(tls, listener, &key, warnings)?;
                digest = self.digest(&files);
                match earlier {
                    Some((earlier, known)) if known == digest => Some(Arc::clone(earlier)),
                    _ => {
                        let settings = TlsSettings::new(&files);
                        Some(Arc::new(settings.map_err(|error| vec![(key, error.to_string())])?))
                    }
                }
            }
        };
        let layer = midge_transport::Listener {
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
        };
        Ok((layer, digest))
    }

    fn digest(&self, files: &TlsFiles) -> u64 {
        let bytes = |file: &PemFile| self.hasher.hash_one(&file.bytes);
        let certificates: Vec<_> = files
            .certificates
            .iter()
            .map(|files| (&files.server_names, bytes(&files.certificate), bytes(&files.key)))
            .collect();
        let lists: Vec<u64> = files.revocation_lists.iter().map(bytes).collect();
        let policy = (
            files.client_certificates as u8,
            files.only_tls13,
            &files.cipher_suites,
            files.protocol_name,
        );
        self.hasher.hash_one((certificates, files.client_ca.as_ref().map(bytes), lists, policy))
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

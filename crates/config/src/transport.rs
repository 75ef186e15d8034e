//! The part of the tree that says what stands between a socket and MQTT: addresses, TLS, WebSocket, PROXY protocol.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A unix-domain socket: `unix:` and the path of its file.
    Unix(PathBuf),
}

impl Address {
    /// The IP address and port, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path of the unix-domain socket, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "an IP address and a port, such as 127.0.0.1:1883 or [::1]:1883, \
                                or unix: and a path";
        let text = String::deserialize(deserializer)?;
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        text.parse()
            .map(Self::Ip)
            .map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED))
    }
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// MQTT over plain TCP (or directly on a unix-domain socket).
    #[default]
    Tcp,
    /// MQTT over TLS.
    Tls,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
}

impl Protocol {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Whether TLS is part of it.
    #[must_use]
    pub const fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether WebSocket is part of it.
    #[must_use]
    pub const fn has_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// TLS of one listener. Files are PEM; a reload reads them again. Relative paths start where the broker was started.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The server's certificate, followed by those of the authorities between it and the root; required. Also for clients
    /// that ask for no name or an unknown one.
    pub certificate: PathBuf,

    /// Its private key, without a passphrase; required. A warning is logged when others than the owner and the group may
    /// read it.
    pub key: PathBuf,

    /// More certificates, for clients that ask for other host names (SNI). Default: none.
    #[serde(default)]
    pub certificates: Vec<NamedCertificate>,

    /// Whether clients show a certificate: `none` (default; they are not asked), `optional` (one that is shown must be
    /// good) or `required`.
    #[serde(default)]
    pub client_certificates: ClientCertificates,

    /// The authorities of client certificates; required unless `client_certificates` is `none`.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,

    /// Revocation lists of those authorities. Default: none, so nobody is revoked. With any, each client certificate's
    /// authority must have one.
    #[serde(default)]
    pub crl: Vec<PathBuf>,

    /// The oldest version of TLS that is spoken: `1.2` (default) or `1.3`.
    #[serde(default)]
    pub minimum_version: TlsVersion,

    /// The cipher suites that are spoken, the most wanted first, such as `TLS13_AES_128_GCM_SHA256`. Default: all that
    /// there are (each is an authenticated cipher with forward secrecy), as the client prefers.
    #[serde(default)]
    pub cipher_suites: Vec<String>,
}

/// A certificate for certain host names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct NamedCertificate {
    /// Host names for which it is used: `a.example`, or `*.a.example` for every name one level below. At least one.
    pub server_names: Vec<String>,

    /// The certificate chain; required.
    pub certificate: PathBuf,

    /// Its private key; required.
    pub key: PathBuf,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They are asked; one that is shown must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum TlsVersion {
    /// 1.2.
    #[default]
    Tls12,
    /// 1.3.
    Tls13,
}

/// Written `1.2` or `1.3`, with quotes or without.
impl<'de> Deserialize<'de> for TlsVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TlsVersionVisitor;

        impl Visitor<'_> for TlsVersionVisitor {
            type Value = TlsVersion;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("1.2 or 1.3")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<TlsVersion, E> {
                match number {
                    1.2 => Ok(TlsVersion::Tls12),
                    1.3 => Ok(TlsVersion::Tls13),
                    _ => Err(E::invalid_value(Unexpected::Float(number), &self)),
                }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TlsVersion, E> {
                match text {
                    "1.2" => Ok(TlsVersion::Tls12),
                    "1.3" => Ok(TlsVersion::Tls13),
                    text => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(TlsVersionVisitor)
    }
}

/// What a WebSocket request must say; for the protocols `ws` and `wss`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocket {
    /// The path of the request: 1 to 256 visible ASCII characters, a slash first. Default `/mqtt`. Another path is answered
    /// with 404.
    pub path: String,

    /// Origins whose web pages may connect, such as `https://app.example`. Default: none named, which allows all. Clients
    /// that are no browsers send no origin and are not asked for one.
    pub origins: Vec<String>,

    /// Addresses of proxies whose `X-Forwarded-For` is believed: `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`. Default: none.
    pub trusted_proxies: Vec<String>,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { path: "/mqtt".into(), origins: Vec::new(), trusted_proxies: Vec::new() }
    }
}

/// PROXY protocol, version 1 or 2: a proxy in front says who the client is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Addresses of the proxies: `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`; at least one, except on a unix-domain socket, whose
    /// file's rights say who may connect. Everybody else is closed at once.
    #[serde(default)]
    pub trusted: Vec<String>,
}

/// The rights of a unix-domain socket's file, three or four octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Default for FileMode {
    fn default() -> Self {
        Self(0o660)
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03o}", self.0)
    }
}

/// Octal digits, with quotes or without: YAML would read the same digits as a decimal number.
impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FileModeVisitor;

        impl FileModeVisitor {
            fn read(text: &str) -> Option<FileMode> {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits)?;
                ((3..=4).contains(&text.len()) && mode <= 0o777).then_some(FileMode(mode))
            }
        }

        impl Visitor<'_> for FileModeVisitor {
            type Value = FileMode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("three octal digits such as \"660\"")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<FileMode, E> {
                Self::read(&number.to_string())
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<FileMode, E> {
                Self::read(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(FileModeVisitor)
    }
}

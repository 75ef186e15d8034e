//! Every combination of layers against a client, cut at random places, and what strangers send instead.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

use super::*;
use crate::listener::{ProxySettings, WebSocketSettings};
use crate::tls_settings::{
    CertificateFiles, ClientCertificates, PemFile, TlsFiles, TlsSettings, TlsSettingsError,
};

// ---- Certificates ----

struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

struct Issued {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    fn issue(&self, name: &str, serial: u64, usage: ExtendedKeyUsagePurpose) -> Issued {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.serial_number = Some(SerialNumber::from(serial));
        parameters.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn revoke(&self, serial: u64) -> String {
        let now = rcgen::date_time_ymd(2026, 1, 1);
        let parameters = CertificateRevocationListParams {
            this_update: now,
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        parameters.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn pem(name: &str, text: &str) -> PemFile {
    PemFile { name: name.into(), bytes: text.as_bytes().to_vec() }
}

struct House {
    authority: Authority,
    files: TlsFiles,
}

fn house() -> House {
    let authority = Authority::new("test authority");
    let server = authority.issue("broker.example", 1, ExtendedKeyUsagePurpose::ServerAuth);
    let files = TlsFiles {
        certificates: vec![CertificateFiles {
            server_names: Vec::new(),
            certificate: pem("server.crt", &server.certificate),
            key: pem("server.key", &server.key),
        }],
        client_certificates: ClientCertificates::None,
        client_ca: None,
        revocation_lists: Vec::new(),
        only_tls13: false,
        cipher_suites: Vec::new(),
        protocol_name: "mqtt",
    };
    House { authority, files }
}

fn client_config(authority: &Authority, with: Option<&Issued>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match with {
        None => builder.with_no_client_auth(),
        Some(issued) => builder
            .with_client_auth_cert(
                CertificateDer::pem_slice_iter(issued.certificate.as_bytes())
                    .collect::<Result<_, _>>()
                    .unwrap(),
                PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    }
}

fn client(config: &Arc<ClientConfig>, name: &'static str) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from(name).unwrap()).unwrap()
}

// ---- Two ends ----

/// A generator that is good enough to cut streams (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

struct Server {
    layer: Layer,
    scratch: Scratch,
    plain: Vec<u8>,
    wire: Vec<u8>,
    outcome: Result<Received, CloseReason>,
}

const PEER: &str = "192.0.2.1:40000";

impl Server {
    fn new(listener: &Listener) -> Self {
        Self {
            layer: Layer::new(listener, PEER.parse().unwrap()).unwrap(),
            scratch: Scratch::default(),
            plain: Vec::new(),
            wire: Vec::new(),
            outcome: Ok(Received::Open),
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        if self.outcome == Ok(Received::Open) {
            self.outcome =
                self.layer.receive(bytes, true, &mut self.scratch, &mut self.plain, &mut self.wire);
        }
    }

    /// In pieces of up to `piece_max` bytes.
    fn receive_cut(&mut self, mut bytes: &[u8], random: &mut Random, piece_max: usize) {
        while !bytes.is_empty() {
            let size = 1 + random.below(piece_max.min(bytes.len()));
            let (piece, rest) = bytes.split_at(size.min(bytes.len()));
            self.receive(piece);
            bytes = rest;
        }
    }

    fn send(&mut self, output: &mut Output) {
        let mut wire = Output::new();
        self.layer.send(output, &mut self.scratch, &mut wire).unwrap();
        assert!(output.is_empty());
        self.wire.extend(wire.segments().flatten());
    }
}

/// A client that speaks the same layers.
struct Client {
    tls: Option<ClientConnection>,
    websocket: bool,
    /// Bytes behind TLS that are no content yet.
    kept: Vec<u8>,
    upgraded: bool,
    content: Vec<u8>,
}

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: broker.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

impl Client {
    fn begin(&mut self, proxy: bool) -> Vec<u8> {
        let mut out = Vec::new();
        if proxy {
            out.extend(b"PROXY TCP4 203.0.113.7 192.0.2.1 5555 1883\r\n");
        }
        if self.websocket {
            out.extend(self.encrypt(REQUEST));
        } else {
            out.extend(self.encrypt(b""));
        }
        out
    }

    fn encrypt(&mut self, bytes: &[u8]) -> Vec<u8> {
        match &mut self.tls {
            None => bytes.to_vec(),
            Some(tls) => {
                tls.writer().write_all(bytes).unwrap();
                self.flush()
            }
        }
    }

    fn flush(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut out).unwrap();
            }
        }
        out
    }

    fn say(&mut self, bytes: &[u8], random: &mut Random) -> Vec<u8> {
        if !self.websocket {
            return self.encrypt(bytes);
        }
        // As one message in a few fragments.
        let mut out = Vec::new();
        let mut first = 0x02;
        let mut rest = bytes;
        loop {
            let size = 1 + random.below(rest.len());
            let (part, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            let last = rest.is_empty();
            let opcode = first | if last { 0x80 } else { 0 };
            out.extend(websocket::client_frame(opcode, part));
            first = 0;
            if last {
                break;
            }
        }
        self.encrypt(&out)
    }

    fn hear(&mut self, mut wire: &[u8]) {
        if let Some(tls) = &mut self.tls {
            while !wire.is_empty() {
                tls.read_tls(&mut wire).unwrap();
                let state = tls.process_new_packets().unwrap();
                let mut content = vec![0; state.plaintext_bytes_to_read()];
                tls.reader().read_exact(&mut content).unwrap();
                self.kept.extend(content);
            }
        } else {
            self.kept.extend(wire);
        }
        if !self.websocket {
            self.content.append(&mut self.kept);
            return;
        }
        if !self.upgraded {
            let Some(end) = self.kept.windows(4).position(|part| part == b"\r\n\r\n") else {
                return;
            };
            assert!(self.kept.starts_with(b"HTTP/1.1 101 "));
            self.kept.drain(..end + 4);
            self.upgraded = true;
        }
        // Frames of a server are not masked.
        while let [first, second, ..] = *self.kept {
            let (size, header) = match second {
                126 => (usize::from(u16::from_be_bytes([self.kept[2], self.kept[3]])), 4),
                127 => (u64::from_be_bytes(self.kept[2..10].try_into().unwrap()) as usize, 10),
                size => (usize::from(size), 2),
            };
            if self.kept.len() < header + size {
                return;
            }
            assert_eq!(first, 0x82, "a whole binary message");
            self.content.extend(&self.kept[header..header + size]);
            self.kept.drain(..header + size);
        }
    }
}

fn listener(proxy: bool, tls: Option<&Arc<TlsSettings>>, websocket: bool) -> Listener {
    Listener {
        proxy: proxy.then(|| ProxySettings {
            trusted: vec!["192.0.2.0/24".parse().unwrap()],
            trust_all: false,
        }),
        tls: tls.cloned(),
        websocket: websocket.then(|| WebSocketSettings {
            path: "/mqtt".into(),
            origins: Vec::new(),
            trusted_proxies: Vec::new(),
        }),
    }
}

/// Goes back and forth until the handshakes are done.
fn connect(server: &mut Server, client: &mut Client, proxy: bool, random: &mut Random, cut: usize) {
    let mut bytes = client.begin(proxy);
    for _ in 0..10 {
        server.receive_cut(&bytes, random, cut);
        let wire = std::mem::take(&mut server.wire);
        client.hear(&wire);
        bytes = client.flush();
        if bytes.is_empty() && server.layer.is_ready() {
            break;
        }
    }
    assert_eq!(server.outcome, Ok(Received::Open));
    assert!(server.layer.is_ready());
}

#[test]
fn every_combination_carries_both_directions_however_it_is_cut() {
    let house = house();
    let tls = Arc::new(TlsSettings::new(&house.files).unwrap());
    let config = Arc::new(client_config(&house.authority, None));
    let shared = Bytes::from(vec![0x55; 70_000]);
    for combination in 0..8 {
        let [proxy, secure, framed] = [1, 2, 4].map(|bit| combination & bit != 0);
        for (round, cut) in [1, 7, 100, 5000, 1 << 20].into_iter().enumerate() {
            let mut random = Random(1 + combination * 100 + round as u64);
            let mut server = Server::new(&listener(proxy, secure.then_some(&tls), framed));
            assert!(!server.layer.is_transparent() || combination == 0);
            let mut client = Client {
                tls: secure.then(|| client(&config, "broker.example")),
                websocket: framed,
                kept: Vec::new(),
                upgraded: false,
                content: Vec::new(),
            };
            connect(&mut server, &mut client, proxy, &mut random, cut);
            let identity = server.layer.take_identity().unwrap();
            let address = if proxy { "203.0.113.7:5555" } else { PEER };
            assert_eq!(identity.address, address.parse().unwrap());
            assert_eq!(identity.tls, secure);
            assert_eq!(server.layer.take_identity(), None);

            let (mut said, mut answered) = (Vec::new(), Vec::new());
            for size in [1, 2, 100, 4096, 16_384, 16_385, 40_000] {
                let part: Vec<u8> = (0..size).map(|_| random.below(256) as u8).collect();
                server.receive_cut(&client.say(&part, &mut random), &mut random, cut);
                said.extend(&part);
                assert_eq!(server.plain, said, "{combination} {cut} {size}");

                let mut output = Output::new();
                output.extend(&part);
                if size > 4096 {
                    output.payload(&shared);
                    output.extend(b"end");
                }
                answered.extend(output.segments().flatten());
                server.send(&mut output);
                client.hear(&std::mem::take(&mut server.wire));
                assert_eq!(client.content, answered, "{combination} {cut} {size}");
            }
            assert_eq!(server.layer.kept_bytes(), 0, "idle connections keep nothing");
            assert_eq!(server.outcome, Ok(Received::Open));
        }
    }
}

#[test]
fn a_polite_end_is_told_in_every_layer() {
    let house = house();
    let tls = Arc::new(TlsSettings::new(&house.files).unwrap());
    let config = Arc::new(client_config(&house.authority, None));
    for (secure, framed) in [(true, false), (false, true), (true, true)] {
        let mut random = Random(7);
        let mut server = Server::new(&listener(false, secure.then_some(&tls), framed));
        let mut client = Client {
            tls: secure.then(|| client(&config, "broker.example")),
            websocket: framed,
            kept: Vec::new(),
            upgraded: false,
            content: Vec::new(),
        };
        connect(&mut server, &mut client, false, &mut random, 1000);
        let mut wire = Vec::new();
        server.layer.close(&mut server.scratch, &mut wire);
        if let Some(tls) = &mut client.tls {
            tls.read_tls(&mut &wire[..]).unwrap();
            let state = tls.process_new_packets().unwrap();
            assert!(state.peer_has_closed());
            wire = vec![0; state.plaintext_bytes_to_read()];
            tls.reader().read_exact(&mut wire).unwrap();
        }
        if framed {
            assert_eq!(wire, [0x88, 2, 0x03, 0xe8]);
        }
        // And the other way round.
        let mut server = Server::new(&listener(false, secure.then_some(&tls), framed));
        let mut client = Client {
            tls: secure.then(|| tests::client(&config, "broker.example")),
            websocket: framed,
            kept: Vec::new(),
            upgraded: false,
            content: Vec::new(),
        };
        connect(&mut server, &mut client, false, &mut random, 1000);
        let bytes = if framed {
            client.encrypt(&websocket::client_frame(0x88, &[0x03, 0xe8]))
        } else {
            let tls = client.tls.as_mut().unwrap();
            tls.writer().write_all(b"last words").unwrap();
            tls.send_close_notify();
            client.flush()
        };
        server.receive(&bytes);
        assert_eq!(server.outcome, Ok(Received::Ended));
        assert_eq!(server.plain, if framed { &b""[..] } else { b"last words" });
        server.receive(b"too late");
        assert_eq!(server.outcome, Ok(Received::Ended));
    }
}

/// Drives a TLS handshake; the client's error if it has one.
fn shake(server: &mut Server, client: &mut ClientConnection) -> Result<(), rustls::Error> {
    for _ in 0..6 {
        let mut out = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut out).unwrap();
        }
        server.receive(&out);
        let wire = std::mem::take(&mut server.wire);
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn sessions_are_resumed_by_ticket_in_both_versions() {
    let house = house();
    let settings = Arc::new(TlsSettings::new(&house.files).unwrap());
    let other = Arc::new(TlsSettings::new(&house.files).unwrap());
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut roots = RootCertStore::empty();
        roots.add(house.authority.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        // The third server has other ticket keys: a reload with new files forgets old sessions.
        for (settings, kind) in [
            (&settings, HandshakeKind::Full),
            (&settings, HandshakeKind::Resumed),
            (&other, HandshakeKind::Full),
        ] {
            let mut server = Server::new(&listener(false, Some(settings), false));
            let mut client = client(&config, "broker.example");
            shake(&mut server, &mut client).unwrap();
            assert_eq!(client.handshake_kind(), Some(kind), "{version:?}");
            let identity = server.layer.take_identity().unwrap();
            assert_eq!(identity.resumed, Some(kind == HandshakeKind::Resumed));
        }
    }
}

#[test]
fn certificates_are_chosen_by_name() {
    let mut house = house();
    for (serial, name) in [(2, "a.example"), (3, "*.wild.example")] {
        let issued = house.authority.issue(name, serial, ExtendedKeyUsagePurpose::ServerAuth);
        house.files.certificates.push(CertificateFiles {
            server_names: vec![name.to_ascii_uppercase()],
            certificate: pem(name, &issued.certificate),
            key: pem(name, &issued.key),
        });
    }
    let settings = Arc::new(TlsSettings::new(&house.files).unwrap());
    let config = Arc::new(client_config(&house.authority, None));
    for (name, good) in [
        ("broker.example", true),
        ("a.example", true),
        ("A.Example", true),
        ("x.wild.example", true),
        ("wild.example", false),
        ("x.y.wild.example", false),
        ("unknown.example", false),
    ] {
        let mut server = Server::new(&listener(false, Some(&settings), false));
        // A client gets the first certificate for an unknown name, and refuses it.
        let outcome = shake(&mut server, &mut client(&config, name));
        assert_eq!(outcome.is_ok(), good, "{name}: {outcome:?}");
    }
    let misnamed = house.files.certificates[1].certificate.clone();
    house.files.certificates[2].certificate = misnamed;
    house.files.certificates[2].key = house.files.certificates[1].key.clone();
    let error = TlsSettings::new(&house.files).unwrap_err();
    assert_eq!(error.to_string(), "a.example: is not for the server name `*.wild.example`");
}

#[test]
fn client_certificates_are_asked_for_and_judged() {
    let mut house = house();
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let good = house.authority.issue("sensor-7", 10, usage.clone());
    let revoked = house.authority.issue("sensor-8", 11, usage.clone());
    let server_only = house.authority.issue("web", 12, ExtendedKeyUsagePurpose::ServerAuth);
    let foreign = Authority::new("others").issue("sensor-7", 10, usage);
    house.files.client_ca = Some(pem("ca.crt", &house.authority.certificate.pem()));
    house.files.revocation_lists = vec![pem("ca.crl", &house.authority.revoke(11))];
    for wanted in [ClientCertificates::Optional, ClientCertificates::Required] {
        house.files.client_certificates = wanted;
        let settings = Arc::new(TlsSettings::new(&house.files).unwrap());
        let none = match wanted {
            ClientCertificates::Required => Err(CloseReason::TlsNoCertificate),
            _ => Ok(None),
        };
        for (shown, expected) in [
            (None, none),
            (Some(&good), Ok(Some("sensor-7"))),
            (Some(&revoked), Err(CloseReason::TlsRevoked)),
            (Some(&server_only), Err(CloseReason::TlsCertificate)),
            (Some(&foreign), Err(CloseReason::TlsCertificate)),
        ] {
            let config = Arc::new(client_config(&house.authority, shown));
            let mut server = Server::new(&listener(false, Some(&settings), false));
            let told = shake(&mut server, &mut client(&config, "broker.example"));
            match expected {
                Ok(name) => {
                    assert_eq!(server.outcome, Ok(Received::Open), "{name:?}");
                    let identity = server.layer.take_identity().unwrap();
                    let found = identity.certificate.and_then(|names| names.common_name);
                    assert_eq!(found.as_deref(), name);
                }
                Err(reason) => {
                    assert_eq!(server.outcome, Err(reason));
                    assert!(matches!(told, Err(rustls::Error::AlertReceived(_))), "{told:?}");
                    assert_eq!(server.layer.take_identity(), None);
                }
            }
        }
    }
}

#[test]
fn what_is_no_tls_is_refused_and_kept_small() {
    let house = house();
    let settings = Arc::new(TlsSettings::new(&house.files).unwrap());
    for bytes in [
        &b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff",
        b"\x17\x03\x03\0\x10aaaaaaaaaaaaaaaa",
        b"\x15\x03\x03\0\x02\x02\x28",
        &[0; 64],
    ] {
        let mut server = Server::new(&listener(false, Some(&settings), false));
        server.receive_cut(bytes, &mut Random(3), 9);
        assert!(server.outcome.is_err(), "{bytes:?}: {:?}", server.outcome);
        assert!(server.plain.is_empty());
        let mut wire = Vec::new();
        server.layer.close(&mut server.scratch, &mut wire);
        assert!(wire.is_empty(), "nothing but the alert that `receive` gave");
    }
    // A handshake message that never ends.
    let mut server = Server::new(&listener(false, Some(&settings), false));
    let mut most = 0;
    server.receive(b"\x16\x03\x01\x40\0\x01\0\xff\xff");
    server.receive(&vec![0; 0x4000 - 4]);
    for _ in 0..100 {
        server.receive(b"\x16\x03\x01\x40\0");
        server.receive(&vec![0; 0x4000]);
        most = most.max(server.layer.kept_bytes());
    }
    assert!(server.outcome.is_err());
    assert!(most <= 100_000, "{most}");
}

/// Bits turned over in a stream that was good: an error or nothing, never a panic.
#[test]
fn damaged_streams_hurt_nobody() {
    let house = house();
    let settings = Arc::new(TlsSettings::new(&house.files).unwrap());
    let config = Arc::new(client_config(&house.authority, None));
    let mut random = Random(99);
    for round in 0..300 {
        let mut server = Server::new(&listener(round % 2 == 0, Some(&settings), round % 3 == 0));
        let mut client = Client {
            tls: Some(client(&config, "broker.example")),
            websocket: round % 3 == 0,
            kept: Vec::new(),
            upgraded: false,
            content: Vec::new(),
        };
        let whole = round % 5;
        let mut bytes = client.begin(round % 2 == 0);
        for step in 0..4 {
            if step >= whole && !bytes.is_empty() {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            server.receive_cut(&bytes, &mut random, 600);
            if server.outcome.is_err() {
                break;
            }
            let wire = std::mem::take(&mut server.wire);
            if let Some(tls) = &mut client.tls
                && (tls.read_tls(&mut &wire[..]).is_err() || tls.process_new_packets().is_err())
            {
                break;
            }
            bytes = client.flush();
            if bytes.is_empty() {
                bytes = client.encrypt(&[0x5a; 300]);
            }
        }
    }
}

#[test]
fn strangers_may_not_say_who_they_are() {
    let listener = listener(true, None, false);
    let outcome = Layer::new(&listener, "198.51.100.1:1".parse().unwrap());
    assert_eq!(outcome.err(), Some(CloseReason::ProxyStranger));
    let mut server = Server::new(&listener);
    server.receive(b"\x10\x0c\0\x04MQTT");
    assert_eq!(server.outcome, Err(CloseReason::ProxyHeader));
}

#[test]
fn settings_that_cannot_be_are_refused_with_their_file() {
    let house = house();
    let other = house.authority.issue("other.example", 5, ExtendedKeyUsagePurpose::ServerAuth);
    let good = &house.files;
    let with = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = good.clone();
        change(&mut files);
        TlsSettings::new(&files).err().unwrap().to_string()
    };
    for (problem, expected) in [
        (
            with(&|files| files.certificates[0].certificate = pem("a.crt", "nothing")),
            "a.crt: holds no certificate in PEM",
        ),
        (
            with(&|files| {
                files.certificates[0].certificate =
                    pem("a.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
            }),
            "a.crt: cannot be used: ",
        ),
        (
            with(&|files| files.certificates[0].key = pem("a.key", &other.key)),
            "a.key: is not the key of server.crt",
        ),
        (
            with(&|files| files.certificates[0].key = pem("a.key", "nothing")),
            "a.key: holds no private key in PEM",
        ),
        (
            with(&|files| {
                files.certificates[0].key = pem(
                    "a.key",
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                );
            }),
            "a.key: holds an encrypted key; store it without a passphrase",
        ),
        (
            with(&|files| files.cipher_suites = vec!["TLS_RSA_WITH_RC4_128_MD5".into()]),
            "no cipher suite TLS_RSA_WITH_RC4_128_MD5; there are TLS13_AES_256_GCM_SHA384, ",
        ),
        (
            with(&|files| files.client_certificates = ClientCertificates::Required),
            "client certificates need the authorities that they come from",
        ),
        (
            with(&|files| {
                files.client_certificates = ClientCertificates::Required;
                files.client_ca = Some(pem("ca.crt", ""));
            }),
            "ca.crt: holds no certificate in PEM",
        ),
        (
            with(&|files| {
                files.client_certificates = ClientCertificates::Required;
                files.client_ca = Some(pem("ca.crt", &house.authority.certificate.pem()));
                files.revocation_lists = vec![pem("ca.crl", "nothing")];
            }),
            "ca.crl: holds no revocation list (X509 CRL) in PEM",
        ),
        (
            with(&|files| {
                files.client_certificates = ClientCertificates::Required;
                files.client_ca = Some(pem("ca.crt", &house.authority.certificate.pem()));
                files.revocation_lists =
                    vec![pem("ca.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")];
            }),
            "ca.crl: cannot be used: ",
        ),
    ] {
        assert!(problem.starts_with(expected), "{problem}");
    }
    let secret = format!("{:?}", good);
    assert!(!secret.contains("PRIVATE"), "keys are never shown");
    let error: TlsSettingsError =
        TlsSettings::new(&TlsFiles { certificates: vec![], ..good.clone() }).unwrap_err();
    assert_eq!(error.file, None);
}

#[test]
fn versions_and_suites_are_as_set() {
    let mut house = house();
    house.files.only_tls13 = true;
    house.files.cipher_suites = vec!["TLS13_CHACHA20_POLY1305_SHA256".into()];
    let settings = Arc::new(TlsSettings::new(&house.files).unwrap());
    let config = Arc::new(client_config(&house.authority, None));
    let mut server = Server::new(&listener(false, Some(&settings), false));
    let mut client = client(&config, "broker.example");
    shake(&mut server, &mut client).unwrap();
    let suite = client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite.as_str(), Some("TLS13_CHACHA20_POLY1305_SHA256"));

    let mut roots = RootCertStore::empty();
    roots.add(house.authority.certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = Server::new(&listener(false, Some(&settings), false));
    let outcome = shake(&mut server, &mut tests::client(&Arc::new(old), "broker.example"));
    assert!(outcome.is_err());
    assert_eq!(server.outcome, Err(CloseReason::TlsIncompatible));

    let mut other = client_config(&house.authority, None);
    other.alpn_protocols = vec![b"h2".to_vec()];
    let mut server = Server::new(&listener(false, Some(&settings), false));
    let outcome = shake(&mut server, &mut tests::client(&Arc::new(other), "broker.example"));
    assert!(outcome.is_err());
    assert_eq!(server.outcome, Err(CloseReason::TlsIncompatible));
}

/// What a connection costs beside the kernel's part, without what the allocator and the library of cryptography add.
#[test]
fn a_layer_is_small() {
    assert!(size_of::<Layer>() <= 2048, "{}", size_of::<Layer>());
}

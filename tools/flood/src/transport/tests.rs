//! The clients' layers against the broker's own, cut into pieces of every size.

use std::sync::Arc;

use midge_transport::{
    CertificateFiles, ClientCertificates, Listener, PemFile, Received, Scratch, TlsSettings,
    WebSocketSettings,
};

use super::*;

struct Identity {
    certificate: String,
    key: String,
}

fn identity(host: &str) -> Identity {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
    Identity { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

fn listener(identity: Option<&Identity>, websocket: bool, clients: ClientCertificates) -> Listener {
    let pem = |text: &str| PemFile { name: "test".into(), bytes: text.as_bytes().to_vec() };
    let tls = identity.map(|identity| {
        let files = midge_transport::TlsFiles {
            certificates: vec![CertificateFiles {
                server_names: Vec::new(),
                certificate: pem(&identity.certificate),
                key: pem(&identity.key),
            }],
            client_certificates: clients,
            client_ca: Some(pem(&identity.certificate)),
            revocation_lists: Vec::new(),
            only_tls13: false,
            cipher_suites: Vec::new(),
            protocol_name: if websocket { "http/1.1" } else { "mqtt" },
        };
        Arc::new(TlsSettings::new(&files).expect("good files"))
    });
    let settings = WebSocketSettings { path: "/mqtt".into(), ..WebSocketSettings::default() };
    Listener { proxy: None, tls, websocket: websocket.then_some(settings) }
}

/// A file in the system's directory for such, removed with the value.
struct Temporary(std::path::PathBuf);

impl Temporary {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flood-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a temporary file");
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn tls(files: &TlsFiles, websocket: bool) -> TlsTransport {
    let name = if websocket { "http/1.1" } else { "mqtt" };
    TlsTransport::new(files, "localhost", name).expect("good files")
}

fn request(path: &str) -> Request {
    Request { host: "localhost:8080".into(), path: path.into() }
}

/// A client and a broker, with the wire between them.
struct Pair {
    client: Layer,
    broker: midge_transport::Layer,
    scratch: Scratch,
    /// To the broker, and to the client.
    wires: [Vec<u8>; 2],
    /// What MQTT got, there and here.
    plain: [Vec<u8>; 2],
}

impl Pair {
    fn new(transport: &Transport, listener: &Listener) -> Self {
        let mut wires = [Vec::new(), Vec::new()];
        let client = Layer::open(transport, &mut wires[0]).expect("a connection");
        let peer = ([127, 0, 0, 1], 4711).into();
        let broker = midge_transport::Layer::new(listener, peer).expect("a connection");
        let plain = [Vec::new(), Vec::new()];
        Self { client, broker, scratch: Scratch::default(), wires, plain }
    }

    /// Carries pieces of `size` bytes until nothing is left to carry.
    fn carry(&mut self, size: usize) -> Result<Flow, Failure> {
        let mut flow = Flow::Open;
        while self.wires.iter().any(|wire| !wire.is_empty()) && flow == Flow::Open {
            let [to_broker, to_client] = std::mem::take(&mut self.wires);
            for piece in to_broker.chunks(size) {
                let (plain, wire) = (&mut self.plain[0], &mut self.wires[1]);
                // What the broker thinks of it, the client is told.
                let said = self.broker.receive(piece, true, &mut self.scratch, plain, wire);
                if said != Ok(Received::Open) {
                    break;
                }
            }
            for piece in to_client.chunks(size) {
                let [wire, _] = &mut self.wires;
                flow = self.client.receive(piece, &mut self.plain[1], wire)?;
            }
        }
        Ok(flow)
    }

    fn talk(&mut self, size: usize, there: &[u8], back: &[u8]) {
        let mut output = Output::new();
        output.extend(there);
        self.client.send(&output, &mut self.wires[0]).expect("an open connection");
        let (mut output, mut wire) = (Output::new(), Output::new());
        output.extend(back);
        self.broker.send(&mut output, &mut self.scratch, &mut wire).expect("an open connection");
        self.wires[1].extend(wire.segments().flatten());
        assert_eq!(self.carry(size), Ok(Flow::Open));
        assert_eq!(std::mem::take(&mut self.plain[0]), there);
        assert_eq!(std::mem::take(&mut self.plain[1]), back);
    }
}

/// The whole way there and back, in any pieces, over everything that a broker offers.
#[test]
fn mqtt_gets_through() {
    let identity = identity("localhost");
    let cafile = Temporary::new("ca.pem", &identity.certificate);
    for (encrypted, websocket) in [(true, false), (false, true), (true, true)] {
        let files = TlsFiles { cafile: Some(cafile.0.clone()), ..TlsFiles::default() };
        let transport = Transport {
            tls: encrypted.then(|| tls(&files, websocket)),
            websocket: websocket.then(|| request("/mqtt")),
        };
        let identity = encrypted.then_some(&identity);
        let listener = listener(identity, websocket, ClientCertificates::None);
        for size in [1, 7, 1000, usize::MAX] {
            let what = format!("{} in pieces of {size}", transport.name());
            let mut pair = Pair::new(&transport, &listener);
            assert!(!pair.client.is_ready(), "{what}");
            assert_eq!(pair.carry(size), Ok(Flow::Open), "{what}");
            assert!(pair.client.is_ready() && pair.broker.is_ready(), "{what}");
            for length in [1, 125, 126, 70_000] {
                let there: Vec<u8> = (0..length).map(|n: u32| n as u8).collect();
                let back: Vec<u8> = there.iter().map(|byte| !byte).collect();
                pair.talk(size, &there, &back);
            }
            pair.broker.close(&mut pair.scratch, &mut pair.wires[1]);
            assert_eq!(pair.carry(size), Ok(Flow::Ended), "{what}");
        }
    }
}

#[test]
fn certificates_are_checked_unless_told_otherwise() {
    let (good, other) = (identity("localhost"), identity("elsewhere.example"));
    let cafile = Temporary::new("good.pem", &good.certificate);
    let authority = Temporary::new("other.pem", &other.certificate);
    let trusting =
        |path: &Temporary| TlsFiles { cafile: Some(path.0.clone()), ..TlsFiles::default() };
    let insecure = TlsFiles { insecure: true, ..TlsFiles::default() };
    for (files, shown, expected) in [
        (trusting(&cafile), &other, Err(Failure::TlsCertificate)),
        (trusting(&authority), &other, Err(Failure::TlsCertificate)),
        (insecure, &other, Ok(Flow::Open)),
        (trusting(&cafile), &good, Ok(Flow::Open)),
    ] {
        let transport = Transport { tls: Some(tls(&files, false)), websocket: None };
        let mut pair =
            Pair::new(&transport, &listener(Some(shown), false, ClientCertificates::None));
        assert_eq!(pair.carry(100), expected, "{files:?}");
    }
}

#[test]
fn a_client_shows_its_certificate() {
    let identity = identity("localhost");
    let certificate = Temporary::new("client.pem", &identity.certificate);
    let key = Temporary::new("client.key", &identity.key);
    let shown = Some((certificate.0.clone(), key.0.clone()));
    for (shown, names) in [(shown, true), (None, false)] {
        let files = TlsFiles { insecure: true, identity: shown, ..TlsFiles::default() };
        let transport = Transport { tls: Some(tls(&files, false)), websocket: None };
        let listener = listener(Some(&identity), false, ClientCertificates::Optional);
        let mut pair = Pair::new(&transport, &listener);
        assert_eq!(pair.carry(usize::MAX), Ok(Flow::Open));
        let identity = pair.broker.take_identity().expect("the handshake is done");
        assert_eq!(identity.certificate.is_some(), names);
    }
}

/// Twenty at a time, and then as many again: more than rustls' own store has tickets for.
#[test]
fn sessions_are_resumed_unless_told_otherwise() {
    const COUNT: usize = 20;
    let identity = identity("localhost");
    let listener = listener(Some(&identity), false, ClientCertificates::None);
    for (only_tls12, full_handshakes) in
        [(false, false), (true, false), (false, true), (true, true)]
    {
        let files = TlsFiles { insecure: true, only_tls12, full_handshakes, ..TlsFiles::default() };
        let transport = Transport { tls: Some(tls(&files, false)), websocket: None };
        for again in [false, true] {
            let pairs: Vec<_> = (0..COUNT).map(|_| Pair::new(&transport, &listener)).collect();
            for mut pair in pairs {
                assert_eq!(pair.carry(usize::MAX), Ok(Flow::Open));
                let resumed = pair.client.is_resumed().expect("there is TLS");
                let expected = again && !full_handshakes;
                assert_eq!(resumed, expected, "{files:?}");
            }
        }
    }
}

#[test]
fn what_is_no_websocket_is_said_so() {
    let transport = Transport { tls: None, websocket: Some(request("/elsewhere")) };
    let mut pair = Pair::new(&transport, &listener(None, true, ClientCertificates::None));
    assert_eq!(pair.carry(10), Err(Failure::Http(404)));
    for (answer, expected) in [
        (&b"\x20\x02\0\0\r\n\r\n"[..], Failure::Http(0)),
        (b"HTTP/1.1 101 OK\r\n\r\n", Failure::WebSocket),
        (&[b'x'; 10_000], Failure::WebSocket),
        (b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x82\x81", Failure::WebSocket),
        (b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x89\x7e\x01\0", Failure::WebSocket),
    ] {
        let mut layer = Layer::open(&transport, &mut Vec::new()).expect("a connection");
        let got = layer.receive(answer, &mut Vec::new(), &mut Vec::new());
        assert_eq!(got, Err(expected), "{}", String::from_utf8_lossy(answer));
    }
}

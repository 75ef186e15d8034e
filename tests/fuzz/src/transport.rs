//! Layers below MQTT: PROXY header, WebSocket, TLS.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use midge_transport::{
    CertificateFiles, ClientCertificates, CloseReason, Layer, Listener, PemFile, ProxySettings,
    Received, Scratch, TlsFiles, TlsSettings, WebSocketSettings,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// What is kept of anything unfinished, at most.
const KEPT_MAX: usize = 200 * 1024;

fn listener(choice: u8, tls: Option<Arc<TlsSettings>>) -> Listener {
    Listener {
        proxy: (choice & 1 != 0).then(|| ProxySettings { trusted: Vec::new(), trust_all: true }),
        tls,
        websocket: (choice & 2 != 0).then(|| WebSocketSettings {
            path: "/mqtt".into(),
            origins: Vec::new(),
            trusted_proxies: vec!["0.0.0.0/0".parse().expect("a network")],
        }),
    }
}

struct Server {
    layer: Layer,
    scratch: Scratch,
    plain: Vec<u8>,
    wire: Vec<u8>,
    outcome: Result<Received, CloseReason>,
}

impl Server {
    fn new(listener: &Listener) -> Self {
        let peer = "192.0.2.1:1".parse().expect("an address");
        Self {
            layer: Layer::new(listener, peer).expect("everybody is trusted"),
            scratch: Scratch::default(),
            plain: Vec::new(),
            wire: Vec::new(),
            outcome: Ok(Received::Open),
        }
    }

    /// In pieces whose sizes follow from `cut`; zero leaves it whole.
    fn receive(&mut self, bytes: &[u8], cut: u8) {
        let mut rest = bytes;
        let mut step = u32::from(cut);
        while !rest.is_empty() && self.outcome == Ok(Received::Open) {
            step = step.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let size = match cut {
                0 => rest.len(),
                1 => 1,
                _ => 1 + (step >> 16) as usize % usize::from(cut),
            };
            let (piece, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            let Self { layer, scratch, plain, wire, .. } = self;
            self.outcome = layer.receive(piece, true, scratch, plain, wire);
            assert!(self.layer.kept_bytes() <= KEPT_MAX);
            // Whoever it is, it can be asked at any time.
            let _ = self.layer.take_identity();
        }
    }

    fn close(&mut self) {
        self.layer.close(&mut self.scratch, &mut self.wire);
    }
}

/// A stream below PROXY and WebSocket: however it is cut, the same comes out.
///
/// The first byte chooses the layers, the second how the stream is cut, the rest is the stream.
pub fn transport(bytes: &[u8]) {
    let [choice, cut, stream @ ..] = bytes else { return };
    let listener = listener(*choice, None);
    let mut whole = Server::new(&listener);
    whole.receive(stream, 0);
    let mut pieces = Server::new(&listener);
    pieces.receive(stream, *cut);
    assert_eq!(whole.outcome, pieces.outcome);
    assert_eq!(whole.plain, pieces.plain);
    assert_eq!(whole.wire, pieces.wire);
    assert_eq!(whole.layer.peer(), pieces.layer.peer());
    assert!(whole.plain.len() <= stream.len());
    whole.close();
}

/// A stream that TLS reads: as it is, or from a client behind a handshake, whole or with one bit turned over.
///
/// The first byte chooses the layers and the way, the second how the stream is cut, the third where the bit is turned.
pub fn transport_tls(bytes: &[u8]) {
    let [choice, cut, place, stream @ ..] = bytes else { return };
    let house = house();
    let mut server = Server::new(&listener(*choice & 3, Some(Arc::clone(&house.server))));
    if choice & 4 == 0 {
        server.receive(stream, *cut);
        server.close();
        return;
    }
    let mut server = Server::new(&listener(0, Some(Arc::clone(&house.server))));
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::clone(&house.client), name).expect("a client");
    for _ in 0..4 {
        server.receive(&flush(&mut client), *cut);
        let wire = std::mem::take(&mut server.wire);
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).expect("from memory");
            client.process_new_packets().expect("our own TLS is good");
        }
    }
    assert!(server.layer.is_ready());
    client.writer().write_all(stream).expect("to memory");
    let mut records = flush(&mut client);
    let damaged = choice & 8 != 0 && !records.is_empty();
    if damaged {
        let at = usize::from(*place) * records.len() / 256;
        records[at] ^= 1 << (place & 7);
    }
    server.receive(&records, *cut);
    if damaged {
        assert!(stream.starts_with(&server.plain));
    } else {
        assert_eq!(server.outcome, Ok(Received::Open));
        assert_eq!(server.plain, stream);
        assert_eq!(server.layer.kept_bytes(), 0);
        let mut output = midge_output::Output::new();
        output.extend(stream);
        let mut wire = midge_output::Output::new();
        server.layer.send(&mut output, &mut server.scratch, &mut wire).expect("it is ready");
        let mut back = Vec::new();
        for mut piece in wire.segments() {
            while !piece.is_empty() {
                client.read_tls(&mut piece).expect("from memory");
                let state = client.process_new_packets().expect("our own TLS is good");
                let start = back.len();
                back.resize(start + state.plaintext_bytes_to_read(), 0);
                client.reader().read_exact(&mut back[start..]).expect("so much is there");
            }
        }
        assert_eq!(back, stream);
    }
    server.close();
}

fn flush(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("to memory");
    }
    bytes
}

struct House {
    server: Arc<TlsSettings>,
    client: Arc<ClientConfig>,
}

/// One certificate for the whole run: what is fuzzed does not depend on it.
fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .expect("a certificate");
        let file = |name: &str, text: String| PemFile { name: name.into(), bytes: text.into() };
        let server = TlsSettings::new(&TlsFiles {
            certificates: vec![CertificateFiles {
                server_names: Vec::new(),
                certificate: file("crt", made.cert.pem()),
                key: file("key", made.signing_key.serialize_pem()),
            }],
            client_certificates: ClientCertificates::None,
            client_ca: None,
            revocation_lists: Vec::new(),
            only_tls13: false,
            cipher_suites: Vec::new(),
            protocol_name: "mqtt",
        });
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        House { server: Arc::new(server.expect("it is good")), client: Arc::new(client) }
    })
}

//! One blocking client that says what it expects next.
//!
//! Every read has a deadline and every unexpected packet is a panic, so a test reads as the script
//! of one conversation. "Nothing arrives" is never shown by waiting: [`Client::ping`] shows that the
//! next packet is the answer to a ping, [`Client::nothing_from`] that the next one is a marker
//! published after the message in question.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::broker;
use crate::names;
use crate::wire::{
    Ack, ConnAck, Connect, Disconnect, Encode, Kind, Packet, Publish, SubAck, Subscribe,
    Unsubscribe, Version, disconnect, pingreq, puback, pubcomp, publish, pubrec, pubrel, subscribe,
    unsubscribe,
};

/// How long one expected packet may take, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to the broker.
#[derive(Debug)]
pub struct Client {
    /// The broker's CONNACK, once there was one.
    pub connack: Option<ConnAck>,
    version: Version,
    stream: TcpStream,
    received: Vec<u8>,
    /// Packets that arrived while another one was waited for.
    early: VecDeque<Packet>,
    last_id: u16,
    /// What CONNECT said, in bytes: every packet received is held against it.
    maximum_packet_size: usize,
}

/// What came of waiting for a packet.
enum Came {
    Packet(Packet),
    End,
    Late,
}

/// A connection to the shared broker on which nothing was sent.
#[must_use]
pub fn open(version: Version) -> Client {
    Client::open(broker::shared().address(), version)
}

/// A client connected to the shared broker, or a panic.
#[must_use]
#[track_caller]
pub fn connect(connect: Connect) -> Client {
    Client::connect(broker::shared().address(), connect)
}

/// A client with a new session and an identifier of its own on the shared broker.
#[must_use]
#[track_caller]
pub fn client(version: Version) -> Client {
    connect(hello(version))
}

/// A CONNECT with an identifier of its own.
#[must_use]
pub fn hello(version: Version) -> Connect {
    Connect::new(version, names::client_id())
}

impl Client {
    /// A TCP connection, nothing more.
    #[must_use]
    pub fn open(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the broker accepts");
        stream.set_nodelay(true).expect("a TCP socket has this option");
        Self {
            connack: None,
            version,
            stream,
            received: Vec::new(),
            early: VecDeque::new(),
            last_id: 0,
            maximum_packet_size: usize::MAX,
        }
    }

    /// Connects and expects success.
    #[must_use]
    #[track_caller]
    pub fn connect(address: SocketAddr, connect: Connect) -> Self {
        let mut client = Self::open(address, connect.version());
        if let Some(size) = connect.maximum_packet_size() {
            client.maximum_packet_size = size as usize;
        }
        client.send(connect);
        let connack = client.expect_connack();
        assert_eq!(connack.code, 0, "{connack:?}");
        client.connack = Some(connack);
        client
    }

    /// The version it speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The CONNACK of a connected client.
    #[must_use]
    pub fn connack(&self) -> &ConnAck {
        self.connack.as_ref().expect("connected")
    }

    /// Sends a packet, or bytes as they are.
    #[track_caller]
    pub fn send(&mut self, packet: impl Encode) {
        self.stream.write_all(&packet.encode(self.version)).expect("the broker listens");
    }

    /// Sends bytes that the broker may refuse before it has read them all.
    pub fn send_regardless(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next packet.
    #[track_caller]
    pub fn receive(&mut self) -> Packet {
        let Some(packet) = self.receive_or_end() else {
            panic!("the broker closed the connection")
        };
        packet
    }

    /// The next packet, or `None` once the broker has closed the connection.
    #[track_caller]
    pub fn receive_or_end(&mut self) -> Option<Packet> {
        match self.wait(PATIENCE) {
            Came::Packet(packet) => Some(packet),
            Came::End => None,
            Came::Late => panic!("nothing came within {PATIENCE:?}"),
        }
    }

    /// The next message, completed, if one comes soon: to look at several clients in turn.
    #[track_caller]
    pub fn take_soon(&mut self) -> Option<Publish> {
        match self.wait(Duration::from_millis(2)) {
            Came::Packet(Packet::Publish(publish)) => {
                self.acknowledge(&publish);
                Some(publish)
            }
            Came::Late => None,
            Came::Packet(other) => panic!("expected PUBLISH, received {other:?}"),
            Came::End => panic!("the broker closed the connection"),
        }
    }

    #[track_caller]
    fn wait(&mut self, patience: Duration) -> Came {
        if let Some(packet) = self.early.pop_front() {
            return Came::Packet(packet);
        }
        let deadline = Instant::now() + patience;
        loop {
            if let Some(packet) = self.take_received() {
                return Came::Packet(packet);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Came::Late;
            }
            self.stream.set_read_timeout(Some(left)).expect("not zero");
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    assert!(self.received.is_empty(), "closed amid {:02x?}", self.received);
                    return Came::End;
                }
                Ok(count) => self.received.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Came::End,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => panic!("reading: {error}"),
            }
        }
    }

    /// A whole packet out of what was received, no larger than this client said it takes.
    #[track_caller]
    fn take_received(&mut self) -> Option<Packet> {
        let before = self.received.len();
        let packet = Packet::take(&mut self.received, self.version)?;
        let size = before - self.received.len();
        let maximum = self.maximum_packet_size;
        assert!(size <= maximum, "{size} bytes for a client that takes {maximum}: {packet:?}");
        Some(packet)
    }

    /// The next packet is this one.
    #[track_caller]
    pub fn expect(&mut self, expected: impl Into<Packet>) {
        assert_eq!(self.receive(), expected.into());
    }

    /// The next packet is a CONNACK.
    #[track_caller]
    pub fn expect_connack(&mut self) -> ConnAck {
        match self.receive() {
            Packet::ConnAck(connack) => connack,
            other => panic!("expected CONNACK, received {other:?}"),
        }
    }

    /// The next packet is a PUBLISH.
    #[track_caller]
    pub fn expect_publish(&mut self) -> Publish {
        match self.receive() {
            Packet::Publish(publish) => publish,
            other => panic!("expected PUBLISH, received {other:?}"),
        }
    }

    /// The next packet is an acknowledgement of this kind and identifier.
    #[track_caller]
    pub fn expect_ack(&mut self, kind: Kind, id: u16) -> Ack {
        match self.receive() {
            Packet::Ack(ack) if (ack.kind, ack.id) == (kind, id) => ack,
            other => panic!("expected {kind:?} {id}, received {other:?}"),
        }
    }

    /// The next packet is a successful acknowledgement of this kind and identifier.
    #[track_caller]
    pub fn expect_success(&mut self, kind: Kind, id: u16) -> Ack {
        let ack = self.expect_ack(kind, id);
        assert!(ack.code < 0x80, "{ack:?}");
        ack
    }

    /// The next packet is a SUBACK, except for messages that may come before it.
    #[track_caller]
    pub fn expect_suback(&mut self) -> SubAck {
        match self.skip_messages() {
            Packet::SubAck(suback) => suback,
            other => panic!("expected SUBACK, received {other:?}"),
        }
    }

    /// The next packet is an UNSUBACK, except for messages that may come before it.
    #[track_caller]
    pub fn expect_unsuback(&mut self) -> SubAck {
        match self.skip_messages() {
            Packet::UnsubAck(unsuback) => unsuback,
            other => panic!("expected UNSUBACK, received {other:?}"),
        }
    }

    /// The next packet that is no PUBLISH; the messages before it are kept for later.
    #[track_caller]
    fn skip_messages(&mut self) -> Packet {
        let mut messages = VecDeque::new();
        let answer = loop {
            match self.receive() {
                message @ Packet::Publish(_) => messages.push_back(message),
                other => break other,
            }
        };
        self.early = messages;
        answer
    }

    /// The broker closes the connection and says nothing before.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        if let Some(packet) = self.receive_or_end() {
            panic!("expected the end of the connection, received {packet:?}");
        }
    }

    /// The broker ends the connection for a mistake of ours: with a DISCONNECT that has one of
    /// these reason codes in 5.0, without a word before.
    #[track_caller]
    pub fn expect_error(&mut self, codes: &[u8]) {
        if self.version.is_v5() {
            let disconnect = match self.receive_or_end() {
                Some(Packet::Disconnect(disconnect)) => disconnect,
                Some(other) => panic!("expected DISCONNECT, received {other:?}"),
                None if broker::is_terse() => return,
                None => panic!("closed without a DISCONNECT"),
            };
            let code = disconnect.code.expect("read from the wire");
            assert!(codes.contains(&code), "{disconnect:02x?}, not one of {codes:02x?}");
        }
        self.expect_closed();
    }

    /// The next packet is a DISCONNECT.
    #[track_caller]
    pub fn expect_disconnect(&mut self) -> Disconnect {
        match self.receive() {
            Packet::Disconnect(disconnect) => disconnect,
            other => panic!("expected DISCONNECT, received {other:?}"),
        }
    }

    /// The broker refuses the CONNECT: a CONNACK with one of these codes, then the end.
    #[track_caller]
    pub fn expect_refusal(&mut self, codes: &[u8]) {
        let connack = match self.receive_or_end() {
            Some(Packet::ConnAck(connack)) => connack,
            Some(other) => panic!("expected CONNACK, received {other:?}"),
            None if self.version.is_v5() && broker::is_terse() => return,
            None => panic!("closed without a CONNACK"),
        };
        assert!(codes.contains(&connack.code), "{connack:02x?}, not one of {codes:02x?}");
        assert!(!connack.session_present, "[MQTT-3.2.2-6] [MQTT-3.2.2-4 @3.1.1]");
        self.expect_closed();
    }

    /// The broker refuses a CONNECT that is malformed: 5.0 says so in a CONNACK, the older
    /// versions just close [MQTT-3.1.4-1 @3.1.1].
    #[track_caller]
    pub fn expect_malformed_connect(&mut self) {
        if self.version.is_v5() {
            self.expect_refusal(&[0x81, 0x82]);
        } else {
            self.expect_closed();
        }
    }

    /// The next packet is the answer to a ping: the broker had nothing else to say.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(pingreq());
        self.expect(Packet::PingResp);
    }

    /// Of all that `publisher` sent so far nothing more reaches this client.
    ///
    /// A marker published after it arrives next. Both are kept in order, because they go from one
    /// publisher to one subscriber the same way.
    #[track_caller]
    pub fn nothing_from(&mut self, publisher: &mut Self) {
        let marker = names::topic("marker");
        self.subscribe(&marker, 0);
        publisher.send(publish(&*marker));
        self.expect(publish(&*marker));
        self.unsubscribe(&marker);
        self.ping();
    }

    /// A packet identifier that this client has not used.
    pub fn next_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }

    /// Subscribes with these options (the QoS, in their simplest form) and expects to be granted
    /// that QoS.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) {
        let id = self.next_id();
        let suback = self.subscribe_with(subscribe(id).filter(filter, options));
        assert_eq!((suback.id, suback.codes), (id, vec![options & 0b11]), "for {filter}");
    }

    /// Sends a SUBSCRIBE and returns its answer.
    #[track_caller]
    pub fn subscribe_with(&mut self, subscribe: Subscribe) -> SubAck {
        self.send(subscribe);
        self.expect_suback()
    }

    /// Unsubscribes and expects success.
    #[track_caller]
    pub fn unsubscribe(&mut self, filter: &str) {
        let id = self.next_id();
        let unsuback = self.unsubscribe_with(unsubscribe(id).filter(filter));
        let codes = if self.version.is_v5() { vec![0] } else { vec![] };
        assert_eq!((unsuback.id, unsuback.codes), (id, codes), "for {filter}");
    }

    /// Sends an UNSUBSCRIBE and returns its answer.
    #[track_caller]
    pub fn unsubscribe_with(&mut self, unsubscribe: Unsubscribe) -> SubAck {
        self.send(unsubscribe);
        self.expect_unsuback()
    }

    /// Publishes and completes the delivery that the QoS asks for.
    #[track_caller]
    pub fn deliver(&mut self, mut publish: Publish) {
        if publish.qos > 0 && publish.id.is_none() {
            publish.id = Some(self.next_id());
        }
        let (qos, id) = (publish.qos, publish.id);
        self.send(publish);
        match (qos, id) {
            (1, Some(id)) => {
                self.expect_success(Kind::PubAck, id);
            }
            (2, Some(id)) => {
                self.expect_success(Kind::PubRec, id);
                self.send(pubrel(id));
                self.expect(pubcomp(id));
            }
            _ => {}
        }
    }

    /// Receives a PUBLISH and completes the delivery that its QoS asks for.
    #[track_caller]
    pub fn take(&mut self) -> Publish {
        let publish = self.expect_publish();
        self.acknowledge(&publish);
        publish
    }

    /// Acknowledges a PUBLISH, all the way.
    #[track_caller]
    pub fn acknowledge(&mut self, publish: &Publish) {
        match (publish.qos, publish.id) {
            (1, Some(id)) => self.send(puback(id)),
            (2, Some(id)) => {
                self.send(pubrec(id));
                let pubrel = self.expect_pubrel(id);
                assert_eq!(pubrel.code, 0);
                self.send(pubcomp(id));
            }
            _ => {}
        }
    }

    /// The PUBREL of this identifier; messages that come before it are kept for later.
    #[track_caller]
    pub fn expect_pubrel(&mut self, id: u16) -> Ack {
        match self.skip_messages() {
            Packet::Ack(ack) if (ack.kind, ack.id) == (Kind::PubRel, id) => ack,
            other => panic!("expected PUBREL {id}, received {other:?}"),
        }
    }

    /// Sends a normal DISCONNECT and waits until the broker has closed the connection.
    #[track_caller]
    pub fn leave(self) {
        self.leave_with(disconnect());
    }

    /// Sends this DISCONNECT and waits until the broker has closed the connection.
    #[track_caller]
    pub fn leave_with(mut self, disconnect: Disconnect) {
        self.send(disconnect);
        while let Some(packet) = self.receive_or_end() {
            let message = matches!(packet, Packet::Publish(_) | Packet::Ack(_));
            assert!(message, "{packet:?} after our DISCONNECT");
        }
    }

    /// Ends the connection as a broken network would, and waits until the broker has noticed.
    #[track_caller]
    pub fn vanish(mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        while self.receive_or_end().is_some() {}
    }

    /// Every byte until the broker closes the connection, not decoded.
    #[track_caller]
    pub fn drain(&mut self) -> Vec<u8> {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let mut bytes = std::mem::take(&mut self.received);
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return bytes,
                Ok(count) => bytes.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return bytes,
                Err(error) => panic!("still open after {PATIENCE:?}: {error}"),
            }
        }
    }

    /// The bare socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

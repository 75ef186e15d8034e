//! One blocking client, quick enough to drive a broker hard.
//!
//! Every read has a deadline. The client decodes strictly: a packet from the broker that is not a valid packet of the
//! connection's version is a panic, so whatever else a row measures, it also shows that nothing invalid is passed on.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use midge_codec::{
    Connect, Disconnect, Framed, PACKET_SIZE_MAX, Packet, PacketId, PingReq, ProtocolVersion,
    PubAck, PubComp, PubRec, PubRel, Publish, PublishProperties, QoS, ReasonCode, Subscribe,
    SubscribeFilter, Unsubscribe, decode, frame,
};
use socket2::{Domain, SockRef, Socket, Type};

/// How long one expected packet may take before the row fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a client says in CONNECT.
#[derive(Debug, Clone)]
pub struct Hello {
    /// Its identifier.
    pub client_id: String,
    /// Its version; 5.0 by default.
    pub version: ProtocolVersion,
    /// Whether an earlier session is forgotten; yes by default.
    pub clean_start: bool,
    /// Seconds that the session outlives the connection; 0 by default.
    pub session_expiry_interval_seconds: u32,
    /// Seconds of silence allowed; 0 (off) by default.
    pub keep_alive_seconds: u16,
    /// QoS 1 and 2 messages that it takes at a time; 65,535 by default.
    pub receive_maximum: u16,
    /// Last number of the loopback address 127.0.0.x that it comes from; 1 by default.
    pub source: u8,
}

impl Hello {
    /// A client of 5.0 with this identifier, a clean start and nothing else.
    #[must_use]
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            version: ProtocolVersion::V5,
            clean_start: true,
            session_expiry_interval_seconds: 0,
            keep_alive_seconds: 0,
            receive_maximum: u16::MAX,
            source: 1,
        }
    }

    /// The same, with a session that outlives its connections.
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.clean_start = false;
        self.session_expiry_interval_seconds = 3600;
        self
    }

    fn encode(&self) -> Vec<u8> {
        let mut connect = Connect::new(self.version, &self.client_id);
        connect.clean_start = self.clean_start;
        connect.keep_alive_seconds = self.keep_alive_seconds;
        if self.version.is_v5() {
            let expiry = self.session_expiry_interval_seconds;
            connect.properties.session_expiry_interval_seconds = (expiry > 0).then_some(expiry);
            connect.properties.receive_maximum = NonZeroU16::new(self.receive_maximum);
        }
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        bytes
    }
}

/// A message from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its quality of service.
    pub qos: QoS,
    /// Its packet identifier, with QoS 1 and 2.
    pub id: u16,
    /// Whether it may have come before.
    pub dup: bool,
    /// Whether it is retained.
    pub retain: bool,
}

/// Which acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// PUBACK.
    PubAck,
    /// PUBREC.
    PubRec,
    /// PUBREL.
    PubRel,
    /// PUBCOMP.
    PubComp,
}

/// What came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// CONNACK: session present, reason code.
    ConnAck(bool, ReasonCode),
    /// PUBLISH.
    Message(Message),
    /// An acknowledgement of a publication: which, its identifier, its reason code.
    Ack(Ack, u16, ReasonCode),
    /// SUBACK or UNSUBACK: how many reason codes, and how many of them are errors.
    Subscribed(usize, usize),
    /// PINGRESP.
    Pong,
    /// DISCONNECT.
    Disconnect(ReasonCode),
    /// The connection has ended.
    End,
}

/// A connection to the broker.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    version: ProtocolVersion,
    received: Vec<u8>,
    start: usize,
    timeout: Option<Duration>,
    chunk: Box<[u8]>,
    /// Whether CONNACK said that there was a session.
    pub session_present: bool,
}

impl Client {
    /// A TCP connection, nothing more, from 127.0.0.`source`.
    ///
    /// # Panics
    /// When there is no listener.
    #[must_use]
    pub fn open(address: SocketAddr, source: u8) -> Self {
        let stream = connect_from(address, source).expect("the broker accepts");
        Self {
            stream,
            version: ProtocolVersion::V5,
            received: Vec::new(),
            start: 0,
            timeout: None,
            chunk: vec![0; 16 * 1024].into(),
            session_present: false,
        }
    }

    /// Connects and expects success.
    ///
    /// # Panics
    /// When the broker refuses.
    #[must_use]
    pub fn connect(address: SocketAddr, hello: &Hello) -> Self {
        Self::try_connect(address, hello).expect("the broker lets the client in")
    }

    /// Connects; what came instead of a CONNACK of success, if it did not work.
    ///
    /// # Errors
    /// With what came instead: `None` is nothing at all, in time.
    pub fn try_connect(address: SocketAddr, hello: &Hello) -> Result<Self, Option<Incoming>> {
        let mut client = Self::open(address, hello.source);
        client.hello(hello);
        match client.next(PATIENCE) {
            Some(Incoming::ConnAck(present, ReasonCode::Success)) => {
                client.session_present = present;
                Ok(client)
            }
            other => Err(other),
        }
    }

    /// Sends CONNECT and waits for nothing.
    pub fn hello(&mut self, hello: &Hello) {
        self.version = hello.version;
        self.send(&hello.encode());
    }

    /// The version it speaks.
    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// Sends bytes. A connection that has ended is noticed by the next read.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends bytes and says whether they could be sent in time.
    pub fn send_within(&mut self, bytes: &[u8], patience: Duration) -> bool {
        self.stream.set_write_timeout(Some(patience)).expect("not zero");
        let sent = self.stream.write_all(bytes).is_ok();
        self.stream.set_write_timeout(None).expect("always possible");
        sent
    }

    /// The bare socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The next packet, or `None` when nothing came in time.
    ///
    /// # Panics
    /// When something came that is not a packet of this version.
    pub fn next(&mut self, patience: Duration) -> Option<Incoming> {
        let mut deadline = None;
        loop {
            if let Some(incoming) = self.take() {
                return Some(incoming);
            }
            let now = Instant::now();
            let left = deadline.get_or_insert(now + patience).saturating_duration_since(now);
            if left.is_zero() {
                return None;
            }
            self.set_timeout(left, patience);
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Some(Incoming::End),
                Ok(count) => self.received.extend_from_slice(&self.chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Some(Incoming::End),
            }
        }
    }

    /// The next packet if it has come already: does not wait.
    pub fn poll(&mut self) -> Option<Incoming> {
        self.stream.set_nonblocking(true).expect("always possible");
        match self.stream.read(&mut self.chunk) {
            Ok(0) => return self.take().or(Some(Incoming::End)),
            Ok(count) => self.received.extend_from_slice(&self.chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return self.take().or(Some(Incoming::End)),
        }
        self.stream.set_nonblocking(false).expect("always possible");
        self.take()
    }

    /// A whole packet out of what was received already.
    pub fn take(&mut self) -> Option<Incoming> {
        match frame(&self.received[self.start..], PACKET_SIZE_MAX) {
            Ok(Framed::Packet(raw)) => {
                let size = raw.size;
                let packet = match decode(raw, self.version) {
                    Ok(packet) => incoming(&packet),
                    Err(error) => panic!("the broker sent an invalid packet: {error}"),
                };
                self.start += size;
                if self.start == self.received.len() {
                    self.received.clear();
                    self.start = 0;
                }
                Some(packet)
            }
            Ok(Framed::Incomplete { .. }) => {
                self.received.drain(..self.start);
                self.start = 0;
                None
            }
            Err(error) => panic!("the broker sent an invalid header: {error}"),
        }
    }

    fn set_timeout(&mut self, left: Duration, patience: Duration) {
        // One system call saved for each read of a conversation at the same pace.
        let close = self.timeout.is_some_and(|set| set >= left && set <= patience);
        if !close {
            self.stream.set_read_timeout(Some(left)).expect("not zero");
            self.timeout = Some(left);
        }
    }

    /// Waits until the broker has said something, or closed; what it said is passed over.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub fn wait_for_bytes(&mut self) {
        self.set_timeout(PATIENCE, PATIENCE);
        let answer = self.stream.read(&mut self.chunk);
        let late = answer.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!late, "the broker neither answers nor closes");
    }

    /// The next packet; a panic when none comes.
    ///
    /// # Panics
    /// When nothing comes in time.
    #[must_use]
    pub fn expect(&mut self) -> Incoming {
        self.next(PATIENCE).expect("the broker answers")
    }

    /// The next packet that is not a message.
    ///
    /// # Panics
    /// When nothing comes in time.
    #[must_use]
    pub fn expect_answer(&mut self) -> Incoming {
        loop {
            match self.expect() {
                Incoming::Message(_) => {}
                other => return other,
            }
        }
    }

    /// Sends PINGREQ and waits for the answer; messages before it are passed over.
    ///
    /// # Panics
    /// When something else comes, or nothing.
    pub fn ping(&mut self) {
        let mut bytes = Vec::new();
        PingReq.encode(&mut bytes);
        self.send(&bytes);
        assert_eq!(self.expect_answer(), Incoming::Pong);
    }

    /// Subscribes to one filter and expects to be granted it.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.send(&self.subscribe_packet(1, &[filter], qos));
        assert_eq!(self.expect_answer(), Incoming::Subscribed(1, 0), "for {filter}");
    }

    /// A SUBSCRIBE in bytes.
    #[must_use]
    pub fn subscribe_packet(&self, id: u16, filters: &[impl AsRef<str>], qos: QoS) -> Vec<u8> {
        let filters: Vec<_> = filters
            .iter()
            .map(|filter| SubscribeFilter {
                filter: filter.as_ref(),
                qos,
                ..SubscribeFilter::default()
            })
            .collect();
        let mut bytes = Vec::new();
        Subscribe::new(packet_id(id), &filters).encode(self.version, &mut bytes);
        bytes
    }

    /// An UNSUBSCRIBE in bytes.
    #[must_use]
    pub fn unsubscribe_packet(&self, id: u16, filters: &[impl AsRef<str>]) -> Vec<u8> {
        let filters: Vec<&str> = filters.iter().map(AsRef::as_ref).collect();
        let mut bytes = Vec::new();
        Unsubscribe::new(packet_id(id), &filters).encode(self.version, &mut bytes);
        bytes
    }

    /// Appends a PUBLISH to `out`; `id` is not used with QoS 0.
    pub fn write_publish(
        &self,
        out: &mut Vec<u8>,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        id: u16,
        retain: bool,
    ) {
        let publish = Publish {
            dup: false,
            qos,
            retain,
            topic,
            packet_id: (qos != QoS::AtMostOnce).then(|| packet_id(id)),
            properties: PublishProperties::default(),
            payload,
        };
        publish.encode(self.version, out);
    }

    /// Publishes with QoS 1 and returns the reason code of the PUBACK.
    ///
    /// # Panics
    /// When something else comes.
    pub fn deliver(&mut self, topic: &str, payload: &[u8], retain: bool) -> ReasonCode {
        let mut bytes = Vec::new();
        self.write_publish(&mut bytes, topic, payload, QoS::AtLeastOnce, 1, retain);
        self.send(&bytes);
        match self.expect_answer() {
            Incoming::Ack(Ack::PubAck, 1, reason_code) => reason_code,
            other => panic!("expected PUBACK, received {other:?}"),
        }
    }

    /// An acknowledgement in bytes, appended to `out`.
    pub fn write_ack(&self, out: &mut Vec<u8>, ack: Ack, id: u16) {
        let (id, code) = (packet_id(id), ReasonCode::Success);
        match ack {
            Ack::PubAck => PubAck::new(id, code).encode(self.version, out),
            Ack::PubRec => PubRec::new(id, code).encode(self.version, out),
            Ack::PubRel => PubRel::new(id, code).encode(self.version, out),
            Ack::PubComp => PubComp::new(id, code).encode(self.version, out),
        }
    }

    /// Says DISCONNECT and waits until the broker has closed.
    pub fn leave(mut self) {
        let mut bytes = Vec::new();
        Disconnect::new(ReasonCode::Success).encode(self.version, &mut bytes);
        self.send(&bytes);
        let _ = self.stream.shutdown(Shutdown::Write);
        while !matches!(self.next(PATIENCE), Some(Incoming::End) | None) {}
    }

    /// Ends the connection with a reset: nothing of it stays in TIME-WAIT, so that any number may follow.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("always possible");
    }

    /// Ends the connection at once, with a reset where something was not read.
    pub fn cut(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn connect_from(address: SocketAddr, source: u8) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if source != 1 {
        let source = SocketAddr::from((IpAddr::V4(Ipv4Addr::new(127, 0, 0, source)), 0));
        // A port whose last connection is in TIME-WAIT will do.
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    socket.connect_timeout(&address.into(), PATIENCE)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// A packet identifier; zero is no identifier.
pub(crate) fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).expect("a packet identifier is not zero")
}

fn incoming(packet: &Packet<'_>) -> Incoming {
    match packet {
        Packet::ConnAck(connack) => Incoming::ConnAck(connack.session_present, connack.reason_code),
        Packet::Publish(publish) => Incoming::Message(Message {
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            id: publish.packet_id.map_or(0, PacketId::get),
            dup: publish.dup,
            retain: publish.retain,
        }),
        Packet::PubAck(ack) => Incoming::Ack(Ack::PubAck, ack.packet_id.get(), ack.reason_code),
        Packet::PubRec(ack) => Incoming::Ack(Ack::PubRec, ack.packet_id.get(), ack.reason_code),
        Packet::PubRel(ack) => Incoming::Ack(Ack::PubRel, ack.packet_id.get(), ack.reason_code),
        Packet::PubComp(ack) => Incoming::Ack(Ack::PubComp, ack.packet_id.get(), ack.reason_code),
        Packet::SubAck(suback) => subscribed(suback.reason_codes.iter()),
        Packet::UnsubAck(unsuback) => subscribed(unsuback.reason_codes.iter()),
        Packet::PingResp => Incoming::Pong,
        Packet::Disconnect(disconnect) => Incoming::Disconnect(disconnect.reason_code),
        other => panic!("a server does not send {other:?}"),
    }
}

fn subscribed(codes: impl Iterator<Item = ReasonCode>) -> Incoming {
    let (mut count, mut errors) = (0, 0);
    for code in codes {
        count += 1;
        errors += usize::from(code.is_error());
    }
    Incoming::Subscribed(count, errors)
}

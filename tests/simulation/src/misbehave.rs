//! Clients that break the protocol on purpose, in every state of a connection.
//!
//! What must come of it is always the same: the broker closes that connection in time, and nobody else notices.

use midge_codec::{
    Connect, PacketId, ProtocolVersion, PubAck, PubComp, PubRec, PubRel, Publish, QoS, ReasonCode,
    Subscribe, SubscribeFilter,
};

use crate::net::{End, Event, MS, Net, PipeId, SECOND};
use crate::prng::Prng;

/// One client that misbehaves.
#[derive(Debug)]
pub struct BadClient {
    /// Its place among all clients.
    pub index: usize,
    prng: Prng,
    pipe: Option<PipeId>,
    version: ProtocolVersion,
    /// The attack was written, and the broker must close: this one.
    pub must_close: Vec<PipeId>,
    attacked: bool,
    /// No more connections.
    pub calm: bool,
}

impl BadClient {
    /// One that has not begun.
    #[must_use]
    pub fn new(seed: u64, index: usize) -> Self {
        Self {
            index,
            prng: Prng::new(seed, 0x2000 + index as u64),
            pipe: None,
            version: ProtocolVersion::V5,
            must_close: Vec::new(),
            attacked: false,
            calm: false,
        }
    }

    /// Something arrived: it is read and ignored.
    pub fn arrive(&mut self, net: &mut Net, pipe: PipeId) {
        net.read(pipe);
        if net.pipes[pipe].down_ended.is_some() {
            net.end(pipe, End::Fin);
            if self.pipe == Some(pipe) {
                self.pipe = None;
            }
        }
    }

    /// Does the next bad thing.
    pub fn act(&mut self, net: &mut Net) {
        match self.pipe {
            None if self.calm => return,
            None => self.begin(net),
            Some(pipe) if !self.attacked => self.attack(net, pipe),
            Some(pipe) => {
                if self.prng.permille(100) && !self.must_close.contains(&pipe) {
                    net.end(pipe, End::Reset);
                    self.pipe = None;
                }
            }
        }
        let pause = self.prng.between(20 * MS, 2 * SECOND);
        net.at(net.now + pause, Event::Act(self.index));
    }

    fn begin(&mut self, net: &mut Net) {
        let pipe = net.connect(self.index);
        net.trace.line(net.now, format_args!("bad{} opens pipe {pipe}", self.index));
        self.pipe = Some(pipe);
        self.version =
            self.prng.pick(&[ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5]);
        self.attacked = false;
        match self.prng.below(5) {
            // Nothing, for ever.
            0 => {
                self.attacked = true;
                self.must_close.push(pipe);
            }
            // Bytes that are no CONNECT.
            1 => {
                let bytes = self.no_connect();
                self.write(net, pipe, bytes);
                self.attacked = true;
                self.must_close.push(pipe);
            }
            _ => {
                let id = format!("bad{}", self.prng.below(3));
                let mut connect = Connect::new(self.version, &id);
                connect.clean_start = self.prng.permille(500);
                let mut bytes = Vec::new();
                connect.encode(&mut bytes);
                self.write(net, pipe, bytes);
                if self.prng.permille(500) {
                    self.attack(net, pipe);
                }
            }
        }
    }

    fn write(&mut self, net: &mut Net, pipe: PipeId, bytes: Vec<u8>) {
        net.trace.line(net.now, format_args!("bad{} writes {bytes:02x?}", self.index));
        net.write(pipe, bytes);
    }

    fn no_connect(&mut self) -> Vec<u8> {
        let mut connect = Vec::new();
        Connect::new(self.version, "bad").encode(&mut connect);
        match self.prng.below(6) {
            // A packet that is not CONNECT.
            0 => vec![0xC0, 0],
            // A type that does not exist.
            1 => vec![0x00, 0],
            // A remaining length of five bytes.
            2 => vec![0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            // Larger than the broker takes.
            3 => vec![0x10, 0xFF, 0xFF, 0xFF, 0x7F],
            // A part of a CONNECT, then nothing.
            4 => {
                connect.truncate(self.prng.between(1, connect.len() as u64 - 1) as usize);
                connect
            }
            // A CONNECT with a broken name.
            _ => {
                connect[5] ^= 0x20;
                connect
            }
        }
    }

    /// Breaks the protocol on a connection that is, or will be, accepted.
    fn attack(&mut self, net: &mut Net, pipe: PipeId) {
        self.attacked = true;
        let v5 = self.version.is_v5();
        let version = self.version;
        let id = PacketId::MIN;
        let mut bytes = Vec::new();
        let mut closes = true;
        match self.prng.below(19) {
            0 => Connect::new(version, "bad").encode(&mut bytes),
            1 => bytes.extend([0x20, 2, 0, 0]),
            2 => bytes.extend([0xD0, 0]),
            3 => bytes.extend([0x90, 3, 0, 1, 0]),
            4 => bytes.extend([0x36, 5, 0, 1, b't', 0, 1]),
            5 => bytes.extend([0x30, 3, 0, 1, b'+']),
            6 => bytes.extend([0x80, 2, 0, 1]),
            7 => bytes.extend([0x00, 0]),
            8 => bytes.extend([0xC0, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
            9 => bytes.extend([0x32, 4, 0, 1, b't', 0]),
            10 if v5 => bytes.extend([0x30, 6, 0, 1, b't', 3, 0x23, 0]),
            11 if v5 => bytes.extend([0x30, 9, 0, 1, b't', 3, 0x23, 0xFF, 0xFF, b'x', b'y']),
            12 if v5 => bytes.extend([0x30, 6, 0, 0, 3, 0x23, 0, 1]),
            13 if v5 => bytes.extend([0x30, 6, 0, 1, b't', 2, 0x0B, 7]),
            14 if v5 => bytes.extend([0xF0, 2, 0x18, 0]),
            // Not errors, only pointless: nothing is known under these ids.
            15 => {
                PubAck::new(id, ReasonCode::Success).encode(version, &mut bytes);
                PubRec::new(id, ReasonCode::Success).encode(version, &mut bytes);
                PubRel::new(id, ReasonCode::Success).encode(version, &mut bytes);
                PubComp::new(id, ReasonCode::Success).encode(version, &mut bytes);
                closes = false;
            }
            // A subscription, a QoS 2 message, a retained one, and silence.
            16 => {
                let filter =
                    SubscribeFilter { filter: "#", qos: QoS::ExactlyOnce, ..Default::default() };
                Subscribe::new(id, &[filter]).encode(version, &mut bytes);
                let publish = Publish {
                    topic: "t/0/0",
                    payload: b"bad",
                    qos: QoS::ExactlyOnce,
                    packet_id: Some(id),
                    ..Publish::default()
                };
                publish.encode(version, &mut bytes);
                closes = false;
            }
            // Many packets at once, never reading; then an error.
            17 => {
                for _ in 0..self.prng.between(10, 400) {
                    bytes.extend([0xC0, 0]);
                }
                bytes.extend([0xC0, 1, 0]);
            }
            // Anything.
            _ => {
                for _ in 0..self.prng.between(1, 60) {
                    bytes.push(self.prng.below(256) as u8);
                }
                closes = false;
            }
        }
        if bytes.is_empty() {
            bytes.extend([0x40, 0]);
        }
        if closes {
            self.must_close.push(pipe);
        }
        self.write(net, pipe, bytes);
    }

    /// The run settles: connections that need not be closed by the broker end.
    pub fn calm_down(&mut self, net: &mut Net) {
        self.calm = true;
        if let Some(pipe) = self.pipe.take()
            && !self.must_close.contains(&pipe)
        {
            net.end(pipe, End::Reset);
        }
    }
}

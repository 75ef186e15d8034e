//! The few MQTT packets a load generator speaks, to and from bytes.
//!
//! This is on purpose not the broker's codec. A generator that shared it would share its mistakes, and would pay for
//! validation that nobody needs here: it knows what it sent. So requests are encoded once and patched, and what comes
//! back is walked frame by frame without allocation; of a PUBLISH only the first 16 payload bytes are read.
//!
//! # The stamp
//! Every payload begins with publisher (4 bytes), sequence (4 bytes) and time in nanoseconds (8 bytes), all big-endian.
//! The time is that of the generator's own monotonic clock, so publisher and subscriber must be one process.
//!
//! # Limits
//! - The walker trusts the broker to keep MQTT's framing; a length field of more than four bytes is an error, anything
//!   else is counted by packet type and skipped.

/// Bytes of publisher, sequence and time at the beginning of each payload: the smallest payload there is.
pub(crate) const STAMP_SIZE: usize = 16;

/// The largest fixed header: the type byte and four bytes of length.
const FIXED_HEADER_SIZE_MAX: usize = 5;

/// An MQTT version, by the level that CONNECT announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// 3.1, `MQIsdp`.
    V31,
    /// 3.1.1.
    V311,
    /// 5.0.
    V5,
}

impl Protocol {
    fn is_v5(self) -> bool {
        self == Self::V5
    }

    /// The number as people say it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        }
    }
}

/// Control packet types, the high half of the first byte.
pub(crate) mod kind {
    pub(crate) const CONNACK: u8 = 2;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const PUBACK: u8 = 4;
    pub(crate) const PUBREC: u8 = 5;
    pub(crate) const PUBREL: u8 = 6;
    pub(crate) const PUBCOMP: u8 = 7;
    pub(crate) const SUBACK: u8 = 9;
    pub(crate) const PINGRESP: u8 = 13;
    pub(crate) const DISCONNECT: u8 = 14;
}

/// PINGREQ, whole.
pub(crate) const PINGREQ: [u8; 2] = [0xC0, 0];

/// DISCONNECT, whole, in every version: 5.0 lets the reason "normal" be left out.
pub(crate) const DISCONNECT: [u8; 2] = [0xE0, 0];

/// Who a client says it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    /// Never empty, so that 3.1 brokers accept it.
    pub client_id: &'a str,
    /// No user name: anonymous.
    pub username: Option<&'a str>,
    /// Only with a user name.
    pub password: Option<&'a str>,
    /// 0 turns keep-alive off.
    pub keep_alive_seconds: u16,
    /// Clean start in 5.0, clean session before.
    pub clean_start: bool,
}

/// Appends CONNECT.
pub(crate) fn encode_connect(protocol: Protocol, identity: Identity<'_>, out: &mut Vec<u8>) {
    let (name, level): (&str, u8) = match protocol {
        Protocol::V31 => ("MQIsdp", 3),
        Protocol::V311 => ("MQTT", 4),
        Protocol::V5 => ("MQTT", 5),
    };
    let mut flags = u8::from(identity.clean_start) << 1;
    flags |= u8::from(identity.username.is_some()) << 7;
    let password = identity.username.and(identity.password);
    flags |= u8::from(password.is_some()) << 6;
    let mut body = Vec::with_capacity(64);
    push_string(&mut body, name);
    body.extend_from_slice(&[level, flags]);
    body.extend_from_slice(&identity.keep_alive_seconds.to_be_bytes());
    if protocol.is_v5() {
        // A session that should outlive its connection needs an expiry of its own in 5.0: 0x11, here one hour.
        if identity.clean_start {
            body.push(0);
        } else {
            body.extend_from_slice(&[5, 0x11]);
            body.extend_from_slice(&3600_u32.to_be_bytes());
        }
    }
    push_string(&mut body, identity.client_id);
    if let Some(username) = identity.username {
        push_string(&mut body, username);
    }
    if let Some(password) = password {
        push_string(&mut body, password);
    }
    push_packet(out, 0x10, &body);
}

/// Appends SUBSCRIBE with one filter and packet identifier 1.
pub(crate) fn encode_subscribe(protocol: Protocol, filter: &str, qos: u8, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(filter.len() + 6);
    body.extend_from_slice(&1_u16.to_be_bytes());
    if protocol.is_v5() {
        body.push(0);
    }
    push_string(&mut body, filter);
    body.push(qos);
    push_packet(out, 0x82, &body);
}

/// Appends the PUBLISH that removes a retained message: QoS 0, retain, no payload.
pub(crate) fn encode_clear(protocol: Protocol, topic: &str, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(topic.len() + 3);
    push_string(&mut body, topic);
    if protocol.is_v5() {
        body.push(0);
    }
    push_packet(out, 0x31, &body);
}

/// Appends PUBACK, PUBREC, PUBREL or PUBCOMP, in the short form that every version reads.
#[inline]
pub(crate) fn encode_acknowledgement(packet_kind: u8, packet_id: u16, out: &mut Vec<u8>) {
    // PUBREL alone has a reserved bit set: [MQTT-3.6.1-1].
    let first = packet_kind << 4 | if packet_kind == kind::PUBREL { 2 } else { 0 };
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

/// A PUBLISH encoded once; only identifier and stamp differ between two messages of one publisher.
#[derive(Debug)]
pub(crate) struct PublishTemplate {
    frame: Vec<u8>,
    stamp_at: usize,
    packet_id_at: Option<usize>,
}

impl PublishTemplate {
    /// `payload_size` in bytes, at least [`STAMP_SIZE`].
    pub(crate) fn new(
        protocol: Protocol,
        topic: &str,
        qos: u8,
        retain: bool,
        publisher: u32,
        payload_size: usize,
    ) -> Self {
        assert!(payload_size >= STAMP_SIZE);
        let mut body = Vec::with_capacity(topic.len() + payload_size + 8);
        push_string(&mut body, topic);
        let packet_id_at = (qos > 0).then_some(body.len());
        if qos > 0 {
            body.extend_from_slice(&[0, 0]);
        }
        if protocol.is_v5() {
            body.push(0);
        }
        let stamp_at = body.len();
        body.extend_from_slice(&publisher.to_be_bytes());
        // Not zeros: nobody between here and the other end shall win by compressing or sharing them.
        body.extend((0..payload_size - 4).map(|index| b'a' + (index % 23) as u8));
        let mut frame = Vec::new();
        push_packet(&mut frame, 0x30 | qos << 1 | u8::from(retain), &body);
        let header_size = frame.len() - body.len();
        Self {
            frame,
            stamp_at: stamp_at + header_size,
            packet_id_at: packet_id_at.map(|at| at + header_size),
        }
    }

    /// Bytes of one encoded message.
    pub(crate) fn size(&self) -> usize {
        self.frame.len()
    }

    /// Appends one message. `packet_id` is not used at QoS 0.
    #[inline]
    pub(crate) fn encode(&self, sequence: u32, time_ns: u64, packet_id: u16, out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[from..];
        let stamp = &mut frame[self.stamp_at..self.stamp_at + STAMP_SIZE];
        stamp[4..8].copy_from_slice(&sequence.to_be_bytes());
        stamp[8..16].copy_from_slice(&time_ns.to_be_bytes());
        if let Some(at) = self.packet_id_at {
            frame[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
    }
}

/// What a payload says about its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub publisher: u32,
    pub sequence: u32,
    pub time_ns: u64,
}

/// One packet from the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub first_byte: u8,
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The control packet type, see [`kind`].
    #[inline]
    pub(crate) fn kind(&self) -> u8 {
        self.first_byte >> 4
    }

    /// The identifier that an acknowledgement begins with; 0, which is no identifier, when it is cut short.
    #[inline]
    pub(crate) fn packet_id(&self) -> u16 {
        match self.body {
            [high, low, ..] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        }
    }

    /// The reason of an acknowledgement in 5.0, "success" when it is left out and before 5.0.
    #[inline]
    pub(crate) fn acknowledgement_reason(&self) -> u8 {
        self.body.get(2).copied().unwrap_or(0)
    }

    /// The return or reason code of CONNACK.
    pub(crate) fn connect_reason(&self) -> u8 {
        self.body.get(1).copied().unwrap_or(0xFF)
    }

    /// The first code of SUBACK.
    pub(crate) fn subscribe_reason(&self, protocol: Protocol) -> u8 {
        let mut at = 2;
        if protocol.is_v5() {
            let Some(Length::Known { size, value }) = self.body.get(at..).map(read_length) else {
                return 0xFF;
            };
            at += size + value;
        }
        self.body.get(at).copied().unwrap_or(0xFF)
    }

    /// The QoS of a PUBLISH.
    #[inline]
    pub(crate) fn publish_qos(&self) -> u8 {
        self.first_byte >> 1 & 3
    }

    /// Packet identifier (0 at QoS 0) and stamp of a PUBLISH; `None` when it is not one of ours.
    #[inline]
    pub(crate) fn publish(&self, protocol: Protocol) -> Option<(u16, Stamp)> {
        let topic_size = usize::from(u16::from_be_bytes([*self.body.first()?, *self.body.get(1)?]));
        let mut at = 2 + topic_size;
        let mut packet_id = 0;
        if self.publish_qos() > 0 {
            packet_id = u16::from_be_bytes([*self.body.get(at)?, *self.body.get(at + 1)?]);
            at += 2;
        }
        if protocol.is_v5() {
            match read_length(self.body.get(at..)?) {
                Length::Known { size, value } => at += size + value,
                Length::Incomplete | Length::Malformed => return None,
            }
        }
        let stamp: &[u8; STAMP_SIZE] = self.body.get(at..)?.first_chunk()?;
        let (publisher, rest) = stamp.split_first_chunk::<4>()?;
        let (sequence, time) = rest.split_first_chunk::<4>()?;
        let stamp = Stamp {
            publisher: u32::from_be_bytes(*publisher),
            sequence: u32::from_be_bytes(*sequence),
            time_ns: u64::from_be_bytes(*time.first_chunk()?),
        };
        Some((packet_id, stamp))
    }
}

/// The broker broke MQTT's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MalformedLength;

/// Calls `visit` for every whole frame in `partial` + `bytes`; what is left of the last one waits in `partial`.
///
/// `partial` is empty nearly always: it allocates only when a frame was split between two receives.
#[inline]
pub(crate) fn walk(
    partial: &mut Vec<u8>,
    mut bytes: &[u8],
    mut visit: impl FnMut(Frame<'_>),
) -> Result<(), MalformedLength> {
    if !partial.is_empty() {
        bytes = complete(partial, bytes, &mut visit)?;
    }
    while let Some((&first_byte, rest)) = bytes.split_first() {
        let Length::Known { size, value } = read_length(rest) else {
            if rest.len() >= FIXED_HEADER_SIZE_MAX - 1 {
                return Err(MalformedLength);
            }
            break;
        };
        let Some(body) = rest.get(size..size + value) else { break };
        visit(Frame { first_byte, body });
        bytes = &rest[size + value..];
    }
    if !bytes.is_empty() {
        partial.extend_from_slice(bytes);
    }
    Ok(())
}

/// Moves bytes into `partial` until it is one whole frame, visits that, and returns the bytes after it.
#[cold]
fn complete<'a>(
    partial: &mut Vec<u8>,
    mut bytes: &'a [u8],
    visit: &mut impl FnMut(Frame<'_>),
) -> Result<&'a [u8], MalformedLength> {
    loop {
        match read_length(&partial[1..]) {
            Length::Known { size, value } => {
                let missing = 1 + size + value - partial.len();
                let taken = missing.min(bytes.len());
                partial.extend_from_slice(&bytes[..taken]);
                if taken == missing {
                    visit(Frame { first_byte: partial[0], body: &partial[1 + size..] });
                    partial.clear();
                }
                return Ok(&bytes[taken..]);
            }
            Length::Malformed => return Err(MalformedLength),
            Length::Incomplete => {
                let Some((&byte, rest)) = bytes.split_first() else { return Ok(bytes) };
                partial.push(byte);
                bytes = rest;
            }
        }
    }
}

/// A variable byte integer as far as it is there.
enum Length {
    Known { size: usize, value: usize },
    Incomplete,
    Malformed,
}

#[inline]
fn read_length(bytes: &[u8]) -> Length {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(FIXED_HEADER_SIZE_MAX - 1).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Length::Known { size: index + 1, value };
        }
    }
    if bytes.len() < FIXED_HEADER_SIZE_MAX - 1 { Length::Incomplete } else { Length::Malformed }
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    let size = u16::try_from(text.len()).expect("arguments are checked to fit MQTT's strings");
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn push_packet(out: &mut Vec<u8>, first_byte: u8, body: &[u8]) {
    out.push(first_byte);
    let mut rest = body.len();
    loop {
        let byte = (rest & 0x7F) as u8;
        rest >>= 7;
        out.push(byte | if rest > 0 { 0x80 } else { 0 });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: [Protocol; 3] = [Protocol::V31, Protocol::V311, Protocol::V5];

    #[test]
    fn connect_is_what_the_specification_shows() {
        let identity = Identity {
            client_id: "ab",
            username: Some("u"),
            password: Some("p"),
            keep_alive_seconds: 60,
            clean_start: true,
        };
        let cases: [(Protocol, &[u8]); 3] = [
            (Protocol::V31, b"\x10\x16\x00\x06MQIsdp\x03\xC2\x00\x3C\x00\x02ab\x00\x01u\x00\x01p"),
            (Protocol::V311, b"\x10\x14\x00\x04MQTT\x04\xC2\x00\x3C\x00\x02ab\x00\x01u\x00\x01p"),
            (Protocol::V5, b"\x10\x15\x00\x04MQTT\x05\xC2\x00\x3C\x00\x00\x02ab\x00\x01u\x00\x01p"),
        ];
        for (protocol, expected) in cases {
            let mut out = Vec::new();
            encode_connect(protocol, identity, &mut out);
            assert_eq!(out, expected, "{protocol:?}");
        }
    }

    #[test]
    fn a_message_comes_back_as_it_went() {
        for protocol in PROTOCOLS {
            for qos in 0..=2 {
                for size in [STAMP_SIZE, 64, 127, 200, 20_000] {
                    let template = PublishTemplate::new(protocol, "flood/12", qos, false, 12, size);
                    let mut out = Vec::new();
                    template.encode(77, 123_456_789_012, 4242, &mut out);
                    assert_eq!(out.len(), template.size());
                    let mut seen = 0;
                    walk(&mut Vec::new(), &out, |frame| {
                        seen += 1;
                        assert_eq!(frame.kind(), kind::PUBLISH);
                        assert_eq!(frame.publish_qos(), qos);
                        let (packet_id, stamp) = frame.publish(protocol).expect("ours");
                        assert_eq!(packet_id, if qos == 0 { 0 } else { 4242 });
                        let expected =
                            Stamp { publisher: 12, sequence: 77, time_ns: 123_456_789_012 };
                        assert_eq!(stamp, expected);
                    })
                    .expect("framing");
                    assert_eq!(seen, 1);
                }
            }
        }
    }

    /// However the stream is cut, the same frames come out.
    #[test]
    fn every_cut_gives_the_same_frames() {
        let mut stream = Vec::new();
        let small = PublishTemplate::new(Protocol::V311, "a", 0, false, 1, 16);
        let large = PublishTemplate::new(Protocol::V311, "b", 1, false, 1, 300);
        small.encode(1, 1, 0, &mut stream);
        encode_acknowledgement(kind::PUBACK, 9, &mut stream);
        large.encode(2, 2, 7, &mut stream);
        stream.extend_from_slice(&PINGREQ);
        let mut expected = Vec::new();
        let collect = |frames: &mut Vec<(u8, Vec<u8>)>, frame: Frame<'_>| {
            frames.push((frame.first_byte, frame.body.to_vec()));
        };
        walk(&mut Vec::new(), &stream, |frame| collect(&mut expected, frame)).expect("framing");
        assert_eq!(expected.len(), 4);
        for step in 1..stream.len() {
            let mut partial = Vec::new();
            let mut frames = Vec::new();
            for piece in stream.chunks(step) {
                walk(&mut partial, piece, |frame| collect(&mut frames, frame)).expect("framing");
            }
            assert_eq!(frames, expected, "pieces of {step} bytes");
            assert!(partial.is_empty());
        }
    }

    #[test]
    fn five_length_bytes_are_an_error() {
        let bytes = [0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert_eq!(walk(&mut Vec::new(), &bytes, |_| ()), Err(MalformedLength));
        let mut partial = Vec::new();
        let cut: Vec<_> = bytes.iter().map(|byte| walk(&mut partial, &[*byte], |_| ())).collect();
        assert!(cut.contains(&Err(MalformedLength)));
    }

    #[test]
    fn codes_are_found_in_each_version() {
        let subscribed =
            |protocol, body: &[u8]| Frame { first_byte: 0x90, body }.subscribe_reason(protocol);
        assert_eq!(subscribed(Protocol::V311, &[0, 1, 2]), 2);
        assert_eq!(subscribed(Protocol::V5, &[0, 1, 0, 0x87]), 0x87);
        assert_eq!(subscribed(Protocol::V5, &[0, 1, 3, 0x1F, 0, 0, 1]), 1);
        assert_eq!(subscribed(Protocol::V5, &[0, 1]), 0xFF);
        assert_eq!(Frame { first_byte: 0x20, body: &[0, 5] }.connect_reason(), 5);
        assert_eq!(Frame { first_byte: 0x40, body: &[0, 5] }.acknowledgement_reason(), 0);
        assert_eq!(Frame { first_byte: 0x40, body: &[0, 5, 0x87] }.acknowledgement_reason(), 0x87);
    }
}

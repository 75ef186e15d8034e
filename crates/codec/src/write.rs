//! Appending packets to a buffer.
//!
//! A length stands before what it measures, so everything is written twice: once into a [`Counter`], once into the
//! buffer. Both go through the same code, which is why a size can never disagree with the bytes.

use crate::variable_byte_integer;
use crate::{PacketId, PacketType, ProtocolVersion};

/// A string or binary field holds at most this many bytes. [MQTT-4.7.3-3]
const FIELD_SIZE_MAX: usize = u16::MAX as usize;

/// Where encoded bytes go.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    #[inline]
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    #[inline]
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    #[inline]
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    #[inline]
    fn put_packet_id(&mut self, packet_id: PacketId) {
        self.put_u16(packet_id.get());
    }

    #[inline]
    fn put_variable_byte_integer(&mut self, value: u32) {
        // Most are small, and a copy of a known size is a store, not a call.
        if value < 0x80 {
            self.put_u8(value as u8);
        } else {
            let (bytes, size) = variable_byte_integer::encode(value);
            self.put(&bytes[..size]);
        }
    }

    /// Binary Data. What a packet brought always fits; a longer field is our own mistake, and is cut rather than
    /// allowed to break the framing of everything behind it.
    #[inline]
    fn put_binary(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= FIELD_SIZE_MAX, "field of {} bytes", bytes.len());
        let bytes = fitting_bytes(bytes);
        self.put_u16(bytes.len() as u16);
        self.put(bytes);
    }

    /// A UTF-8 Encoded String. Cut at a character like [`put_binary`](Self::put_binary).
    #[inline]
    fn put_string(&mut self, text: &str) {
        debug_assert!(text.len() <= FIELD_SIZE_MAX, "string of {} bytes", text.len());
        self.put_binary(fitting_text(text).as_bytes());
    }

    /// Properties behind their length. [MQTT-2.2.2-1]
    #[inline]
    fn put_properties(&mut self, block: &impl Content)
    where
        Self: Sized,
    {
        self.put_variable_byte_integer(size(block) as u32);
        block.write(self);
    }
}

/// As much as a field holds.
#[inline]
fn fitting_bytes(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(FIELD_SIZE_MAX)]
}

/// As much as a field holds, in whole characters.
#[inline]
fn fitting_text(text: &str) -> &str {
    &text[..text.floor_char_boundary(FIELD_SIZE_MAX)]
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts bytes instead of keeping them.
#[derive(Debug, Default)]
pub(crate) struct Counter(usize);

impl Counter {
    /// Bytes so far.
    #[inline]
    pub(crate) const fn size(&self) -> usize {
        self.0
    }
}

impl Sink for Counter {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Something that a length stands before: a property block.
pub(crate) trait Content {
    fn write(&self, sink: &mut impl Sink);
}

/// Bytes that a property block takes, without its length.
#[inline]
pub(crate) fn size(content: &impl Content) -> usize {
    let mut counter = Counter::default();
    content.write(&mut counter);
    counter.0
}

/// A packet's body: everything behind the fixed header.
pub(crate) trait Body {
    fn write_body(&self, version: ProtocolVersion, sink: &mut impl Sink);
}

/// Bytes of the body.
#[inline]
pub(crate) fn body_size(body: &impl Body, version: ProtocolVersion) -> usize {
    let mut counter = Counter::default();
    body.write_body(version, &mut counter);
    counter.0
}

/// Bytes of the packet with its fixed header.
#[inline]
pub(crate) fn packet_size(body: &impl Body, version: ProtocolVersion) -> usize {
    with_header(body_size(body, version))
}

/// Bytes of a packet with so many behind its fixed header.
#[inline]
pub(crate) const fn with_header(body_size: usize) -> usize {
    1 + variable_byte_integer::size(body_size as u32) + body_size
}

/// Appends a packet whose fixed header carries no flags but the reserved ones. [MQTT-2.1.3-1]
#[inline]
pub(crate) fn packet(
    packet_type: PacketType,
    body: &impl Body,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) {
    let size = body_size(body, version);
    out.reserve(with_header(size));
    out.put_u8(packet_type.first_byte());
    out.put_variable_byte_integer(size as u32);
    body.write_body(version, out);
}

/// Bytes of a property block with its length.
#[inline]
pub(crate) fn properties_size(block: &impl Content) -> usize {
    let size = size(block);
    variable_byte_integer::size(size as u32) + size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [MQTT-4.7.3-3]: what does not fit is cut where it is still text.
    #[test]
    fn fields_hold_65535_bytes() {
        let full = "a".repeat(65_535);
        assert_eq!(fitting_text(&full), full);
        assert_eq!(fitting_bytes(full.as_bytes()), full.as_bytes());
        let longer = format!("{full}b");
        assert_eq!(fitting_text(&longer), full);
        assert_eq!(fitting_bytes(longer.as_bytes()), full.as_bytes());
        // The last character begins within and ends without.
        let torn = format!("{}é", &full[1..]);
        assert_eq!(fitting_text(&torn), &full[1..]);
        let mut out = Vec::new();
        out.put_string(&full);
        assert_eq!((out.len(), &out[..3]), (65_537, &[0xFF, 0xFF, b'a'][..]));
    }

    #[test]
    fn counting_is_writing() {
        let write = |sink: &mut dyn FnMut(&[u8])| {
            for size in [0, 1, 127, 128, 16_384] {
                sink(&vec![7; size]);
            }
        };
        let (mut counter, mut bytes) = (Counter::default(), Vec::new());
        write(&mut |part| counter.put_binary(part));
        write(&mut |part| bytes.put_binary(part));
        for value in [0, 127, 128, 16_383, 16_384, 2_097_152, variable_byte_integer::VALUE_MAX] {
            counter.put_variable_byte_integer(value);
            bytes.put_variable_byte_integer(value);
        }
        assert_eq!(counter.size(), bytes.len());
    }
}

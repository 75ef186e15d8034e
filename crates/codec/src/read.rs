//! A cursor over the body of one packet.

use crate::text;
use crate::variable_byte_integer::{self, Decoded};
use crate::{DecodeError, PacketId};

/// What is left to read. Every method takes from the front or refuses with [`DecodeError::BodyTooShort`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not read yet.
    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Ends reading: nothing may be left.
    #[inline]
    pub(crate) const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }

    #[inline]
    pub(crate) fn bytes(&mut self, size: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(size).ok_or(DecodeError::BodyTooShort)?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(DecodeError::BodyTooShort)?;
        self.rest = rest;
        Ok(*array)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A Packet Identifier, not zero. [MQTT-2.2.1-3] [MQTT-2.2.1-4] `[MQTT-2.3.1-1 @3.1.1]`
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketIdZero)
    }

    /// A Variable Byte Integer in its shortest form. [MQTT-1.5.5-1]
    #[inline]
    pub(crate) fn variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        match variable_byte_integer::decode(self.rest)? {
            Decoded::Value(value, taken) if variable_byte_integer::is_minimal(value, taken) => {
                self.rest = &self.rest[taken..];
                Ok(value)
            }
            Decoded::Value(..) => Err(DecodeError::VariableByteIntegerNotMinimal),
            Decoded::Incomplete => Err(DecodeError::BodyTooShort),
        }
    }

    /// Binary Data: two bytes of length, then that many bytes.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let size = usize::from(self.u16()?);
        self.bytes(size)
    }

    /// A UTF-8 Encoded String. [MQTT-1.5.4-1] [MQTT-1.5.4-2]
    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        text::string(self.binary()?)
    }

    /// A string that names a topic, possibly empty. [MQTT-3.3.2-2]
    #[inline]
    pub(crate) fn topic_name(&mut self) -> Result<&'a str, DecodeError> {
        text::topic_name(self.binary()?)
    }

    /// A block of properties behind its length, as a reader of its own.
    #[inline]
    pub(crate) fn property_block(&mut self) -> Result<&'a [u8], DecodeError> {
        let size = self.variable_byte_integer()?;
        self.bytes(size as usize)
    }
}

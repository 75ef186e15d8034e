//! The reason codes of a SUBACK or UNSUBACK, one for each Topic Filter of the request, in its order. [MQTT-3.9.3-1]

use crate::packet::acknowledgement::reason_code;
use crate::{DecodeError, PacketType, ProtocolVersion, ReasonCode};

/// A list of reason codes, decoded or to encode (`(&codes[..]).into()`). The default is empty.
#[derive(Clone, Copy)]
pub struct ReasonCodes<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Validated bytes of a packet: every one is the number of a code. A SUBACK before MQTT 5.0 has the same four numbers.
    Encoded(&'a [u8]),
    Codes(&'a [ReasonCode]),
}

impl<'a> ReasonCodes<'a> {
    /// No codes.
    pub const EMPTY: Self = Self(Source::Codes(&[]));

    /// Codes to encode.
    #[must_use]
    pub const fn new(codes: &'a [ReasonCode]) -> Self {
        Self(Source::Codes(codes))
    }

    /// Checks the codes of a packet.
    pub(crate) fn decode(
        bytes: &'a [u8],
        packet_type: PacketType,
        version: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::ReasonCodesMissing);
        }
        for &byte in bytes {
            let code = reason_code(byte, packet_type)?;
            // [MQTT-3.9.3-2 @3.1.1]; MQTT 3.1 cannot say no.
            let is_known = match version {
                ProtocolVersion::V5 => true,
                ProtocolVersion::V311 => code.subscribe_return_code() == byte,
                ProtocolVersion::V31 => !code.is_error(),
            };
            if !is_known {
                return Err(DecodeError::ReasonCodeInvalid);
            }
        }
        Ok(Self(Source::Encoded(bytes)))
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.0 {
            Source::Encoded(bytes) => bytes.len(),
            Source::Codes(codes) => codes.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The codes in order.
    #[must_use]
    pub fn iter(&self) -> ReasonCodesIter<'a> {
        ReasonCodesIter { codes: *self, index: 0 }
    }

    /// The code at `index`, counted from 0.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<ReasonCode> {
        match self.0 {
            Source::Encoded(bytes) => bytes.get(index).and_then(|&byte| ReasonCode::from_u8(byte)),
            Source::Codes(codes) => codes.get(index).copied(),
        }
    }
}

impl Default for ReasonCodes<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<'a> From<&'a [ReasonCode]> for ReasonCodes<'a> {
    fn from(codes: &'a [ReasonCode]) -> Self {
        Self::new(codes)
    }
}

impl<'a, const COUNT: usize> From<&'a [ReasonCode; COUNT]> for ReasonCodes<'a> {
    fn from(codes: &'a [ReasonCode; COUNT]) -> Self {
        Self::new(codes)
    }
}

impl<'a> From<&'a Vec<ReasonCode>> for ReasonCodes<'a> {
    fn from(codes: &'a Vec<ReasonCode>) -> Self {
        Self::new(codes)
    }
}

/// Iterator over [`ReasonCodes`].
#[derive(Clone, Debug)]
pub struct ReasonCodesIter<'a> {
    codes: ReasonCodes<'a>,
    index: usize,
}

impl Iterator for ReasonCodesIter<'_> {
    type Item = ReasonCode;

    fn next(&mut self) -> Option<ReasonCode> {
        let code = self.codes.at(self.index)?;
        self.index += 1;
        Some(code)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.codes.len() - self.index;
        (left, Some(left))
    }
}

impl ExactSizeIterator for ReasonCodesIter<'_> {}

impl<'a> IntoIterator for ReasonCodes<'a> {
    type Item = ReasonCode;
    type IntoIter = ReasonCodesIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &ReasonCodes<'a> {
    type Item = ReasonCode;
    type IntoIter = ReasonCodesIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for ReasonCodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl Eq for ReasonCodes<'_> {}

impl core::fmt::Debug for ReasonCodes<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

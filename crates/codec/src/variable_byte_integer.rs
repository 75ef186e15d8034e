//! The Variable Byte Integer: seven bits a byte, least significant first, at most four bytes.

use crate::DecodeError;

/// The largest value, 268,435,455.
pub(crate) const VALUE_MAX: u32 = (1 << 28) - 1;

/// Bytes that the value takes, 1 to 4. [MQTT-1.5.5-1]
#[inline]
pub(crate) const fn size(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// What the bytes start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A value, and how many bytes it took. May be longer than needed.
    Value(u32, usize),
    /// The bytes end before the integer does.
    Incomplete,
}

/// Reads the integer at the start of `input`.
///
/// Does not insist on the shortest form: MQTT 3.1 and 3.1.1 do not either. MQTT 5.0 does, see [`is_minimal`].
#[inline]
pub(crate) fn decode(input: &[u8]) -> Result<Decoded, DecodeError> {
    let mut value = 0;
    for (index, &byte) in input.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            return Ok(Decoded::Value(value, index + 1));
        }
    }
    if input.len() >= 4 {
        return Err(DecodeError::VariableByteIntegerTooLong);
    }
    Ok(Decoded::Incomplete)
}

/// Whether `taken` bytes are as few as the value can be written with. [MQTT-1.5.5-1]
#[inline]
pub(crate) const fn is_minimal(value: u32, taken: usize) -> bool {
    taken == size(value)
}

/// The bytes of a value up to [`VALUE_MAX`] and how many of the four are used. [MQTT-1.5.5-1]
#[inline]
pub(crate) fn encode(value: u32) -> ([u8; 4], usize) {
    debug_assert!(value <= VALUE_MAX);
    let size = size(value);
    let mut bytes = [0; 4];
    let mut rest = value;
    for (index, byte) in bytes.iter_mut().enumerate().take(size) {
        let more = if index + 1 < size { 0x80 } else { 0 };
        *byte = (rest & 0x7F) as u8 | more;
        rest >>= 7;
    }
    (bytes, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The borders of table 1-1. [MQTT-1.5.5-1]
    const BORDERS: [(u32, &[u8]); 8] = [
        (0, &[0x00]),
        (127, &[0x7F]),
        (128, &[0x80, 0x01]),
        (16_383, &[0xFF, 0x7F]),
        (16_384, &[0x80, 0x80, 0x01]),
        (2_097_151, &[0xFF, 0xFF, 0x7F]),
        (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
        (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
    ];

    #[test]
    fn borders_round_trip_in_the_fewest_bytes() {
        for (value, bytes) in BORDERS {
            let (encoded, taken) = encode(value);
            assert_eq!(&encoded[..taken], bytes);
            assert_eq!(size(value), bytes.len());
            assert_eq!(decode(bytes), Ok(Decoded::Value(value, bytes.len())));
            assert!(is_minimal(value, bytes.len()));
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end]), Ok(Decoded::Incomplete));
            }
        }
    }

    #[test]
    fn longer_than_needed_is_seen() {
        for (bytes, value) in [
            (&[0x80, 0x00][..], 0),
            (&[0xFF, 0x00], 127),
            (&[0x80, 0x80, 0x00], 0),
            (&[0x81, 0x80, 0x80, 0x00], 1),
        ] {
            assert_eq!(decode(bytes), Ok(Decoded::Value(value, bytes.len())));
            assert!(!is_minimal(value, bytes.len()));
        }
    }

    #[test]
    fn a_fourth_byte_that_goes_on_is_refused_without_a_fifth() {
        for bytes in [&[0x80; 4][..], &[0xFF; 4], &[0x80, 0x80, 0x80, 0x80, 0x01], &[0xFF; 9]] {
            assert_eq!(decode(bytes), Err(DecodeError::VariableByteIntegerTooLong));
        }
    }
}

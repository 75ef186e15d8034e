//! Validation of text: UTF-8, no U+0000, and no wildcard where a Topic Name stands.
//!
//! Nearly all topics are short ASCII. The forbidden characters are all ASCII, and no byte of a longer UTF-8 sequence
//! looks like one, so they are searched in the raw bytes, eight at a time; the standard library then proves the
//! encoding, with an ASCII fast path of its own.

use crate::DecodeError;

/// Text of any kind: UTF-8 [MQTT-1.5.4-1] without U+0000 [MQTT-1.5.4-2].
///
/// A byte order mark stays what it is, a character [MQTT-1.5.4-3]; control and non-characters are allowed.
#[inline]
pub(crate) fn string(bytes: &[u8]) -> Result<&str, DecodeError> {
    if any_word(bytes, zero_bytes) {
        return Err(DecodeError::StringHasNull);
    }
    core::str::from_utf8(bytes).map_err(|_| DecodeError::StringNotUtf8)
}

/// A Topic Name, possibly empty: text without `+` and `#`. [MQTT-3.3.2-1] [MQTT-3.3.2-2]
#[inline]
pub(crate) fn topic_name(bytes: &[u8]) -> Result<&str, DecodeError> {
    // '#' is 0x23 and '+' is 0x2B: they differ in the one bit that is masked out here.
    let forbidden = |word| zero_bytes(word) | zero_bytes((word & !repeat(0x08)) ^ repeat(0x23));
    if any_word(bytes, forbidden) {
        return Err(topic_name_error(bytes));
    }
    core::str::from_utf8(bytes).map_err(|_| DecodeError::StringNotUtf8)
}

/// Which of the forbidden characters it was.
#[cold]
fn topic_name_error(bytes: &[u8]) -> DecodeError {
    match bytes.contains(&0) {
        true => DecodeError::StringHasNull,
        false => DecodeError::TopicNameWildcard,
    }
}

/// Not zero if and only if some byte of the word is zero.
#[inline]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(repeat(0x01)) & !word & repeat(0x80)
}

#[inline]
const fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Whether `test` is not zero for some eight bytes. Words overlap instead of being padded, so that no byte is invented.
#[inline]
fn any_word(bytes: &[u8], test: impl Fn(u64) -> u64) -> bool {
    if let Some(last) = bytes.last_chunk() {
        let mut found = test(u64::from_ne_bytes(*last));
        for word in bytes.as_chunks().0 {
            found |= test(u64::from_ne_bytes(*word));
        }
        found != 0
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (first, last) = (u32::from_ne_bytes(*first), u32::from_ne_bytes(*last));
        test(u64::from(first) << 32 | u64::from(last)) != 0
    } else {
        bytes.iter().any(|&byte| test(repeat(byte)) != 0)
    }
}

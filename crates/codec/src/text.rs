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
    let word = |bytes: &[u8; 8]| test(u64::from_ne_bytes(*bytes));
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let mut found = word(first) | word(last);
        if bytes.len() > 16 {
            for chunk in bytes[8..].as_chunks().0 {
                found |= word(chunk);
            }
        }
        found != 0
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (first, last) = (u32::from_ne_bytes(*first), u32::from_ne_bytes(*last));
        test(u64::from(first) << 32 | u64::from(last)) != 0
    } else {
        bytes.iter().any(|&byte| test(repeat(byte)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-by-byte oracle for both functions.
    fn oracle(bytes: &[u8], is_topic: bool) -> Result<&str, DecodeError> {
        if bytes.contains(&0) {
            return Err(DecodeError::StringHasNull);
        }
        if is_topic && bytes.iter().any(|byte| b"+#".contains(byte)) {
            return Err(DecodeError::TopicNameWildcard);
        }
        core::str::from_utf8(bytes).map_err(|_| DecodeError::StringNotUtf8)
    }

    /// Every byte value at every place of every length up to three words, with ASCII and with other text around it: the
    /// words overlap differently in each.
    #[test]
    fn every_byte_at_every_place_agrees_with_the_oracle() {
        let ascii = b"abcdefghijklmnopqrstuvwxyz";
        let other = "aé日𝄞bü/ß/日本/é".as_bytes();
        for around in [&ascii[..], other] {
            for size in 0..=24 {
                for place in 0..size {
                    for value in 0..=u8::MAX {
                        let mut bytes = around[..size].to_vec();
                        bytes[place] = value;
                        assert_eq!(string(&bytes), oracle(&bytes, false), "{bytes:02X?}");
                        assert_eq!(topic_name(&bytes), oracle(&bytes, true), "{bytes:02X?}");
                    }
                }
            }
        }
    }

    /// The characters beside the forbidden ones, which a careless mask would take for them.
    #[test]
    fn neighbours_of_the_wildcards_are_allowed() {
        for text in ["\"$%*,-/;3\u{1}\u{7F}", "!!!!!!!!", "********", ",,,,,,,,", "$$$$$$$$$"] {
            assert_eq!(topic_name(text.as_bytes()), Ok(text));
        }
    }

    #[test]
    fn ill_formed_utf8_is_refused() {
        // [MQTT-1.5.4-1]
        for bytes in [
            &[0xED, 0xA0, 0x80][..], // U+D800, the first surrogate
            &[0xED, 0xBF, 0xBF],     // U+DFFF, the last
            &[0xC0, 0x80],           // U+0000 in two bytes, the "modified UTF-8" of Java
            &[0xC1, 0xBF],           // overlong
            &[0xE0, 0x80, 0xAF],     // overlong
            &[0xF0, 0x80, 0x80, 0x80],
            &[0xF4, 0x90, 0x80, 0x80], // above U+10FFFF
            &[0xF8, 0x88, 0x80, 0x80, 0x80],
            &[0x80],       // continuation alone
            &[0xC3],       // cut off
            &[0xE2, 0x82], // cut off
            &[0xFE],
            &[0xFF],
        ] {
            for prefix in ["", "a", "topic/with/a/long/ascii/beginning"] {
                let bytes = [prefix.as_bytes(), bytes].concat();
                assert_eq!(string(&bytes), Err(DecodeError::StringNotUtf8), "{bytes:02X?}");
                assert_eq!(topic_name(&bytes), Err(DecodeError::StringNotUtf8), "{bytes:02X?}");
            }
        }
    }

    #[test]
    fn what_looks_odd_but_is_allowed_passes_unchanged() {
        // [MQTT-1.5.4-3]: the byte order mark is neither stripped nor refused. Control and non-characters "SHOULD NOT" be
        // sent; refusing them is a choice that a server need not make.
        for text in [
            "\u{FEFF}",
            "\u{FEFF}a",
            "\u{1}\u{1F}\u{7F}",
            "\u{85}",
            "\u{FFFF}",
            "\u{10FFFF}",
            "\u{FDD0}",
        ] {
            assert_eq!(string(text.as_bytes()), Ok(text));
            assert_eq!(topic_name(text.as_bytes()), Ok(text));
        }
    }

    #[test]
    fn null_is_refused_wherever_it_stands() {
        // [MQTT-1.5.4-2]
        for size in 1..40 {
            for place in 0..size {
                let mut bytes = vec![b'a'; size];
                bytes[place] = 0;
                assert_eq!(string(&bytes), Err(DecodeError::StringHasNull));
                assert_eq!(topic_name(&bytes), Err(DecodeError::StringHasNull));
            }
        }
    }
}

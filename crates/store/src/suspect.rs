//! What can still be read of bytes that are not as they were written: for reports, never for anybody's state.

use crate::format::{KIND_MAX, RECORD_ALIGNMENT, RECORD_HEADER_SIZE, RECORD_MARK, record_size};

/// A record as it may have stood in damaged bytes. Nothing of it has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect<'a> {
    /// Its kind, if the damage is elsewhere.
    pub kind: u8,
    /// Its payload, if the damage is elsewhere.
    pub payload: &'a [u8],
}

/// The records that may have stood in damaged `bytes`, which begin where the damage does; `max` of them at most.
///
/// A record begins at the first byte, whatever has become of its mark, or at a mark; its length is believed as long as
/// the bytes are that long.
#[must_use]
pub fn suspects(bytes: &[u8], max: usize) -> Vec<Suspect<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while found.len() < max
        && let Some(header) = bytes.get(at..at + RECORD_HEADER_SIZE)
    {
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (size, kind) = (number(8) as usize, header[12]);
        let begins = at == 0 || number(0) == RECORD_MARK;
        let payload_at = at + RECORD_HEADER_SIZE;
        match bytes.get(payload_at..payload_at.saturating_add(size)) {
            Some(payload) if begins && kind <= KIND_MAX => {
                found.push(Suspect { kind, payload });
                at += record_size(size);
            }
            _ => at += RECORD_ALIGNMENT,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Seal, record_header};
    use crate::{LogId, SegmentId, Sequence};

    fn record(payload: &[u8]) -> Vec<u8> {
        let seal = Seal::new(LogId([1; 16]), SegmentId(1));
        let mut bytes = record_header(seal, 64, 7, Sequence(3), payload).to_vec();
        bytes.extend_from_slice(payload);
        bytes.resize(record_size(payload.len()), 0);
        bytes
    }

    #[test]
    fn a_record_with_a_changed_payload_or_mark_is_still_read() {
        for at in [0, 5, 26] {
            let mut bytes = record(b"payload");
            bytes[at] ^= 1;
            bytes.extend(record(b"another"));
            let found = suspects(&bytes, 10);
            assert_eq!(found.len(), 2, "byte {at}");
            assert_eq!((found[0].kind, found[1].payload), (7, &b"another"[..]));
        }
        assert_eq!(suspects(&[record(b"a"), record(b"b")].concat(), 1).len(), 1);
    }

    #[test]
    fn no_bytes_lead_outside() {
        let bytes = record(b"payload");
        for size in 0..bytes.len() {
            let _ = suspects(&bytes[..size], 10);
        }
        for byte in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[byte] = 0xFF;
            let _ = suspects(&changed, 10);
        }
        assert!(suspects(&[0xFF; 4096], 10).is_empty());
    }
}

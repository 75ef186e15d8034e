//! The bytes of a segment: how headers, batches and records are laid out and checked.
//!
//! `docs/store-format.md` has the same byte by byte. In short: a segment is a header (twice), then batches, each at a
//! block's start, each a batch header and records at multiples of eight bytes, then zeroes. Every checksum begins with
//! the log's identity, the segment and the offset, so that bytes are good only where they were written. All numbers are
//! little-endian.

use crate::{LogId, SegmentId, Sequence};

/// Format version that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// Bytes of a record's header; its payload follows.
pub const RECORD_HEADER_SIZE: usize = 24;

/// Bytes of a batch's header; its first record follows.
pub const BATCH_HEADER_SIZE: usize = 40;

/// Bytes of a segment's header, without the zeroes that fill its block.
pub(crate) const SEGMENT_HEADER_SIZE: usize = 72 + KNOWN_MAX * KNOWN_SIZE;

/// Places that one header can name.
pub(crate) const KNOWN_MAX: usize = 12;

const KNOWN_SIZE: usize = 32;

const _: () = assert!(SEGMENT_HEADER_SIZE <= 512);

/// The segment header stands in this many blocks, once in each.
pub(crate) const SEGMENT_HEADER_COPIES: u32 = 2;

/// Records begin at multiples of this.
pub(crate) const RECORD_ALIGNMENT: usize = 8;

/// Kinds from here on are not for the caller.
pub const KIND_MAX: u8 = 239;

const SEGMENT_MAGIC: [u8; 8] = *b"MIDGELOG";
pub(crate) const RECORD_MARK: u32 = u32::from_le_bytes(*b"Mdg\xA7");
const BATCH_MARK: u32 = u32::from_le_bytes(*b"Mdg\xB6");

/// A batch that ends the log on purpose: nothing follows until the next segment.
const BATCH_CLOSES: u32 = 1;

/// Bytes that a record takes in the log: header, payload, padding.
#[must_use]
pub const fn record_size(payload_size: usize) -> usize {
    (RECORD_HEADER_SIZE + payload_size).next_multiple_of(RECORD_ALIGNMENT)
}

/// The sum that checks everything here: CRC32C (Castagnoli).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Beginning of every checksum in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal(u32);

impl Seal {
    pub(crate) fn new(id: LogId, segment: SegmentId) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&id.0), &segment.0.to_le_bytes()))
    }

    /// What a record's header says about itself, with its checksum, on which that of the payload goes on.
    fn record(self, offset: u32, payload_size: u32, kind: u8, sequence: u64) -> u32 {
        /// Where the sum takes eight bytes at a time from the first on.
        #[repr(align(8))]
        struct Aligned([u8; 20]);

        let mut bytes = Aligned([0; 20]);
        bytes.0[0..4].copy_from_slice(&offset.to_le_bytes());
        bytes.0[4..8].copy_from_slice(&payload_size.to_le_bytes());
        bytes.0[8] = kind;
        bytes.0[12..20].copy_from_slice(&sequence.to_le_bytes());
        crc32c::crc32c_append(self.0, &bytes.0)
    }

    fn batch(self, offset: u32, body: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), body)
    }
}

/// The header of a record and the checksum over both it and the payload. The sum is quickest over a payload in one piece, at
/// a multiple of eight.
#[inline]
pub(crate) fn record_header(
    seal: Seal,
    offset: u32,
    kind: u8,
    sequence: Sequence,
    payload: &[u8],
) -> [u8; RECORD_HEADER_SIZE] {
    let size = u32::try_from(payload.len()).expect("a record fits a segment");
    let own = seal.record(offset, size, kind, sequence.0);
    let whole = crc32c::crc32c_append(own, payload);
    let mut header = [0; RECORD_HEADER_SIZE];
    header[0..4].copy_from_slice(&RECORD_MARK.to_le_bytes());
    header[4..8].copy_from_slice(&whole.to_le_bytes());
    header[8..12].copy_from_slice(&size.to_le_bytes());
    header[12] = kind;
    header[14..16].copy_from_slice(&(own as u16).to_le_bytes());
    header[16..24].copy_from_slice(&sequence.0.to_le_bytes());
    header
}

/// What a batch says about itself and about what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Bytes, with this header and the padding to the end of its last block.
    pub(crate) size: u32,
    /// How many records.
    pub(crate) records: u32,
    /// The first record's number, or the one that the next record would have had.
    pub(crate) first: Sequence,
    /// Everything up to here was on the disk when this batch was written.
    pub(crate) synced: Sequence,
    /// Segments before this one are done with.
    pub(crate) oldest: SegmentId,
    /// Whether the log was closed in good order with this batch.
    pub(crate) closes: bool,
}

impl BatchHeader {
    pub(crate) fn encode(&self, seal: Seal, offset: u32) -> [u8; BATCH_HEADER_SIZE] {
        let mut bytes = [0; BATCH_HEADER_SIZE];
        bytes[0..4].copy_from_slice(&BATCH_MARK.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.synced.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.oldest.0.to_le_bytes());
        let flags = if self.closes { BATCH_CLOSES } else { 0 };
        bytes[36..40].copy_from_slice(&flags.to_le_bytes());
        let crc = seal.batch(offset, &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], seal: Seal, offset: u32) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEADER_SIZE)?;
        if u32_at(bytes, 0) != BATCH_MARK || u32_at(bytes, 4) != seal.batch(offset, &bytes[8..]) {
            return None;
        }
        Some(Self {
            size: u32_at(bytes, 8),
            records: u32_at(bytes, 12),
            first: Sequence(u64_at(bytes, 16)),
            synced: Sequence(u64_at(bytes, 24)),
            oldest: SegmentId(u32_at(bytes, 32)),
            closes: u32_at(bytes, 36) & BATCH_CLOSES != 0,
        })
    }
}

/// A place in an earlier segment that a crash has torn. It was found and told when the log was continued; it is not told
/// again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownDamage {
    /// Where.
    pub segment: SegmentId,
    /// Where in it.
    pub offset: u32,
    /// How many bytes are stepped over; 0 when only records are missing.
    pub size: u32,
    /// The first record that is missing for it; 0 when none is.
    pub first: Sequence,
    /// The last one.
    pub last: Sequence,
}

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) block_size: u32,
    pub(crate) id: LogId,
    pub(crate) shard: u16,
    pub(crate) segment: SegmentId,
    /// Bytes of the file.
    pub(crate) size: u32,
    /// The oldest segment of the log when this one was begun.
    pub(crate) oldest: SegmentId,
    /// The segment before this one, 0 for none.
    pub(crate) previous: SegmentId,
    /// The number of the first record here.
    pub(crate) first: Sequence,
    /// Records of earlier segments count up to here; what they hold between this and `first` was given up after a
    /// failure of the disk.
    pub(crate) kept: Sequence,
    /// From the front; the rest is as by default.
    pub(crate) known: [KnownDamage; KNOWN_MAX],
}

/// What the first bytes of a segment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "lives for a moment, once per segment")]
pub(crate) enum HeaderFound {
    Sound(SegmentHeader),
    /// Written by a later version of this program.
    Newer(u16),
    Damaged,
}

impl SegmentHeader {
    /// Where the first batch of a segment begins.
    pub(crate) const fn batches_start(block_size: u32) -> u32 {
        SEGMENT_HEADER_COPIES * block_size
    }

    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_SIZE] {
        let mut bytes = [0; SEGMENT_HEADER_SIZE];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.shard.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id.0);
        bytes[32..36].copy_from_slice(&self.segment.0.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.size.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.block_size.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.oldest.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.kept.0.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.previous.0.to_le_bytes());
        for (known, place) in self.known.iter().zip(bytes[72..].chunks_exact_mut(KNOWN_SIZE)) {
            place[0..4].copy_from_slice(&known.segment.0.to_le_bytes());
            place[4..8].copy_from_slice(&known.offset.to_le_bytes());
            place[8..12].copy_from_slice(&known.size.to_le_bytes());
            place[16..24].copy_from_slice(&known.first.0.to_le_bytes());
            place[24..32].copy_from_slice(&known.last.0.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> HeaderFound {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_SIZE) else { return HeaderFound::Damaged };
        if bytes[0..8] != SEGMENT_MAGIC {
            return HeaderFound::Damaged;
        }
        let mut unsigned = [0; SEGMENT_HEADER_SIZE];
        unsigned.copy_from_slice(bytes);
        unsigned[12..16].fill(0);
        if crc32c::crc32c(&unsigned) != u32_at(bytes, 12) {
            return HeaderFound::Damaged;
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != FORMAT_VERSION {
            return HeaderFound::Newer(version);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[16..32]);
        let mut known = [KnownDamage::default(); KNOWN_MAX];
        for (known, place) in known.iter_mut().zip(bytes[72..].chunks_exact(KNOWN_SIZE)) {
            *known = KnownDamage {
                segment: SegmentId(u32_at(place, 0)),
                offset: u32_at(place, 4),
                size: u32_at(place, 8),
                first: Sequence(u64_at(place, 16)),
                last: Sequence(u64_at(place, 24)),
            };
        }
        let header = Self {
            block_size: u32_at(bytes, 40),
            id: LogId(id),
            shard: u16::from_le_bytes([bytes[10], bytes[11]]),
            segment: SegmentId(u32_at(bytes, 32)),
            size: u32_at(bytes, 36),
            oldest: SegmentId(u32_at(bytes, 44)),
            previous: SegmentId(u32_at(bytes, 64)),
            first: Sequence(u64_at(bytes, 48)),
            kept: Sequence(u64_at(bytes, 56)),
            known,
        };
        let sound = header.block_size.is_power_of_two()
            && (512..=4096).contains(&header.block_size)
            && header.size.is_multiple_of(header.block_size)
            && header.kept < header.first;
        if sound { HeaderFound::Sound(header) } else { HeaderFound::Damaged }
    }
}

/// One record as it stands in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub sequence: Sequence,
    /// What its writer called it, 0 to [`KIND_MAX`].
    pub kind: u8,
    /// What was appended, its parts one behind the other.
    pub payload: &'a [u8],
}

/// What stands at one place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Record {
        record: Record<'a>,
        next: u32,
        /// Whether the bytes between it and the next place are as they should be.
        padding_sound: bool,
    },
    Batch {
        header: BatchHeader,
        next: u32,
    },
    /// Zeroes to the end of the block.
    Padding {
        next: u32,
    },
    /// That many bytes are needed from this place on to tell.
    Incomplete {
        needed: usize,
    },
    Damaged,
}

/// Tells what stands at `offset`, a multiple of eight. `bytes` begin there and end where the bytes at hand end; `end` is
/// where the segment does.
pub(crate) fn step(seal: Seal, block_size: u32, offset: u32, end: u32, bytes: &[u8]) -> Step<'_> {
    debug_assert!(offset.is_multiple_of(RECORD_ALIGNMENT as u32));
    let left = (end - offset) as usize;
    if bytes.len() < RECORD_HEADER_SIZE.min(left) {
        return Step::Incomplete { needed: RECORD_HEADER_SIZE.min(left) };
    }
    match bytes.get(..4).map(|mark| u32_at(mark, 0)) {
        Some(RECORD_MARK) => record_step(seal, offset, left, bytes),
        Some(BATCH_MARK) if offset.is_multiple_of(block_size) => {
            if bytes.len() < BATCH_HEADER_SIZE.min(left) {
                return Step::Incomplete { needed: BATCH_HEADER_SIZE.min(left) };
            }
            match BatchHeader::decode(bytes, seal, offset) {
                Some(header) => Step::Batch { header, next: offset + BATCH_HEADER_SIZE as u32 },
                None => Step::Damaged,
            }
        }
        Some(0) => {
            // `offset + 1` so that a block's start leads to its own end.
            let next = (offset + 1).next_multiple_of(block_size).min(end);
            let size = (next - offset) as usize;
            match bytes.get(..size) {
                None => Step::Incomplete { needed: size },
                Some(padding) if is_zero(padding) => Step::Padding { next },
                Some(_) => Step::Damaged,
            }
        }
        _ => Step::Damaged,
    }
}

fn record_step(seal: Seal, offset: u32, left: usize, bytes: &[u8]) -> Step<'_> {
    let Some(header) = bytes.get(..RECORD_HEADER_SIZE) else { return Step::Damaged };
    let payload_size = u32_at(header, 8);
    let (kind, sequence) = (header[12], u64_at(header, 16));
    let own = seal.record(offset, payload_size, kind, sequence);
    let own_check = u16::from_le_bytes([header[14], header[15]]);
    let size = record_size(payload_size as usize);
    if own as u16 != own_check || header[13] != 0 || size > left {
        return Step::Damaged;
    }
    if bytes.len() < size {
        return Step::Incomplete { needed: size };
    }
    let payload_end = RECORD_HEADER_SIZE + payload_size as usize;
    let payload = &bytes[RECORD_HEADER_SIZE..payload_end];
    if crc32c::crc32c_append(own, payload) != u32_at(header, 4) {
        return Step::Damaged;
    }
    Step::Record {
        record: Record { sequence: Sequence(sequence), kind, payload },
        next: offset + size as u32,
        padding_sound: is_zero(&bytes[payload_end..size]),
    }
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // In pieces that the compiler turns into wide compares.
    let mut chunks = bytes.chunks_exact(64);
    chunks.by_ref().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && chunks.remainder().iter().all(|byte| *byte == 0)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LogId = LogId([7; 16]);

    fn seal() -> Seal {
        Seal::new(ID, SegmentId(3))
    }

    fn framed(offset: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = record_header(seal(), offset, 9, Sequence(5), payload).to_vec();
        bytes.extend_from_slice(payload);
        bytes.resize(record_size(payload.len()), 0);
        bytes
    }

    #[test]
    fn the_layout_is_what_the_document_says() {
        let bytes = framed(4096, b"abc");
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..4], *b"Mdg\xA7");
        assert_eq!(bytes[8..14], [3, 0, 0, 0, 9, 0]);
        assert_eq!(bytes[16..27], [5, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c']);
        // CRC32C of the identity, the segment and the offset, then of the header and the payload.
        let mut covered = ID.0.to_vec();
        covered.extend_from_slice(&3_u32.to_le_bytes());
        covered.extend_from_slice(&4096_u32.to_le_bytes());
        covered.extend_from_slice(&[3, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[14..16], crc32c::crc32c(&covered).to_le_bytes()[..2]);
        covered.extend_from_slice(b"abc");
        assert_eq!(bytes[4..8], crc32c::crc32c(&covered).to_le_bytes());
    }

    #[test]
    fn a_record_is_good_only_where_it_was_written() {
        let bytes = framed(64, b"payload");
        let sound = |seal, offset, bytes: &[u8]| {
            matches!(step(seal, 512, offset, 4096, bytes), Step::Record { .. })
        };
        assert!(sound(seal(), 64, &bytes));
        assert!(!sound(seal(), 72, &bytes));
        assert!(!sound(Seal::new(ID, SegmentId(4)), 64, &bytes));
        assert!(!sound(Seal::new(LogId([8; 16]), SegmentId(3)), 64, &bytes));
    }

    #[test]
    fn no_changed_bit_of_a_record_goes_unnoticed() {
        let bytes = framed(64, b"payload");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            match step(seal(), 512, 64, 4096, &changed) {
                Step::Damaged | Step::Incomplete { .. } => {}
                Step::Record { padding_sound: false, .. } => assert!(bit / 8 >= 24 + 7),
                other => panic!("bit {bit}: {other:?}"),
            }
        }
        for size in 0..bytes.len() {
            let found = step(seal(), 512, 64, 4096, &bytes[..size]);
            assert!(matches!(found, Step::Incomplete { .. }), "{size}: {found:?}");
        }
    }

    #[test]
    fn batch_headers_survive_and_notice_changes() {
        let header = BatchHeader {
            size: 512,
            records: 3,
            first: Sequence(9),
            synced: Sequence(8),
            oldest: SegmentId(2),
            closes: true,
        };
        let bytes = header.encode(seal(), 1024);
        let found = step(seal(), 512, 1024, 4096, &bytes);
        assert_eq!(found, Step::Batch { header, next: 1024 + 40 });
        assert_eq!(step(seal(), 512, 1032, 4096, &bytes), Step::Damaged);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(step(seal(), 512, 1024, 4096, &changed), Step::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn segment_headers_survive_and_notice_changes() {
        let header = SegmentHeader {
            block_size: 512,
            id: ID,
            shard: 3,
            segment: SegmentId(4),
            size: 1 << 20,
            oldest: SegmentId(2),
            previous: SegmentId(3),
            first: Sequence(100),
            kept: Sequence(99),
            known: [KnownDamage { first: Sequence(8), ..KnownDamage::default() }; KNOWN_MAX],
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), HeaderFound::Sound(header));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&changed), HeaderFound::Damaged, "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        newer[12..16].fill(0);
        let crc = crc32c::crc32c(&newer);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), HeaderFound::Newer(2));
    }
}

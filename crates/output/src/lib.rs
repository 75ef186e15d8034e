//! Bytes on their way to one connection.
//!
//! An [`Output`] collects what one loop turn has to say to one connection, so that it leaves with one send. Small
//! frames are copied into one growing buffer, because a copy of a hundred bytes is cheaper than one more
//! segment; large payloads are spliced in by reference, so that a fan-out of a megabyte to a thousand
//! subscribers holds the megabyte once.
//!
//! The shard fills it (it knows frames, not sockets), the net ring sends it (it knows sockets, not frames), and the
//! reactor carries it between them. That is why it is a room of its own, and why it depends on neither.
//!
//! # Invariants
//! - [`Output::segments`] yields the bytes in the order they were appended.
//! - While the net ring has it in flight nobody else holds it: it moves by value, in a `Box`, and comes back with the
//!   completion. The heap blocks behind it do not move while it is not mutated.
//! - [`Output::size`] is the exact number of bytes that [`Output::segments`] yields.
#![forbid(unsafe_code)]

use bytes::Bytes;

/// Payloads of at least this many bytes are spliced by reference instead of copied.
///
/// One more segment of a vectored send costs about as much as copying one to two KiB that are already in the cache;
/// 4,096 leaves room on the side of the copy, which needs no reference count.
pub const SPLICE_SIZE_MIN: usize = 4096;

/// A recycled output keeps at most this much capacity, in bytes; more is given back to the allocator.
pub const KEPT_CAPACITY_MAX: usize = 64 * 1024;

/// Kinds of messages that a [`Note`] tells apart.
pub const NOTE_KINDS: usize = 6;

/// Times that an output tells apart, at most.
///
/// One is usual. More come together while an earlier send is in flight; what comes after the last of them is counted as if
/// it had come with it.
pub const NOTES_MAX: usize = 4;

/// How many messages in an output were received at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Note {
    /// When, in nanoseconds. The output does not care since when.
    pub received_ns: u64,
    /// How many, by kind.
    pub counts: [u32; NOTE_KINDS],
}

/// A shared payload that stands in the output before the byte `at` of the copied bytes.
#[derive(Debug)]
struct Splice {
    at: usize,
    payload: Bytes,
}

/// Encoded packets waiting for one send on one connection.
#[derive(Debug, Default)]
pub struct Output {
    copied: Vec<u8>,
    splices: Vec<Splice>,
    spliced_size: usize,
    /// Packets that were counted.
    packets: u32,
    notes_used: u8,
    notes: [Note; NOTES_MAX],
}

impl Output {
    /// An empty output without heap memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer that encoders append to. Appending only: removing bytes would move earlier splices.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.copied
    }

    /// Appends bytes by copying them.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }

    /// Appends a payload: by reference from [`SPLICE_SIZE_MIN`] bytes on, by copy below.
    #[inline]
    pub fn payload(&mut self, payload: &Bytes) {
        if payload.len() < SPLICE_SIZE_MIN {
            self.copied.extend_from_slice(payload);
        } else {
            self.spliced_size += payload.len();
            self.splices.push(Splice { at: self.copied.len(), payload: payload.clone() });
        }
    }

    /// Appends everything that `other` holds, spliced payloads by reference, and empties it.
    pub fn append(&mut self, other: &mut Self) {
        let start = self.copied.len();
        self.copied.extend_from_slice(&other.copied);
        let moved = other.splices.drain(..);
        self.splices.extend(moved.map(|splice| Splice { at: start + splice.at, ..splice }));
        self.spliced_size += other.spliced_size;
        self.count_packets(other.packets);
        for note in other.notes() {
            for (kind, count) in note.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                self.note(note.received_ns, kind, *count);
            }
        }
        other.recycle();
    }

    /// Counts packets that were appended. The output itself makes no use of it.
    #[inline]
    pub fn count_packets(&mut self, packets: u32) {
        self.packets = self.packets.wrapping_add(packets);
    }

    /// Packets counted since the output was empty.
    #[inline]
    #[must_use]
    pub fn packets(&self) -> u32 {
        self.packets
    }

    /// Notes that `count` messages of a kind below [`NOTE_KINDS`] among those appended were received at a time. The output
    /// itself makes no use of it; who measures how long messages take does.
    #[inline]
    pub fn note(&mut self, received_ns: u64, kind: usize, count: u32) {
        let used = usize::from(self.notes_used);
        let known =
            used > 0 && (self.notes[used - 1].received_ns == received_ns || used == NOTES_MAX);
        if !known {
            self.notes[used] = Note { received_ns, ..Note::default() };
            self.notes_used += 1;
        }
        let last = &mut self.notes[usize::from(self.notes_used) - 1];
        last.counts[kind] = last.counts[kind].wrapping_add(count);
    }

    /// What was noted, oldest first.
    #[inline]
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes[..usize::from(self.notes_used)]
    }

    /// All bytes waiting, copied and spliced.
    #[inline]
    #[must_use]
    pub fn size(&self) -> usize {
        self.copied.len() + self.spliced_size
    }

    /// Whether nothing waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size() == 0
    }

    /// The whole output as one slice, when nothing is spliced (the usual case, and the cheap send).
    #[inline]
    #[must_use]
    pub fn as_single(&self) -> Option<&[u8]> {
        self.splices.is_empty().then_some(self.copied.as_slice())
    }

    /// The bytes in order, as the slices of a vectored send. Never yields an empty slice.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = 0;
        let pairs = self.splices.iter().flat_map(move |splice| {
            let before = &self.copied[from..splice.at];
            from = splice.at;
            [before, splice.payload.as_ref()]
        });
        let rest = &self.copied[self.splices.last().map_or(0, |splice| splice.at)..];
        pairs.chain([rest]).filter(|segment| !segment.is_empty())
    }

    /// Heap memory held, in bytes, without the shared payloads.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.copied.capacity() + self.splices.capacity() * size_of::<Splice>()
    }

    /// Empties it for the next use. Keeps at most [`KEPT_CAPACITY_MAX`] bytes, so that one burst does not hold
    /// memory for ever.
    pub fn recycle(&mut self) {
        self.copied.clear();
        self.copied.shrink_to(KEPT_CAPACITY_MAX);
        self.splices = Vec::new();
        self.spliced_size = 0;
        self.packets = 0;
        self.notes_used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(output: &Output) -> Vec<u8> {
        output.segments().flatten().copied().collect()
    }

    #[test]
    fn keeps_the_order_of_copies_and_splices() {
        let large = Bytes::from(vec![7; SPLICE_SIZE_MIN]);
        let small = Bytes::from_static(b"small");
        let mut output = Output::new();
        let mut expected = Vec::new();
        for (step, payload) in [&large, &small, &large, &large, &small].iter().enumerate() {
            let header = [u8::try_from(step).unwrap(); 3];
            output.extend(&header);
            output.payload(payload);
            expected.extend_from_slice(&header);
            expected.extend_from_slice(payload);
        }
        assert_eq!(joined(&output), expected);
        assert_eq!(output.size(), expected.len());
        assert!(output.as_single().is_none());
    }

    #[test]
    fn notes_tell_a_few_times_apart_and_lose_no_message() {
        let mut output = Output::new();
        output.note(5, 0, 2);
        output.note(5, 0, 1);
        output.note(5, 3, 1);
        output.note(6, 3, 1);
        let expected = [
            Note { received_ns: 5, counts: [3, 0, 0, 1, 0, 0] },
            Note { received_ns: 6, counts: [0, 0, 0, 1, 0, 0] },
        ];
        assert_eq!(output.notes(), expected);
        for time in 7..100 {
            output.note(time, 1, 1);
        }
        assert_eq!(output.notes().len(), NOTES_MAX);
        assert_eq!(output.notes().iter().map(|note| note.counts[1]).sum::<u32>(), 93);
        output.count_packets(7);
        output.recycle();
        assert_eq!((output.notes(), output.packets()), (&[][..], 0));
    }

    #[test]
    fn a_splice_first_and_last_yields_no_empty_segment() {
        let large = Bytes::from(vec![1; SPLICE_SIZE_MIN]);
        let mut output = Output::new();
        output.payload(&large);
        output.payload(&large);
        assert_eq!(output.segments().count(), 2);
        assert_eq!(output.size(), 2 * SPLICE_SIZE_MIN);
    }

    #[test]
    fn appending_keeps_the_order() {
        let large = Bytes::from(vec![7; SPLICE_SIZE_MIN]);
        let mut first = Output::new();
        first.extend(b"one");
        first.payload(&large);
        first.extend(b"two");
        let mut second = Output::new();
        second.extend(b"three");
        second.payload(&large);
        second.extend(b"four");
        let expected = [joined(&first), joined(&second)].concat();
        first.append(&mut second);
        assert_eq!(joined(&first), expected);
        assert_eq!(first.size(), expected.len());
        assert!(second.is_empty());
    }

    #[test]
    fn recycling_gives_back_what_a_burst_took() {
        let mut output = Output::new();
        output.extend(&vec![0; 1 << 20]);
        output.recycle();
        assert!(output.is_empty());
        assert!(output.capacity() <= KEPT_CAPACITY_MAX);
        assert_eq!(output.as_single(), Some(&[][..]));
    }
}

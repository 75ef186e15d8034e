//! Where everything is, and a hash over what it means.

use crate::busiest::{ENTRIES, TEXT_SIZE_MAX};
use crate::counters::Counters;
use crate::field::{Field, Kind, Unit};
use crate::histogram::{BUCKETS, SUB_BUCKETS};
use crate::labels::Qos;

/// The first word of a page: "MIDGESTA".
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"MIDGESTA");

/// Grows when words mean something else than before in a way that [`LAYOUT_HASH`] does not see. A reader refuses pages of
/// another version or hash: they belong to another build of the program.
pub const LAYOUT_VERSION: u64 = 1;

/// What a histogram counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Series {
    /// From the turn that received a message until it was handed to a subscriber's socket, both on this shard. QoS 0.
    LatencyLocalQos0,
    /// QoS 1.
    LatencyLocalQos1,
    /// QoS 2.
    LatencyLocalQos2,
    /// The same for messages that came from another shard, by the time at which that one received them. QoS 0.
    LatencyRemoteQos0,
    /// QoS 1.
    LatencyRemoteQos1,
    /// QoS 2.
    LatencyRemoteQos2,
    /// Turns of the shard's loop, without sleep and without the system call.
    Turn,
    /// Completions that a turn found.
    TurnCompletions,
}

impl Series {
    /// How many there are.
    pub const COUNT: usize = Self::TurnCompletions as usize + 1;

    /// All, in the order of the page.
    pub const ALL: [Self; Self::COUNT] = [
        Self::LatencyLocalQos0,
        Self::LatencyLocalQos1,
        Self::LatencyLocalQos2,
        Self::LatencyRemoteQos0,
        Self::LatencyRemoteQos1,
        Self::LatencyRemoteQos2,
        Self::Turn,
        Self::TurnCompletions,
    ];

    /// The latency of a message of this QoS (0 to 2) that was received here, or by another shard.
    ///
    /// # Panics
    /// When there is no such QoS.
    #[must_use]
    pub const fn latency(qos: usize, remote: bool) -> Self {
        assert!(qos < Qos::COUNT);
        Self::ALL[remote as usize * Qos::COUNT + qos]
    }

    /// Name, sentence, unit and labels.
    #[must_use]
    pub const fn field(self) -> &'static Field {
        &FIELDS[self as usize]
    }
}

const fn latency(path: &'static str, qos: &'static str) -> Field {
    Field {
        name: "latency_ns",
        sentence: "From the turn that received a message until it was handed to a subscriber's socket.",
        kind: Kind::Counter,
        unit: Unit::Nanoseconds,
        labels: [Some(("path", path)), Some(("qos", qos))],
    }
}

const FIELDS: &[Field; Series::COUNT] = &[
    latency("local", "0"),
    latency("local", "1"),
    latency("local", "2"),
    latency("remote", "0"),
    latency("remote", "1"),
    latency("remote", "2"),
    Field {
        name: "turn_ns",
        sentence: "How long turns of the shard's loop took, without sleep and without the system call.",
        kind: Kind::Counter,
        unit: Unit::Nanoseconds,
        labels: [None; 2],
    },
    Field {
        name: "turn_completions",
        sentence: "Completions that a turn of the shard's loop found.",
        kind: Kind::Counter,
        unit: Unit::Count,
        labels: [None; 2],
    },
];

// Words of the header.
pub(crate) const AT_MAGIC: usize = 0;
pub(crate) const AT_VERSION: usize = 1;
pub(crate) const AT_HASH: usize = 2;
pub(crate) const AT_SIZE: usize = 3;
pub(crate) const AT_SHARD: usize = 4;
pub(crate) const AT_SHARDS: usize = 5;
pub(crate) const AT_PROCESS: usize = 6;
pub(crate) const AT_STARTED: usize = 7;

// Words that change with every publication, on a cache line of their own.
pub(crate) const AT_GENERATION: usize = 8;
pub(crate) const AT_PUBLISHED: usize = 9;

pub(crate) const AT_COUNTERS: usize = 16;

/// When the window began and ended, then the entries of both sketches.
pub(crate) const AT_BUSIEST: usize = line_after(AT_COUNTERS + Counters::WORDS);
pub(crate) const ENTRY_WORDS: usize = 3 + TEXT_SIZE_MAX / 8;
pub(crate) const BUSIEST_WORDS: usize = 2 + 2 * ENTRIES * ENTRY_WORDS;

/// Each histogram: the sum on a line of its own, then the buckets.
pub(crate) const AT_HISTOGRAMS: usize = line_after(AT_BUSIEST + BUSIEST_WORDS);
pub(crate) const HISTOGRAM_WORDS: usize = 8 + BUCKETS;

/// Words of a page.
pub(crate) const WORDS: usize = AT_HISTOGRAMS + Series::COUNT * HISTOGRAM_WORDS;

/// Bytes of a page.
pub const PAGE_SIZE: usize = WORDS * 8;

const _: () = assert!(TEXT_SIZE_MAX.is_multiple_of(8));

/// The first word of the next cache line.
const fn line_after(word: usize) -> usize {
    word.next_multiple_of(8)
}

/// Over everything that gives a word its meaning, so that two builds either agree or notice.
pub(crate) const LAYOUT_HASH: u64 = {
    let mut hash = 0xCBF2_9CE4_8422_2325;
    let mut at = 0;
    while at < Counters::WORDS {
        hash = hash_field(hash, &Counters::FIELDS[at]);
        at += 1;
    }
    at = 0;
    while at < Series::COUNT {
        hash = hash_field(hash, Series::ALL[at].field());
        at += 1;
    }
    let numbers =
        [AT_COUNTERS, AT_BUSIEST, ENTRIES, TEXT_SIZE_MAX, AT_HISTOGRAMS, BUCKETS, SUB_BUCKETS];
    at = 0;
    while at < numbers.len() {
        hash = hash_number(hash, numbers[at] as u64);
        at += 1;
    }
    hash
};

const fn hash_field(hash: u64, field: &Field) -> u64 {
    let mut hash = hash_text(hash, field.name);
    let mut at = 0;
    while at < field.labels.len() {
        if let Some((key, value)) = field.labels[at] {
            hash = hash_text(hash_text(hash, key), value);
        }
        at += 1;
    }
    hash_number(hash, field.kind as u64 * 8 + field.unit as u64)
}

const fn hash_text(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = hash_byte(hash, bytes[at]);
        at += 1;
    }
    // No text has this byte: "ab" and "c" differ from "a" and "bc".
    hash_byte(hash, 0xFF)
}

const fn hash_number(mut hash: u64, number: u64) -> u64 {
    let bytes = number.to_le_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = hash_byte(hash, bytes[at]);
        at += 1;
    }
    hash
}

/// FNV-1a.
const fn hash_byte(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01B3)
}

//! What a log has done and holds.

/// Counters since the log was made, and sizes as they are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Records appended.
    pub records: u64,
    /// Writes asked for; each one batch.
    pub writes: u64,
    /// Syncs asked for.
    pub syncs: u64,
    /// Bytes written, with headers and padding.
    pub bytes_written: u64,
    /// Reads asked for.
    pub reads: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Writes and syncs that failed.
    pub failures: u64,
    /// Times that not even the smallest segment could be made.
    pub refusals: u64,
    /// Segments given back.
    pub segments_retired: u64,
    /// Segments that hold records.
    pub segments: u32,
    /// Segments prepared.
    pub segments_ready: u32,
    /// Bytes of the segments, as far as they are used.
    pub bytes_total: u64,
    /// Bytes of records that count.
    pub bytes_live: u64,
    /// Bytes of the segments that are prepared.
    pub bytes_reserved: u64,
    /// Bytes appended and not yet written.
    pub bytes_unwritten: u64,
}

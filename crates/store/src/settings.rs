//! Sizes of one log.

/// The smallest segment, in bytes.
pub(crate) const SEGMENT_SIZE_LEAST: u32 = 8 << 10;

/// Sizes of one log. The defaults suit a disk of a few GiB and a few MiB alike: segments begin small and grow with the
/// log, and shrink when there is no room for a large one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What writes are aligned to, in bytes: a power of two from 512 to 4,096; default 4,096. Each commit begins at a
    /// multiple of it and committed bytes are never written again, so it is also the least that a commit costs.
    pub block_size: u32,
    /// The size of the first segment in bytes, and the smallest worth trying on a nearly full disk; 8 KiB or more,
    /// default 1 MiB.
    pub segment_size_min: u32,
    /// The size that segments grow to, in bytes: up to 1 GiB, default 64 MiB. The largest record is a little smaller.
    pub segment_size_max: u32,
    /// Bytes appended and not yet written, at most; beyond it [`Refused::Busy`](crate::Refused::Busy). Default 8 MiB.
    /// One record is taken whatever its size.
    pub gather_size_max: usize,
    /// How much gathers before it is written although nobody waits for it, in bytes. Default 256 KiB.
    pub idle_write_size: usize,
    /// Reads in flight, at most; default 64. Beyond it [`Refused::Busy`](crate::Refused::Busy).
    pub reads_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            block_size: 4096,
            segment_size_min: 1 << 20,
            segment_size_max: 64 << 20,
            gather_size_max: 8 << 20,
            idle_write_size: 256 << 10,
            reads_max: 64,
        }
    }
}

impl Settings {
    /// The same with every size within its range and a multiple of what it must be a multiple of.
    #[must_use]
    pub(crate) fn checked(self) -> Self {
        let block_size = self.block_size.clamp(512, 4096).next_power_of_two();
        let largest =
            self.segment_size_max.clamp(SEGMENT_SIZE_LEAST, 1 << 30).next_multiple_of(block_size);
        let least =
            self.segment_size_min.clamp(SEGMENT_SIZE_LEAST, largest).next_multiple_of(block_size);
        Self {
            block_size,
            segment_size_min: least,
            segment_size_max: largest,
            reads_max: self.reads_max.max(1),
            ..self
        }
    }
}

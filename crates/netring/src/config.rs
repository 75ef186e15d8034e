//! How large a ring is.

use crate::{NetRingError, sys};

/// The most slots that one table holds, whatever the descriptor limit: the kernel's own bound on registered files.
pub const SLOTS_MAX: u32 = 1 << 20;

/// The most receive buffers of one ring: the kernel's bound on a buffer ring.
pub const RECEIVE_BUFFER_COUNT_MAX: u32 = 1 << 15;

/// Sizes of one [`NetRing`](crate::NetRing). All memory named here is virtual until it is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Submission queue entries, 1 to 32,768, rounded up to a power of two. 64 bytes each. An operation beyond them
    /// costs one more system call, nothing else. Default 1,024.
    pub entries: u32,
    /// Completion queue entries, at least `entries`, rounded up to a power of two. 16 bytes each. Completions beyond
    /// them wait in kernel memory, which is slower. From 8,192 on the kernel also uses its largest table for finding an
    /// operation to cancel. Default 8,192.
    pub completion_entries: u32,
    /// Connections at a time, 1 to [`SLOTS_MAX`]. Costs 8 bytes of kernel memory each at once, our own state only as
    /// slots are used. [`RingConfig::slots_within_limit`] says how many the process may have. Default: 16,384, or
    /// the descriptor limit if that is lower.
    pub slots: u32,
    /// Bytes of one receive buffer, 64 to 1 MiB: the most that one `Received` carries. Default 4,096.
    pub receive_buffer_size: u32,
    /// Receive buffers, 1 to [`RECEIVE_BUFFER_COUNT_MAX`], rounded up to a power of two. An idle connection holds
    /// none; when all are taken, receiving pauses until one is recycled. Default 1,024.
    pub receive_buffer_count: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            entries: 1024,
            completion_entries: 8192,
            slots: Self::slots_within_limit(16_384),
            receive_buffer_size: 4096,
            receive_buffer_count: 1024,
        }
    }
}

impl RingConfig {
    /// As many of the `requested` slots as the process may have: raises the soft limit of open descriptors to the hard
    /// limit first, because that limit bounds the table of each ring (not their sum).
    #[must_use]
    pub fn slots_within_limit(requested: u32) -> u32 {
        let limit = sys::raise_descriptor_limit().unwrap_or(1024);
        requested.min(u32::try_from(limit).unwrap_or(u32::MAX)).clamp(1, SLOTS_MAX)
    }

    /// The same with every number rounded to what the kernel takes.
    pub(crate) fn checked(&self) -> Result<Self, NetRingError> {
        let check = |field, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                Ok(value)
            } else {
                Err(NetRingError::InvalidConfig { field })
            }
        };
        let entries = check("entries", self.entries, 1, 1 << 15)?.next_power_of_two();
        Ok(Self {
            entries,
            completion_entries: check(
                "completion_entries",
                self.completion_entries,
                self.entries,
                1 << 16,
            )?
            .next_power_of_two()
            .max(entries),
            slots: check("slots", self.slots, 1, SLOTS_MAX)?,
            receive_buffer_size: check(
                "receive_buffer_size",
                self.receive_buffer_size,
                64,
                1 << 20,
            )?,
            receive_buffer_count: check(
                "receive_buffer_count",
                self.receive_buffer_count,
                1,
                RECEIVE_BUFFER_COUNT_MAX,
            )?
            .next_power_of_two(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let base = RingConfig::default();
        for (config, field) in [
            (RingConfig { entries: 0, ..base.clone() }, "entries"),
            (RingConfig { entries: 40_000, ..base.clone() }, "entries"),
            (RingConfig { completion_entries: 1, ..base.clone() }, "completion_entries"),
            (RingConfig { slots: 0, ..base.clone() }, "slots"),
            (RingConfig { slots: SLOTS_MAX + 1, ..base.clone() }, "slots"),
            (RingConfig { receive_buffer_size: 10, ..base.clone() }, "receive_buffer_size"),
            (RingConfig { receive_buffer_count: 0, ..base.clone() }, "receive_buffer_count"),
            (RingConfig { receive_buffer_count: 40_000, ..base.clone() }, "receive_buffer_count"),
        ] {
            assert_eq!(config.checked(), Err(NetRingError::InvalidConfig { field }));
        }
        let odd = RingConfig { entries: 5, receive_buffer_count: 3, ..base };
        let rounded = odd.checked().unwrap();
        assert_eq!((rounded.entries, rounded.receive_buffer_count), (8, 4));
    }
}

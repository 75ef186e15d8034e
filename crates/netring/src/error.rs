//! Why a ring cannot be made, in sentences that say what to do about it.

use std::{error::Error, fmt, io};

/// Why [`NetRing::new`](crate::NetRing::new) or [`check_kernel`](crate::check_kernel) refused.
///
/// `Display` is a sentence for the operator: what is wrong and what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetRingError {
    /// The kernel is older than [`KERNEL_VERSION_MIN`](crate::KERNEL_VERSION_MIN), or lacks one of its features.
    KernelTooOld {
        /// Major and minor version found.
        found: (u32, u32),
    },
    /// The kernel was built without io_uring.
    NotBuiltIn,
    /// The sysctl `kernel.io_uring_disabled` forbids it.
    DisabledBySysctl {
        /// 1: forbidden to processes outside the group `kernel.io_uring_group`; 2: forbidden to all.
        value: u32,
    },
    /// Something else forbids it: a container's seccomp profile, or a security module.
    Forbidden,
    /// The memory that the process may lock is too small for the queues.
    LockedMemory,
    /// The table of connections is larger than the limit of open descriptors permits.
    TooFewDescriptors {
        /// Slots asked for.
        slots: u32,
        /// What `RLIMIT_NOFILE` permits.
        limit: u64,
    },
    /// The process has no descriptor left for the ring itself.
    NoDescriptorLeft,
    /// A field of [`RingConfig`](crate::RingConfig) is out of its range.
    InvalidConfig {
        /// The field.
        field: &'static str,
    },
    /// Another system call failed.
    System {
        /// What was being done.
        step: &'static str,
        /// The error number.
        errno: i32,
    },
}

impl NetRingError {
    pub(crate) fn system(step: &'static str, error: &io::Error) -> Self {
        Self::System { step, errno: error.raw_os_error().unwrap_or(0) }
    }
}

impl fmt::Display for NetRingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::KernelTooOld { found: (major, minor) } => write!(
                formatter,
                "kernel {major}.{minor} lacks io_uring features that are needed: run Linux 6.1 or newer"
            ),
            Self::NotBuiltIn => write!(
                formatter,
                "this kernel has no io_uring: run a kernel built with CONFIG_IO_URING=y"
            ),
            Self::DisabledBySysctl { value: 1 } => write!(
                formatter,
                "io_uring is limited to one group here (kernel.io_uring_disabled = 1): add this user to the \
                 group in kernel.io_uring_group, or run `sysctl kernel.io_uring_disabled=0`"
            ),
            Self::DisabledBySysctl { value } => write!(
                formatter,
                "io_uring is switched off (kernel.io_uring_disabled = {value}): run \
                 `sysctl kernel.io_uring_disabled=0`"
            ),
            Self::Forbidden => write!(
                formatter,
                "io_uring is not permitted to this process: a container's seccomp profile or a security module \
                 forbids it; allow io_uring_setup, io_uring_enter and io_uring_register"
            ),
            Self::LockedMemory => write!(
                formatter,
                "not enough lockable memory for the io_uring queues: raise `ulimit -l` (LimitMEMLOCK= in a \
                 systemd unit) or make the ring smaller"
            ),
            Self::TooFewDescriptors { slots, limit } => write!(
                formatter,
                "{slots} connections per ring need as many descriptors, and the limit is {limit}: raise \
                 `ulimit -n` (LimitNOFILE= in a systemd unit) or ask for fewer"
            ),
            Self::NoDescriptorLeft => write!(
                formatter,
                "no descriptor left for an io_uring: raise `ulimit -n` (LimitNOFILE= in a systemd unit)"
            ),
            Self::InvalidConfig { field } => {
                write!(formatter, "the ring setting `{field}` is out of its range")
            }
            Self::System { step, errno } => {
                write!(formatter, "{step} failed: {}", io::Error::from_raw_os_error(errno))
            }
        }
    }
}

impl Error for NetRingError {}

impl From<NetRingError> for io::Error {
    fn from(error: NetRingError) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        for (error, advice) in [
            (NetRingError::KernelTooOld { found: (5, 15) }, "run Linux 6.1"),
            (NetRingError::NotBuiltIn, "CONFIG_IO_URING"),
            (NetRingError::DisabledBySysctl { value: 1 }, "kernel.io_uring_group"),
            (NetRingError::DisabledBySysctl { value: 2 }, "sysctl kernel.io_uring_disabled=0"),
            (NetRingError::Forbidden, "seccomp"),
            (NetRingError::LockedMemory, "ulimit -l"),
            (NetRingError::TooFewDescriptors { slots: 9, limit: 8 }, "ulimit -n"),
            (NetRingError::NoDescriptorLeft, "ulimit -n"),
        ] {
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}

//! What this machine gives this process: cores, descriptors, memory.

use std::num::NonZero;

use rustix::process::{Resource, Rlimit};

/// Facts about the machine, gathered once, so that decisions about them can be tested without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Cores' worth of time this process may use: affinity and control-group quota counted.
    pub(crate) parallelism: usize,
    /// The numbers of the cores this process may run on, ascending.
    pub(crate) cores: Vec<usize>,
    /// The descriptor limit (`ulimit -n`) after [`Host::prepare`]; `u64::MAX`: none.
    pub(crate) descriptors_max: u64,
    /// The machine's memory in bytes.
    pub(crate) memory_bytes: u64,
}

impl Host {
    /// Raises this process's descriptor limit as far as it may by itself, then looks around.
    ///
    /// The soft limit is low for the sake of programs that use `select`; we do not, and each
    /// connection needs a descriptor or a slot that is counted like one.
    pub(crate) fn prepare() -> Self {
        let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
        let raised = Rlimit { current: maximum, maximum };
        let descriptors = match rustix::process::setrlimit(Resource::Nofile, raised) {
            Ok(()) => maximum,
            // Some sandboxes forbid it: then the soft limit is what there is.
            Err(_) => current,
        };
        Self {
            parallelism: std::thread::available_parallelism().map_or(1, NonZero::get),
            cores: cores(),
            descriptors_max: descriptors.unwrap_or(u64::MAX),
            memory_bytes: memory_bytes(),
        }
    }
}

/// Empty when the kernel does not say, for example in a sandbox: then nothing is pinned.
fn cores() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

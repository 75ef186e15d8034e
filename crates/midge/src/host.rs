//! What this machine gives this process: cores, descriptors, memory.

use std::{env, ffi::OsString, num::NonZero, path::PathBuf};

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
    /// Where programs of this user keep what outlives them, this one in a directory of its own; `None`: nobody has said.
    pub(crate) state_directory: Option<PathBuf>,
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
            state_directory: state_directory(
                |name| env::var_os(name),
                rustix::process::geteuid().is_root(),
            ),
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

/// `$STATE_DIRECTORY` (systemd), else `/var/lib/midge` for root, else `$XDG_STATE_HOME/midge`, else
/// `~/.local/state/midge`. Relative paths are none: they would depend on where the broker is started.
fn state_directory(variable: impl Fn(&str) -> Option<OsString>, is_root: bool) -> Option<PathBuf> {
    let path = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // systemd separates several directories with colons; the first is the unit's main one.
    let systemd = variable("STATE_DIRECTORY").and_then(|list| list.into_string().ok());
    let systemd = systemd.as_deref().and_then(|list| list.split(':').next()).map(PathBuf::from);
    let systemd = systemd.filter(|path| path.is_absolute());
    let own = || {
        let state = path("XDG_STATE_HOME").or_else(|| Some(path("HOME")?.join(".local/state")))?;
        Some(state.join("midge"))
    };
    systemd.or_else(|| if is_root { Some("/var/lib/midge".into()) } else { own() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_its_usual_place() {
        let systemd = ("STATE_DIRECTORY", "/var/lib/midge-2:/var/lib/other");
        let (xdg, home) = (("XDG_STATE_HOME", "/h/s"), ("HOME", "/h"));
        for (variables, is_root, expected) in [
            (&[systemd, xdg, home][..], false, Some("/var/lib/midge-2")),
            (&[systemd], true, Some("/var/lib/midge-2")),
            (&[xdg, home], true, Some("/var/lib/midge")),
            (&[xdg, home], false, Some("/h/s/midge")),
            (&[home], false, Some("/h/.local/state/midge")),
            (&[("XDG_STATE_HOME", ""), home], false, Some("/h/.local/state/midge")),
            (
                &[("STATE_DIRECTORY", "s"), ("XDG_STATE_HOME", "s"), home],
                false,
                Some("/h/.local/state/midge"),
            ),
            (&[("HOME", "")], false, None),
            (&[], false, None),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let found = state_directory(variable, is_root);
            assert_eq!(found, expected.map(PathBuf::from), "{variables:?}");
        }
    }
}

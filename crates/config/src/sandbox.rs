//! Settings of the sandbox.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the process gives up once it has started: files that these settings do not name, other programs, and system calls
/// that a broker never makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// Whether there is one. Default `auto`.
    pub mode: SandboxMode,

    /// Files and directories that may be read besides those that the settings name, for settings to come. They must exist.
    pub readable: Vec<PathBuf>,

    /// Files and directories that may be read and written besides. They must exist.
    pub writable: Vec<PathBuf>,
}

/// Whether the process is held to what it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// As far as the kernel has it; the log tells how far.
    #[default]
    Auto,
    /// No.
    Off,
    /// It does not start where the kernel has not both parts, landlock and seccomp.
    Required,
}

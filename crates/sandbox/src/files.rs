//! Landlock: the files of this process.

use std::{fmt, path::PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};

/// The newest version of the interface that this was tried with (Linux 6.15). Of an older kernel's rules those that it has
/// are in force.
const VERSION: ABI = ABI::V7;

/// Files and directories, each with everything below it. What does not exist is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// May be read.
    pub readable: Vec<PathBuf>,
    /// May be read, written, made and removed; programs that lie there cannot be started.
    pub writable: Vec<PathBuf>,
    /// Directories in which sockets are made and removed, and nothing else.
    pub sockets: Vec<PathBuf>,
}

/// How much of it the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Full,
    /// What a kernel before Linux 6.12 knows: most of it.
    Partial,
}

/// Lets this thread, and those that it will start, open nothing but these places, start no program, and send no signal to
/// another process.
///
/// # Errors
/// Why nothing is in force: one sentence.
pub fn restrict_files(places: &Places) -> Result<Extent, String> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    // Devices, pipes and links are nobody's business here.
    let write = read
        | make_bitflags!(AccessFs::{
            WriteFile | Truncate | MakeReg | RemoveFile | MakeDir | RemoveDir | MakeSock | Refer
        });
    let sockets = make_bitflags!(AccessFs::{ReadDir | MakeSock | RemoveFile});
    let told = |error: landlock::RulesetError| error.to_string();
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))
        .and_then(|rules| rules.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(told)?;
    let groups = [(&places.readable, read), (&places.writable, write), (&places.sockets, sockets)];
    for (paths, rights) in groups {
        for path in paths {
            // Whoever needs what is not there will say so.
            let Ok(place) = PathFd::new(path) else { continue };
            // Rights that only a directory can have are left out for a file.
            let rights = if path.is_dir() { rights } else { rights & AccessFs::from_file(VERSION) };
            if !rights.is_empty() {
                rules = rules.add_rule(PathBeneath::new(place, rights)).map_err(told)?;
            }
        }
    }
    let status = rules.restrict_self().map_err(told)?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(Extent::Full),
        RulesetStatus::PartiallyEnforced => Ok(Extent::Partial),
        RulesetStatus::NotEnforced => Err(NOT_THERE.into()),
    }
}

/// Whether this kernel has it and has switched it on; nothing is changed.
#[must_use]
pub fn landlock_works() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .is_ok()
}

const NOT_THERE: &str =
    "this kernel has no landlock, or it is not among its security modules (lsm=)";

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "in full",
            Self::Partial => "as far as this kernel knows it",
        })
    }
}

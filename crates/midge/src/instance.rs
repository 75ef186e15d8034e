//! The runtime directory: where a running broker can be found by the commands that look at it.
//!
//! ```text
//! /run/midge/            the base: see `base`
//!   4711/                one running broker, by its process id; mode 0700, locked while it runs
//!     control.sock       see `control`
//!     shard-0.stats …    one page of statistics for each shard
//! ```
//!
//! # Invariants
//! - Whoever holds the lock (`flock`) of such a directory is the broker that made it: a broker that was killed has lost
//!   its lock, whatever process has its number now.
//! - A directory appears under its number only once it is locked, so that nobody takes a starting broker for a dead one.
//! - Nothing here decides whether clients are served. Without a directory the broker serves all the same, and says once
//!   that statistics and control are off.

use std::{
    env, fmt,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::failure::Failure;

/// Options of every command that looks at a running broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct InstanceArguments {
    /// Where running brokers are found: what `serve` was given as --runtime-dir or runtime.directory.
    /// Default: where a broker of this user puts itself.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,

    /// The broker with this process id, where several run.
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
}

impl InstanceArguments {
    /// The broker that is meant.
    ///
    /// # Errors
    /// When there is none, or several and none was chosen: a sentence that says what to do.
    pub(crate) fn find(&self) -> Result<Instance, Failure> {
        let base = base(self.runtime_dir.as_deref());
        find(&base, self.pid).map_err(|error| Failure::Other(error.to_string()))
    }
}

/// A running broker, seen from another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its directory.
    pub(crate) directory: PathBuf,
}

impl Instance {
    /// The socket that it answers questions on.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.directory.join(CONTROL_SOCKET)
    }
}

/// This process's own directory. Dropping it removes it with all that is in it.
#[derive(Debug)]
pub(crate) struct OwnInstance {
    directory: PathBuf,
    /// Held for as long as the broker runs.
    _lock: File,
}

impl OwnInstance {
    /// Makes the directory of this process below `base`, which is made too if need be, and removes what dead brokers
    /// have left behind there.
    ///
    /// # Errors
    /// What could not be done and why: one sentence without its end, for the caller to say what is missing now.
    pub(crate) fn create(base: &Path) -> Result<Self, String> {
        make_base(base)?;
        let pid = std::process::id();
        sweep(base, pid);
        let directory = base.join(pid.to_string());
        let started = base.join(format!("{STARTING}{pid}"));
        let make = || {
            DirBuilder::new().mode(0o700).create(&started)?;
            let lock = File::open(&started)?;
            lock.lock()?;
            // Fails when a broker of another process-id namespace has the number, and runs.
            fs::rename(&started, &directory)?;
            Ok(lock)
        };
        match make() {
            Ok(lock) => Ok(Self { directory, _lock: lock }),
            Err(error) => {
                _ = fs::remove_dir(&started);
                Err(told(&directory, &error))
            }
        }
    }

    /// Where this process's files go.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its control socket stands.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.directory.join(CONTROL_SOCKET)
    }
}

impl Drop for OwnInstance {
    fn drop(&mut self) {
        // What stays behind is removed by the next start.
        _ = fs::remove_dir_all(&self.directory);
    }
}

/// The directory of all brokers: the chosen one, else `$RUNTIME_DIRECTORY` (systemd), else `/run/midge` for root, else
/// `$XDG_RUNTIME_DIR/midge`, else `/tmp/midge-UID`.
pub(crate) fn base(chosen: Option<&Path>) -> PathBuf {
    match chosen {
        Some(path) => path.to_owned(),
        None => {
            let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
            default_base(
                variable("RUNTIME_DIRECTORY").and_then(|list| list.into_string().ok()),
                variable("XDG_RUNTIME_DIR").map(PathBuf::from),
                rustix::process::geteuid().as_raw(),
            )
        }
    }
}

fn default_base(systemd: Option<String>, session: Option<PathBuf>, user: u32) -> PathBuf {
    // systemd separates several directories with colons; the first is the unit's main one.
    match (systemd.as_deref().and_then(|list| list.split(':').next()), session) {
        (Some(first), _) => first.into(),
        (None, _) if user == 0 => "/run/midge".into(),
        (None, Some(session)) => session.join("midge"),
        (None, None) => format!("/tmp/midge-{user}").into(),
    }
}

/// Makes the directory of all brokers if need be.
///
/// # Errors
/// Why it cannot be ours, as of [`OwnInstance::create`].
pub(crate) fn make_base(base: &Path) -> Result<(), String> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(base)
        .map_err(|error| told(base, &error))?;
    check_owner(base)
}

fn told(path: &Path, error: &io::Error) -> String {
    let reason = error.to_string();
    let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
    format!("cannot make {}: {reason}", path.display())
}

/// Where anybody may make directories, somebody could be there first and see, or feign, what is ours.
fn check_owner(base: &Path) -> Result<(), String> {
    let metadata = fs::metadata(base)
        .map_err(|error| format!("cannot look at {}: {error}", base.display()))?;
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(format!("{} belongs to another user ({owner})", base.display()));
    }
    let (writable_by_others, sticky) =
        (metadata.mode() & 0o022 != 0, metadata.mode() & 0o1000 != 0);
    if writable_by_others && !sticky {
        return Err(format!("other users may write in {}", base.display()));
    }
    Ok(())
}

/// Removes directories whose broker is dead. What cannot be removed stays: it is in nobody's way.
fn sweep(base: &Path, own: u32) {
    for name in names(base) {
        let path = base.join(&name);
        let dead = match name.strip_prefix(STARTING) {
            // Killed between making and naming its directory, a moment in which it may have had no lock.
            Some(pid) => {
                pid == own.to_string()
                    || (pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
            }
            None => name.parse::<u32>().is_ok(),
        };
        if dead && probe(&path) == Life::Dead {
            _ = fs::remove_dir_all(&path);
        }
    }
}

/// What a directory below the base says about its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Runs,
    Dead,
    /// Another user's: it cannot be told.
    Unknown,
}

fn probe(directory: &Path) -> Life {
    let Ok(file) = File::open(directory) else { return Life::Unknown };
    // Shared, and let go at once: two commands that look at the same time do not see each other.
    match file.try_lock_shared() {
        Ok(()) => Life::Dead,
        Err(TryLockError::WouldBlock) => Life::Runs,
        Err(TryLockError::Error(_)) => Life::Unknown,
    }
}

fn names(base: &Path) -> Vec<String> {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Why no broker was found.
#[derive(Debug, PartialEq, Eq)]
enum FindError {
    None {
        base: PathBuf,
    },
    NotThis {
        base: PathBuf,
        pid: u32,
        running: Vec<u32>,
    },
    Several {
        running: Vec<u32>,
    },
    /// There may be some, but we are not allowed to see.
    Hidden {
        path: PathBuf,
    },
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |pids: &[u32]| pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        match self {
            Self::None { base } => write!(
                f,
                "no broker runs here ({} has none); start one with midge serve, or say where it \
                 is with --runtime-dir",
                base.display()
            ),
            Self::NotThis { base, pid, running } if running.is_empty() => {
                write!(f, "no broker with process id {pid} runs here ({} has none)", base.display())
            }
            Self::NotThis { pid, running, .. } => write!(
                f,
                "no broker with process id {pid} runs here, but {}; choose with --pid",
                list(running)
            ),
            Self::Several { running } => write!(
                f,
                "{} brokers run here, with the process ids {}; choose with --pid",
                running.len(),
                list(running)
            ),
            Self::Hidden { path } => write!(
                f,
                "may not look into {}; run this as the user of the broker, or as root",
                path.display()
            ),
        }
    }
}

fn find(base: &Path, wanted: Option<u32>) -> Result<Instance, FindError> {
    let hidden = |path: &Path| FindError::Hidden { path: path.to_owned() };
    if fs::read_dir(base).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        return Err(hidden(base));
    }
    let mut running = Vec::new();
    let mut unknown = None;
    for pid in names(base).iter().filter_map(|name| name.parse::<u32>().ok()) {
        let directory = base.join(pid.to_string());
        match probe(&directory) {
            Life::Runs => running.push(pid),
            Life::Dead => {}
            Life::Unknown if wanted.is_none_or(|wanted| wanted == pid) => unknown = Some(directory),
            Life::Unknown => {}
        }
    }
    running.sort_unstable();
    let pid = match (wanted, running.as_slice()) {
        (Some(pid), running) if running.contains(&pid) => pid,
        (None, [pid]) => *pid,
        (None, [_, _, ..]) => return Err(FindError::Several { running }),
        _ => {
            return Err(match (unknown, wanted) {
                (Some(path), _) => hidden(&path),
                (None, Some(pid)) => FindError::NotThis { base: base.to_owned(), pid, running },
                (None, None) => FindError::None { base: base.to_owned() },
            });
        }
    };
    Ok(Instance { pid, directory: base.join(pid.to_string()) })
}

/// The name of the control socket in a broker's directory.
const CONTROL_SOCKET: &str = "control.sock";

/// What the name of a directory begins with until it is locked.
const STARTING: &str = "starting-";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A base that goes with the test.
    struct Base(PathBuf);

    impl Base {
        fn new(test: &str) -> Self {
            let name = format!("midge-instance-{test}-{}", std::process::id());
            let path = env::temp_dir().join(name);
            _ = fs::remove_dir_all(&path);
            Self(path)
        }

        /// The directory of another broker, which runs for as long as the file lives.
        fn running(&self, pid: u32) -> File {
            let path = self.dead(pid);
            let lock = File::open(path).expect("a directory");
            lock.lock().expect("nobody else's");
            lock
        }

        /// The directory of a broker that was killed.
        fn dead(&self, pid: u32) -> PathBuf {
            let path = self.0.join(pid.to_string());
            fs::create_dir_all(&path).expect("a directory for this test");
            fs::write(path.join("control.sock"), "").expect("a file for this test");
            path
        }

        fn find(&self, pid: Option<u32>) -> Result<u32, String> {
            find(&self.0, pid).map(|found| found.pid).map_err(|error| error.to_string())
        }
    }

    impl Drop for Base {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_base_follows_the_surroundings() {
        let path = |text: &str| Some(PathBuf::from(text));
        for (systemd, session, user, expected) in [
            (Some("/run/midge"), path("/run/user/7"), 7, "/run/midge"),
            (Some("/run/a:/run/b"), None, 0, "/run/a"),
            (None, path("/run/user/0"), 0, "/run/midge"),
            (None, path("/run/user/7"), 7, "/run/user/7/midge"),
            (None, None, 7, "/tmp/midge-7"),
        ] {
            let found = default_base(systemd.map(str::to_owned), session, user);
            assert_eq!(found, Path::new(expected));
        }
        assert_eq!(base(Some(Path::new("/x"))), Path::new("/x"));
    }

    #[test]
    fn a_broker_is_found_while_it_runs() {
        let base = Base::new("found");
        let none = format!(
            "no broker runs here ({} has none); start one with midge serve, or say where it is \
             with --runtime-dir",
            base.0.display()
        );
        assert_eq!(base.find(None), Err(none.clone()));
        let own = OwnInstance::create(&base.0).expect("a directory");
        assert_eq!(own.directory().metadata().expect("made").permissions().mode() & 0o777, 0o700);
        let pid = std::process::id();
        assert_eq!(base.find(None), Ok(pid));
        assert_eq!(base.find(Some(pid)), Ok(pid));
        assert_eq!(find(&base.0, None).expect("found").control_socket(), own.control_socket());
        fs::write(own.control_socket(), "").expect("a file for this test");
        drop(own);
        assert_eq!(base.find(None), Err(none));
    }

    #[test]
    fn several_brokers_want_a_choice() {
        let base = Base::new("several");
        let _locks = [base.running(4_194_302), base.running(4_194_301)];
        base.dead(4_194_303);
        let sentence =
            "2 brokers run here, with the process ids 4194301 and 4194302; choose with --pid";
        assert_eq!(base.find(None), Err(sentence.into()));
        assert_eq!(base.find(Some(4_194_302)), Ok(4_194_302));
        assert_eq!(
            base.find(Some(4_194_303)).map_err(|error| error.contains(
                "no broker with process id 4194303 runs here, but 4194301 and 4194302; choose"
            )),
            Err(true)
        );
    }

    #[test]
    fn what_dead_brokers_left_is_swept() {
        let base = Base::new("swept");
        let dead = base.dead(4_194_303);
        // A number that a process has today, which is no broker.
        let reused = base.dead(1);
        let lock = base.running(4_194_302);
        // A broker that was killed while it started, and files that are none of ours.
        let starting = base.0.join("starting-4194303");
        fs::create_dir(&starting).expect("a directory for this test");
        let foreign = base.0.join("notes.txt");
        fs::write(&foreign, "").expect("a file for this test");
        // What an earlier process with our number has left behind.
        base.dead(std::process::id());

        let own = OwnInstance::create(&base.0).expect("a directory");
        assert!(!own.control_socket().exists());
        for (path, stays) in [
            (&dead, false),
            (&reused, false),
            (&starting, false),
            (&base.0.join("4194302"), true),
            (&foreign, true),
        ] {
            assert_eq!(path.exists(), stays, "{}", path.display());
        }
        drop(lock);
    }

    #[test]
    fn a_base_that_cannot_be_says_why() {
        let base = Base::new("cannot");
        fs::create_dir_all(&base.0).expect("a directory for this test");
        let file = base.0.join("file");
        fs::write(&file, "").expect("a file for this test");
        let error = OwnInstance::create(&file.join("below")).map(|_| ()).expect_err("a file");
        let expected = format!("cannot make {}: not a directory", file.join("below").display());
        assert_eq!(error, expected);

        fs::set_permissions(&base.0, fs::Permissions::from_mode(0o777)).expect("our own");
        let error = OwnInstance::create(&base.0).map(|_| ()).expect_err("anybody writes there");
        assert_eq!(error, format!("other users may write in {}", base.0.display()));
        // As in /tmp, where nobody may touch what another made.
        fs::set_permissions(&base.0, fs::Permissions::from_mode(0o1777)).expect("our own");
        OwnInstance::create(&base.0).expect("a directory");

        // A broker of another process-id namespace that has our number.
        let _lock = base.running(std::process::id());
        let error = OwnInstance::create(&base.0).map(|_| ()).expect_err("taken");
        assert!(error.ends_with(": directory not empty"), "{error}");
        assert!(!base.0.join(format!("starting-{}", std::process::id())).exists());
    }
}

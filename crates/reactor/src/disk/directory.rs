//! The data directory: opened by one broker at a time, and left untouched when it cannot be used.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use midge_store::SegmentId;

use super::{Layout, LogDirectory, layout};

/// Version of the layout that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";
const DAMAGED: &str = "damaged";
/// Bytes of two files that are compared at a time.
const COMPARED_SIZE: usize = 1 << 20;

const FORMAT_PREFIX: &str = "midge data directory, format ";

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    /// The file that says what this is does not.
    format_damaged: bool,
}

/// Why a data directory cannot be used. Nothing in it has been touched.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process holds it.
    InUse {
        /// The directory.
        path: PathBuf,
        /// Which, if it has said so.
        process: Option<u32>,
    },
    /// A later version of this program has written it.
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It is to be filled, and is not empty.
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// It holds something, and not what this program writes.
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The system refuses.
    Io {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path, process } => {
                write!(formatter, "the data directory {} is in use by ", path.display())?;
                match process {
                    Some(process) => write!(formatter, "process {process}")?,
                    None => formatter.write_str("another process")?,
                }
                formatter.write_str("; stop it, or choose another with --data-dir")
            }
            Self::NewerFormat { path, version } => write!(
                formatter,
                "the data directory {} has format {version}, and this program knows formats up to \
                 {FORMAT_VERSION}: run the newer program, or choose another with --data-dir",
                path.display()
            ),
            Self::Taken { path } => {
                write!(formatter, "{} is there already: choose a new directory", path.display())
            }
            Self::Foreign { path } => write!(
                formatter,
                "{} holds files that are not a data directory's: choose an empty or a new directory \
                 with --data-dir",
                path.display()
            ),
            Self::Io { step, path, error } => {
                write!(formatter, "cannot {step} {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for OpenError {}

impl DataDirectory {
    /// Opens the directory, makes it if it is missing, and locks it.
    ///
    /// # Errors
    /// In one sentence, before anything was changed.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |step, path: &Path| {
            let path = path.to_path_buf();
            move |error| OpenError::Io { step, path, error }
        };
        let known = read_format(path)?;
        if known == Known::Nothing {
            Self::make(path).map_err(io("make the data directory", path))?;
        }
        let lock_path = path.join(LOCK_FILE);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io("write to the data directory: cannot open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let process =
                    lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(OpenError::InUse { path: path.to_path_buf(), process });
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", &lock_path)(error)),
        }
        let write = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write(&mut lock).map_err(io("write to the data directory: cannot write", &lock_path))?;
        if known == Known::Nothing {
            let format_path = path.join(FORMAT_FILE);
            write_format(path, &format_path)
                .map_err(io("write to the data directory: cannot write", &format_path))?;
        }
        let format_damaged = known == Known::FormatDamaged;
        Ok(Self { path: path.to_path_buf(), _lock: lock, format_damaged })
    }

    /// Makes the directory and those above it, if they are missing: messages are for nobody else's eyes.
    ///
    /// # Errors
    /// When it is something else, or cannot be made.
    pub fn make(path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    /// The logs of a data directory, by number, to be looked at only: nothing is locked or changed, a broker may run on it.
    ///
    /// # Errors
    /// When there is none, or it is of a later version.
    pub fn view(path: &Path) -> Result<Vec<(u16, LogDirectory)>, OpenError> {
        let io =
            |error| OpenError::Io { step: "read the data directory", path: path.into(), error };
        if read_format(path)? == Known::Nothing {
            return Err(io(io::ErrorKind::NotFound.into()));
        }
        let view = |number| (number, LogDirectory::view(path.join(log_name(number))));
        Ok(logs(path).map_err(io)?.into_iter().map(view).collect())
    }

    /// A new data directory, to be filled; `path` is missing or empty.
    ///
    /// # Errors
    /// When something is there, or it cannot be made.
    pub fn create(path: &Path) -> Result<Self, OpenError> {
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(false) => Self::open(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::open(path),
            Ok(true) | Err(_) => Err(OpenError::Taken { path: path.to_path_buf() }),
        }
    }

    /// Says which logs are in force: the last step of filling a new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_layout(&self, layout: Layout) -> io::Result<()> {
        layout.write(&self.path)
    }

    /// Which logs of a data directory are in force; nothing is locked or changed.
    ///
    /// # Errors
    /// When there is none, or it is of a later version, or nothing tells.
    pub fn view_layout(path: &Path) -> Result<Layout, OpenError> {
        let io =
            |error| OpenError::Io { step: "read the data directory", path: path.into(), error };
        if read_format(path)? == Known::Nothing {
            return Err(io(io::ErrorKind::NotFound.into()));
        }
        if let layout::Said::Layout { layout, .. } = layout::read(path).map_err(io)? {
            return Ok(layout);
        }
        let unknown = || io(io::Error::other("nothing tells which of its logs are in force"));
        Layout::of_logs(&logs(path).map_err(io)?).ok_or_else(unknown)
    }

    /// The log with this number of a data directory, to be looked at only; it may be missing.
    #[must_use]
    pub fn view_one(path: &Path, number: u16) -> LogDirectory {
        LogDirectory::view(path.join(log_name(number)))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that there is room for, where the file system tells.
    pub(crate) fn room(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.path).ok()?;
        // One that lives in memory without a bound says that it has nothing at all.
        (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// The file that says what this is, if it is damaged.
    pub(crate) fn damaged_format(&self) -> Option<PathBuf> {
        self.format_damaged.then(|| self.path.join(FORMAT_FILE))
    }

    /// Writes that file anew.
    pub(crate) fn repair_format(&self) -> io::Result<()> {
        write_format(&self.path, &self.path.join(FORMAT_FILE))
    }

    /// Which logs are in force.
    pub(crate) fn layout(&self) -> io::Result<layout::Said> {
        layout::read(&self.path)
    }

    /// The logs that there are, by number, in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn logs(&self) -> io::Result<Vec<u16>> {
        logs(&self.path)
    }

    /// The log with this number, made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn log(&self, number: u16) -> io::Result<LogDirectory> {
        let path = self.path.join(log_name(number));
        if !path.is_dir() {
            fs::create_dir(&path)?;
            File::open(&self.path)?.sync_all()?;
        }
        LogDirectory::open(path)
    }

    /// The log with this number, to be looked at only; it may be missing.
    #[must_use]
    pub fn view_log(&self, number: u16) -> LogDirectory {
        LogDirectory::view(self.path.join(log_name(number)))
    }

    /// Removes a log whose content has moved elsewhere.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn remove_log(&self, number: u16) -> io::Result<()> {
        fs::remove_dir_all(self.path.join(log_name(number)))?;
        File::open(&self.path)?.sync_all()
    }

    /// Copies a segment in which something is damaged aside, for whoever wants to look at it later. Where to. What is
    /// there already as it is now (an earlier start has found the same) is not copied again.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn set_aside(&self, number: u16, segment: SegmentId) -> io::Result<PathBuf> {
        let source = self.path.join(log_name(number)).join(super::files::segment_name(segment));
        let directory = self.path.join(DAMAGED);
        fs::create_dir_all(&directory)?;
        for copy in 0..u32::MAX {
            let suffix = if copy == 0 { String::new() } else { format!(".{copy}") };
            let name = format!("{}-{:010}.log{suffix}", log_name(number), segment.0);
            let target = directory.join(name);
            if target.exists() {
                if same_content(&source, &target)? {
                    return Ok(target);
                }
            } else {
                fs::copy(&source, &target)?;
                File::open(&target)?.sync_all()?;
                return Ok(target);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Whether two files hold the same bytes.
fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; COMPARED_SIZE], vec![0; COMPARED_SIZE]);
    loop {
        let size = one.read(&mut left)?;
        if size == 0 {
            return Ok(true);
        }
        match other.read_exact(&mut right[..size]) {
            Ok(()) if left[..size] == right[..size] => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => return Ok(false),
        }
    }
}

/// The logs of a data directory that nobody needs to hold, by number, in order.
///
/// # Errors
/// When it cannot be read.
pub(super) fn logs(path: &Path) -> io::Result<Vec<u16>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("shard-"));
        if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn log_name(number: u16) -> String {
    format!("shard-{number:05}")
}

/// What the directory is, by its own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Empty, or not there.
    Nothing,
    /// A data directory of a version that this program knows.
    Sound,
    /// The same by its other file; the one that says so first is damaged.
    FormatDamaged,
}

/// What is there. The file `layout` says the version too, and has a checksum: where only one of them speaks, it is believed.
fn read_format(path: &Path) -> Result<Known, OpenError> {
    let io = |step, path: PathBuf| move |error| OpenError::Io { step, path, error };
    let newer = |version| OpenError::NewerFormat { path: path.to_path_buf(), version };
    let layout = match layout::read(path) {
        Ok(layout::Said::Layout { format, checked: true, .. }) => Some(format),
        // A directory that may not be read is told below.
        _ => None,
    };
    let format_path = path.join(FORMAT_FILE);
    let said = match fs::read(&format_path) {
        Ok(bytes) => Some(version_of(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io("read", format_path)(error)),
    };
    match (said.flatten(), layout) {
        (Some(version), None) if version > FORMAT_VERSION => return Err(newer(version)),
        (_, Some(version)) if version > FORMAT_VERSION => return Err(newer(version)),
        (Some(version), _) if version <= FORMAT_VERSION => return Ok(Known::Sound),
        (_, Some(_)) => return Ok(Known::FormatDamaged),
        _ => {}
    }
    if said.is_some() {
        return Err(OpenError::Foreign { path: path.to_path_buf() });
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::Nothing),
        Err(error) => return Err(io("read the data directory", path.to_path_buf())(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io("read the data directory", path.to_path_buf()))?;
        // A fresh file system has the one, a start that was cut off leaves the others.
        let expected = ["lost+found", LOCK_FILE, "format.new"];
        if !expected.iter().any(|name| entry.file_name() == *name) {
            return Err(OpenError::Foreign { path: path.to_path_buf() });
        }
    }
    Ok(Known::Nothing)
}

/// The version that a `format` file names.
fn version_of(bytes: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(bytes).ok()?;
    let version = text.strip_suffix('\n')?.strip_prefix(FORMAT_PREFIX)?.parse().ok()?;
    (version > 0).then_some(version)
}

fn write_format(directory: &Path, path: &Path) -> io::Result<()> {
    let new = directory.join("format.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{FORMAT_PREFIX}{FORMAT_VERSION}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

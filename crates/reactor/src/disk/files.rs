//! The files of one log.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use midge_store::{Buffer, DiskError, Recovered, SegmentId, Segments};
use rustix::fs::{Advice, FallocateFlags, OFlags};

/// Somebody has been told that there is no direct I/O.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Zeroes written at a time.
const ZEROES_SIZE: u32 = 1 << 20;

/// How segments are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Past the page cache.
    Direct,
    /// Through the page cache, because the file system has nothing else.
    Buffered,
}

/// One log's directory. Clones share what has been learnt about its file system.
#[derive(Clone, Debug)]
pub struct LogDirectory {
    path: Arc<Path>,
    buffered: Arc<AtomicBool>,
    /// What is being read.
    reading: Option<(SegmentId, Arc<File>)>,
}

impl LogDirectory {
    /// The log in this directory, which exists. Removes what a creation left behind that was cut off.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self::view(path))
    }

    /// The log in this directory, to be looked at only.
    #[must_use]
    pub fn view(path: PathBuf) -> Self {
        Self { path: path.into(), buffered: Arc::default(), reading: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a segment is.
    #[must_use]
    pub fn segment_path(&self, segment: SegmentId) -> PathBuf {
        self.path.join(segment_name(segment))
    }

    /// How its segments are read and written, as far as it is known: direct until the file system has refused.
    #[must_use]
    pub fn access(&self) -> Access {
        // Relaxed: a hint; whoever finds it stale is refused by the file system once more.
        if self.buffered.load(Ordering::Relaxed) { Access::Buffered } else { Access::Direct }
    }

    /// What must be done once after a recovery, before anything is built on it: what the records rest on is brought to
    /// the disk (a process that was killed may have left it in the cache), and the unused ends of segments are given back.
    ///
    /// # Errors
    /// When a file cannot be synced.
    pub fn settle(&self, recovered: &Recovered) -> io::Result<()> {
        // Older segments were synced before the next one was begun.
        for found in recovered.segments.iter().rev().take(2) {
            let path = self.segment_path(found.segment);
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let (end, size) = (u64::from(found.end), file.metadata()?.len());
            if !found.damaged && size > end {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // A file system that cannot do this keeps the zeroes.
                let _ = rustix::fs::fallocate(&file, flags, end, size - end);
            }
            file.sync_data()?;
        }
        File::open(&self.path)?.sync_all()
    }

    /// Opens a segment for the log's operations.
    pub(super) fn open_segment(&self, segment: SegmentId) -> io::Result<Arc<File>> {
        self.open_with(&self.segment_path(segment), false).map(Arc::new)
    }

    /// Makes a segment as [`midge_store::Operation::Create`] wants it: under another name first, so that it is there
    /// whole or not at all.
    pub(super) fn create_segment(
        &self,
        segment: SegmentId,
        size: u32,
    ) -> Result<Arc<File>, DiskError> {
        let new = self.path.join(format!("{:010}.new", segment.0));
        let made = self.fill_new(&new, size).and_then(|file| {
            fs::rename(&new, self.segment_path(segment))?;
            File::open(&self.path)?.sync_all()?;
            Ok(Arc::new(file))
        });
        if made.is_err() {
            // What cannot be removed now goes at the next start.
            let _ = fs::remove_file(&new);
        }
        made.map_err(|error| disk_error(&error))
    }

    fn fill_new(&self, new: &Path, size: u32) -> io::Result<File> {
        let _ = fs::remove_file(new);
        let mut file = self.open_with(new, true)?;
        // Tells at once when there is no room. Where it is not known, writing tells.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, u64::from(size)) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let zeroes = Buffer::zeroed(ZEROES_SIZE.min(size) as usize);
        let mut offset = 0;
        while offset < size {
            let part = &zeroes.as_slice()[..(size - offset).min(ZEROES_SIZE) as usize];
            match file.write_all_at(part, u64::from(offset)) {
                Ok(()) => offset += part.len() as u32,
                Err(error) if is_refusal(&error) && self.access() == Access::Direct => {
                    self.be_buffered();
                    file = self.open_with(new, false)?;
                }
                Err(error) => return Err(error),
            }
        }
        file.sync_all()?;
        Ok(file)
    }

    pub(super) fn remove_segment(&self, segment: SegmentId) -> Result<(), DiskError> {
        match fs::remove_file(self.segment_path(segment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk_error(&error)),
            _ => Ok(()),
        }
    }

    fn open_with(&self, path: &Path, create: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(create);
        if self.access() == Access::Direct {
            let direct =
                options.clone().custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
            match direct {
                Err(error) if is_refusal(&error) => {
                    self.be_buffered();
                    // A refused creation may have left an empty file.
                    options.create_new(false).create(create);
                }
                other => return other,
            }
        }
        options.open(path)
    }

    fn be_buffered(&self) {
        self.buffered.store(true, Ordering::Relaxed);
        // All logs lie on one file system.
        if !TOLD.swap(true, Ordering::Relaxed) {
            tracing::info!(
                path = %self.path.display(),
                "this file system has no direct I/O: the log is written through the page cache, with the same syncs"
            );
        }
    }
}

pub(super) fn segment_name(segment: SegmentId) -> String {
    format!("{:010}.log", segment.0)
}

pub(super) fn disk_error(error: &io::Error) -> DiskError {
    DiskError { errno: error.raw_os_error().unwrap_or(DiskError::IO.errno) }
}

/// Whether the file system says that it cannot do direct I/O.
fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput || error.kind() == io::ErrorKind::Unsupported
}

impl Segments for LogDirectory {
    fn list(&mut self) -> io::Result<Vec<SegmentId>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
            if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
                segments.push(SegmentId(number));
            }
        }
        Ok(segments)
    }

    fn size(&mut self, segment: SegmentId) -> io::Result<u64> {
        Ok(fs::metadata(self.segment_path(segment))?.len())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = match &self.reading {
            Some((reading, file)) if *reading == segment => Arc::clone(file),
            _ => {
                let file = Arc::new(File::open(self.segment_path(segment))?);
                // What a failed sync left in the cache is not what the disk has. Advice: it may be refused.
                let _ = rustix::fs::fadvise(&*file, 0, None, Advice::DontNeed);
                let _ = rustix::fs::fadvise(&*file, 0, None, Advice::Sequential);
                self.reading = Some((segment, Arc::clone(&file)));
                file
            }
        };
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(size) => done += size,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

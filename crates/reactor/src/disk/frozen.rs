//! The files of a log as they were at one moment, while a broker goes on with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use midge_store::{SegmentId, Segments};

use super::LogDirectory;

/// All segments of a log, opened: what is removed from now on can still be read.
#[derive(Debug)]
pub struct FrozenLog {
    files: BTreeMap<SegmentId, File>,
}

impl FrozenLog {
    /// Opens them.
    ///
    /// # Errors
    /// When there is no such log, or more segments than files may be open.
    pub fn open(mut directory: LogDirectory) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for segment in directory.list()? {
            match File::open(directory.segment_path(segment)) {
                Ok(file) => _ = files.insert(segment, file),
                // It was on its way out.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { files })
    }

    fn file(&self, segment: SegmentId) -> io::Result<&File> {
        self.files.get(&segment).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Segments for FrozenLog {
    fn list(&mut self) -> io::Result<Vec<SegmentId>> {
        Ok(self.files.keys().copied().collect())
    }

    fn size(&mut self, segment: SegmentId) -> io::Result<u64> {
        Ok(self.file(segment)?.metadata()?.len())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.file(segment)?;
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

//! A whole log written at once, before any shard runs on it.

use std::io;

use midge_store::{Condition, DiskError, Level, Log, LogId, Refused, Room, Settings};

use super::LogDirectory;

/// Fills one new log.
#[derive(Debug)]
pub struct LogWriter {
    directory: LogDirectory,
    log: Log,
}

impl LogWriter {
    /// Begins the log with this number in an empty directory. `id` must be like no other log's.
    #[must_use]
    pub fn new(directory: LogDirectory, settings: Settings, id: LogId, number: u16) -> Self {
        let mut log = Log::create(settings, id, number);
        directory.drive(&mut log);
        Self { directory, log }
    }

    /// Appends one record; it is written when enough has gathered.
    ///
    /// # Errors
    /// When the disk takes no more, or the record is larger than a segment may be.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut refused = Refused::Busy;
        // Once as it is, once after what gathered is written, once after a segment has been made for it.
        for _ in 0..3 {
            match self.log.append(kind, &[payload], Level::Memory, Room::Normal) {
                Ok(_) => return Ok(()),
                Err(error) => refused = error,
            }
            self.log.flush();
            self.directory.drive(&mut self.log);
        }
        Err(match refused {
            Refused::TooLarge => io::Error::new(io::ErrorKind::InvalidData, refused.to_string()),
            _ => self.error(),
        })
    }

    /// Writes what is left and ends the log in good order.
    ///
    /// # Errors
    /// When the disk has not taken all of it.
    pub fn finish(mut self) -> io::Result<()> {
        self.log.close();
        self.directory.drive(&mut self.log);
        let well = self.log.is_closed() && self.log.condition() == Condition::Healthy;
        if well { Ok(()) } else { Err(self.error()) }
    }

    fn error(&self) -> io::Error {
        let error = self.log.last_error().unwrap_or(DiskError::NO_SPACE);
        io::Error::from_raw_os_error(error.errno)
    }
}

//! A log's operations done at once, for work before the shards run.

use std::os::unix::fs::FileExt;

use midge_store::{Buffer, Completion, Log, Operation};

use super::LogDirectory;
use super::files::disk_error;

impl LogDirectory {
    /// Does everything that the log asks for, until it asks for nothing more.
    pub fn drive(&self, log: &mut Log) {
        while let Some((id, operation)) = log.poll_operation() {
            let completion = self.run(operation);
            log.handle_completion(id, completion);
        }
    }

    fn run(&self, operation: Operation) -> Completion {
        match operation {
            Operation::Create { segment, size } => match self.create_segment(segment, size) {
                Ok(_) => Completion::Created,
                Err(error) => Completion::Failed(error),
            },
            Operation::Write { segment, offset, buffer } => {
                let written = self
                    .open_segment(segment)
                    .and_then(|file| file.write_all_at(buffer.as_slice(), u64::from(offset)));
                match written {
                    Ok(()) => Completion::Written(buffer),
                    Err(error) => Completion::Failed(disk_error(&error)),
                }
            }
            Operation::Sync { segment } => {
                match self.open_segment(segment).and_then(|file| file.sync_data()) {
                    Ok(()) => Completion::Synced,
                    Err(error) => Completion::Failed(disk_error(&error)),
                }
            }
            Operation::Read { segment, offset, size } => {
                let mut buffer = Buffer::zeroed(size as usize);
                let read = self
                    .open_segment(segment)
                    .and_then(|file| file.read_exact_at(buffer.as_mut_slice(), u64::from(offset)));
                match read {
                    Ok(()) => Completion::Read(buffer),
                    Err(error) => Completion::Failed(disk_error(&error)),
                }
            }
            Operation::Remove { segment } => match self.remove_segment(segment) {
                Ok(()) => Completion::Removed,
                Err(error) => Completion::Failed(error),
            },
        }
    }
}

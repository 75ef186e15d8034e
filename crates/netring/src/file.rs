//! Reads, writes and syncs of files on the shard's own ring.
//!
//! A durable log's operations complete in the loop that needs to know, without a second ring to wait for. The memory of an
//! operation belongs to this table while the kernel has it, and comes back with the event.
//!
//! What takes the kernel long in any case (opening, preallocating, removing) is not here: it belongs on a thread that may
//! wait.

use std::{fs::File, mem, ops::Range, os::fd::AsRawFd, sync::Arc};

use io_uring::{opcode, squeue, types};

use crate::{
    Event, NetRing,
    token::{Operation, Token},
};

/// What a completed file operation brings back.
#[derive(Debug)]
#[must_use]
pub struct FileDone {
    /// As given with the operation.
    pub tag: u64,
    /// How many bytes were moved, or the negative error number.
    pub result: i32,
    /// The memory; empty for a sync.
    pub bytes: Vec<u8>,
}

/// An operation that the kernel has.
#[derive(Debug)]
struct InFlight {
    tag: u64,
    bytes: Vec<u8>,
    /// Open as long as the kernel may use it.
    _file: Arc<File>,
}

/// Operations in flight, by the index in their token.
#[derive(Debug, Default)]
pub(crate) struct FileOperations {
    table: Vec<Option<InFlight>>,
    free: Vec<u32>,
}

impl FileOperations {
    fn insert(&mut self, in_flight: InFlight) -> u32 {
        if let Some(index) = self.free.pop() {
            self.table[index as usize] = Some(in_flight);
            return index;
        }
        self.table.push(Some(in_flight));
        (self.table.len() - 1) as u32
    }

    fn remove(&mut self, index: u32) -> Option<InFlight> {
        let in_flight = self.table.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(in_flight)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.len() == self.free.len()
    }

    /// Gives up the memory of operations that never came back.
    pub(crate) fn leak(&mut self) {
        mem::forget(mem::take(self));
    }
}

impl NetRing {
    /// Writes `bytes[range]` at `offset` of the file; ends in one [`Event::File`]. The kernel may write less than asked
    /// for. With `then_sync` a sync of the file's data follows when all was written, with an event of its own that
    /// carries `then_sync`'s tag; after a failed or short write it is cancelled (`ECANCELED`). If its event should come first,
    /// the kernel had to take the two apart, and the sync did not cover the write.
    ///
    /// # Panics
    /// When the range is not within the bytes, or is longer than a gibibyte.
    pub fn write_file(
        &mut self,
        file: &Arc<File>,
        bytes: Vec<u8>,
        range: Range<usize>,
        offset: u64,
        tag: u64,
        then_sync: Option<u64>,
    ) {
        let slice = &bytes[range];
        let size = u32::try_from(slice.len()).ok().filter(|size| *size <= 1 << 30);
        let size = size.expect("at most a gibibyte");
        let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), slice.as_ptr(), size);
        let index = self.files.insert(InFlight { tag, bytes, _file: Arc::clone(file) });
        let token = Token::new(Operation::File, 0, index);
        let entry = entry.offset(offset).build().user_data(token.bits());
        match then_sync {
            None => {
                // SAFETY: the entry points into the heap block of a vector that the table owns now. Nobody touches or
                // drops it before the completion takes it out of the table; the ring's end waits for that or leaks.
                unsafe { self.uring.push(entry) }
            }
            Some(tag) => {
                let sync = self.sync_entry(file, tag);
                // SAFETY: as above; the sync points to nothing.
                unsafe { self.uring.push_linked(entry.flags(squeue::Flags::IO_LINK), sync) }
            }
        }
    }

    /// Brings the data of the file to the disk (`fdatasync`); ends in one [`Event::File`]. Covers writes that have
    /// completed.
    pub fn sync_file(&mut self, file: &Arc<File>, tag: u64) {
        let entry = self.sync_entry(file, tag);
        // SAFETY: the entry carries no address.
        unsafe { self.uring.push(entry) }
    }

    /// Reads into `bytes[range]` from `offset` of the file; ends in one [`Event::File`].
    ///
    /// # Panics
    /// When the range is not within the bytes, or is longer than a gibibyte.
    pub fn read_file(
        &mut self,
        file: &Arc<File>,
        mut bytes: Vec<u8>,
        range: Range<usize>,
        offset: u64,
        tag: u64,
    ) {
        let slice = &mut bytes[range];
        let size = u32::try_from(slice.len()).ok().filter(|size| *size <= 1 << 30);
        let size = size.expect("at most a gibibyte");
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), slice.as_mut_ptr(), size);
        let index = self.files.insert(InFlight { tag, bytes, _file: Arc::clone(file) });
        let token = Token::new(Operation::File, 0, index);
        let entry = entry.offset(offset).build().user_data(token.bits());
        // SAFETY: the kernel writes into the heap block of a vector that the table owns now. Nobody touches or drops it
        // before the completion takes it out of the table; the ring's end waits for that or leaks.
        unsafe { self.uring.push(entry) }
    }

    fn sync_entry(&mut self, file: &Arc<File>, tag: u64) -> squeue::Entry {
        let bytes = Vec::new();
        let index = self.files.insert(InFlight { tag, bytes, _file: Arc::clone(file) });
        opcode::Fsync::new(types::Fd(file.as_raw_fd()))
            .flags(types::FsyncFlags::DATASYNC)
            .build()
            .user_data(Token::new(Operation::File, 0, index).bits())
    }

    pub(crate) fn complete_file(&mut self, token: Token, result: i32) -> Option<Event> {
        let Some(InFlight { tag, bytes, .. }) = self.files.remove(token.index()) else {
            self.counters.stale_completions += 1;
            return None;
        };
        Some(Event::File(FileDone { tag, result, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, time::Duration};

    use super::*;
    use crate::{RingConfig, Wait};

    fn ring() -> NetRing {
        NetRing::new(&RingConfig { slots: 1, entries: 4, ..RingConfig::default() }).unwrap()
    }

    fn done(ring: &mut NetRing) -> FileDone {
        loop {
            if let Some(Event::File(done)) = ring.next_event() {
                return done;
            }
            ring.turn(Wait::For(Duration::from_secs(10))).unwrap();
        }
    }

    fn file() -> Arc<File> {
        let path = std::env::temp_dir().join(format!(
            "midge-netring-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        Arc::new(file)
    }

    #[test]
    fn what_is_written_and_synced_is_read_back() {
        let (mut ring, file) = (ring(), file());
        ring.write_file(&file, b"xxhelloxx".to_vec(), 2..7, 3, 1, Some(2));
        let written = done(&mut ring);
        assert_eq!((written.tag, written.result), (1, 5));
        assert_eq!(written.bytes, b"xxhelloxx");
        let synced = done(&mut ring);
        assert_eq!((synced.tag, synced.result), (2, 0));
        ring.read_file(&file, vec![b'.'; 8], 1..7, 3, 3);
        let read = done(&mut ring);
        assert_eq!((read.tag, read.result, &read.bytes[..]), (3, 5, &b".hello.."[..]));
        let mut bytes = Vec::new();
        (&*file).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"\0\0\0hello");
    }

    #[test]
    fn a_sync_does_not_follow_a_write_that_failed() {
        let mut ring = ring();
        let read_only = Arc::new(File::open("/dev/zero").unwrap());
        ring.write_file(&read_only, vec![1], 0..1, 0, 1, Some(2));
        let mut results = [done(&mut ring), done(&mut ring)].map(|done| (done.tag, done.result));
        results.sort_unstable();
        assert_eq!(results, [(1, -libc::EBADF), (2, -libc::ECANCELED)]);
    }

    #[test]
    fn more_than_the_queue_holds_is_done_in_order_of_the_links() {
        let (mut ring, file) = (ring(), file());
        for number in 0..100_u64 {
            ring.write_file(&file, vec![7; 100], 0..100, number * 100, number, Some(1000 + number));
        }
        let mut seen = Vec::new();
        for _ in 0..200 {
            let done = done(&mut ring);
            assert_eq!(done.result, if done.tag < 1000 { 100 } else { 0 });
            seen.push(done.tag);
        }
        for number in 0..100 {
            let at = |tag| seen.iter().position(|seen| *seen == tag).unwrap();
            assert!(at(number) < at(1000 + number));
        }
        assert!(ring.files.is_empty());
    }

    #[test]
    fn a_ring_ends_with_operations_in_flight() {
        let (mut ring, file) = (ring(), file());
        for number in 0..50 {
            ring.write_file(&file, vec![7; 4096], 0..4096, number * 4096, number, Some(number));
        }
        drop(ring);
        assert_eq!(Arc::strong_count(&file), 1);
    }
}

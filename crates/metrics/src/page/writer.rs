//! The shard's side of its page.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::SystemTime;

use super::layout::{
    AT_BUSIEST, AT_COUNTERS, AT_GENERATION, AT_HASH, AT_HISTOGRAMS, AT_MAGIC, AT_PROCESS,
    AT_PUBLISHED, AT_SHARD, AT_SHARDS, AT_SIZE, AT_STARTED, AT_VERSION, ENTRY_WORDS,
    HISTOGRAM_WORDS, LAYOUT_HASH, LAYOUT_VERSION, MAGIC, PAGE_SIZE, Series,
};
use super::memory::Memory;
use crate::busiest::{Busiest, ENTRIES, Sketch};
use crate::counters::Counters;
use crate::histogram::bucket_of;

/// Whose page it is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// This shard's number.
    pub shard: u16,
    /// How many shards the process has.
    pub shards: u16,
    /// When the process started its shards: the zero of all other times of the page.
    pub started: SystemTime,
}

/// A page as its shard writes it. One per shard, used by one thread.
#[derive(Debug)]
pub struct PageWriter {
    memory: Memory,
    generation: u64,
}

impl PageWriter {
    /// Makes the page's file in `directory`, readable by its owner only. One that is there already is replaced.
    ///
    /// The directory should be in memory (tmpfs): on a disk the kernel may stop the shard while it writes the page back.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(directory: &Path, identity: Identity) -> io::Result<Self> {
        let name = file_name(identity.shard);
        let new = directory.join(format!("{name}.new"));
        // A reader never sees a page without its header.
        let writer = Self::create_file(&new)
            .and_then(|file| Memory::shared(&file))
            .map(|memory| Self::with(memory, identity));
        match writer.and_then(|writer| fs::rename(&new, directory.join(name)).map(|()| writer)) {
            Ok(writer) => Ok(writer),
            Err(error) => {
                let _ = fs::remove_file(&new);
                Err(error)
            }
        }
    }

    fn create_file(path: &Path) -> io::Result<File> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(path)?;
        file.set_len(PAGE_SIZE as u64)?;
        Ok(file)
    }

    /// A page that nobody can read: for a broker without a runtime directory.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn unseen(identity: Identity) -> io::Result<Self> {
        Ok(Self::with(Memory::own()?, identity))
    }

    fn with(memory: Memory, identity: Identity) -> Self {
        let writer = Self { memory, generation: 0 };
        let started = identity.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        writer.set(AT_VERSION, LAYOUT_VERSION);
        writer.set(AT_HASH, LAYOUT_HASH);
        writer.set(AT_SIZE, PAGE_SIZE as u64);
        writer.set(AT_SHARD, identity.shard.into());
        writer.set(AT_SHARDS, identity.shards.into());
        writer.set(AT_PROCESS, std::process::id().into());
        writer.set(AT_STARTED, u64::try_from(started.as_nanos()).unwrap_or(u64::MAX));
        writer.word(AT_MAGIC).store(MAGIC, Ordering::Release);
        writer
    }

    /// Makes the present numbers those that readers see. `now_ns` is the time since [`Identity::started`].
    ///
    /// About 150 plain stores. At the end of a window of the busiest, about 700 more.
    pub fn publish(&mut self, counters: &Counters, busiest: &mut Busiest, now_ns: u64) {
        self.word(AT_GENERATION).store(self.generation + 1, Ordering::Relaxed);
        // What follows must not be seen before the generation is odd.
        fence(Ordering::Release);
        let page = &self.memory.words()[AT_COUNTERS..AT_COUNTERS + Counters::WORDS];
        for (word, value) in page.iter().zip(counters.words()) {
            word.store(value, Ordering::Relaxed);
        }
        self.set(AT_PUBLISHED, now_ns);
        if now_ns >= busiest.ends_at_ns() {
            self.write_busiest(busiest, now_ns);
            busiest.restart(now_ns);
        }
        self.generation += 2;
        self.word(AT_GENERATION).store(self.generation, Ordering::Release);
    }

    #[cold]
    fn write_busiest(&self, busiest: &Busiest, now_ns: u64) {
        self.set(AT_BUSIEST, busiest.started_ns());
        self.set(AT_BUSIEST + 1, now_ns);
        self.write_sketch(AT_BUSIEST + 2, &busiest.clients);
        self.write_sketch(AT_BUSIEST + 2 + ENTRIES * ENTRY_WORDS, &busiest.topics);
    }

    fn write_sketch(&self, at: usize, sketch: &Sketch) {
        let places = self.memory.words()[at..].chunks_exact(ENTRY_WORDS);
        for (place, entry) in places.zip(sketch.entries()) {
            place[0].store(entry.count, Ordering::Relaxed);
            place[1].store(entry.error, Ordering::Relaxed);
            place[2].store(entry.size.into(), Ordering::Relaxed);
            for (word, bytes) in place[3..].iter().zip(entry.text.as_chunks::<8>().0) {
                word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
            }
        }
    }

    /// Counts a value, `count` times. Seen by readers at once.
    #[inline]
    pub fn record(&self, series: Series, value: u64, count: u64) {
        let at = AT_HISTOGRAMS + series as usize * HISTOGRAM_WORDS;
        self.add(at, value.wrapping_mul(count));
        self.add(at + 8 + bucket_of(value), count);
    }

    /// Only this thread writes, so a load and a store are an addition.
    #[inline]
    fn add(&self, at: usize, value: u64) {
        let word = self.word(at);
        word.store(word.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
    }

    #[inline]
    fn set(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Relaxed);
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.memory.words()[at]
    }
}

/// The name of a shard's page in the instance's directory.
pub(crate) fn file_name(shard: u16) -> String {
    format!("shard-{shard}.stats")
}

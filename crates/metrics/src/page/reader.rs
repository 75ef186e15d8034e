//! Anybody's side of a page.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, SystemTime};

use super::layout::{
    AT_BUSIEST, AT_COUNTERS, AT_GENERATION, AT_HASH, AT_HISTOGRAMS, AT_MAGIC, AT_PROCESS,
    AT_PUBLISHED, AT_SHARD, AT_SHARDS, AT_SIZE, AT_STARTED, AT_VERSION, BUSIEST_WORDS, ENTRY_WORDS,
    HISTOGRAM_WORDS, LAYOUT_HASH, LAYOUT_VERSION, MAGIC, PAGE_SIZE, Series,
};
use super::memory::Memory;
use crate::busiest::{BusiestReading, BusyText, ENTRIES, TEXT_SIZE_MAX, sort};
use crate::counters::Counters;
use crate::histogram::{BUCKETS, Histogram};

/// How often a reading is tried again because the shard was just writing. It writes for less than a microsecond, once a
/// millisecond: needing a second try is rare.
const TRIES_MAX: u32 = 1000;

/// Why a page cannot be read: one sentence.
#[derive(Debug)]
#[non_exhaustive]
pub enum PageError {
    /// The file cannot be opened or mapped.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is no statistics page.
    NotAPage {
        /// Which.
        path: PathBuf,
    },
    /// The page belongs to another build of the broker.
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// The shard stopped while it was writing.
    Torn {
        /// Which.
        path: PathBuf,
    },
}

impl fmt::Display for PageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, error } => {
                write!(formatter, "cannot read statistics from {}: {error}", path.display())
            }
            Self::NotAPage { path } => {
                write!(formatter, "{} is not a statistics page", path.display())
            }
            Self::Version { path, found } if *found == LAYOUT_VERSION => write!(
                formatter,
                "{} was written by another build of the broker: use the program that runs it",
                path.display()
            ),
            Self::Version { path, found } => write!(
                formatter,
                "{} has statistics of layout version {found}, this program reads version \
                 {LAYOUT_VERSION}: use the program that runs the broker",
                path.display()
            ),
            Self::Torn { path } => write!(
                formatter,
                "the shard stopped in the middle of writing its statistics: {}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for PageError {}

/// Whose page it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The shard's number.
    pub shard: u16,
    /// How many shards the process has.
    pub shards: u16,
    /// The broker's process id.
    pub process_id: u32,
    /// When it started its shards.
    pub started: SystemTime,
}

/// An open page. Reading it never disturbs the shard; it may be kept open as long as one wants, also beyond the end of
/// the broker, whose last numbers it then shows.
#[derive(Debug)]
pub struct PageReader {
    memory: Memory,
    header: Header,
    path: PathBuf,
}

/// What one shard, or several together, had to say.
#[derive(Debug, Clone)]
pub struct ShardReading {
    /// When the shard published the counters, in nanoseconds since its start. A shard publishes at least every eleven
    /// seconds, however little it has to do: one that does not is stuck. Of several: the earliest.
    pub published_at_ns: u64,
    /// What was counted.
    pub counters: Counters,
    histograms: Vec<Histogram>,
    /// The busiest clients and topics of the last whole window.
    pub busiest: BusiestReading,
}

impl PageReader {
    /// Opens a page.
    ///
    /// # Errors
    /// When it cannot be opened, is none, or belongs to another build.
    pub fn open(path: &Path) -> Result<Self, PageError> {
        let io = |error| PageError::Io { path: path.to_owned(), error };
        let not_a_page = || PageError::NotAPage { path: path.to_owned() };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        // Another version's page may be smaller than ours: look at its head before mapping all of it.
        let mut head = [0; 4 * 8];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0).map_err(|_| not_a_page())?;
        let head: Vec<u64> = head.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        if head[AT_MAGIC] != MAGIC {
            return Err(not_a_page());
        }
        if head[AT_VERSION] != LAYOUT_VERSION || head[AT_HASH] != LAYOUT_HASH {
            return Err(PageError::Version { path: path.to_owned(), found: head[AT_VERSION] });
        }
        if size < PAGE_SIZE as u64 || head[AT_SIZE] != PAGE_SIZE as u64 {
            return Err(not_a_page());
        }
        let memory = Memory::read_only(&file).map_err(io)?;
        let word = |at: usize| memory.words()[at].load(Ordering::Relaxed);
        let header = Header {
            shard: u16::try_from(word(AT_SHARD)).map_err(|_| not_a_page())?,
            shards: u16::try_from(word(AT_SHARDS)).map_err(|_| not_a_page())?,
            process_id: u32::try_from(word(AT_PROCESS)).map_err(|_| not_a_page())?,
            started: SystemTime::UNIX_EPOCH + Duration::from_nanos(word(AT_STARTED)),
        };
        Ok(Self { memory, header, path: path.to_owned() })
    }

    /// Whose page it is.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// Reads everything. The counters are those of one moment; histograms may be a few messages ahead of them.
    ///
    /// # Errors
    /// When the shard has stopped in the middle of writing.
    pub fn read(&self) -> Result<ShardReading, PageError> {
        let mut counters = [0; Counters::WORDS];
        let mut busiest = [0; BUSIEST_WORDS];
        let published_at_ns = self
            .read_consistent(&mut counters, &mut busiest)
            .ok_or_else(|| PageError::Torn { path: self.path.clone() })?;
        Ok(ShardReading {
            published_at_ns,
            counters: Counters::from_words(&counters),
            histograms: Series::ALL.iter().map(|series| self.histogram(*series)).collect(),
            busiest: parse_busiest(&busiest),
        })
    }

    /// What the generation protects, as of one moment; the time of its publication.
    fn read_consistent(&self, counters: &mut [u64], busiest: &mut [u64]) -> Option<u64> {
        let page = self.memory.words();
        for _ in 0..TRIES_MAX {
            let before = page[AT_GENERATION].load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let published = page[AT_PUBLISHED].load(Ordering::Relaxed);
                for (value, word) in counters.iter_mut().zip(&page[AT_COUNTERS..]) {
                    *value = word.load(Ordering::Relaxed);
                }
                for (value, word) in busiest.iter_mut().zip(&page[AT_BUSIEST..]) {
                    *value = word.load(Ordering::Relaxed);
                }
                // What was read must not be read after the generation.
                fence(Ordering::Acquire);
                if page[AT_GENERATION].load(Ordering::Relaxed) == before {
                    return Some(published);
                }
            }
            std::thread::yield_now();
        }
        None
    }

    fn histogram(&self, series: Series) -> Histogram {
        let at = AT_HISTOGRAMS + series as usize * HISTOGRAM_WORDS;
        let words = &self.memory.words()[at..at + HISTOGRAM_WORDS];
        let buckets: Box<[u64]> = words[8..].iter().map(|w| w.load(Ordering::Relaxed)).collect();
        debug_assert_eq!(buckets.len(), BUCKETS);
        Histogram { buckets, sum: words[0].load(Ordering::Relaxed) }
    }
}

impl Default for ShardReading {
    fn default() -> Self {
        Self {
            published_at_ns: u64::MAX,
            counters: Counters::default(),
            histograms: vec![Histogram::default(); Series::COUNT],
            busiest: BusiestReading::default(),
        }
    }
}

impl ShardReading {
    /// One of the histograms.
    #[must_use]
    pub fn histogram(&self, series: Series) -> &Histogram {
        &self.histograms[series as usize]
    }

    /// Adds another shard's reading to this one; begin with the default, which is empty.
    pub fn merge(&mut self, other: &Self) {
        self.published_at_ns = self.published_at_ns.min(other.published_at_ns);
        self.counters.merge(&other.counters);
        for (histogram, other) in self.histograms.iter_mut().zip(&other.histograms) {
            histogram.merge(other);
        }
        self.busiest.merge(&other.busiest);
    }

    /// What happened after `earlier`, a reading of the same shards. Gauges, times and the busiest stay as they are.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.histograms.iter().zip(&earlier.histograms);
        Self {
            published_at_ns: self.published_at_ns,
            counters: self.counters.since(&earlier.counters),
            histograms: pairs.map(|(now, earlier)| now.since(earlier)).collect(),
            busiest: self.busiest.clone(),
        }
    }
}

fn parse_busiest(words: &[u64; BUSIEST_WORDS]) -> BusiestReading {
    let (clients, topics) = words[2..].split_at(ENTRIES * ENTRY_WORDS);
    BusiestReading {
        from_ns: words[0],
        to_ns: words[1],
        clients: parse_entries(clients),
        topics: parse_entries(topics),
    }
}

fn parse_entries(words: &[u64]) -> Vec<BusyText> {
    let mut lines: Vec<BusyText> = words
        .chunks_exact(ENTRY_WORDS)
        .filter(|entry| entry[0] > 0)
        .map(|entry| {
            let bytes: Vec<u8> = entry[3..].iter().flat_map(|word| word.to_le_bytes()).collect();
            let size = usize::try_from(entry[2]).map_or(0, |size| size.min(TEXT_SIZE_MAX));
            BusyText {
                text: String::from_utf8_lossy(&bytes[..size]).into_owned(),
                count: entry[0],
                error: entry[1],
            }
        })
        .collect();
    sort(&mut lines);
    lines
}

//! All pages of one running broker.

use std::path::Path;

use crate::page::{Header, PageError, PageReader, ShardReading, file_name};

/// The open pages of one broker, by shard.
#[derive(Debug)]
pub struct Instance {
    pages: Vec<PageReader>,
}

/// One look at all shards.
#[derive(Debug, Clone)]
pub struct Reading {
    /// By shard.
    pub shards: Vec<ShardReading>,
}

impl Instance {
    /// Opens all pages in the runtime directory of one broker. Do so once: opening costs system calls, reading does not.
    ///
    /// # Errors
    /// When a page is missing, is none, or belongs to another build.
    pub fn open(directory: &Path) -> Result<Self, PageError> {
        let first = PageReader::open(&directory.join(file_name(0)))?;
        let shards = first.header().shards;
        let mut pages = vec![first];
        for shard in 1..shards {
            pages.push(PageReader::open(&directory.join(file_name(shard)))?);
        }
        Ok(Self { pages })
    }

    /// Whose pages they are: the header of shard 0's.
    #[must_use]
    pub fn header(&self) -> Header {
        self.pages[0].header()
    }

    /// Reads all shards, one after the other.
    ///
    /// # Errors
    /// When a shard has stopped in the middle of writing.
    pub fn read(&self) -> Result<Reading, PageError> {
        let shards = self.pages.iter().map(PageReader::read).collect::<Result<_, _>>()?;
        Ok(Reading { shards })
    }
}

impl Reading {
    /// All shards together.
    #[must_use]
    pub fn total(&self) -> ShardReading {
        let mut total = ShardReading::default();
        for shard in &self.shards {
            total.merge(shard);
        }
        total
    }

    /// What happened after `earlier`, a reading of the same instance.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.shards.iter().zip(&earlier.shards);
        Self { shards: pairs.map(|(now, earlier)| now.since(earlier)).collect() }
    }
}

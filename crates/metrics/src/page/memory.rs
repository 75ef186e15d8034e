//! Mapped memory as a slice of atomic words: the one place of this crate with `unsafe`.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use super::layout::{PAGE_SIZE, WORDS};

/// [`WORDS`] words of shared, or of the process's own, memory.
#[derive(Debug)]
pub(super) struct Memory {
    map: MmapRaw,
}

impl Memory {
    /// The first [`PAGE_SIZE`] bytes of a file that has at least as many, to be written and read.
    pub(super) fn shared(file: &File) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(PAGE_SIZE).map_raw(file)? })
    }

    /// The same, to be read only.
    pub(super) fn read_only(file: &File) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(PAGE_SIZE).map_raw_read_only(file)? })
    }

    /// Memory that nobody else sees.
    pub(super) fn own() -> io::Result<Self> {
        Ok(Self { map: MmapMut::map_anon(PAGE_SIZE)?.into() })
    }

    /// The words. Whoever mapped the memory read-only must not store: the process would be killed.
    #[inline]
    #[allow(unsafe_code, reason = "the one place; see the module's documentation")]
    pub(super) fn words(&self) -> &[AtomicU64; WORDS] {
        debug_assert!(self.map.len() >= PAGE_SIZE);
        let words = self.map.as_ptr().cast::<[AtomicU64; WORDS]>();
        // SAFETY: every constructor maps exactly `PAGE_SIZE` = 8 × `WORDS` bytes, the mapping starts at a page of the
        // machine (so it is aligned to 8) and lives as long as `self.map`, to which the reference is bound. Any bits are
        // an `AtomicU64`. Other processes may write the same bytes at any time; they too do so with whole, aligned
        // 64-bit stores, and nobody here ever holds a plain reference to them. Loads from a read-only mapping are sound:
        // relaxed and acquire loads of 64 bits are plain loads on the machines that Midge runs on. If the file were cut
        // short meanwhile, an access would end the process with SIGBUS rather than be undefined; only its owner can do so.
        unsafe { &*words }
    }
}

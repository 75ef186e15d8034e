//! Which logs of a data directory are in force: a small file, replaced in one step.
//!
//! One line, `format 1 first 0 count 2 checksum 1a2b3c4d`: the first log's number and how many there are, and CRC32C of the
//! line before ` checksum`. A changed digit must never pass for another layout: logs that are not in force are removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use midge_store::checksum;

use super::FORMAT_VERSION;

const LAYOUT_FILE: &str = "layout";

/// Logs of two layouts beside each other have numbers this far apart.
pub(crate) const LAYOUT_STEP: u16 = 1 << 14;

/// Which logs are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The number of the first.
    pub first: u16,
    /// How many.
    pub count: u16,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// There is none.
    Nothing,
    /// It is not as it was written.
    Damaged,
    /// This, in that version of the data directory's format; without a checksum from an early version.
    Layout { format: u32, layout: Layout, checked: bool },
}

impl Layout {
    /// The numbers of the logs in force.
    #[must_use]
    pub fn logs(self) -> std::ops::Range<u16> {
        self.first..self.first.saturating_add(self.count)
    }

    /// The layout that these logs, in order, seem to have. `None`: two layouts stand beside each other.
    pub(crate) fn of_logs(logs: &[u16]) -> Option<Self> {
        let last = *logs.last()?;
        let first = if last < LAYOUT_STEP { 0 } else { LAYOUT_STEP };
        let one = logs.iter().all(|log| *log >= first);
        one.then(|| Self { first, count: last - first + 1 })
    }

    fn line(self) -> String {
        let Self { first, count } = self;
        let said = format!("format {FORMAT_VERSION} first {first} count {count}");
        let sum = checksum(said.as_bytes());
        format!("{said} checksum {sum:08x}\n")
    }

    pub(crate) fn write(self, directory: &Path) -> io::Result<()> {
        let new = directory.join("layout.new");
        let mut file = File::create(&new)?;
        file.write_all(self.line().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, directory.join(LAYOUT_FILE))?;
        File::open(directory)?.sync_all()
    }
}

/// Reads the file.
///
/// # Errors
/// When it is there and cannot be read.
pub(crate) fn read(directory: &Path) -> io::Result<Said> {
    match fs::read(directory.join(LAYOUT_FILE)) {
        Ok(bytes) => Ok(decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Said::Nothing),
        Err(error) => Err(error),
    }
}

fn decode(bytes: &[u8]) -> Said {
    let Some(line) = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_suffix('\n'))
    else {
        return Said::Damaged;
    };
    let words: Vec<&str> = line.split(' ').collect();
    let number = |word: &str| word.parse().ok();
    let (format, first, count, checked) = match words[..] {
        ["format", format, "first", first, "count", count, "checksum", sum] => {
            let said = line.len() - " checksum ".len() - sum.len();
            if sum != format!("{:08x}", checksum(&line.as_bytes()[..said])) {
                return Said::Damaged;
            }
            (format.parse().ok(), number(first), number(count), true)
        }
        [first, count] => (Some(1), number(first), number(count), false),
        _ => return Said::Damaged,
    };
    match (format, first, count) {
        (Some(format), Some(first), Some(count @ 1..)) => {
            Said::Layout { format, layout: Layout { first, count }, checked }
        }
        _ => Said::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_survives_and_notices_changes() {
        let layout = Layout { first: LAYOUT_STEP, count: 12 };
        let line = layout.line();
        assert_eq!(line, "format 1 first 16384 count 12 checksum 07c374e3\n");
        let found = Said::Layout { format: FORMAT_VERSION, layout, checked: true };
        assert_eq!(decode(line.as_bytes()), found);
        for bit in 0..line.len() * 8 {
            let mut changed = line.clone().into_bytes();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&changed), Said::Damaged, "bit {bit}");
        }
        for size in 0..line.len() {
            assert_eq!(decode(&line.as_bytes()[..size]), Said::Damaged, "{size} bytes");
        }
    }

    #[test]
    fn an_early_layout_is_read() {
        let layout = Layout { first: 0, count: 3 };
        assert_eq!(decode(b"0 3\n"), Said::Layout { format: 1, layout, checked: false });
        for text in ["0 0\n", "0\n", "0 x\n", "0 3", "", "0 3 4\n"] {
            assert_eq!(decode(text.as_bytes()), Said::Damaged, "{text:?}");
        }
    }

    #[test]
    fn logs_tell_their_layout() {
        for (logs, layout) in [
            (&[][..], None),
            (&[0], Some((0, 1))),
            (&[0, 2], Some((0, 3))),
            (&[LAYOUT_STEP, LAYOUT_STEP + 1], Some((LAYOUT_STEP, 2))),
            (&[0, 1, LAYOUT_STEP], None),
        ] {
            let expected = layout.map(|(first, count)| Layout { first, count });
            assert_eq!(Layout::of_logs(logs), expected, "{logs:?}");
        }
    }
}

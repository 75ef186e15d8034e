//! What was found damaged in the data directory at the start, in words that an operator can act on.

use std::fmt;
use std::path::PathBuf;

use midge_shard::{DamageCounts, Image};
use midge_store::{Cause, Damage, Recovered, Segments, suspects};

use crate::disk::{DataDirectory, LogDirectory};

/// Bytes of one damaged place that are looked at for what stood there.
const LOOKED_AT_MAX: u32 = 256 << 10;

/// Records of one damaged place that are described.
const DESCRIBED_MAX: usize = 8;

/// One thing in the data directory that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamageReport {
    /// The file, or the directory of a log.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u32,
    /// How many bytes; 0 when not bytes but records or files are missing.
    pub size: u32,
    /// What it looks like.
    pub cause: String,
    /// The first and last sequence that are missing for it.
    pub missing: Option<(u64, u64)>,
    /// Whom it concerned, as far as it can be read; nothing of it is certain.
    pub affected: Vec<String>,
    /// Where the file was copied to before anything was done about it.
    pub copy: Option<PathBuf>,
}

impl fmt::Display for DamageReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, size, cause, missing, affected, copy } = self;
        write!(formatter, "{}", file.display())?;
        if *size > 0 {
            write!(formatter, ", offset {offset}, {size} bytes")?;
        } else if *offset > 0 {
            write!(formatter, ", offset {offset}")?;
        }
        write!(formatter, ": {cause}")?;
        match missing {
            None => {}
            Some((first, last)) if first == last => {
                write!(formatter, "; record {first} is missing")?;
            }
            Some((first, last)) => write!(formatter, "; records {first} to {last} are missing")?,
        }
        for (index, what) in affected.iter().enumerate() {
            write!(
                formatter,
                "{}{what}",
                if index == 0 { "; it seems to concern " } else { ", " }
            )?;
        }
        match copy {
            Some(copy) => write!(formatter, "; a copy is kept as {}", copy.display()),
            None => Ok(()),
        }
    }
}

impl DamageReport {
    /// Of a file or directory as a whole.
    pub(crate) fn of_file(file: PathBuf, cause: impl Into<String>) -> Self {
        Self {
            file,
            offset: 0,
            size: 0,
            cause: cause.into(),
            missing: None,
            affected: Vec::new(),
            copy: None,
        }
    }
}

/// What a recovery has found, told in the log. Damaged files are copied aside.
pub(crate) fn report(
    directory: &DataDirectory,
    number: u16,
    log: &mut LogDirectory,
    image: &Image,
    recovered: &Recovered,
) -> (Vec<DamageReport>, DamageCounts) {
    let mut reports: Vec<DamageReport> = Vec::new();
    let mut counts = DamageCounts::default();
    let mut torn = 0;
    for damage in &recovered.damage {
        if damage.cause == Cause::Torn {
            torn += 1;
            tracing::info!(log = %log.path().display(), "{damage}");
            continue;
        }
        counts.records += damage.missing.map_or(0, |(first, last)| last.0 - first.0 + 1);
        let file = log.segment_path(damage.segment);
        let copy = if damage.cause == Cause::MissingSegment {
            None
        } else if let Some(earlier) = reports.iter().rev().find(|one| one.file == file) {
            // One copy holds all of it.
            earlier.copy.clone()
        } else {
            match directory.set_aside(number, damage.segment) {
                Ok(copy) => Some(copy),
                Err(error) => {
                    tracing::error!(file = %file.display(), "cannot keep a copy of it: {error}");
                    None
                }
            }
        };
        let report = DamageReport {
            file,
            offset: damage.offset,
            size: damage.size,
            cause: damage.cause.to_string(),
            missing: damage.missing.map(|(first, last)| (first.0, last.0)),
            affected: affected(log, image, damage),
            copy,
        };
        tracing::error!("{report}");
        reports.push(report);
    }
    let listed = recovered.damage.len() as u64;
    let more = recovered.damage_count - listed;
    counts.places = listed - torn + more;
    if more > 0 {
        tracing::error!(log = %log.path().display(), more, "there is more damage than is listed");
    }
    let headless = image.headless();
    if headless > 0 {
        tracing::error!(
            log = %log.path().display(),
            headless,
            "what belongs to sessions of which the beginning is damaged is dropped"
        );
    }
    (reports, counts)
}

/// What can be read of a damaged place.
fn affected(log: &mut LogDirectory, image: &Image, damage: &Damage) -> Vec<String> {
    let mut bytes = vec![0; damage.size.min(LOOKED_AT_MAX) as usize];
    let read = log.read(damage.segment, damage.offset.into(), &mut bytes);
    bytes.truncate(read.unwrap_or(0));
    let suspects = suspects(&bytes, DESCRIBED_MAX);
    suspects.iter().filter_map(|suspect| image.affected(suspect.kind, suspect.payload)).collect()
}

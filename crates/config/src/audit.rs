//! Settings of the audit log.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::validate::Problems;

/// Who came, went and was denied, and what operators changed: one JSON object a line, in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The file, appended to, made with the rights 0600. Default `null`: none is kept. A reload (or SIGHUP) opens it anew,
    /// for whoever has moved it away.
    pub file: Option<PathBuf>,

    /// Lines in one second, 1 to 1,000,000, default 1,000. The rest are counted, and a line tells how many.
    pub lines_per_second_max: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self { file: None, lines_per_second_max: 1000 }
    }
}

impl Audit {
    pub(crate) fn check(&self, problems: &mut Problems) {
        let lines = self.lines_per_second_max;
        problems.range("audit.lines_per_second_max", lines, 1, 1_000_000);
    }
}

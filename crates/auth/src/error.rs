//! A line that cannot be used, and why.

use std::fmt;

/// The first line of a file that breaks a rule of its format.
///
/// Never holds what the line says: password files are secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it, and what would be right.
    pub message: &'static str,
}

impl fmt::Display for FileError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for FileError {}

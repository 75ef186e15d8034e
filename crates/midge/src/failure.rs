//! Why the program ends early, and the exit code for it.

use std::{fmt::Display, io::Write, process::ExitCode};

/// Every way the program can fail.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration is wrong: one sentence for each problem, each with its place. Exit code 2.
    Configuration(Vec<String>),
    /// The machine or the broker is at fault: one sentence. Exit code 1.
    Other(String),
    /// The answer, told on standard output, is no. Exit code 1.
    Told,
}

impl Failure {
    pub(crate) fn configuration(problem: impl Display) -> Self {
        Self::Configuration(vec![problem.to_string()])
    }

    /// Tells a person on standard error and the caller by exit code.
    pub(crate) fn report(self) -> ExitCode {
        // Standard error may be gone; that changes nothing about the exit code.
        let mut stderr = std::io::stderr().lock();
        match self {
            // The place stands first, so that editors and terminals can follow it.
            Self::Configuration(problems) => {
                for problem in problems {
                    _ = writeln!(stderr, "{problem}");
                }
                ExitCode::from(2)
            }
            Self::Other(sentence) => {
                _ = writeln!(stderr, "error: {sentence}");
                ExitCode::from(1)
            }
            Self::Told => ExitCode::from(1),
        }
    }
}

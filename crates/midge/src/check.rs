//! `midge check`: is this configuration file sound?
//!
//! The machine is not asked (see `midge_config`): a file may be checked where it is written. The files of users and rules that it
//! names are read, too: they are a part of the configuration.

use std::io::Write;

use crate::{arguments::CheckArguments, failure::Failure, security::Guard};

pub(crate) fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    let loaded = midge_config::load(&arguments.config).map_err(Failure::configuration)?;
    let problems = loaded.problems();
    if !problems.is_empty() {
        return Err(Failure::Configuration(problems));
    }
    Guard::load(&loaded.config)?;
    // Whoever closed standard output does not want the answer.
    _ = writeln!(std::io::stdout(), "{}: ok", arguments.config.display());
    Ok(())
}

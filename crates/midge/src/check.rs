//! `midge check`: is this configuration file sound?
//!
//! The machine is not asked (see `midge_config`): a file may be checked where it is written. The files of users and rules that it
//! names are read, too: they are a part of the configuration. `--diff` asks a running broker what it would make of it.

use std::io::Write;
use std::path::Path;

use crate::{
    arguments::CheckArguments,
    commands::reload,
    control::protocol::{REQUEST_SIZE_MAX, ReloadRequest},
    failure::Failure,
    sandbox,
    security::Guard,
};

pub(crate) fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    if let Some(path) = &arguments.config {
        check(path)?;
    }
    if arguments.diff {
        return diff(arguments);
    }
    // Whoever closed standard output does not want the answer.
    if let Some(path) = &arguments.config {
        _ = writeln!(std::io::stdout(), "{}: ok", path.display());
    }
    Ok(())
}

fn check(path: &Path) -> Result<(), Failure> {
    let loaded = midge_config::load(path).map_err(Failure::configuration)?;
    let problems = loaded.problems();
    if !problems.is_empty() {
        return Err(Failure::Configuration(problems));
    }
    Guard::load(&loaded.config)?;
    for warning in sandbox::wide(&loaded.config, Some(path)) {
        _ = writeln!(std::io::stderr(), "midge: warning: {warning}");
    }
    Ok(())
}

/// A file that a request has no room for is read by the broker itself, if it can reach it. What the file names is always
/// looked for with the broker's rights, and from its place.
fn diff(arguments: &CheckArguments) -> Result<(), Failure> {
    let config = arguments.config.as_deref().map(std::path::absolute).transpose();
    let config =
        config.map_err(|error| Failure::Other(format!("cannot tell where I am: {error}")))?;
    let text = config.as_deref().and_then(|path| std::fs::read_to_string(path).ok());
    let text = text.filter(|text| text.len() <= TEXT_SIZE_MAX);
    let request = ReloadRequest { dry_run: true, config, text };
    reload::ask(&arguments.instance, request, arguments.json)
}

/// Half of a request: in JSON a line end takes two bytes.
const TEXT_SIZE_MAX: usize = REQUEST_SIZE_MAX / 2 - 4096;

//! `midge reload`: have a running broker read its configuration, certificates, users and rules again.

use std::io::{self, Write};

use clap::Args;

use crate::{
    control::{
        client,
        protocol::{Line, ReloadRequest, Request},
    },
    failure::Failure,
    instance::InstanceArguments,
    reload::Outcome,
};

use super::{list, table::printable};

/// Options of `midge reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct ReloadArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    /// Change nothing: tell what would be changed, and what would be refused.
    #[arg(long)]
    dry_run: bool,

    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// # Errors
/// When the broker refuses (exit code 2, nothing has changed), or none answers.
pub(crate) fn run(arguments: &ReloadArguments) -> Result<(), Failure> {
    let request = ReloadRequest { dry_run: arguments.dry_run, ..ReloadRequest::default() };
    ask(&arguments.instance, request, arguments.json)
}

pub(crate) fn ask(
    instance: &InstanceArguments,
    request: ReloadRequest,
    json: bool,
) -> Result<(), Failure> {
    let mut outcome = None;
    client::ask(instance, &Request::Reload(request), |line| {
        if let Line::Reloaded(said) = line {
            outcome = Some(*said);
        }
        Ok(())
    })?;
    let Some(outcome) = outcome else {
        return Err(Failure::Other("the broker did not say what has changed".into()));
    };
    if json {
        return list::json_line(&mut io::stdout(), &outcome);
    }
    tell(&outcome).map_err(|error| list::unwritten(&error))
}

fn tell(outcome: &Outcome) -> io::Result<()> {
    let mut out = io::stdout();
    for warning in &outcome.warnings {
        writeln!(out, "warning: {}", printable(warning))?;
    }
    for line in outcome.lines() {
        writeln!(out, "{}", printable(&line))?;
    }
    let last = if outcome.dry_run {
        "a dry run: nothing was changed"
    } else {
        "reloaded; users and rules were read again"
    };
    writeln!(out, "{last}")
}

//! The admin endpoint: where it listens, and what it is given to show.

use std::{net::TcpListener, path::Path};

use midge_config::Origin;
use midge_metrics::Instance;
use midge_services::{ListenerCounter, ListenerLabels, Services, Standing, View};

use crate::{failure::Failure, listen, settings::Settings};

/// Its socket, if it is wanted: opened with the others, before anything runs.
///
/// # Errors
/// One sentence that names the address, what is wrong with it and what to do.
pub(crate) fn open(settings: &Settings) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = settings.config().admin.listen else { return Ok(None) };
    TcpListener::bind(address).map(Some).map_err(|error| {
        let way_out = match (settings.loaded.origin("admin.listen"), settings.loaded.source_name())
        {
            (Origin::File { line, .. }, Some(file)) => format!("in line {line} of {file}"),
            _ => "with --admin".into(),
        };
        Failure::Other(listen::sentence(address, &error, &way_out))
    })
}

/// Lets it serve; it ends when the services are dropped.
///
/// # Errors
/// When its thread cannot be had.
pub(crate) fn start(
    listener: TcpListener,
    directory: Result<&Path, &String>,
    standing: &Standing,
    (listeners, counter): (ListenerLabels, ListenerCounter),
    damage: Vec<String>,
) -> Result<Services, Failure> {
    let instance = match directory {
        Ok(directory) => Instance::open(directory).map_err(|error| error.to_string()),
        Err(reason) => Err(reason.clone()),
    };
    let view = View {
        instance,
        standing: standing.clone(),
        version: env!("CARGO_PKG_VERSION"),
        listeners,
        counter,
        damage,
    };
    midge_services::start(listener, view)
        .map_err(|error| Failure::Other(format!("cannot start the admin endpoint: {error}")))
}

//! The admin endpoint: where it listens, and what it is given to show.

use std::{net::TcpListener, sync::Arc};

use midge_config::Origin;
use midge_reactor::Progress;
use midge_services::{ListenerCounter, ListenerLabels, Services, Standing, Starting, View};

use crate::{failure::Failure, listen, settings::Settings, starting};

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

/// Lets it answer, before the shards run: so it can be seen how far they are. It ends when the services are dropped.
///
/// # Errors
/// When its thread cannot be had.
pub(crate) fn start(
    listener: TcpListener,
    standing: &Standing,
    (listeners, counter): (ListenerLabels, ListenerCounter),
    progress: Progress,
) -> Result<Services, Failure> {
    let view = View {
        standing: standing.clone(),
        starting: Starting(Arc::new(move || starting::sentence(&progress))),
        version: env!("CARGO_PKG_VERSION"),
        listeners,
        counter,
    };
    midge_services::start(listener, view)
        .map_err(|error| Failure::Other(format!("cannot start the admin endpoint: {error}")))
}

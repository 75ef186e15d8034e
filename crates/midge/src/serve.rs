//! `midge serve`: the order of start and end.
//!
//! Start: settings → signals held → sandbox → log → sockets → runtime directory → shards → start-up line. Each
//! step can only fail before the next has begun, and dropping what the earlier ones made undoes
//! them. Only then the service manager is told. The runtime directory alone may fail without an end: clients matter more.
//! End: the first SIGTERM or SIGINT lets the shards drain, for `shutdown.drain_timeout` at most;
//! when the last has ended, so does the process, with exit code 0. A second signal does not wait.

use std::sync::{Arc, Mutex, PoisonError};

use midge_config::DurabilityLevel;
use midge_metrics::Instance;
use midge_reactor::Progress;
use midge_services::{Stage, Standing};

use crate::{
    admin,
    arguments::ServeArguments,
    audit::{Audit, AuditFile},
    bans::{self, BanList},
    broker::{Broker, Ears, StartError},
    control,
    failure::Failure,
    host::Host,
    instance::{self, OwnInstance},
    kept, listen,
    logging::Logging,
    memory::MemoryWatch,
    minds::Minds,
    notify::Notifier,
    reload::{self, Beginning, Live, Reload, Seats},
    sandbox::{self, Sandbox},
    security::Guard,
    settings::Settings,
    signals,
    starting::Starting,
    sys,
    transports::Transports,
};

pub(crate) fn run(arguments: &ServeArguments) -> Result<(), Failure> {
    let host = Host::prepare();
    let settings = Settings::resolve(arguments, &host)?;
    let (transports, warnings) = Transports::load(&settings)?;
    let signals = signals::hold().map_err(|error| {
        Failure::Other(format!("cannot take SIGTERM, SIGINT and SIGHUP from the system: {error}"))
    })?;
    // Before the first thread: it holds those that come after it.
    let sandbox = Sandbox::enter(&settings, arguments.config.as_deref())?;
    let logging = Logging::start(&settings.config().log)
        .map_err(|error| Failure::Other(format!("cannot start the log thread: {error}")))?;

    let wide = sandbox::wide(settings.config(), arguments.config.as_deref());
    for warning in warnings.into_iter().chain(wide) {
        tracing::warn!("{warning}");
    }
    let mut guard = Guard::load(settings.config())?;
    guard.ask_others(settings.config())?;
    let audit_settings = &settings.config().audit;
    let audit_file = audit_settings.file.as_deref();
    let audit_file = audit_file
        .map(|path| AuditFile::open(path, audit_settings.lines_per_second_max))
        .transpose()
        .map_err(Failure::configuration)?;
    let listening = listen::open_all(&settings)?;
    let admin = admin::open(&settings)?;
    let described: Vec<String> = listening
        .iter()
        .zip(&settings.config().listeners)
        .map(|(open, said)| open.described(said))
        .collect();
    tracing::debug!(
        cores = ?settings.cores,
        connections_per_shard = settings.connections_per_shard,
        mesh_ring_capacity = settings.mesh_ring_capacity,
        retained_messages_per_shard_max = settings.retained_messages_per_shard_max(),
        retained_bytes_per_shard_max = settings.retained_bytes_per_shard_max().bytes(),
        queued_bytes_per_shard_max = settings.queued_bytes_per_shard_max.bytes(),
        "settings left to the program are resolved",
    );
    for listener in &listening {
        tracing::debug!(listener = listener.label, address = %listener.address, "listening");
    }
    let seats = Seats::new(&settings.config().listeners, &listening);
    let directory = seats.directory();
    let instance =
        OwnInstance::create(&instance::base(settings.config().runtime.directory.as_deref()));
    let statistics = instance.as_ref().ok().map(OwnInstance::directory);
    let audit = match audit_file {
        Some(file) => file.start(directory.clone()).map_err(thread)?,
        None => Audit::default(),
    };
    let minds = Minds::new(admin.is_some());
    // Reading what is kept may take long: who asks is told how far it is.
    let notifier = Arc::new(Notifier::from_environment());
    let progress = Progress::default();
    let starting = Starting::watch(progress.clone(), statistics, Arc::clone(&notifier));
    let starting = starting.map_err(thread)?;
    let standing = Standing::default();
    let services = admin
        .map(|listener| {
            let address = listener.local_addr();
            let shown = (directory.labels(), minds.listener_counter());
            admin::start(listener, &standing, shown, progress.clone())
                .map(|running| (running, address))
        })
        .transpose()?;
    let (ban_line, ban_listener) = bans::line();
    let broker = Broker::start(
        &settings,
        listening,
        &guard,
        &minds,
        Ears { bans: ban_line, audit: audit.of_clients(), progress },
        statistics,
        transports.layers(),
    )
    .map_err(|StartError(sentence)| Failure::Other(sentence))?;

    if let Some(directory) = statistics
        && let Err(error) = kept::write(directory, &settings, broker.damage())
    {
        tracing::warn!("midge stats will not tell how what is kept is: {error}");
    }
    drop(starting);
    if let Some((services, _)) = &services {
        let pages = instance.as_ref().map(OwnInstance::directory).map_err(String::clone);
        let pages = pages
            .and_then(|directory| Instance::open(directory).map_err(|error| error.to_string()));
        services.show(pages, broker.damage().iter().map(ToString::to_string).collect());
    }

    let drain_timeout = Arc::new(Mutex::new(settings.config().shutdown.drain_timeout));
    let stopper = broker.stopper();
    let line = start_up_line(&settings, &described);
    let data_directory = settings.data_directory.clone();
    let topic_limits = Broker::topic_limits(&settings);
    let sys_interval = settings.config().sys.interval.duration();
    let bans = BanList::start(broker.reloader(), ban_listener).map_err(thread)?;
    let memory_max = settings.config().limits.memory_max.bytes();
    let memory = MemoryWatch::start(memory_max, host.memory_bytes, broker.reloader());
    let memory = memory.map_err(thread)?;
    let sys = statistics.and_then(|directory| {
        sys::start(directory.into(), broker.asker(), sys_interval)
            .inspect_err(|error| tracing::warn!("$SYS is off: cannot start its thread: {error}"))
            .ok()
    });
    let live = Live {
        drain_timeout: Arc::clone(&drain_timeout),
        log: logging.level(),
        sys,
        statistics: statistics.map(Into::into),
    };
    let closed_in = sandbox.line.clone();
    let reload = Arc::new(Reload::new(Beginning {
        arguments,
        host,
        settings,
        seats,
        transports,
        guard,
        reloader: broker.reloader(),
        minds,
        memory,
        audit: audit.clone(),
        sandbox,
        live,
    }));
    let on_hangup = Arc::clone(&reload);
    signals
        .watch_hangups(move || reload::on_hangup(&on_hangup))
        .map_err(|error| Failure::Other(format!("cannot start the reload thread: {error}")))?;
    let flush = logging.flusher();
    let (draining, told) = (standing.clone(), Arc::clone(&notifier));
    signals
        .watch(
            move || {
                draining.reach(Stage::Draining);
                let drain_timeout = *drain_timeout.lock().unwrap_or_else(PoisonError::into_inner);
                told.stopping(&format!("draining for {drain_timeout} at most"));
                tracing::info!("asked to stop: draining for {drain_timeout} at most");
                stopper.stop(drain_timeout.duration());
            },
            move || {
                tracing::warn!("asked again: stopping at once");
                flush();
                std::process::exit(1);
            },
        )
        .map_err(|error| Failure::Other(format!("cannot start the signal thread: {error}")))?;

    // Before the line that says that all is ready.
    let control = instance.as_ref().map(|instance| {
        tracing::debug!(directory = %instance.directory().display(), "control and statistics");
        let data = data_directory.as_deref();
        let data = data.map(|path| std::fs::canonicalize(path).unwrap_or_else(|_| path.into()));
        let answering = control::Answering {
            asker: broker.asker(),
            listeners: directory.clone(),
            topic_limits,
            reload,
            data,
            bans,
            audit,
        };
        control::serve(&instance.control_socket(), answering)
    });
    standing.reach(Stage::Serving);
    tracing::info!("{line}");
    notifier.ready(&line);
    if let Some((_, Ok(address))) = &services {
        tracing::info!("metrics and health on http://{address}");
    }
    match &control {
        Err(reason) => {
            tracing::warn!(
                "statistics and control are off: {reason}; set another with --runtime-dir"
            );
        }
        Ok(Err(error)) => tracing::warn!("control is off: cannot open its socket: {error}"),
        Ok(Ok(())) => {}
    }
    tracing::info!("{closed_in}");
    let pages = statistics.and_then(|directory| Instance::open(directory).ok());
    notifier
        .watch(pages)
        .map_err(|error| Failure::Other(format!("cannot start the watchdog thread: {error}")))?;
    broker.join().map_err(|StartError(sentence)| Failure::Other(sentence))?;
    drop((services, instance));
    listen::remove_all(&directory.addresses());
    tracing::info!("stopped");
    Ok(())
}

fn thread(error: std::io::Error) -> Failure {
    Failure::Other(format!("cannot start a thread: {error}"))
}

/// What an operator wants to see first: where, how many, how large, how durable.
fn start_up_line(settings: &Settings, addresses: &[String]) -> String {
    format!(
        "midge {} serves mqtt on {}: {}, {}, packets up to {}, {}",
        env!("CARGO_PKG_VERSION"),
        addresses.join(" and "),
        counted(settings.shards.into(), "shard"),
        kept(settings),
        settings.config().limits.maximum_packet_size_bytes,
        counted(settings.connections_max, "connection"),
    )
}

fn kept(settings: &Settings) -> String {
    match (&settings.data_directory, settings.config().durability.acknowledge_after) {
        (None, _) => "in memory".to_owned(),
        (Some(path), DurabilityLevel::Fsync) => format!("kept in {}", path.display()),
        (Some(path), DurabilityLevel::Written) => {
            format!("kept in {} when the system writes it", path.display())
        }
        (Some(path), DurabilityLevel::Memory) => format!("kept in {} soon", path.display()),
    }
}

fn counted(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

//! New settings for a running broker: SIGHUP, `midge reload`, `midge check --diff`.
//!
//! ```text
//!  file → settings → what can change now │ certificates, users, rules read │ new listeners opened │ then all of it counts
//!         refused    what waits, named   │ refused: nothing has changed                          │
//! ```
//!
//! | file | what |
//! |---|---|
//! | `difference` | two configurations, key by key |
//! | `fixed` | what of new settings a running broker cannot take over |
//! | `listeners` | listeners by number, and what becomes of each |
//!
//! # Invariants
//! - Everything that can fail comes before the first change. A refused reload leaves everything as it was.
//! - Nobody is disconnected. Who came by a listener that is closed stays, and so does what is beyond a new limit.
//! - A listener keeps its number for the life of the process, and no other one gets it.

mod difference;
mod fixed;
mod listeners;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use midge_config::{Config, DurabilityLevel, Period};
use serde::{Deserialize, Serialize};

use crate::{
    arguments::ServeArguments, audit::Audit, broker::Reloader, control::protocol::ReloadRequest,
    failure::Failure, host::Host, kept, logging::Level, memory::MemoryWatch, minds::Minds,
    sandbox::Sandbox, security::Guard, settings::Settings, sys, transports::Transports,
};

pub(crate) use difference::Change;
pub(crate) use listeners::{Directory, Seats};

/// What came of a reload, or would come of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Nothing was changed: it was only asked what would be.
    pub(crate) dry_run: bool,
    /// Settings that differ from those in force.
    pub(crate) changes: Vec<Change>,
    /// Listeners whose certificates, keys, authorities or revocation lists differ.
    pub(crate) certificates: Vec<String>,
    /// What an operator should know.
    pub(crate) warnings: Vec<String>,
}

/// A running broker's settings, and how to change them; from any thread, one at a time.
#[derive(Debug)]
pub(crate) struct Reload(Mutex<State>);

#[derive(Debug)]
struct State {
    arguments: ServeArguments,
    host: Host,
    /// In force.
    settings: Settings,
    /// The most that any acknowledgement waited for at the start: so the logs are kept.
    strictest: DurabilityLevel,
    seats: Seats,
    transports: Transports,
    guard: Guard,
    reloader: Reloader,
    minds: Minds,
    memory: MemoryWatch,
    audit: Audit,
    sandbox: Sandbox,
    live: Live,
}

/// What a [`Reload`] begins with: everything that the start has made.
#[derive(Debug)]
pub(crate) struct Beginning<'a> {
    pub(crate) arguments: &'a ServeArguments,
    pub(crate) host: Host,
    pub(crate) settings: Settings,
    pub(crate) seats: Seats,
    pub(crate) transports: Transports,
    pub(crate) guard: Guard,
    pub(crate) reloader: Reloader,
    pub(crate) minds: Minds,
    pub(crate) memory: MemoryWatch,
    pub(crate) audit: Audit,
    pub(crate) sandbox: Sandbox,
    pub(crate) live: Live,
}

/// What takes new settings by itself, outside of the shards.
#[derive(Debug)]
pub(crate) struct Live {
    /// How long the end waits: read when it begins.
    pub(crate) drain_timeout: Arc<Mutex<Period>>,
    pub(crate) log: Level,
    /// `None`: there is no thread that publishes `$SYS`.
    pub(crate) sys: Option<sys::Interval>,
    /// Where `midge stats` reads what acknowledgements wait for.
    pub(crate) statistics: Option<PathBuf>,
}

impl Reload {
    pub(crate) fn new(beginning: Beginning<'_>) -> Self {
        let Beginning { arguments, host, settings, seats, .. } = beginning;
        Self(Mutex::new(State {
            seats,
            arguments: arguments.clone(),
            host,
            strictest: fixed::strictest(settings.config()),
            settings,
            transports: beginning.transports,
            guard: beginning.guard,
            reloader: beginning.reloader,
            minds: beginning.minds,
            memory: beginning.memory,
            audit: beginning.audit,
            sandbox: beginning.sandbox,
            live: beginning.live,
        }))
    }

    /// Reads everything again, and puts it in force unless it is a dry run.
    ///
    /// # Errors
    /// Every problem, as a sentence; nothing has changed then.
    pub(crate) fn run(&self, request: &ReloadRequest) -> Result<Outcome, Vec<String>> {
        let mut state = self.state();
        let result = state.run(request);
        if !request.dry_run {
            state.audit.reopen();
            state.audit.configuration(result.as_ref().map_err(Vec::as_slice));
        }
        result
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // What a panic could leave half done is a list of listeners that is shown.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn run(&mut self, request: &ReloadRequest) -> Result<Outcome, Vec<String>> {
        let dry_run = request.dry_run;
        let arguments = ServeArguments {
            config: request.config.clone().or_else(|| self.arguments.config.clone()),
            ..self.arguments.clone()
        };
        let wanted = match (&request.text, &arguments.config) {
            (Some(text), Some(path)) => midge_config::parse(text, &path.display().to_string())
                .map_err(Failure::configuration)
                .and_then(|loaded| Settings::resolve_loaded(loaded, &arguments, &self.host)),
            (_, path) => {
                let problem = path.as_deref().and_then(|path| self.sandbox.file_out_of_reach(path));
                if let Some(problem) = problem {
                    return Err(vec![problem]);
                }
                Settings::resolve(&arguments, &self.host)
            }
        };
        let wanted = wanted.map_err(sentences)?;
        let told = fixed::Told { strictest: self.strictest, closed: self.seats.closed() };
        let in_force = |current: &Config, wanted: &Config, possible| {
            fixed::in_force(current, wanted, &told, possible)
        };
        let settings = self.settings.take_over(wanted.loaded, &self.host, in_force);
        let changes = difference::between(
            self.settings.config(),
            &settings.wanted,
            settings.settings.config(),
        );
        let settings = settings.settings;

        let config = settings.config();
        let problems = self.sandbox.out_of_reach(config);
        if !problems.is_empty() {
            return Err(problems);
        }
        let plan = self.seats.plan(&config.listeners).map_err(|problem| vec![problem])?;
        let spoken = self.transports.prepare(&plan.numbered(), &settings.loaded)?;
        let rules = self.guard.prepare(config).map_err(sentences)?;
        let opened =
            plan.open(settings.shards, &settings.loaded).map_err(|problem| vec![problem])?;

        let outcome = Outcome {
            dry_run,
            changes,
            certificates: spoken.changed.clone(),
            warnings: {
                let file = arguments.config.as_deref();
                let sandbox = self.sandbox.warnings(config, file);
                spoken.warnings.iter().cloned().chain(sandbox).collect()
            },
        };
        if dry_run {
            plan.discard(opened);
            return Ok(outcome);
        }
        let earlier = self.guard.chains();
        let mut security = self.guard.apply(rules);
        security.chains = plan.by_number(&security.chains, &earlier);
        self.guard.set_chains(&security.chains);
        let minds = self.minds.settings(&settings, &security, &plan.all());
        self.memory.set_maximum(settings.config().limits.memory_max.bytes());
        self.reloader.set_security(&security);
        self.reloader.set_limits(&Arc::new(minds));
        let layers = self.transports.apply(spoken);
        let changes = self.seats.apply(plan, opened, settings.shards);
        self.reloader.set_listeners(&layers, changes);
        self.live.apply(settings.config());
        self.settings = settings;
        Ok(outcome)
    }
}

impl Live {
    fn apply(&self, config: &Config) {
        *self.drain_timeout.lock().unwrap_or_else(PoisonError::into_inner) =
            config.shutdown.drain_timeout;
        self.log.set(config.log.level);
        if let Some(sys) = &self.sys {
            sys.set(config.sys.interval.duration());
        }
        if let Some(directory) = &self.statistics
            && let Err(error) = kept::rewrite(directory, config)
        {
            tracing::warn!("midge stats does not tell the new levels: {error}");
        }
    }
}

fn sentences(failure: Failure) -> Vec<String> {
    match failure {
        Failure::Configuration(problems) => problems,
        Failure::Other(problem) => vec![problem],
        Failure::Told => Vec::new(),
    }
}

impl Outcome {
    /// For the log and for people, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        lines.extend(self.certificates.iter().map(|listener| {
            format!("listeners[{listener}]: certificates, keys or lists are other ones")
        }));
        if lines.is_empty() {
            lines.push("no setting and no certificate differs".into());
        }
        lines
    }
}

/// SIGHUP: there is nobody to answer but the log.
pub(crate) fn on_hangup(reload: &Reload) {
    match reload.run(&ReloadRequest::default()) {
        Ok(outcome) => tell(&outcome),
        Err(problems) => tell_refusal(&problems),
    }
}

/// What was changed, for the log.
pub(crate) fn tell(outcome: &Outcome) {
    for warning in &outcome.warnings {
        tracing::warn!("{warning}");
    }
    for line in outcome.lines() {
        tracing::info!("reloaded: {line}");
    }
    tracing::info!("users and rules were read again");
}

/// Why nothing was changed, for the log.
pub(crate) fn tell_refusal(problems: &[String]) {
    for problem in problems {
        tracing::error!("reload refused, everything stays as it is: {problem}");
    }
}

//! Many seeds on all cores, and one failing seed made smaller.
//!
//! A run is one thread; runs know nothing of each other. Seeds are handed out in order, results come in any order and
//! are merged by sums, so the totals of a batch do not depend on the number of cores.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::coverage::{Coverage, Situation};
use crate::panics;
use crate::world::{Outcome, Plan, run};

/// What to run.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The scenarios, taken in turn; at least one.
    pub scenarios: Vec<String>,
    /// The first seed.
    pub from: u64,
    /// How many; ignored with `time`.
    pub seeds: u64,
    /// Run until then, with as many seeds as it takes.
    pub time: Option<Duration>,
    /// Turns between two integrity checks of a shard.
    pub check_every: u64,
    /// Stop at the first failing seed.
    pub stop_at_failure: bool,
    /// Threads.
    pub threads: usize,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds whose promises all held.
    pub passed: u64,
    /// The others.
    pub failed: Vec<(u64, Outcome)>,
    /// Messages sent and received by simulated clients.
    pub messages: u64,
    /// Events.
    pub steps: u64,
    /// Virtual seconds.
    pub seconds: u64,
    /// Situations met.
    pub coverage: Coverage,
}

/// The command that runs a plan again.
#[must_use]
pub fn command(plan: &Plan) -> String {
    let mut text = format!("midge-sim replay {}", plan.seed);
    if plan.scenario != "standard" {
        text += &format!(" --scenario {}", plan.scenario);
    }
    if !plan.without.is_empty() {
        let list: Vec<String> = plan.without.iter().map(usize::to_string).collect();
        text += &format!(" --without {}", list.join(","));
    }
    if plan.busy_ms_max != u64::MAX {
        text += &format!(" --until {}", plan.busy_ms_max);
    }
    if let Some(mutant) = crate::mutation::active() {
        text += &format!(" --mutant {mutant}");
    }
    text
}

/// Runs a batch; `report` is called with each failing seed as it fails.
pub fn run_batch(batch: &Batch, report: &(dyn Fn(&Plan, &Outcome) + Sync)) -> Summary {
    let next = AtomicU64::new(batch.from);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let begun = Instant::now();
    let active = crate::mutation::active();
    std::thread::scope(|scope| {
        for _ in 0..batch.threads.max(1) {
            scope.spawn(|| {
                crate::mutation::activate(active);
                loop {
                    // Relaxed: a number, and a wish.
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let done = match batch.time {
                        Some(time) => begun.elapsed() > time,
                        None => seed - batch.from >= batch.seeds,
                    };
                    if done || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let turn = (seed - batch.from) as usize % batch.scenarios.len();
                    let mut plan = Plan::new(&batch.scenarios[turn], seed);
                    plan.check_every = batch.check_every;
                    panics::running(&command(&plan));
                    let outcome = run(&plan);
                    let mut summary = summary.lock().unwrap_or_else(|held| held.into_inner());
                    summary.messages += outcome.messages;
                    summary.steps += outcome.steps;
                    summary.seconds += outcome.seconds;
                    summary.coverage.merge(&outcome.coverage);
                    if outcome.violation.is_none() {
                        summary.passed += 1;
                    } else {
                        report(&plan, &outcome);
                        summary.failed.push((seed, outcome));
                        stop.fetch_or(batch.stop_at_failure, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(|held| held.into_inner());
    summary.failed.sort_by_key(|failed| failed.0);
    summary
}

/// Leaves out clients and shortens the busy phase as long as it still fails.
#[must_use]
pub fn shrink(plan: &Plan, outcome: &Outcome) -> (Plan, Outcome) {
    let mut plan = plan.clone();
    let mut outcome = outcome.clone();
    let mut tries = 0;
    loop {
        let before = (plan.without.len(), plan.busy_ms_max);
        // The watcher, client 0, has to stay.
        for client in 1..outcome.clients {
            if plan.without.contains(&client) {
                continue;
            }
            let mut smaller = plan.clone();
            smaller.without.push(client);
            tries += 1;
            let tried = run(&smaller);
            if tried.violation.is_some() {
                (plan, outcome) = (smaller, tried);
            }
        }
        for eighths in [1, 2, 4, 6, 7] {
            let mut smaller = plan.clone();
            smaller.busy_ms_max = outcome.busy_ms * eighths / 8;
            tries += 1;
            let tried = run(&smaller);
            if tried.violation.is_some() {
                (plan, outcome) = (smaller, tried);
                break;
            }
        }
        if before == (plan.without.len(), plan.busy_ms_max) || tries > 400 {
            return (plan, outcome);
        }
    }
}

/// The table of situations; the second value is how many were never met.
#[must_use]
pub fn coverage_table(coverage: &Coverage) -> (String, usize) {
    let mut text = String::new();
    let mut never = 0;
    for situation in Situation::ALL {
        let count = coverage.count(*situation);
        never += usize::from(count == 0);
        text += &format!("{:>12}  {}\n", count, situation.name());
    }
    (text, never)
}

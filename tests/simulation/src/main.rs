//! `midge-sim`: runs seeds, replays one, makes a failing one smaller, and checks that deliberate bugs are found.
//!
//! The last line of `run` is `N seeds passed, N failed`. Exit code 0 only when everything held, 1 when something did not,
//! 2 for a wrong command line.
#![forbid(unsafe_code)]

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use midge_simulation::knobs::SCENARIOS;
use midge_simulation::mutation::{self, MUTANTS};
use midge_simulation::runner::{Batch, Summary, command, coverage_table, run_batch, shrink};
use midge_simulation::world::{Outcome, Plan, run};

const HELP: &str = "\
Runs the whole broker in one thread from one seed, and checks what every client was promised.

Usage:
  midge-sim run [--seeds N] [--from SEED] [--scenario NAME] [--hours H] [--threads N] [--every N]
  midge-sim replay SEED [--scenario NAME] [--without CLIENT,...] [--until MS] [--quiet] [--shrink] [--mutant NAME]
  midge-sim mutants [--seeds N] [--document FILE]
  midge-sim scenarios

run      Runs N seeds (default 100) from SEED (default: fresh ones, from the clock) on all cores. `--scenario all` takes
         the scenarios in turn. With --hours it runs all of them for that long, and fails if a situation was never met.
         --every N checks a shard's invariants after each Nth of its turns (default 8; replay checks after each).
replay   Runs one seed again and prints what happened, line by line. --without leaves out clients, --until ends the busy
         phase at that millisecond, --shrink looks for the fewest clients and the shortest time that still fail, --mutant
         switches on a deliberate bug.
mutants  Switches on each deliberate bug in turn and looks for a seed that finds it, among N (default 200) seeds of
         each scenario. Needs a build with the feature `mutants`. --document writes the table into a file, between the
         lines `<!-- mutants -->` and `<!-- end of mutants -->`.

The last line of `run` is `N seeds passed, N failed`; the exit code is 0 only when all held.
";

/// The command line, taken apart.
struct Arguments {
    command: String,
    operand: Option<String>,
    options: Vec<(String, String)>,
}

const FLAGS: &[&str] = &["--quiet", "--shrink"];
const OPTIONS: &[&str] = &[
    "--seeds",
    "--from",
    "--scenario",
    "--hours",
    "--threads",
    "--without",
    "--until",
    "--mutant",
    "--every",
    "--document",
];

/// Seeds of each scenario that look for a deliberate bug before more of any are tried, and where those begin.
const FIRST_ROUND: u64 = 50;
const SECOND_ROUND: &str = "51";

/// Where the table of deliberate bugs stands in a document.
const TABLE_BEGIN: &str = "<!-- mutants -->\n";
const TABLE_END: &str = "<!-- end of mutants -->";

/// The scenarios that look for deliberate bugs, in this order.
const HUNTERS: &[&str] =
    &["standard", "shares", "tight", "storm", "calm", "shutdown", "durable", "crew"];

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let command = arguments.next().ok_or("a command is missing")?;
        let mut parsed = Self { command, operand: None, options: Vec::new() };
        while let Some(argument) = arguments.next() {
            if FLAGS.contains(&argument.as_str()) {
                parsed.options.push((argument, String::new()));
            } else if OPTIONS.contains(&argument.as_str()) {
                let value = arguments.next().ok_or(format!("{argument} wants a value"))?;
                parsed.options.push((argument, value));
            } else if !argument.starts_with('-') && parsed.operand.is_none() {
                parsed.operand = Some(argument);
            } else {
                return Err(format!("unknown argument {argument}"));
            }
        }
        Ok(parsed)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|option| option.0 == name).map(|option| option.1.as_str())
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{name}: {text} is no number")),
        }
    }

    /// The scenarios to take in turn; `all` means all of them.
    fn scenarios(&self, default: &str) -> Result<Vec<String>, String> {
        match self.text("--scenario").unwrap_or(default) {
            "all" => Ok(SCENARIOS.iter().map(|scenario| scenario.0.to_owned()).collect()),
            _ => Ok(vec![self.scenario()?]),
        }
    }

    fn scenario(&self) -> Result<String, String> {
        let name = self.text("--scenario").unwrap_or("standard");
        if SCENARIOS.iter().all(|scenario| scenario.0 != name) {
            return Err(format!("there is no scenario {name}; see midge-sim scenarios"));
        }
        Ok(name.to_owned())
    }

    fn mutant(&self) -> Result<Option<&'static str>, String> {
        let Some(name) = self.text("--mutant") else { return Ok(None) };
        let found = MUTANTS.iter().find(|mutant| mutant.0 == name);
        found.map(|mutant| Some(mutant.0)).ok_or(format!("there is no deliberate bug {name}"))
    }
}

fn main() -> ExitCode {
    let first = std::env::args().nth(1).unwrap_or_default();
    if matches!(first.as_str(), "-h" | "--help" | "help") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let done = Arguments::parse(std::env::args().skip(1)).and_then(|arguments| {
        match arguments.command.as_str() {
            "run" => run_seeds(&arguments),
            "replay" => replay(&arguments),
            "mutants" => hunt(&arguments),
            "hunt-one" => hunt_one(&arguments),
            "scenarios" => {
                for (name, line) in SCENARIOS {
                    println!("{name:10} {line}");
                }
                Ok(true)
            }
            other => Err(format!("there is no command {other}")),
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(wrong) => {
            eprintln!("midge-sim: {wrong} (see midge-sim --help)");
            ExitCode::from(2)
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A seed that was not run before.
fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs() * 100_000)
}

fn describe(plan: &Plan, outcome: &Outcome) {
    println!("\nseed {} failed at step {}, after:", plan.seed, outcome.steps);
    for line in &outcome.last[outcome.last.len().saturating_sub(20)..] {
        println!("  {line}");
    }
    println!("  broken promise: {}", outcome.violation.as_deref().unwrap_or_default());
    println!("  run it again: {}", command(plan));
}

fn run_seeds(arguments: &Arguments) -> Result<bool, String> {
    let hours = match arguments.text("--hours") {
        None => None,
        Some(text) => Some(text.parse::<f64>().map_err(|_| format!("--hours: {text}"))?),
    };
    let batch = Batch {
        scenarios: arguments.scenarios(if hours.is_some() { "all" } else { "standard" })?,
        from: arguments.number("--from", fresh_seed())?,
        seeds: arguments.number("--seeds", 100)?,
        time: hours.map(|hours| Duration::from_secs_f64(hours * 3600.0)),
        check_every: arguments.number("--every", 8)?.max(1),
        stop_at_failure: false,
        threads: arguments.number("--threads", threads() as u64)? as usize,
    };
    mutation::activate(arguments.mutant()?);
    let begun = Instant::now();
    let summary = run_batch(&batch, &describe);
    let (table, never) = coverage_table(&summary.coverage);
    println!("\nsituations met:\n{table}");
    tell_speed(&batch, &summary, begun.elapsed());
    let failed = summary.failed.len();
    if hours.is_some() && never > 0 {
        println!("{never} situations were never met");
    }
    println!("{} seeds passed, {failed} failed", summary.passed);
    Ok(failed == 0 && (hours.is_none() || never == 0))
}

fn tell_speed(batch: &Batch, summary: &Summary, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let seeds = summary.passed + summary.failed.len() as u64;
    println!(
        "{}: seeds {} to {}: {} messages in {} steps and {} virtual seconds, in {seconds:.1} s on {} threads: \
         {:.0} messages/s, {:.1} seeds/s",
        batch.scenarios.join(", "),
        batch.from,
        batch.from + seeds.saturating_sub(1),
        summary.messages,
        summary.steps,
        summary.seconds,
        batch.threads,
        summary.messages as f64 / seconds,
        seeds as f64 / seconds,
    );
}

fn replay(arguments: &Arguments) -> Result<bool, String> {
    let seed = arguments.operand.as_deref().ok_or("replay wants a seed")?;
    let seed = seed.parse().map_err(|_| format!("{seed} is no seed"))?;
    let mut plan = Plan::new(&arguments.scenario()?, seed);
    plan.busy_ms_max = arguments.number("--until", u64::MAX)?;
    for client in arguments.text("--without").unwrap_or_default().split(',') {
        if !client.is_empty() {
            plan.without.push(client.parse().map_err(|_| format!("--without: {client}"))?);
        }
    }
    mutation::activate(arguments.mutant()?);
    if arguments.flag("--shrink") {
        let outcome = run(&plan);
        if outcome.violation.is_none() {
            println!("seed {seed} does not fail");
            return Ok(true);
        }
        let (smaller, outcome) = shrink(&plan, &outcome);
        describe(&smaller, &outcome);
        return Ok(false);
    }
    plan.echo = !arguments.flag("--quiet");
    let outcome = run(&plan);
    println!("trace {:016x}, {} steps, {} messages", outcome.hash, outcome.steps, outcome.messages);
    match &outcome.violation {
        None => println!("all promises held"),
        Some(violation) => println!("broken promise: {violation}"),
    }
    Ok(outcome.violation.is_none())
}

/// Each deliberate bug in a process of its own: it may hang, or take the process along.
fn hunt(arguments: &Arguments) -> Result<bool, String> {
    if MUTANTS.is_empty() {
        return Err("this build has no deliberate bugs; build with --features mutants".to_owned());
    }
    let seeds = arguments.number("--seeds", 200)?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut missed = 0;
    let mut table = String::new();
    let mut row = |text: String| {
        println!("{text}");
        table += &text;
        table.push('\n');
    };
    row("| deliberate bug | found by (scenario, seed) | steps | as |".to_owned());
    row("|---|---|---|---|".to_owned());
    for (name, line) in MUTANTS {
        let mut found = None;
        // A few seeds of each scenario before many of one.
        let first = seeds.min(FIRST_ROUND).to_string();
        let rounds = [("1", first), (SECOND_ROUND, seeds.saturating_sub(FIRST_ROUND).to_string())];
        let hunts = rounds.iter().flat_map(|round| HUNTERS.iter().map(move |name| (name, round)));
        for (scenario, (from, seeds)) in hunts {
            let output = Command::new(&program)
                .args(["hunt-one", name, "--scenario", scenario, "--from", from])
                .args(["--seeds", seeds])
                .output()
                .map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if let Some(report) = text.lines().find(|line| line.starts_with("found ")) {
                let report = report.trim_start_matches("found ").replace('|', "/");
                found = Some(format!("{scenario} {}", report.replacen('\t', " | ", 2)));
                break;
            }
            if !output.status.success() {
                let last = text.lines().last().unwrap_or_default().replace('|', "/");
                found = Some(format!("{scenario} | — | the process died: {last}"));
                break;
            }
        }
        missed += u64::from(found.is_none());
        row(format!(
            "| {line} (`{name}`) | {} |",
            found.unwrap_or_else(|| "NOT FOUND | |".to_owned())
        ));
    }
    if let Some(document) = arguments.text("--document") {
        write_table(document, &table).map_err(|error| format!("{document}: {error}"))?;
    }
    println!("{} deliberate bugs found, {missed} missed", MUTANTS.len() as u64 - missed);
    Ok(missed == 0)
}

/// Puts the table into a document, in place of the one before.
fn write_table(document: &str, table: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(document).map_err(|error| error.to_string())?;
    let missing = "it has no lines around the table of deliberate bugs";
    let (before, rest) = text.split_once(TABLE_BEGIN).ok_or(missing)?;
    let (_, after) = rest.split_once(TABLE_END).ok_or(missing)?;
    let text = format!("{before}{TABLE_BEGIN}{table}{TABLE_END}{after}");
    std::fs::write(document, text).map_err(|error| error.to_string())
}

/// One deliberate bug in this process: the first seed that finds it.
fn hunt_one(arguments: &Arguments) -> Result<bool, String> {
    let name = arguments.operand.as_deref().ok_or("hunt-one wants a deliberate bug")?;
    let mutant = MUTANTS.iter().find(|mutant| mutant.0 == name);
    mutation::activate(Some(mutant.ok_or(format!("there is no deliberate bug {name}"))?.0));
    let batch = Batch {
        scenarios: arguments.scenarios("standard")?,
        from: arguments.number("--from", 1)?,
        seeds: arguments.number("--seeds", 200)?,
        time: None,
        check_every: 4,
        stop_at_failure: true,
        threads: threads(),
    };
    let summary = run_batch(&batch, &|_, _| {});
    if let Some((seed, outcome)) = summary.failed.first() {
        let violation = outcome.violation.as_deref().unwrap_or_default();
        // A word of what came of it; the replay says the rest.
        let cut = violation.char_indices().nth(120).map_or(violation, |(at, _)| &violation[..at]);
        let cut = cut.split(": WillLog").next().unwrap_or(cut).replace('\n', " ");
        println!("found {seed}\t{}\t{cut}", outcome.steps);
    }
    Ok(true)
}

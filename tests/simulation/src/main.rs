//! `midge-sim`: runs seeds, replays one, shrinks what fails.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use midge_simulation::world::{Plan, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seed = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let count: u64 = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(1);
    let scenario = arguments.first().map_or("standard", String::as_str);
    let mut failed = 0;
    let (mut messages, mut steps) = (0, 0);
    for seed in seed..seed + count {
        let mut plan = Plan::new(scenario, seed);
        plan.echo = std::env::var_os("ECHO").is_some();
        let outcome = run(&plan);
        messages += outcome.messages;
        steps += outcome.steps;
        if let Some(violation) = outcome.violation {
            failed += 1;
            if count == 1 {
                println!("{}", outcome.last.join("\n"));
            }
            println!("seed {seed} step {}: {violation}", outcome.steps);
        }
    }
    println!("{messages} messages, {steps} steps");
    println!("{} seeds passed, {failed} failed", count - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

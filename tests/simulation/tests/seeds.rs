//! A fixed set of seeds and some fresh ones, for the test command.

use midge_simulation::knobs::SCENARIOS;
use midge_simulation::runner::{Batch, command, run_batch};
use midge_simulation::world::{Plan, run};

fn check(scenario: &str, from: u64, seeds: u64) {
    let batch = Batch {
        scenarios: vec![scenario.to_owned()],
        from,
        seeds,
        time: None,
        check_every: 16,
        stop_at_failure: false,
        threads: 1,
    };
    let summary = run_batch(&batch, &|plan, outcome| {
        println!("{}", outcome.last.join("\n"));
        println!("run it again: {}", command(plan));
    });
    let failed: Vec<(u64, Option<String>)> =
        summary.failed.into_iter().map(|(seed, outcome)| (seed, outcome.violation)).collect();
    assert!(failed.is_empty(), "{scenario}: {failed:?}");
    assert_eq!(summary.passed, seeds);
}

#[test]
fn fixed_seeds_of_the_standard_scenario() {
    check("standard", 1, 12);
}

#[test]
fn fixed_seeds_of_the_calm_scenario() {
    check("calm", 1, 3);
}

#[test]
fn fixed_seeds_of_the_storm_scenario() {
    check("storm", 1, 12);
}

#[test]
fn fixed_seeds_of_the_tight_scenario() {
    check("tight", 1, 6);
}

#[test]
fn fixed_seeds_of_the_shares_scenario() {
    check("shares", 1, 6);
}

#[test]
fn fixed_seeds_of_the_shutdown_scenario() {
    check("shutdown", 1, 20);
}

#[test]
fn fixed_seeds_of_the_durable_scenario() {
    check("durable", 1, 3);
}

#[test]
fn fixed_seeds_of_the_crew_scenario() {
    check("crew", 1, 6);
}

/// Seeds that nobody has run before; a failure prints the command that runs it again.
#[test]
fn fresh_seeds() {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let from = since.expect("after 1970").as_secs() * 100_000;
    check("standard", from, 8);
    for (scenario, _) in SCENARIOS {
        check(scenario, from + 50_000, 2);
    }
}

/// The same seed twice is the same run, to the byte.
#[test]
fn a_seed_is_a_run() {
    for (scenario, _) in SCENARIOS {
        for seed in 1..3 {
            let mut plan = Plan::new(scenario, seed);
            plan.kept_max = usize::MAX;
            let (first, second) = (run(&plan), run(&plan));
            assert_eq!(first.last.len() as u64, first.steps, "the whole trace");
            assert!(first.last == second.last, "{scenario} {seed} is two different runs");
            assert_eq!(first.hash, second.hash);
        }
    }
}

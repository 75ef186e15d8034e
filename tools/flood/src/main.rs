//! The connection flooder: opens, holds and drives very many MQTT clients.
//!
//! `midge-flood MODE [OPTIONS]` against any MQTT broker; see `--help` and `bench/README.md`.
//!
//! # Rooms
//! [`arguments`] reads the command line into a [`scenario::Plan`]; [`swarm`] is all clients as one state machine over
//! bytes and time, with [`wire`] for the packets, [`transport`] for what lies below them, [`tracker`] for loss and order and [`statistics`] for the counts;
//! [`engine`] drives it with net rings; [`report`] says what came out. Only the engine knows sockets and the clock.
//!
//! # Exit codes
//! 0: everything asked for happened; loss at QoS 0 is a finding, not a failure. 1: clients failed, or the run could not
//! go on. 2: the command line, or what this machine does not allow.
#![forbid(unsafe_code)]

mod arguments;
mod broker_process;
mod engine;
mod presence;
mod progress;
mod report;
mod scenario;
mod scenario_file;
mod sources;
mod statistics;
mod swarm;
mod tracker;
mod transport;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

fn main() -> ExitCode {
    let plan = match arguments::Arguments::parse().resolve() {
        Ok(plan) => plan,
        Err(error) => return complain(&error, 2),
    };
    let json = plan.json;
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&interrupt)) {
            return complain(&format!("signals: {error}"), 2);
        }
    }
    let report = match engine::run(plan, &interrupt) {
        Ok(outcome) => report::Report::new(outcome),
        Err(error) => return complain(&error, 2),
    };
    println!("{}", if json { report.json() } else { report.text() });
    match report.error() {
        Some(error) => complain(error, 1),
        None if report.is_clean() => ExitCode::SUCCESS,
        None => ExitCode::from(1),
    }
}

fn complain(error: &str, code: u8) -> ExitCode {
    eprintln!("midge-flood: {error}");
    ExitCode::from(code)
}

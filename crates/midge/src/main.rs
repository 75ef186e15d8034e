//! Midge, an MQTT broker: thread per core, shared nothing, io_uring.
//!
//! This is the program around the broker: arguments → settings → sockets → shards → signals →
//! exit. `midge` alone serves on `127.0.0.1:1883`.
//!
//! # Invariants
//! - Everything that can be checked is checked before the first side effect: a bad option, a bad
//!   file and an address that is taken are found before a shard exists.
//! - An error is one sentence on standard error that names the file, line, key or address and says
//!   what to do.
//! - Exit codes: 0 done; 2 the command line or the configuration is wrong; 1 anything else.

#![forbid(unsafe_code)]

mod admin;
mod arguments;
mod audit;
mod bans;
mod broker;
mod capacity;
mod check;
mod commands;
mod control;
mod doctor;
mod doors;
mod failure;
mod host;
mod instance;
mod kept;
mod listen;
mod logging;
mod memory;
mod minds;
mod notify;
mod passwd;
mod plan;
mod reload;
mod sandbox;
mod security;
mod serve;
mod service;
mod settings;
mod signals;
mod starting;
mod stats;
mod store;
mod sys;
mod top;
mod transports;
mod units;

use std::process::ExitCode;

use crate::arguments::Command;

fn main() -> ExitCode {
    let outcome = match arguments::parse() {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Stats(arguments) => stats::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Clients(arguments) => commands::clients::run(&arguments),
        Command::Subscriptions(arguments) => commands::subscriptions::run(&arguments),
        Command::Retained(arguments) => commands::retained::run(&arguments),
        Command::Kick(arguments) => commands::kick::run(&arguments),
        Command::Bans(arguments) => commands::bans::list(&arguments),
        Command::Ban(arguments) => commands::bans::ban(&arguments),
        Command::Unban(arguments) => commands::bans::unban(&arguments),
        Command::Reload(arguments) => commands::reload::run(&arguments),
        Command::Explain(arguments) => commands::explain::run(&arguments),
        Command::Store(arguments) => store::run(&arguments),
        Command::Passwd(arguments) => passwd::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

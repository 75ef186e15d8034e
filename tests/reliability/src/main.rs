//! Prints the figures of the rows, full size, as a table: `cargo run --release -p midge-reliability -- figures [ROW]…`.
//!
//! `MIDGE_RELIABILITY_SHARDS` (default `1,3`): the numbers of shards to run against. The exit code is 1 when a promise was
//! not held.
#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use midge_reliability::rows::{self, ROWS};
use midge_reliability::{Held, Size};

const USAGE: &str = "usage: midge-reliability figures [ROW]...
       midge-reliability hold ADDRESS COUNT SOURCE   (helper: holds silent connections)";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["figures", wanted @ ..] => figures(wanted),
        ["hold", address, count, source] => {
            let (Ok(address), Ok(count), Ok(source)) =
                (address.parse(), count.parse(), source.parse())
            else {
                return wrong_usage();
            };
            let (shortest, longest) = rows::hold(address, count, source, || println!("opened"));
            println!("{shortest} {longest}");
            ExitCode::SUCCESS
        }
        _ => wrong_usage(),
    }
}

fn wrong_usage() -> ExitCode {
    let names: Vec<_> = ROWS.iter().map(|(name, _)| *name).collect();
    eprintln!("{USAGE}\nrows: {}", names.join(" "));
    ExitCode::from(2)
}

fn figures(wanted: &[&str]) -> ExitCode {
    if wanted.iter().any(|wanted| ROWS.iter().all(|(name, _)| name != wanted)) {
        return wrong_usage();
    }
    let shards = env::var("MIDGE_RELIABILITY_SHARDS").unwrap_or_else(|_| "1,3".to_owned());
    let mut broken = 0;
    println!("| shards | row | what | promise | measured | |\n|---|---|---|---|---|---|");
    for (name, run) in ROWS {
        if !wanted.is_empty() && !wanted.contains(name) {
            continue;
        }
        for shards in shards.split(',').filter_map(|shards| shards.parse().ok()) {
            for figure in run(shards, Size::Full) {
                println!("| {shards} {figure}");
                broken += usize::from(figure.held() == Held::No);
            }
        }
    }
    eprintln!("{broken} not held");
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

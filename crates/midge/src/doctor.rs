//! `midge doctor`: what on this host would stop so many connections, what would hurt them, and what to run.
//!
//! [`host`] reads what there is, [`checks`] are pure functions over it, and here it is told, to people or to programs.
//! Nothing is changed and no broker need run. What mends it is most often a call of the scripts in `kernel-tuning`,
//! which look at more than what stops or hurts.

mod checks;
mod finding;
mod host;

use std::{
    fmt::{self, Write as _},
    io::Write,
};

use clap::Args;
use serde_json::json;

use self::{
    checks::{Role, Wanted},
    finding::{Finding, Verdict},
    host::Host,
};
use crate::{failure::Failure, units::count};

/// Options of `midge doctor`.
#[derive(Debug, PartialEq, Args)]
#[command(after_help = "\
Exit code: 0 nothing stops them (something may hurt); 1 something does; 2 wrong usage.")]
pub(crate) struct DoctorArguments {
    /// Connections that this host is to carry at the same time.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) connections: u64,

    /// Shards of the broker. Default: one for each core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(midge_config::SHARDS_MAX)))]
    pub(crate) shards: Option<u16>,

    /// Which end of the connections is on this host.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) role: Role,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(arguments: &DoctorArguments) -> Result<(), Failure> {
    let host = Host::read();
    let wanted = Wanted {
        connections: arguments.connections,
        shards: arguments.shards.unwrap_or_else(|| {
            u16::try_from(host.parallelism).unwrap_or(u16::MAX).clamp(1, midge_config::SHARDS_MAX)
        }),
        role: arguments.role,
    };
    let report = Report { wanted, host: &host, findings: checks::examine(&host, &wanted) };
    // Whoever closed standard output does not want the answer; the exit code tells it too.
    _ = if arguments.json {
        writeln!(std::io::stdout(), "{:#}", report.json())
    } else {
        write!(std::io::stdout(), "{report}")
    };
    if report.stops() == 0 { Ok(()) } else { Err(Failure::Told) }
}

struct Report<'a> {
    wanted: Wanted,
    host: &'a Host,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn stops(&self) -> usize {
        let stops = |finding: &&Finding| matches!(finding.verdict, Verdict::Stops { .. });
        self.findings.iter().filter(stops).count()
    }

    fn hurts(&self) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == Verdict::Hurts).count()
    }

    fn json(&self) -> serde_json::Value {
        let Wanted { connections, shards, role } = self.wanted;
        let findings: Vec<serde_json::Value> = self
            .findings
            .iter()
            .map(|finding| {
                let possible = match finding.verdict {
                    Verdict::Stops { possible } => Some(possible),
                    _ => None,
                };
                json!({
                    "subject": finding.subject,
                    "name": finding.name,
                    "verdict": finding.verdict.word(),
                    "connections_possible": possible,
                    "found": finding.found,
                    "needed": finding.needed,
                    "why": finding.why,
                    "mend": finding.mend,
                })
            })
            .collect();
        json!({
            "connections": connections,
            "shards": shards,
            "role": role.word(),
            "kernel": self.host.kernel,
            "cores": self.host.cores,
            "memory_bytes": self.host.memory_bytes,
            "stops": self.stops(),
            "hurts": self.hurts(),
            "findings": findings,
        })
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wanted { connections, shards, role } = self.wanted;
        let connections = count(connections);
        match role {
            Role::Broker => {
                writeln!(f, "{connections} connections to a broker of {shards} shards here")?
            }
            Role::Generator => writeln!(f, "{connections} connections from a load generator here")?,
            Role::Both => writeln!(
                f,
                "{connections} connections between a load generator and a broker of {shards} shards, both here"
            )?,
        }
        for finding in &self.findings {
            let Finding { subject, name, found, needed, why, mend, .. } = finding;
            match finding.verdict {
                Verdict::Stops { possible } => {
                    writeln!(f, "\nSTOPS at {}: {subject}: {name}", count(possible))?;
                }
                Verdict::Hurts => writeln!(f, "\nhurts: {subject}: {name}")?,
                Verdict::Unknown | Verdict::Fine => continue,
            }
            writeln!(f, "  found   {found}\n  needed  {needed}")?;
            f.write_str(&wrapped("  why     ", why))?;
            for (index, command) in mend.iter().enumerate() {
                writeln!(f, "  {}    {command}", if index == 0 { "mend" } else { "or  " })?;
            }
        }
        f.write_char('\n')?;
        for finding in &self.findings {
            let Finding { subject, name, found, .. } = finding;
            match finding.verdict {
                Verdict::Fine => writeln!(f, "fine     {subject}: {name}: {found}")?,
                Verdict::Unknown => writeln!(f, "unknown  {subject}: {name}: {}", finding.why)?,
                Verdict::Stops { .. } | Verdict::Hurts => {}
            }
        }
        let hurts = match self.hurts() {
            0 => "nothing hurts".to_owned(),
            1 => "1 thing hurts".to_owned(),
            hurts => format!("{hurts} things hurt"),
        };
        match self.stops() {
            0 => writeln!(f, "\nnothing here stops {connections} connections; {hurts}"),
            1 => writeln!(f, "\n1 thing stops {connections} connections; {hurts}"),
            stops => writeln!(f, "\n{stops} things stop {connections} connections; {hurts}"),
        }
    }
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Generator => "generator",
            Self::Both => "both",
        }
    }
}

/// Lines of a width that a terminal has, below each other after a label.
fn wrapped(label: &str, text: &str) -> String {
    const WIDTH: usize = 100;
    let indent = " ".repeat(label.len());
    let mut lines = String::new();
    let mut line = label.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line.clone_from(&indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push_str(&line);
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_wrapped() {
        let text = "four ".repeat(40);
        let lines = wrapped("  why     ", &text);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() <= 100 && !line.ends_with(' ')));
        assert!(lines[0].starts_with("  why     four four"));
        assert!(lines[1].starts_with("          four four"));
    }

    #[test]
    fn people_and_programs_are_told_the_same() {
        let host = Host {
            descriptors_max: Some(1024),
            huge_pages: Some("always".into()),
            ..Host::default()
        };
        let wanted = Wanted { connections: 100_000, shards: 2, role: Role::Broker };
        let report = Report { wanted, host: &host, findings: checks::examine(&host, &wanted) };
        let text = report.to_string();
        assert!(text.contains("STOPS at 1,228: descriptors: slots of the rings\n"), "{text}");
        assert!(text.contains("\n  mend    midge serve --shards 163\n"), "{text}");
        assert!(text.contains("hurts: hugepages: transparent huge pages\n"), "{text}");
        assert!(text.contains("unknown  io_uring: kernel: "), "{text}");
        assert!(text.ends_with("1 thing stops 100,000 connections; 1 thing hurts\n"), "{text}");
        let json = report.json();
        assert_eq!((&json["stops"], &json["hurts"]), (&json!(1), &json!(1)));
        let first = &json["findings"][0];
        assert_eq!(first["verdict"], "stops");
        assert_eq!(first["connections_possible"], 1228);
        assert_eq!(first["mend"][0], "midge serve --shards 163");
    }
}

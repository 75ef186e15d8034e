//! The command line as it was typed. What it means is decided in `settings.rs`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use midge_config::Auto;

use crate::{
    commands::{
        bans::{BanArguments, BansArguments, UnbanArguments},
        clients::ClientsArguments,
        explain::ExplainArguments,
        kick::KickArguments,
        reload::ReloadArguments,
        retained::RetainedArguments,
        subscriptions::SubscriptionsArguments,
    },
    doctor::DoctorArguments,
    instance::InstanceArguments,
    passwd::PasswdArguments,
    plan::PlanArguments,
    stats::StatsArguments,
    store::StoreArguments,
    top::TopArguments,
};

/// Reads the command line. Ends the process for `--help` and `--version` (exit code 0) and for what
/// cannot be read (exit code 2).
pub(crate) fn parse() -> Command {
    resolve(Arguments::parse())
}

/// An MQTT broker: 3.1, 3.1.1 and 5.0, thread per core, on io_uring.
///
/// Without a command, `midge` serves.
#[derive(Debug, Parser)]
#[command(name = "midge", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: ServeArguments,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the broker.
    Serve(ServeArguments),
    /// Check a configuration file without running the broker.
    Check(CheckArguments),
    /// Tell what on this host would stop or hurt so many connections, and what to run.
    Doctor(DoctorArguments),
    /// Compute what so many connections need: memory, descriptors, cores, network.
    Plan(PlanArguments),
    /// Show every number of a running broker, core by core.
    Stats(StatsArguments),
    /// Watch a running broker: its cores, latencies, busiest clients and topics.
    Top(TopArguments),
    /// List the clients of a running broker.
    Clients(ClientsArguments),
    /// List the subscriptions of a running broker.
    Subscriptions(SubscriptionsArguments),
    /// List the retained messages of a running broker.
    Retained(RetainedArguments),
    /// Close the connection of a client.
    Kick(KickArguments),
    /// List who is banned.
    Bans(BansArguments),
    /// Keep a client or an address from connecting, and close its connections.
    Ban(BanArguments),
    /// Lift a ban.
    Unban(UnbanArguments),
    /// Have a running broker read its configuration, certificates, users and rules again.
    Reload(ReloadArguments),
    /// Tell who would get a message to a topic, by which filter, over which hops.
    Explain(ExplainArguments),
    /// Add, change or remove a user in a password file.
    Passwd(PasswdArguments),
    /// Look into a data directory, also one on which a broker runs.
    Store(StoreArguments),
}

/// Options of `midge serve`.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct ServeArguments {
    /// Configuration file (YAML). Without one, the defaults hold.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Listen on this IP address and port instead of those of the configuration; may be repeated.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) listen: Vec<SocketAddr>,

    /// Number of shards, 1 to 1024, or `auto` for one on each core.
    #[arg(long, value_name = "N", value_parser = shards)]
    pub(crate) shards: Option<ShardCount>,

    /// Keep sessions, queued and retained messages in this directory, and acknowledge what it has.
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Keep everything in memory: nothing outlives the process.
    #[arg(long)]
    pub(crate) ephemeral: bool,

    /// Serve clients without a user name, also from other machines.
    #[arg(long)]
    pub(crate) allow_anonymous: bool,

    /// Directory in which `midge clients` and the like find this broker.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,

    /// Serve metrics and health over HTTP on this IP address and port, such as 127.0.0.1:18083.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) admin: Option<SocketAddr>,
}

/// Options of `midge check`.
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct CheckArguments {
    /// Configuration file (YAML). With --diff it may be left out: then it is the running broker's own.
    #[arg(long, value_name = "FILE", required_unless_present = "diff")]
    pub(crate) config: Option<PathBuf>,

    /// Ask the running broker what a reload of this file would change, and what it would refuse. Nothing is changed.
    #[arg(long)]
    pub(crate) diff: bool,

    #[command(flatten)]
    pub(crate) instance: InstanceArguments,

    /// With --diff: one JSON object instead of lines.
    #[arg(long, requires = "diff")]
    pub(crate) json: bool,
}

/// A number of shards as typed; its range is the settings' to check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ShardCount(pub(crate) Auto<u16>);

fn resolve(arguments: Arguments) -> Command {
    arguments.command.unwrap_or(Command::Serve(arguments.serve))
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(
        |_| "expected an IP address and a port, such as 127.0.0.1:1883, 0.0.0.0:1883 or [::1]:1883",
    )
}

fn shards(text: &str) -> Result<ShardCount, &'static str> {
    match text {
        "auto" => Ok(ShardCount(Auto::Auto)),
        text => match text.parse() {
            Ok(shards) => Ok(ShardCount(Auto::Value(shards))),
            Err(_) => Err("expected auto or a whole number from 1 to 1024"),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn read(line: &str) -> Result<Command, ErrorKind> {
        let words = std::iter::once("midge").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(resolve).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn command_lines_are_read() {
        let listen = |text: &str| ServeArguments {
            listen: vec![text.parse().expect("an address")],
            ..ServeArguments::default()
        };
        for (line, expected) in [
            ("", ServeArguments::default()),
            ("serve", ServeArguments::default()),
            ("serve --ephemeral", ServeArguments { ephemeral: true, ..Default::default() }),
            (
                "serve --data-dir /var/lib/midge",
                ServeArguments { data_dir: Some("/var/lib/midge".into()), ..Default::default() },
            ),
            ("serve --listen [::1]:1883", listen("[::1]:1883")),
            ("--listen 127.0.0.1:0", listen("127.0.0.1:0")),
            (
                "serve --admin 127.0.0.1:18083",
                ServeArguments {
                    admin: Some("127.0.0.1:18083".parse().unwrap()),
                    ..Default::default()
                },
            ),
            (
                "serve --config a.yaml --listen 127.0.0.1:1 --listen 127.0.0.1:2 --shards 8 \
                 --runtime-dir /run/a",
                ServeArguments {
                    config: Some("a.yaml".into()),
                    listen: ["127.0.0.1:1", "127.0.0.1:2"].map(|a| a.parse().unwrap()).into(),
                    shards: Some(ShardCount(Auto::Value(8))),
                    data_dir: None,
                    ephemeral: false,
                    allow_anonymous: false,
                    runtime_dir: Some("/run/a".into()),
                    ..Default::default()
                },
            ),
            (
                "serve --shards auto",
                ServeArguments { shards: Some(ShardCount(Auto::Auto)), ..Default::default() },
            ),
        ] {
            match read(line) {
                Ok(Command::Serve(found)) => assert_eq!(found, expected, "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        match read("check --config a.yaml") {
            Ok(Command::Check(found)) => assert_eq!(found.config, Some(PathBuf::from("a.yaml"))),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn command_lines_that_are_none() {
        for (line, error) in [
            ("dance", ErrorKind::InvalidSubcommand),
            ("serve --foo", ErrorKind::UnknownArgument),
            ("serve --listen", ErrorKind::InvalidValue),
            ("serve --listen localhost:1883", ErrorKind::ValueValidation),
            ("serve --listen 1883", ErrorKind::ValueValidation),
            ("serve --shards many", ErrorKind::ValueValidation),
            ("serve --shards -1", ErrorKind::UnknownArgument),
            ("serve --shards 70000", ErrorKind::ValueValidation),
            ("check", ErrorKind::MissingRequiredArgument),
            ("check --config a.yaml --json", ErrorKind::MissingRequiredArgument),
            ("kick", ErrorKind::MissingRequiredArgument),
            ("explain", ErrorKind::MissingRequiredArgument),
            ("clients --connected --disconnected", ErrorKind::ArgumentConflict),
            ("clients --limit many", ErrorKind::ValueValidation),
            ("clients --address localhost", ErrorKind::ValueValidation),
            ("--help", ErrorKind::DisplayHelp),
            ("--version", ErrorKind::DisplayVersion),
        ] {
            assert_eq!(read(line).map(|command| format!("{command:?}")), Err(error), "{line}");
        }
    }
}

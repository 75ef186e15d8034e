//! `midge bans`, `midge ban`, `midge unban`: who may not connect for now.

use std::{
    io::{self, Write},
    net::IpAddr,
};

use clap::Args;
use midge_config::Period;

use crate::{
    control::{
        client,
        protocol::{BanRequest, Banned, BansRequest, Line, Request, UnbanRequest},
    },
    failure::Failure,
    instance::InstanceArguments,
};

use super::{list, table::printable};

/// Options of `midge bans`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct BansArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Options of `midge ban`.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct BanArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    #[command(flatten)]
    whom: Whom,

    /// How long: 10s, 5m, 2h, 7d. Without it until `midge unban`, or the end of the broker.
    #[arg(long = "for", value_name = "TIME", value_parser = period)]
    duration: Option<Period>,
}

/// Options of `midge unban`.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct UnbanArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    #[command(flatten)]
    whom: Whom,
}

#[derive(Clone, Debug, PartialEq, Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// The client with this identifier.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,

    /// Clients from this IP address; of IPv6 from its network of 64 bits.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
}

fn period(text: &str) -> Result<Period, &'static str> {
    text.parse().map_err(|_| "expected a time such as 30s, 5m, 2h or 7d")
}

/// # Errors
/// When no broker answers.
pub(crate) fn list(arguments: &BansArguments) -> Result<(), Failure> {
    let mut count = 0;
    client::ask(&arguments.instance, &Request::Bans(BansRequest {}), |line| {
        let Line::Banned(banned) = line else { return Ok(()) };
        count += 1;
        if arguments.json {
            return list::json_line(&mut io::stdout(), &banned);
        }
        say(&sentence(&banned))
    })?;
    if count == 0 && !arguments.json { say("nobody is banned") } else { Ok(()) }
}

/// # Errors
/// When no broker answers.
pub(crate) fn ban(arguments: &BanArguments) -> Result<(), Failure> {
    let Whom { client_id, address } = arguments.whom.clone();
    let seconds = arguments.duration.map(Period::seconds);
    let request = Request::Ban(BanRequest { client_id, address, seconds });
    client::ask(&arguments.instance, &request, |line| match line {
        Line::Banned(banned) => say(&sentence(&banned)),
        Line::Kicked(kicked) => say(&format!("closed `{}`", printable(&kicked.client_id))),
        _ => Ok(()),
    })?;
    Ok(())
}

/// # Errors
/// When nobody of the kind is banned, or no broker answers.
pub(crate) fn unban(arguments: &UnbanArguments) -> Result<(), Failure> {
    let Whom { client_id, address } = arguments.whom.clone();
    let request = Request::Unban(UnbanRequest { client_id, address });
    let end = client::ask(&arguments.instance, &request, |line| match line {
        Line::Unbanned(banned) => say(&format!("no longer banned: {}", who(&banned))),
        _ => Ok(()),
    })?;
    match end.rows {
        0 => Err(Failure::Other("there is no such ban; midge bans lists them".into())),
        _ => Ok(()),
    }
}

fn say(sentence: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{sentence}").map_err(|error| list::unwritten(&error))
}

fn who(banned: &Banned) -> String {
    match (&banned.client_id, banned.address) {
        (Some(client_id), _) => format!("client `{}`", printable(client_id)),
        (None, Some(address)) => format!("address {address}"),
        (None, None) => "nobody".into(),
    }
}

fn sentence(banned: &Banned) -> String {
    let time = match banned.seconds {
        Some(seconds) => format!("for {seconds} s"),
        None => "until unbanned".into(),
    };
    format!("{} is banned {time}: {}", who(banned), printable(&banned.cause))
}

//! `midge kick`: close a client's connection.

use std::io::{self, Write};

use clap::Args;

use crate::{
    control::{
        client,
        protocol::{KickRequest, Kicked, Line, Outcome, Request},
    },
    failure::Failure,
    instance::InstanceArguments,
};

use super::{list, table::printable};

/// Options of `midge kick`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct KickArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    /// The client's id. It is told (5.0: 0x98), its will is published, its session stays for as long as it asked; it may
    /// come back at once.
    #[arg(value_name = "CLIENT_ID")]
    client_id: String,

    /// The outcome as a JSON object.
    #[arg(long)]
    json: bool,
}

/// # Errors
/// When there is no such client, it has no connection, or no broker answers.
pub(crate) fn run(arguments: &KickArguments) -> Result<(), Failure> {
    let request = Request::Kick(KickRequest { client_id: arguments.client_id.clone() });
    let mut kicked = None;
    client::ask(&arguments.instance, &request, |line| {
        if let Line::Kicked(outcome) = line {
            kicked = Some(outcome);
        }
        Ok(())
    })?;
    let Some(kicked) = kicked else {
        return Err(Failure::Other("the broker did not say what became of the client".into()));
    };
    if arguments.json {
        list::json_line(&mut io::stdout(), &kicked)?;
        return if kicked.outcome == Outcome::Closed { Ok(()) } else { Err(Failure::Told) };
    }
    let sentence = sentence(&kicked);
    if kicked.outcome != Outcome::Closed {
        return Err(Failure::Other(sentence));
    }
    writeln!(io::stdout(), "{sentence}").map_err(|error| list::unwritten(&error))
}

fn sentence(kicked: &Kicked) -> String {
    let client_id = printable(&kicked.client_id);
    match kicked.outcome {
        Outcome::Closed => format!("the connection of `{client_id}` is closed"),
        Outcome::NotConnected => format!("`{client_id}` has no connection; its session is kept"),
        Outcome::Unknown => format!("there is no client `{client_id}`"),
    }
}

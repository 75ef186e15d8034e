//! `midge clients`: who is there.

use std::net::IpAddr;

use clap::Args;

use crate::{
    control::{
        client,
        protocol::{Client, ClientsRequest, Line, Request},
    },
    failure::Failure,
    instance::InstanceArguments,
    units,
};

use super::{
    list::{ListArguments, Listing},
    table::{numbers, words},
};

/// Options of `midge clients`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct ClientsArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    #[command(flatten)]
    list: ListArguments,

    /// Only the client with exactly this id.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,

    /// Only clients whose ids begin with this.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,

    /// Only clients with a connection.
    #[arg(long, conflicts_with = "disconnected")]
    connected: bool,

    /// Only clients that are away and whose sessions are kept.
    #[arg(long)]
    disconnected: bool,

    /// Only clients connected from this IP address.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
}

/// # Errors
/// When no broker answers, or not as it should.
pub(crate) fn run(arguments: &ClientsArguments) -> Result<(), Failure> {
    let request = Request::Clients(ClientsRequest {
        limit: arguments.list.limit(),
        after: arguments.list.after.clone(),
        client_id: arguments.client_id.clone(),
        prefix: arguments.prefix.clone(),
        connected: match (arguments.connected, arguments.disconnected) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        address: arguments.address,
    });
    let columns = [
        words("CLIENT ID"),
        words("STATE"),
        numbers("SINCE"),
        words("ADDRESS"),
        words("VERSION"),
        numbers("KEEP ALIVE"),
        numbers("SESSION"),
        numbers("SUBSCRIPTIONS"),
        numbers("QUEUED"),
        numbers("IN FLIGHT"),
        numbers("SHARD"),
    ];
    let mut listing = Listing::new(&arguments.list, "such client", columns);
    let end = client::ask(&arguments.instance, &request, |line| match line {
        Line::Client(row) => listing.row(&row, cells),
        _ => Ok(()),
    })?;
    listing.end(&end)
}

fn cells(client: &Client) -> [String; 11] {
    let absent = || "-".to_owned();
    [
        client.client_id.clone(),
        if client.connected { "connected" } else { "away" }.into(),
        units::age(client.since_seconds.into()),
        client.address.map_or_else(absent, |address| address.to_string()),
        client.version.clone().unwrap_or_else(absent),
        match client.keep_alive_seconds {
            Some(0) => "off".into(),
            Some(seconds) => units::age(seconds.into()),
            None => absent(),
        },
        match client.session_expiry_interval_seconds {
            // It ends with the connection.
            Some(0) => "clean".into(),
            Some(seconds) => units::age(seconds.into()),
            None => "for ever".into(),
        },
        client.subscriptions.to_string(),
        client.queued.to_string(),
        client.in_flight.to_string(),
        client.shard.to_string(),
    ]
}

//! `midge subscriptions`: who wants what.

use clap::Args;

use crate::{
    control::{
        client,
        protocol::{Line, Request, Subscription, SubscriptionsRequest},
    },
    failure::Failure,
    instance::InstanceArguments,
};

use super::{
    list::{ListArguments, Listing},
    table::{Column, numbers, words},
};

/// Options of `midge subscriptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct SubscriptionsArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    #[command(flatten)]
    list: ListArguments,

    /// Only those of this client; shared ones as its own memberships.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,

    /// Only those to exactly this filter, such as a/# or $share/name/a/#. (For filters that match a topic: midge explain.)
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
}

/// # Errors
/// When no broker answers, or not as it should.
pub(crate) fn run(arguments: &SubscriptionsArguments) -> Result<(), Failure> {
    let request = Request::Subscriptions(SubscriptionsRequest {
        limit: arguments.list.limit(),
        after: arguments.list.after.clone(),
        client_id: arguments.client_id.clone(),
        filter: arguments.filter.clone(),
    });
    let mut listing = Listing::new(&arguments.list, "such subscription", COLUMNS);
    let end = client::ask(&arguments.instance, &request, |line| match line {
        Line::Subscription(row) => listing.row(&row, cells),
        _ => Ok(()),
    })?;
    listing.end(&end)
}

pub(super) const COLUMNS: [Column; 6] = [
    words("FILTER"),
    words("SUBSCRIBER"),
    words("STATE"),
    numbers("QOS"),
    words("OPTIONS"),
    numbers("SHARD"),
];

pub(super) fn cells(row: &Subscription) -> [String; 6] {
    let mut options = Vec::new();
    if row.no_local == Some(true) {
        options.push("no local".to_owned());
    }
    if row.retain_as_published == Some(true) {
        options.push("retain as published".to_owned());
    }
    options
        .extend(row.subscription_identifier.map(|identifier| format!("identifier {identifier}")));
    let subscriber = match (&row.client_id, row.members) {
        (Some(client_id), _) => client_id.clone(),
        (None, Some(1)) => "(1 member)".into(),
        (None, members) => format!("({} members)", members.unwrap_or_default()),
    };
    let state = match (row.connected, row.online, row.backlog) {
        (Some(true), ..) => "connected".into(),
        (Some(false), ..) => "away".into(),
        (None, online, Some(backlog)) if backlog > 0 => {
            format!("{} online, {backlog} waiting", online.unwrap_or_default())
        }
        (None, online, _) => format!("{} online", online.unwrap_or_default()),
    };
    [
        row.filter.clone(),
        subscriber,
        state,
        row.qos.map_or_else(|| "-".into(), |qos| qos.to_string()),
        options.join(", "),
        row.shard.to_string(),
    ]
}

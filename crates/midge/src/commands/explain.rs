//! `midge explain`: who would get a message to a topic, by which filter, over which hops, and which rules let whom.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use clap::Args;

use crate::{
    control::{
        client,
        protocol::{ExplainRequest, Explained, Line, Request},
    },
    failure::Failure,
    instance::InstanceArguments,
    units,
};

use super::{
    list,
    subscriptions::{COLUMNS, cells},
    table::{Table, numbers, printable, words},
};

/// Options of `midge explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    /// A topic, without wildcards. Nothing is published.
    #[arg(value_name = "TOPIC")]
    topic: String,

    /// The publisher: to count the hops from its home shard, and to say what it may do with the topic, and which rule says so.
    #[arg(long, value_name = "CLIENT_ID")]
    from: Option<String>,

    /// The user name of a publisher that has no session.
    #[arg(long, value_name = "NAME", requires = "from")]
    user: Option<String>,

    /// Everything as one JSON object.
    #[arg(long)]
    json: bool,
}

/// # Errors
/// When no broker answers, or not as it should.
pub(crate) fn run(arguments: &ExplainArguments) -> Result<(), Failure> {
    let request = Request::Explain(ExplainRequest {
        topic: arguments.topic.clone(),
        from: arguments.from.clone(),
        user: arguments.user.clone(),
    });
    let mut explained = None;
    client::ask(&arguments.instance, &request, |line| {
        if let Line::Explained(found) = line {
            explained = Some(found);
        }
        Ok(())
    })?;
    let Some(explained) = explained else {
        return Err(Failure::Other("the broker explained nothing".into()));
    };
    if arguments.json {
        return list::json_line(&mut io::stdout(), &explained);
    }
    io::stdout().write_all(text(&explained).as_bytes()).map_err(|error| list::unwritten(&error))
}

/// What a person reads.
fn text(explained: &Explained) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    _ = writeln!(text, "topic         {}", printable(&explained.topic));
    _ = writeln!(text, "receivers     {}", receivers(explained));
    let keeper = explained.keeper;
    _ = match &explained.retained {
        Some(retained) => writeln!(
            text,
            "retained      {}, QoS {}, {} old, kept by shard {keeper}",
            units::human(retained.payload_bytes as u64),
            retained.qos,
            units::age(retained.age_seconds),
        ),
        None => writeln!(text, "retained      none (shard {keeper} would keep it)"),
    };
    let named = explained.shards.iter().filter(|shard| shard.named);
    let named: Vec<String> = named
        .map(|shard| match shard.filters {
            0 => format!("{} (has no subscriber: a wasted hop)", shard.shard),
            _ => shard.shard.to_string(),
        })
        .collect();
    _ = match named.len() {
        0 => writeln!(text, "sent to       no shard"),
        1 => writeln!(text, "sent to       shard {}", named[0]),
        _ => writeln!(text, "sent to       shards {}", named.join(", ")),
    };
    let hops = match (explained.hops_min, explained.hops_max) {
        (min, max) if min == max => min.to_string(),
        (min, max) => format!("{min} to {max}, by where the publisher is at home"),
    };
    _ = match explained.from {
        Some(home) => {
            writeln!(text, "hops          {hops} from the publisher's home, shard {home}")
        }
        None => writeln!(text, "hops          {hops}"),
    };
    if let Some(rights) = &explained.rights {
        let user = match (&rights.user, rights.absent) {
            (Some(user), _) => format!("as {}", printable(user)),
            (None, _) => "without a user name".into(),
        };
        let absent = if rights.absent { ", which has no session" } else { "" };
        _ = writeln!(text, "publisher     {} {user}{absent}", printable(&rights.client_id));
        for (name, decision) in [
            ("may publish", &rights.publish),
            ("may subscribe", &rights.subscribe),
            ("may receive", &rights.receive),
        ] {
            let answer = if decision.allowed { "yes" } else { "no" };
            _ = writeln!(text, "{name:<13} {answer}: {}", printable(&decision.why));
        }
    }
    for denied in &explained.denied {
        let client_id = printable(&denied.client_id);
        _ = writeln!(text, "not received  by {client_id}: {}", printable(&denied.why));
    }
    if !explained.groups.is_empty() {
        text.push('\n');
        text.push_str(&groups(explained));
    }
    if !explained.receivers.is_empty() {
        let mut out = Vec::new();
        let mut table = Table::new(COLUMNS);
        for row in &explained.receivers {
            _ = table.row(cells(row), &mut out);
        }
        _ = table.end(&mut out);
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&out));
    }
    if !explained.complete {
        let shown = explained.receivers.len();
        _ = writeln!(text, "… and {} more", explained.subscriptions.saturating_sub(shown));
    }
    text
}

fn receivers(explained: &Explained) -> String {
    let counted = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        count => format!("{} {noun}s", units::count(count as u64)),
    };
    match (explained.subscriptions, explained.groups.len()) {
        (0, 0) => "nobody".into(),
        (own, 0) => counted(own, "subscription"),
        (0, groups) => counted(groups, "shared subscription"),
        (own, groups) => {
            format!(
                "{} and {}",
                counted(own, "subscription"),
                counted(groups, "shared subscription")
            )
        }
    }
}

fn groups(explained: &Explained) -> String {
    let mut table = Table::new([
        words("SHARED SUBSCRIPTION"),
        numbers("MEMBERS"),
        numbers("ONLINE"),
        numbers("WAITING"),
        words("NEXT"),
        numbers("SHARD"),
    ]);
    let mut out = Vec::new();
    for group in &explained.groups {
        let next = match (&group.next_client_id, group.next_shard) {
            (Some(client_id), Some(shard)) if shard == group.shard => client_id.clone(),
            (Some(client_id), Some(shard)) => {
                format!("{client_id} (one more hop, to shard {shard})")
            }
            _ => "nobody: it waits".into(),
        };
        let cells = [
            group.filter.clone(),
            group.members.to_string(),
            group.online.to_string(),
            group.backlog.to_string(),
            next,
            group.shard.to_string(),
        ];
        _ = table.row(cells, &mut out);
    }
    _ = table.end(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

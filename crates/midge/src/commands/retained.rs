//! `midge retained`: what new subscribers get.

use clap::Args;

use crate::{
    control::{
        client,
        protocol::{Line, Request, Retained, RetainedRequest},
    },
    failure::Failure,
    instance::InstanceArguments,
    units,
};

use super::{
    list::{ListArguments, Listing},
    table::{numbers, words},
};

/// Options of `midge retained`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct RetainedArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    #[command(flatten)]
    list: ListArguments,

    /// Only topics that match this filter, such as a/+/b or $SYS/#. Without it: all but those below $SYS.
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
}

/// # Errors
/// When no broker answers, or not as it should.
pub(crate) fn run(arguments: &RetainedArguments) -> Result<(), Failure> {
    let request = Request::Retained(RetainedRequest {
        limit: arguments.list.limit(),
        after: arguments.list.after.clone(),
        filter: arguments.filter.clone(),
    });
    let columns = [
        words("TOPIC"),
        numbers("SIZE"),
        numbers("QOS"),
        numbers("AGE"),
        numbers("EXPIRES IN"),
        numbers("SHARD"),
    ];
    let mut listing = Listing::new(&arguments.list, "such retained message", columns);
    let end = client::ask(&arguments.instance, &request, |line| match line {
        Line::Retained(row) => listing.row(&row, cells),
        _ => Ok(()),
    })?;
    listing.end(&end)
}

fn cells(row: &Retained) -> [String; 6] {
    [
        row.topic.clone(),
        units::human(row.payload_bytes as u64),
        row.qos.to_string(),
        units::age(row.age_seconds),
        row.expiry_interval_seconds
            .map_or_else(|| "-".into(), |seconds| units::age(seconds.into())),
        row.shard.to_string(),
    ]
}

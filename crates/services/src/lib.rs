//! What the broker does beside packets, on Tokio: the admin endpoint, with metrics for Prometheus and health for whoever
//! starts and balances processes, and what is asked of other services over HTTP.
//!
//! | file | what it does |
//! |---|---|
//! | `admin` | the HTTP server: routes, answers, bounds |
//! | `ailments` | what ails the durable logs |
//! | `breaker` | a service that does not answer is left alone for a while |
//! | `exposition` | statistics pages → Prometheus text |
//! | `outgoing` | the HTTP client: one answer for each question, or one body again and again |
//! | `process` | what the kernel says about this process |
//! | `pulse` | which shards have stopped saying anything |
//! | `standing` | starts, serves, drains |
//! | `throttle` | so many a second and no more |
//!
//! # Invariants worth naming
//! - A shard is never asked. Everything comes from the statistics pages, which a shard writes whether or not anybody
//!   reads; so a scrape, or a flood of them, costs shards nothing but what else runs on their cores.
//! - That is bounded: one thread of low priority, [`CONNECTIONS_MAX`] connections, [`REQUESTS_PER_SECOND_MAX`] requests
//!   and [`CONNECTIONS_PER_SECOND_MAX`] new connections a second. Beyond, requests wait; none is answered faster for being
//!   asked more often.
//! - Label values are closed sets or come from the configuration. No client id and no topic ever becomes a label.
//!
//! # Deliberately absent
//! Authentication and TLS: the endpoint tells numbers, and belongs on an address that only operators reach. Anything
//! that changes the broker.
#![forbid(unsafe_code)]

mod admin;
mod ailments;
mod breaker;
mod exposition;
mod outgoing;
mod process;
mod pulse;
mod standing;
mod throttle;

pub use admin::{
    CONNECTIONS_MAX, CONNECTIONS_PER_SECOND_MAX, HEADER_TIMEOUT, REQUEST_HEAD_BYTES_MAX,
    REQUESTS_PER_SECOND_MAX, Services, Starting, View, start,
};
pub use ailments::Ailments;
pub use exposition::{ListenerCounter, ListenerLabel, ListenerLabels, ListenerNumbers};
pub use outgoing::{BODY_SIZE_MAX, Caller, CallerSettings, Outcome, Outgoing, Refresher};
pub use pulse::{Pulse, SILENCE_MAX};
pub use standing::{Stage, Standing};

//! One client's protocol state machine: handshake, QoS 1 and 2, in-flight, aliases, will, keep-alive.
//!
//! Plain values and functions. The shard decodes a packet, asks this room what it means for the client, and encodes
//! the answer. What lives here is what one client's packets change and nothing else: whose subscription matches
//! what is the topic room's business, and who receives what is the shard's.
//!
//! | file | what it holds |
//! |---|---|
//! | [`handshake`] | CONNECT in, agreed terms or a refusal out |
//! | [`session`](mod@session) | the state that can outlive a connection |
//! | [`inbound`] | QoS 2 packet ids received and not released; what the client has in flight towards us |
//! | [`outbound`] | what is in flight towards the client, and what waits for a place |
//! | [`stubs`] | the index of queued messages whose payload is in the log alone |
//! | [`publication`] | an Application Message inside the broker |
//! | [`spares`] | memory of those that are done with, for those that come |
//! | [`alias`] | Topic Aliases of both directions |
//! | [`options`] | Subscription Options in four bytes |
//! | [`time`] | time as an argument |
//!
//! # Deliberately absent
//! No socket, no clock (every function that needs the time is given it), no randomness (assigned client ids are made
//! by the shard), no topic matching, no encoding.
//!
//! # Invariants worth naming
//! - A packet id is never zero and never used twice at once in one direction ([`outbound::Outbound::check_integrity`]).
//! - The in-flight window never exceeds the client's Receive Maximum [MQTT-3.3.4-9].
//! - Messages are sent, and sent again after a reconnect, in the order in which they were offered [MQTT-4.6.0-1].
//! - Every queue has a bound in messages and in bytes, and says so when it is full.
#![forbid(unsafe_code)]

#[macro_use]
mod mutant;

pub mod alias;
pub mod handshake;
pub mod inbound;
pub mod options;
pub mod outbound;
pub mod publication;
pub mod session;
pub mod spares;
pub mod stubs;
pub mod time;

pub use handshake::{Limits, Refusal, Terms};
pub use inbound::Inbound;
pub use options::{SUBSCRIPTION_IDENTIFIER_MAX, SubscriptionOptions};
pub use outbound::{
    Acknowledged, Delivery, DeliveryExtra, Fetched, Keep, Kept, KeptMessage, Offer, Outbound,
    QueueLimits, Resend, Spilled,
};
pub use publication::{Author, Keeping, Publication, Writer};
pub use session::{Session, Will};
pub use spares::Spares;
pub use stubs::{Stub, Stubs};
pub use time::Time;

//! Commands that ask a running broker, each in a file of its own.

pub(crate) mod bans;
pub(crate) mod clients;
pub(crate) mod explain;
pub(crate) mod kick;
pub(crate) mod list;
pub(crate) mod reload;
pub(crate) mod retained;
pub(crate) mod subscriptions;
mod table;

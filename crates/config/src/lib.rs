//! Settings: load → default → validate, each step in its own file.
//!
//! One struct tree, [`Config`], is the whole vocabulary (`model.rs`). [`Config::default`] is a
//! broker that serves (`default.rs`); [`load()`] reads a YAML file over it, so that a file holds
//! only what differs (`load.rs`); [`Config::validate`] checks every range and every relation
//! between settings and reports all problems at once (`validate.rs`).
//!
//! # Invariants
//! - An unknown key, a duplicate key or a value of the wrong type is an error that names file,
//!   line, column and key. Nothing in a file is ignored.
//! - `configs/default.yaml` equals [`Config::default`] and shows every key; tests hold it to that.
//! - Reading a file is bounded: [`FILE_SIZE_MAX`] bytes and the budgets in `load.rs`, so that
//!   a hostile file (deep nesting, alias bombs) costs an error, not memory.
//!
//! # Deliberately absent
//! - The machine. Nothing here asks how many cores or descriptors there are: `auto` stays `auto`
//!   until the program resolves it. So a file can be checked on another machine.
//! - Environment variables and includes: one file and the command line are the whole truth.

#![forbid(unsafe_code)]

mod admin;
mod audit;
mod default;
mod error;
mod http;
mod jwt;
mod load;
mod model;
mod place;
mod positions;
mod protection;
mod sandbox;
mod security;
mod transport;
mod units;
mod validate;
mod validate_transport;
mod written;

#[cfg(test)]
mod tests;

pub use admin::Admin;
pub use audit::Audit;
pub use error::ConfigError;
pub use http::HttpAuthenticator;
pub use jwt::Jwt;
pub use load::{DEFAULT_FILE, FILE_SIZE_MAX, Loaded, load, parse};
pub use model::{
    Config, Durability, DurabilityLevel, Limits, Listener, Log, LogFormat, LogLevel, Performance,
    RecoveryMode, Runtime, Shutdown, Sys, TopicDurability,
};
pub use place::Place;
pub use positions::Origin;
pub use protection::{BanRule, ListenerLimits};
pub use sandbox::{Sandbox, SandboxMode};
pub use security::{Authenticator, CertificateName, DenyAction, Security};
pub use transport::{
    Address, ClientCertificates, FileMode, NamedCertificate, Protocol, ProxyProtocol, Tls,
    TlsVersion, WebSocket,
};
pub use units::{Auto, ByteSize, Choice, Expiry, Period, UnitError};
pub use validate::{Problem, SHARDS_MAX};

//! What a client shows, and what is said about it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::Authenticator;
use crate::rights::GrantedRights;
use crate::scram::Exchange;
use crate::secret::Secret;

/// Everything that one client shows, for whoever is asked about it.
#[derive(Debug, Clone)]
pub struct Login {
    /// Who is asked.
    pub asked: Authenticator,
    /// The listener, by its place in the configuration.
    pub listener: u16,
    /// The client's own address, behind whatever proxies.
    pub peer: IpAddr,
    /// Empty when the broker will choose one.
    pub client_id: Box<str>,
    /// The user name of the CONNECT.
    pub user: Option<Box<str>>,
    /// The password of the CONNECT. `None`: there was none, which is not the same as an empty one.
    pub password: Option<Secret>,
    /// The Common Name of the client's verified certificate.
    pub common_name: Option<Box<str>>,
    /// Of enhanced authentication, and only with it.
    pub step: Option<Step>,
}

/// What a client says in enhanced authentication.
#[derive(Debug, Clone)]
pub enum Step {
    /// The first message.
    First(Secret),
    /// The second, and what the first one and its answer have come to.
    Final(Box<Exchange>, Secret),
}

/// What a client is asked in enhanced authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// For the client.
    pub data: Box<[u8]>,
    /// For [`Step::Final`].
    pub exchange: Exchange,
}

/// The answer about a [`Login`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The client is who it says.
    Granted(Box<Grant>),
    /// Its first message was good, and this is the answer; it has to say more.
    Continue(Box<Challenge>),
    /// It is not.
    Refused,
    /// Whoever was asked does not know this client: the next one is asked.
    Unknown,
    /// Too many wait for an answer.
    Busy,
    /// Whoever would have to answer cannot be reached.
    Unavailable,
}

/// What a client that was let in got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Who it is; `None`: nobody in particular.
    pub user: Option<Box<str>>,
    /// For the client, at the end of enhanced authentication: the broker's own proof.
    pub data: Option<Box<[u8]>>,
    /// What it may do, where whoever answered has said so.
    pub rights: Option<Arc<GrantedRights>>,
    /// Until when it may stay, in seconds from now; `None`: for as long as it likes.
    pub valid_for_seconds: Option<u64>,
}

impl Verdict {
    /// The client is this user, and nothing else is said about it.
    #[must_use]
    pub fn user(name: &str) -> Self {
        Self::Granted(Box::new(Grant { user: Some(name.into()), ..Grant::default() }))
    }
}

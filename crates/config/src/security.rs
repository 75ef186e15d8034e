//! Settings of who may connect, and what they may do.

use std::path::PathBuf;

use serde::Deserialize;

use crate::units::{Choice, Period};
use crate::validate::Problems;

/// Who may connect, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// Whether clients without a user name are served. Default `auto`: yes, while there is no password file and every listener
    /// is on a loopback address.
    pub allow_anonymous: Choice,

    /// Users and their hashed passwords, in mosquitto's format. Default `null`: user names are not checked and mean
    /// nothing. Read at the start and at SIGHUP.
    pub password_file: Option<PathBuf>,

    /// What each may do, in mosquitto's syntax. Default `null`: everything. Read at the start and at SIGHUP.
    pub acl_file: Option<PathBuf>,

    /// What happens to a client that publishes where it must not. Default `ignore`.
    pub deny_action: DenyAction,

    /// Threads that check passwords, 1 to 64, default 1. One `$argon2id$` password of usual strength takes one of them
    /// about 40 ms and 46 MiB; when 1,024 clients wait, more are told that the broker is busy (0x89).
    pub password_threads: u16,

    /// How long a password that was right is known to be right, in memory, as a keyed hash: up to 1 h, default 1 min, 0 not at
    /// all. A reload forgets all of them.
    pub password_cache: Period,
}

/// See [`Security::deny_action`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum DenyAction {
    /// The message goes nowhere; a 5.0 client whose packet has an answer is told (0x87).
    #[default]
    Ignore,
    /// The client is disconnected (0x87).
    Disconnect,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            allow_anonymous: Choice::Auto,
            password_file: None,
            acl_file: None,
            deny_action: DenyAction::Ignore,
            password_threads: 1,
            password_cache: Period::from_seconds(60),
        }
    }
}

impl Security {
    pub(crate) fn check(&self, problems: &mut Problems) {
        problems.range("security.password_threads", self.password_threads, 1, 64);
        let (zero, hour) = (Period::default(), Period::from_seconds(3600));
        problems.range("security.password_cache", self.password_cache, zero, hour);
    }
}

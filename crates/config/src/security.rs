//! Settings of who may connect, and what they may do.

use std::path::PathBuf;

use serde::Deserialize;

use crate::http::HttpAuthenticator;
use crate::jwt::Jwt;
use crate::model::Listener;
use crate::protection::{BanRule, check_patterns};
use crate::units::{Choice, Period};
use crate::validate::Problems;

/// Who may connect, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// Who is asked about a client, in this order, on listeners that say nothing of their own; the first answer wins, and
    /// about whom nobody says anything is not let in. Not empty, none twice. Default `null`: whatever is configured below
    /// (SCRAM, tokens, the password file, the HTTP service), then `anonymous` as `allow_anonymous` says.
    pub authenticators: Option<Vec<Authenticator>>,

    /// Whether clients without a user name are served: `anonymous` at the end of every chain (true), or in none (false).
    /// Default `auto`: as `authenticators` say; without those, yes while nobody could be asked about a client and every
    /// listener is on a loopback address.
    pub allow_anonymous: Choice,

    /// Where in a client's certificate its user name stands, for `certificate` among the authenticators.
    /// Default `common_name`.
    pub certificate_name: CertificateName,

    /// Users and their hashed passwords, in mosquitto's format. Default `null`: user names are not checked and mean
    /// nothing. Read at the start and at each reload.
    pub password_file: Option<PathBuf>,

    /// Users and their SCRAM-SHA-256 verifiers, as `midge passwd --scram` writes them. Default `null`: enhanced authentication is
    /// refused (0x8C). Read at the start and at each reload.
    pub scram_file: Option<PathBuf>,

    /// Who signs the tokens that clients show as passwords. Default `null`: a token is a password like any other.
    pub jwt: Option<Jwt>,

    /// A service that is asked about clients over HTTP. Default `null`: none is.
    pub http: Option<HttpAuthenticator>,

    /// What each may do, in mosquitto's syntax. Default `null`: everything. Read at the start and at each reload.
    pub acl_file: Option<PathBuf>,

    /// Client identifiers that are let in: any of these patterns, in which `*` is anything, `?` one character and `%u` the
    /// client's user name. Others are refused (0x85). At most 64 of 256 bytes. Default: none, which lets all in. A client
    /// that leaves its identifier to the broker says an empty one.
    pub client_ids: Vec<String>,

    /// User names that are let in, the same way. Others are refused like a wrong password. Default: none, which lets all in.
    pub user_names: Vec<String>,

    /// A client that connects more often is banned (0x8A). Only connects that were let in count. Default: nobody is.
    pub flapping: BanRule,

    /// An address of which more logins fail, or which sends what is no CONNECT more often, is banned. Default: nobody is.
    pub failed_logins: BanRule,

    /// Whether a retained message is delivered only while its writer might still publish it, by [`Security::acl_file`]. Off,
    /// what was retained stays what it is. Default `false`.
    pub recheck_retained: bool,

    /// What happens to a client that publishes where it must not. Default `ignore`.
    pub deny_action: DenyAction,

    /// Threads that check passwords, 1 to 64, default 1. One `$argon2id$` password of usual strength takes one of them
    /// about 40 ms and 46 MiB; when 1,024 clients wait, more are told that the broker is busy (0x89).
    pub password_threads: u16,

    /// How long an answer about a user and a password is remembered, right or wrong, in memory, by a keyed hash: up to 1 h,
    /// default 1 min, 0 not at all. A reload forgets all of them.
    pub password_cache: Period,
}

/// Somebody who is asked about a client; see [`Security::authenticators`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Authenticator {
    /// The name in the client's verified certificate is its user name.
    Certificate,
    /// The users of [`Security::password_file`].
    PasswordFile,
    /// The users of [`Security::scram_file`], who prove their passwords by SCRAM-SHA-256 (5.0).
    Scram,
    /// Whoever has signed the token in the password; [`Security::jwt`].
    Jwt,
    /// The service of [`Security::http`].
    Http,
    /// Whoever says no user name is let in as nobody.
    Anonymous,
}

impl Authenticator {
    /// The word for it in a file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::PasswordFile => "password_file",
            Self::Scram => "scram",
            Self::Jwt => "jwt",
            Self::Http => "http",
            Self::Anonymous => "anonymous",
        }
    }
}

/// See [`Security::certificate_name`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateName {
    /// The Common Name of the subject.
    #[default]
    CommonName,
    /// The whole subject, as RFC 4514 writes it: `CN=sensor,O=Example`.
    Subject,
    /// The first host name among the alternative names.
    Dns,
    /// The first mail address among the alternative names.
    Email,
    /// The first URI among the alternative names.
    Uri,
}

/// See [`Security::deny_action`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
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
            authenticators: None,
            allow_anonymous: Choice::Auto,
            certificate_name: CertificateName::CommonName,
            password_file: None,
            scram_file: None,
            jwt: None,
            http: None,
            acl_file: None,
            client_ids: Vec::new(),
            user_names: Vec::new(),
            flapping: BanRule::default(),
            failed_logins: BanRule::default(),
            recheck_retained: false,
            deny_action: DenyAction::Ignore,
            password_threads: 1,
            password_cache: Period::from_seconds(60),
        }
    }
}

impl Security {
    pub(crate) fn check(&self, listeners: &[Listener], problems: &mut Problems) {
        if let Some(chain) = &self.authenticators {
            self.check_chain("security.authenticators", chain, problems);
        }
        for (index, listener) in listeners.iter().enumerate() {
            if let Some(chain) = &listener.authenticators {
                let key = format!("listeners[{index}].authenticators");
                self.check_chain(&key, chain, problems);
            }
        }
        if let Some(jwt) = &self.jwt {
            jwt.check(problems);
        }
        if let Some(http) = &self.http {
            http.check(problems);
        }
        check_patterns("security.client_ids", &self.client_ids, problems);
        check_patterns("security.user_names", &self.user_names, problems);
        self.flapping.check("security.flapping", problems);
        self.failed_logins.check("security.failed_logins", problems);
        problems.range("security.password_threads", self.password_threads, 1, 64);
        let (zero, hour) = (Period::default(), Period::from_seconds(3600));
        problems.range("security.password_cache", self.password_cache, zero, hour);
    }

    fn check_chain(&self, key: &str, chain: &[Authenticator], problems: &mut Problems) {
        if chain.is_empty() {
            problems.add(key, "empty, so nobody could connect; list whom to ask");
        }
        for (index, authenticator) in chain.iter().enumerate() {
            let name = authenticator.name();
            if chain[..index].contains(authenticator) {
                problems.add(key, format!("`{name}` stands twice; remove one"));
            }
            let message = match authenticator {
                Authenticator::PasswordFile if self.password_file.is_none() => {
                    "`password_file` has no file; set security.password_file, or remove it"
                }
                Authenticator::Scram if self.scram_file.is_none() => {
                    "`scram` has no file; set security.scram_file, or remove it"
                }
                Authenticator::Jwt if self.jwt.is_none() => {
                    "`jwt` has no keys; set security.jwt, or remove it"
                }
                Authenticator::Http if self.http.is_none() => {
                    "`http` has no address; set security.http, or remove it"
                }
                Authenticator::Anonymous if self.allow_anonymous == Choice::No => {
                    "`anonymous` although security.allow_anonymous is false; remove one of them"
                }
                _ => continue,
            };
            problems.add(key, message);
        }
    }
}

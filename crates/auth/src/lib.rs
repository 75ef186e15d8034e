//! Who may connect, and what may they do: password files and access rules in the forms that mosquitto's users have.
//!
//! Plain values: texts in, answers out. Whoever calls reads the files, and sees to it that no password is checked on
//! a shard: [`PasswordFile::verify`] takes milliseconds on purpose.
//!
//! | file | what it holds |
//! |---|---|
//! | [`chain`] | who is asked about a client, in which order |
//! | [`login`] | what a client shows, and what is said about it |
//! | [`scram`] | SCRAM-SHA-256: passwords proved without being shown |
//! | [`secret`] | bytes that do not show |
//! | [`password`] | one kept password: `$6$`, `$7$`, `$argon2id$` |
//! | [`password_file`] | users and their passwords |
//! | [`access`] | the rules of an ACL file |
//! | [`rights`] | what one client may do: the rules with its names filled in |
//! | [`error`] | a line that cannot be used, and why |
//!
//! # Invariants worth naming
//! - What is not granted is denied, as soon as there is a file of rules.
//! - A file with one bad line is refused whole: half a set of rules is worse than the old one.
//! - A password, its hash and its salt appear in no `Debug` and in no error.
//! - Checking a user that does not exist takes as long as checking a wrong password.
//!
//! # Deliberately absent
//! Files, clocks, threads, random numbers (salts are given), and MQTT itself.
#![forbid(unsafe_code)]

pub mod access;
pub mod chain;
pub mod error;
pub mod login;
pub mod password;
pub mod password_file;
pub mod rights;
pub mod scram;
pub mod secret;

pub use access::AccessRules;
pub use chain::{Authenticator, CertificateName, Chain, Link, Next, Shown};
pub use error::FileError;
pub use login::{Challenge, Grant, Login, Step, Verdict};
pub use password::{Algorithm, KeptPassword};
pub use password_file::{PasswordAnswer, PasswordFile};
pub use rights::{Access, Decision, GrantedRights, Rights, Rule, Source};
pub use scram::{Exchange, SCRAM_SHA_256, ScramError, ScramFile, Verifier};
pub use secret::Secret;

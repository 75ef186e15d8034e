//! What tokens and services say about a client: JSON in, a [`Verdict`](midge_auth::Verdict) out.
//!
//! | file | what it does |
//! |---|---|
//! | `keys` | keys for signatures: a shared secret, a PEM file, a JWK set |
//! | `tokens` | a token in, who the client is and what it may do out |
//! | `rules` | access rules as tokens and services write them |
//! | `answer` | what a service is asked and answers |
//!
//! # Invariants worth naming
//! - A key verifies the algorithms of its own kind and no other, whatever a token says about itself: a public key never
//!   becomes a shared secret, and `none` is no algorithm.
//! - Rules that cannot be understood refuse the login: half a set of rules is worse than none.
//! - No key, no token and no claim stands in an error or a `Debug`.
//!
//! # Deliberately absent
//! Files, clocks, the network: texts and the time are given.
#![forbid(unsafe_code)]

mod answer;
mod keys;
mod rules;
mod tokens;

pub use answer::{request, verdict};
pub use keys::{KeyError, Keys};
pub use tokens::{Checked, Claim, Settings, Tokens};

//! Settings of tokens (JWT) that clients show as passwords.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::Period;
use crate::validate::Problems;

/// Who signs tokens, and what they must say. One of the four sources of keys is required.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jwt {
    /// A file whose bytes (without a line end behind them) are the secret of HS256, HS384 and HS512; at least 32 bytes.
    pub secret_file: Option<PathBuf>,

    /// A public key or a certificate in PEM: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA).
    pub public_key_file: Option<PathBuf>,

    /// A JWK set with public keys.
    pub jwks_file: Option<PathBuf>,

    /// Where such a set is fetched from: `https://…`, or `http://` on a loopback address.
    pub jwks_url: Option<String>,

    /// How often it is fetched: 10 s to 1 d, default 5 min. Sooner when a token names a key that is not in it.
    pub refresh: Period,

    /// `iss` must be one of these. Default empty: it may be anything.
    pub issuers: Vec<String>,

    /// `aud` must hold one of these. Default empty: it may be anything.
    pub audiences: Vec<String>,

    /// The claim that is the user name, default `sub`. `null`: the user name of the CONNECT is, which one of `claims` must
    /// then be compared with.
    pub user_claim: Option<String>,

    /// Claims that must be there, and their values; `%c` stands for the client id, `%u` for the user name of the CONNECT. Of a
    /// claim that is a list, one must be it.
    pub claims: BTreeMap<String, String>,

    /// The claim with access rules, default `acl`.
    pub acl_claim: String,

    /// The claim with names of roles of the ACL file, default `roles`.
    pub roles_claim: String,

    /// Whether a token without `exp` is refused. Default true. With one, the client is disconnected (0x87) when it comes.
    pub require_expiry: bool,

    /// By how much clocks may differ: up to 10 min, default 5 s, in whole seconds.
    pub leeway: Period,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            secret_file: None,
            public_key_file: None,
            jwks_file: None,
            jwks_url: None,
            refresh: Period::from_seconds(300),
            issuers: Vec::new(),
            audiences: Vec::new(),
            user_claim: Some("sub".to_owned()),
            claims: BTreeMap::new(),
            acl_claim: "acl".to_owned(),
            roles_claim: "roles".to_owned(),
            require_expiry: true,
            leeway: Period::from_seconds(5),
        }
    }
}

impl Jwt {
    pub(crate) fn check(&self, problems: &mut Problems) {
        let sources = [
            self.secret_file.is_some(),
            self.public_key_file.is_some(),
            self.jwks_file.is_some(),
            self.jwks_url.is_some(),
        ];
        match sources.into_iter().filter(|there| *there).count() {
            0 => problems.add(
                "security.jwt",
                "no key; set one of secret_file, public_key_file, jwks_file and jwks_url",
            ),
            1 => {}
            _ => problems.add(
                "security.jwt",
                "several sources of keys; keep one of secret_file, public_key_file, jwks_file and jwks_url",
            ),
        }
        if let Some(url) = &self.jwks_url {
            check_url("security.jwt.jwks_url", url, problems);
        }
        let (min, max) = (Period::from_seconds(10), Period::from_seconds(86_400));
        problems.range("security.jwt.refresh", self.refresh, min, max);
        let (zero, max) = (Period::default(), Period::from_seconds(600));
        problems.range("security.jwt.leeway", self.leeway, zero, max);
        problems.whole_seconds("security.jwt.leeway", self.leeway);
        if self.user_claim.is_none() && !self.claims.values().any(|value| value.contains("%u")) {
            problems.add(
                "security.jwt.user_claim",
                "null, and no claim is compared with the user name (%u): with any token one could be anybody; \
                 name a claim, or compare one",
            );
        }
    }
}

/// Secrets and keys travel encrypted, but on this machine.
pub(crate) fn check_url(key: &str, url: &str, problems: &mut Problems) {
    let local = ["http://127.0.0.1", "http://[::1]", "http://localhost"].iter().any(|prefix| {
        url.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    });
    let https = url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty());
    if !(local || https) || url.contains(char::is_whitespace) {
        problems.add(
            key,
            "no such address is asked; write https://…, or http:// on a loopback address",
        );
    }
}

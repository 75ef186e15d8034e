//! A token in, who the client is and what it may do out.
//!
//! The token (RFC 7519) stands in the password, or is the data of enhanced authentication. A password that is no token says
//! nothing; a token that is not good is refused: signed by nobody we know, too old, of another issuer, for somebody else.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::{Validation, decode, decode_header};
use midge_auth::{Grant, Login, Step, Verdict};
use serde_json::{Map, Value};

use crate::keys::Keys;
use crate::rules::rights;

/// Bytes of a token, at most.
const TOKEN_SIZE_MAX: usize = 16_384;

/// A claim that a token must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its value, or one of its values; `%c` and `%u` stand for the client id and the user name of the CONNECT.
    pub value: String,
}

/// What is asked of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `iss` must be one of these. Empty: whatever it is.
    pub issuers: Vec<String>,
    /// `aud` must hold one of these. Empty: whatever it is.
    pub audiences: Vec<String>,
    /// The claim that is the user name; `None`: the user name of the CONNECT is.
    pub user_claim: Option<String>,
    /// Claims that must be there.
    pub claims: Vec<Claim>,
    /// The claim with access rules.
    pub acl_claim: String,
    /// The claim with roles of the ACL file.
    pub roles_claim: String,
    /// Whether a token without `exp` is refused.
    pub require_expiry: bool,
    /// By how many seconds clocks may differ.
    pub leeway_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            issuers: Vec::new(),
            audiences: Vec::new(),
            user_claim: Some("sub".to_owned()),
            claims: Vec::new(),
            acl_claim: "acl".to_owned(),
            roles_claim: "roles".to_owned(),
            require_expiry: true,
            leeway_seconds: 5,
        }
    }
}

/// Whoever checks tokens.
pub struct Tokens {
    settings: Settings,
    keys: Arc<Keys>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tokens").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// What there is to say about a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// The verdict.
    Verdict(Verdict),
    /// Refused, but a newer set of keys may have the one that it is signed with.
    KeyUnknown,
}

impl Tokens {
    /// Checks tokens with these keys.
    #[must_use]
    pub fn new(settings: Settings, keys: Keys) -> Self {
        Self { settings, keys: Arc::new(keys) }
    }

    /// The same with other keys.
    #[must_use]
    pub fn with_keys(&self, keys: Keys) -> Self {
        Self::new(self.settings.clone(), keys)
    }

    /// The same with the keys of another.
    #[must_use]
    pub fn with_keys_of(&self, other: &Self) -> Self {
        Self { settings: self.settings.clone(), keys: Arc::clone(&other.keys) }
    }

    /// Whether there is a key at all.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Judges the token that a client shows. `now_seconds` is the time since 1970. Takes up to a tenth of a millisecond.
    #[must_use]
    pub fn check(&self, login: &Login, now_seconds: u64) -> Checked {
        let refused = Checked::Verdict(Verdict::Refused);
        let token = match &login.step {
            None => login.password.as_ref().map(|password| &*password.0).unwrap_or_default(),
            Some(Step::First(token)) => &*token.0,
            // A token is all there is to say.
            Some(Step::Final(..)) => return refused,
        };
        if !looks_like_a_token(token) {
            // Who names the method of tokens has nothing else to show.
            return if login.step.is_some() { refused } else { Checked::Verdict(Verdict::Unknown) };
        }
        if token.len() > TOKEN_SIZE_MAX {
            return refused;
        }
        let Ok(header) = decode_header(token) else { return refused };
        let mut validation = Validation::new(header.alg);
        // The time is ours, and who it is for is said below.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let mut keys = self.keys.for_token(&header).peekable();
        if keys.peek().is_none() {
            return Checked::KeyUnknown;
        }
        let verified =
            keys.find_map(|key| decode::<Map<String, Value>>(token, key, &validation).ok());
        let Some(verified) = verified else { return refused };
        let grant = self.judge(login, &verified.claims, now_seconds);
        Checked::Verdict(grant.map_or(Verdict::Refused, |grant| Verdict::Granted(Box::new(grant))))
    }

    /// `None`: refused.
    fn judge(&self, login: &Login, claims: &Map<String, Value>, now: u64) -> Option<Grant> {
        let Settings { issuers, audiences, leeway_seconds, .. } = &self.settings;
        let time = |name| match claims.get(name) {
            None => Some(None),
            // Seconds may have a fraction.
            Some(value) => value.as_f64().filter(|at| *at >= 0.0).map(|at| Some(at as u64)),
        };
        let (expires, not_before) = (time("exp")?, time("nbf")?);
        let valid_for_seconds = match expires {
            None if self.settings.require_expiry => return None,
            None => None,
            Some(at) => {
                let left = at.saturating_add(*leeway_seconds).checked_sub(now)?;
                if left == 0 {
                    return None;
                }
                Some(left)
            }
        };
        if not_before.is_some_and(|at| at > now.saturating_add(*leeway_seconds)) {
            return None;
        }
        for (name, wanted) in [("iss", issuers), ("aud", audiences)] {
            if !wanted.is_empty() && !wanted.iter().any(|one| has(claims, name, one)) {
                return None;
            }
        }
        for Claim { name, value } in &self.settings.claims {
            if !has(claims, name, &fill_in(value, login)?) {
                return None;
            }
        }
        let user: Box<str> = match &self.settings.user_claim {
            Some(name) => claims.get(name)?.as_str()?.into(),
            None => login.user.clone()?,
        };
        if user.is_empty() || user.contains('\0') || user.len() > usize::from(u16::MAX) {
            return None;
        }
        let acl = claims.get(&self.settings.acl_claim);
        let roles = claims.get(&self.settings.roles_claim);
        let rights = rights(acl, roles, false).ok()?;
        Some(Grant { user: Some(user), rights, valid_for_seconds, ..Grant::default() })
    }
}

/// Three parts in base64 for URLs with dots between, the first of which begins like a JSON object.
fn looks_like_a_token(text: &[u8]) -> bool {
    text.starts_with(b"eyJ")
        && text.iter().filter(|byte| **byte == b'.').count() == 2
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Whether a claim is this text, or holds it.
fn has(claims: &Map<String, Value>, name: &str, wanted: &str) -> bool {
    let is = |value: &Value| match value {
        Value::String(text) => text == wanted,
        Value::Number(number) => number.to_string() == wanted,
        Value::Bool(bool) => bool.to_string() == wanted,
        _ => false,
    };
    match claims.get(name) {
        Some(Value::Array(list)) => list.iter().any(is),
        Some(value) => is(value),
        None => false,
    }
}

/// `None`: there is no such name.
fn fill_in(text: &str, login: &Login) -> Option<String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = match rest.as_bytes().get(1) {
            Some(b'c') if login.client_id.is_empty() => return None,
            Some(b'c') => &*login.client_id,
            Some(b'u') => login.user.as_deref()?,
            _ => {
                filled.push('%');
                rest = &rest[1..];
                continue;
            }
        };
        filled.push_str(name);
        rest = &rest[2..];
    }
    filled.push_str(rest);
    Some(filled)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use midge_auth::{Authenticator, Secret};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
    use serde_json::json;

    use super::*;

    const SECRET: &[u8] = b"a secret of thirty-two bytes, or more";
    const NOW: u64 = 1_800_000_000;

    fn login(password: &str) -> Login {
        Login {
            asked: Authenticator::Token,
            listener: 0,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            client_id: "c1".into(),
            user: Some("anna".into()),
            password: Some(Secret::from(password.as_bytes())),
            common_name: None,
            step: None,
        }
    }

    fn signed(claims: &Value) -> String {
        let key = EncodingKey::from_secret(SECRET).unwrap();
        encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
    }

    fn tokens(settings: Settings) -> Tokens {
        Tokens::new(settings, Keys::from_secret(SECRET).unwrap())
    }

    fn grant(checked: Checked) -> Option<Grant> {
        match checked {
            Checked::Verdict(Verdict::Granted(grant)) => Some(*grant),
            Checked::Verdict(Verdict::Refused) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_token_names_the_user() {
        let claims = json!({"sub": "ben", "exp": NOW + 60, "acl": {"publish": ["a"]}});
        let grant =
            grant(tokens(Settings::default()).check(&login(&signed(&claims)), NOW)).unwrap();
        assert_eq!(grant.user.as_deref(), Some("ben"));
        assert_eq!(grant.valid_for_seconds, Some(65));
        assert!(grant.rights.unwrap().limited);
    }

    #[test]
    fn tokens_that_are_not_good() {
        let strict = || Settings {
            issuers: vec!["us".into()],
            audiences: vec!["mqtt".into(), "other".into()],
            claims: vec![
                Claim { name: "client_id".into(), value: "%c".into() },
                Claim { name: "who".into(), value: "user-%u".into() },
            ],
            ..Settings::default()
        };
        let good = json!({
            "sub": "anna", "exp": NOW + 60, "nbf": NOW, "iss": "us", "aud": ["x", "mqtt"],
            "client_id": ["c0", "c1"], "who": "user-anna",
        });
        let check =
            |claims: &Value, now| grant(tokens(strict()).check(&login(&signed(claims)), now));
        assert!(check(&good, NOW).is_some());
        for (name, value) in [
            ("exp", json!(NOW - 6)),
            ("exp", json!("tomorrow")),
            ("exp", Value::Null),
            ("nbf", json!(NOW + 6)),
            ("iss", json!("them")),
            ("aud", json!(["x"])),
            ("aud", Value::Null),
            ("client_id", json!("c2")),
            ("who", json!("user-ben")),
            ("sub", json!("")),
            ("sub", json!("a\0b")),
            ("sub", json!(7)),
            ("acl", json!({"publsh": ["a"]})),
        ] {
            let mut claims = good.clone();
            claims[name] = value;
            assert!(check(&claims, NOW).is_none(), "{claims}");
        }
        for name in ["exp", "iss", "aud", "client_id", "who", "sub"] {
            let mut claims = good.clone();
            claims.as_object_mut().unwrap().remove(name);
            assert!(check(&claims, NOW).is_none(), "without {name}");
        }
        assert!(check(&good, NOW + 64).is_some());
        assert!(check(&good, NOW + 65).is_none());
        let token = signed(&good);
        for bad in
            [token.replace("eyJ", "eyK"), token[..token.len() - 2].to_owned(), format!("{token}A")]
        {
            let checked = tokens(strict()).check(&login(&bad), NOW);
            assert!(!matches!(checked, Checked::Verdict(Verdict::Granted(_))), "{bad}");
        }
        for none in ["", "secret", "a.b.c", "eyJ.a", "eyJ.a.b.c", "eyJ a.b.c"] {
            let checked = tokens(strict()).check(&login(none), NOW);
            assert_eq!(checked, Checked::Verdict(Verdict::Unknown), "{none}");
        }
    }

    /// What enhanced authentication brings is a token or nothing, whatever the password is.
    #[test]
    fn a_token_may_be_the_data_of_a_method() {
        let good = signed(&json!({"sub": "ben", "exp": NOW + 60}));
        let check = |password: &str, data: &str| {
            let step = Some(Step::First(data.as_bytes().into()));
            grant(tokens(Settings::default()).check(&Login { step, ..login(password) }, NOW))
        };
        assert_eq!(check("", &good).and_then(|grant| grant.user).as_deref(), Some("ben"));
        for data in ["", "secret", &good[..good.len() - 3]] {
            assert_eq!(check(&good, data), None, "{data}");
        }
    }

    /// `none`, and a public key used as a shared secret, are the two classic ways in.
    #[test]
    fn the_key_says_which_algorithm_it_is_for() {
        let claims = json!({"sub": "anna", "exp": NOW + 60});
        // {"alg":"none"}
        let body = signed(&claims).split('.').nth(1).unwrap().to_owned();
        for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOT05FIn0"] {
            let token = format!("{header}.{body}.");
            assert_eq!(grant(tokens(Settings::default()).check(&login(&token), NOW)), None);
        }
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let public = pair.public_key_pem();
        let key = EncodingKey::from_secret(public.as_bytes()).unwrap();
        let token = encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
        let tokens = Tokens::new(Settings::default(), Keys::from_pem(public.as_bytes()).unwrap());
        assert_eq!(tokens.check(&login(&token), NOW), Checked::KeyUnknown);
    }

    #[test]
    fn each_kind_of_key_verifies_its_own() {
        let claims = json!({"sub": "anna", "exp": NOW + 60});
        for (kind, algorithm) in [
            (&PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
            (&PKCS_ED25519, Algorithm::EdDSA),
            (&PKCS_RSA_SHA256, Algorithm::RS256),
        ] {
            let pair = KeyPair::generate_for(kind).unwrap();
            let private = pair.serialize_pem();
            let private = match algorithm {
                Algorithm::ES256 => EncodingKey::from_ec_pem(private.as_bytes()),
                Algorithm::EdDSA => EncodingKey::from_ed_pem(private.as_bytes()),
                _ => EncodingKey::from_rsa_pem(private.as_bytes()),
            };
            let header = Header { kid: Some("k1".into()), ..Header::new(algorithm) };
            let token = encode(&header, &claims, &private.unwrap()).unwrap();
            let keys = Keys::from_pem(pair.public_key_pem().as_bytes()).unwrap();
            let check = |keys| Tokens::new(Settings::default(), keys).check(&login(&token), NOW);
            assert!(grant(check(keys)).is_some(), "{algorithm:?}");
            let other = KeyPair::generate_for(kind).unwrap();
            let keys = Keys::from_pem(other.public_key_pem().as_bytes()).unwrap();
            assert!(grant(check(keys)).is_none(), "{algorithm:?}");
        }
        for (algorithm, good) in
            [(Algorithm::HS384, true), (Algorithm::HS512, true), (Algorithm::HS256, true)]
        {
            let key = EncodingKey::from_secret(SECRET).unwrap();
            let token = encode(&Header::new(algorithm), &claims, &key).unwrap();
            let checked = tokens(Settings::default()).check(&login(&token), NOW);
            assert_eq!(grant(checked).is_some(), good, "{algorithm:?}");
        }
    }

    /// The public key of RFC 7517's example and of RFC 8037's, under two names.
    const JWKS: &str = r#"{"keys": [
        {"kty": "EC", "crv": "P-256", "kid": "1", "use": "enc",
         "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    ]}"#;

    #[test]
    fn sets_of_keys_are_asked_by_name() {
        let keys = Keys::from_jwks(JWKS.as_bytes()).unwrap();
        assert_eq!(keys.len(), 1, "one is for encryption");
        let header = |kid: Option<&str>| Header {
            kid: kid.map(Into::into),
            ..Header::new(Algorithm::EdDSA)
        };
        assert_eq!(keys.for_token(&header(Some("ed"))).count(), 1);
        assert_eq!(keys.for_token(&header(None)).count(), 1);
        assert_eq!(keys.for_token(&header(Some("other"))).count(), 0);
        assert_eq!(keys.for_token(&Header::new(Algorithm::HS256)).count(), 0);
    }

    #[test]
    fn keys_that_are_none_say_why() {
        for (error, reason) in [
            (Keys::from_secret(b"short"), "32 bytes"),
            (Keys::from_pem(b"x"), "no public key"),
            (Keys::from_pem(b"-----BEGIN PRIVATE KEY-----\n"), "private"),
            (Keys::from_jwks(b"{"), "no JWK set"),
            (Keys::from_jwks(br#"{"keys": []}"#), "no key"),
            (Keys::from_jwks(br#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#), "shared secret"),
        ] {
            let error = error.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn nothing_secret_shows_itself() {
        let token = signed(&json!({"sub": "anna", "exp": NOW + 60}));
        let shown = format!("{:?} {:?}", tokens(Settings::default()), login(&token));
        assert!(!shown.contains("thirty-two") && !shown.contains(&token), "{shown}");
    }
}

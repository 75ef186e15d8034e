//! SCRAM-SHA-256 (RFC 5802, RFC 7677): a password is proved without being shown, and the broker proves that it knows it.
//!
//! ```text
//!  client                                                    broker
//!  n,,n=USER,r=NONCE                        ──>
//!                                           <──  r=NONCE+OURS,s=SALT,i=ITERATIONS
//!  c=biws,r=NONCE+OURS,p=PROOF              ──>
//!                                           <──  v=SIGNATURE
//! ```
//!
//! The broker keeps a [`Verifier`] of each user: neither it nor what travels is enough to log in. What the broker computes
//! here takes microseconds; the slow part is the client's.
//!
//! # Users that do not exist
//! They get a salt, too, always the same, and fail at the end like a wrong password.
//!
//! # Deliberately absent
//! Channel binding (`p=`): whoever asks for it is refused, as the method's name says that there is none. Random numbers:
//! the broker's nonce is given.

use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pbkdf2::hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::FileError;

/// The method's name in CONNECT and AUTH.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// Rounds that a new verifier gets unless told otherwise. RFC 7677 asks for 4096 at least; they are the client's work.
pub const ITERATIONS_DEFAULT: u32 = 15_000;

/// What RFC 7677 asks for.
const ITERATIONS_MIN: u32 = 4096;
/// A client on a small processor must be able to compute them.
const ITERATIONS_MAX: u32 = 10_000_000;

/// Bytes of a client's message, at most.
const MESSAGE_SIZE_MAX: usize = 4096;
/// Bytes of a nonce, at most.
const NONCE_SIZE_MAX: usize = 256;

const SALT_SIZES: std::ops::RangeInclusive<usize> = 8..=64;

type Key = [u8; 32];

/// What is kept of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Box<[u8]>,
    stored_key: Key,
    server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Verifier(..)")
    }
}

impl Verifier {
    /// Keeps a password, which SASLprep has prepared (for ASCII, that changes nothing). `salt` must be random and used once.
    #[must_use]
    pub fn create(password: &[u8], salt: [u8; 16], iterations: u32) -> Self {
        let iterations = iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX);
        let mut salted = Key::default();
        pbkdf2::pbkdf2_hmac::<Sha256>(password, &salt, iterations, &mut salted);
        let stored_key = Sha256::digest(mac(&salted, &[b"Client Key"])).into();
        let server_key = mac(&salted, &[b"Server Key"]);
        Self { iterations, salt: salt.into(), stored_key, server_key }
    }

    /// Reads `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`, as PostgreSQL writes it.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "the verifier is not SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY; `midge passwd --scram` writes it";
        let rest = text.strip_prefix(SCRAM_SHA_256).and_then(|rest| rest.strip_prefix('$'));
        let (head, keys) = rest.and_then(|rest| rest.split_once('$')).ok_or(FORM)?;
        let (iterations, salt) = head.split_once(':').ok_or(FORM)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(FORM)?;
        let iterations = iterations
            .parse()
            .ok()
            .filter(|count| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(count))
            .ok_or("the number of iterations is not between 4,096 and 10,000,000")?;
        let decode = |text| STANDARD.decode(text).map_err(|_| "the salt or a key is not base64");
        let salt = decode(salt)?;
        if !SALT_SIZES.contains(&salt.len()) {
            return Err("the salt has not 8 to 64 bytes");
        }
        let key = |text| Key::try_from(decode(text)?).map_err(|_| "a key has not 32 bytes");
        let (stored_key, server_key) = (key(stored_key)?, key(server_key)?);
        Ok(Self { iterations, salt: salt.into(), stored_key, server_key })
    }

    /// The text for the file.
    #[must_use]
    pub fn encode(&self) -> String {
        format!(
            "{SCRAM_SHA_256}${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }
}

/// Users and their verifiers, one `name:verifier` a line; what begins with `#`, and an empty line, says nothing.
#[derive(Debug, Clone)]
pub struct ScramFile {
    users: HashMap<Box<str>, Verifier>,
    /// Makes up a verifier for a user that does not exist. From the first line of the file, so that it stays the same while
    /// that does, over restarts as well.
    secret: Key,
    /// Told to users that do not exist.
    iterations: u32,
}

impl ScramFile {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The first line that cannot be used; nothing of the file is then.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let mut users = HashMap::new();
        let mut first: Option<Verifier> = None;
        for (index, content) in text.lines().enumerate() {
            let error = |message| FileError { line: index + 1, message };
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let Some((name, verifier)) = content.split_once(':') else {
                return Err(error("there is no colon behind a user name"));
            };
            let name = name.trim();
            if name.is_empty() {
                return Err(error("there is no user name before the colon"));
            }
            let verifier = Verifier::parse(verifier.trim()).map_err(error)?;
            first.get_or_insert_with(|| verifier.clone());
            if users.insert(name.into(), verifier).is_some() {
                return Err(error("this user stands in an earlier line already"));
            }
        }
        let (secret, iterations) = match first {
            Some(first) => (mac(&first.server_key, &[b"Nobody"]), first.iterations),
            None => (Key::default(), ITERATIONS_DEFAULT),
        };
        Ok(Self { users, secret, iterations })
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is none: then nobody can log in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// For a user that does not exist: nothing proves the password that this is of.
    fn nobody(&self, user: &str) -> Verifier {
        let salt = mac(&self.secret, &[b"salt", user.as_bytes()]);
        let stored_key = mac(&self.secret, &[b"stored", user.as_bytes()]);
        let server_key = mac(&self.secret, &[b"server", user.as_bytes()]);
        Verifier { iterations: self.iterations, salt: salt[..16].into(), stored_key, server_key }
    }
}

/// Why an exchange ends without a proof. The client learns no more than that it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramError {
    /// Not a message of the method, or one that does not belong to this exchange.
    Message,
    /// The password is wrong, or there is no such user.
    Proof,
}

/// One exchange between its two steps.
#[derive(Clone, PartialEq, Eq)]
pub struct Exchange {
    user: Box<str>,
    known: bool,
    verifier: Verifier,
    /// The client's header in base64, which its second message repeats.
    binding: Box<str>,
    /// The client's and ours.
    nonce: Box<str>,
    /// The first two messages, as the signatures cover them.
    said: Box<str>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Exchange").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Exchange {
    /// The client's first message; returns what to answer. `nonce` must be random: printable ASCII without commas.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn begin(
        file: &ScramFile,
        message: &[u8],
        nonce: &str,
    ) -> Result<(Self, Box<[u8]>), ScramError> {
        let message = text(message)?;
        let mut parts = message.splitn(3, ',');
        let (flag, on_behalf) = (part(parts.next())?, part(parts.next())?);
        let bare = part(parts.next())?;
        if !matches!(flag, "n" | "y") {
            return Err(ScramError::Message);
        }
        let mut attributes = bare.split(',');
        let user = name(part(attributes.next())?.strip_prefix("n=").ok_or(ScramError::Message)?)?;
        let theirs = part(attributes.next())?.strip_prefix("r=").ok_or(ScramError::Message)?;
        if !is_nonce(theirs) {
            return Err(ScramError::Message);
        }
        // To act on behalf of somebody else is not offered.
        match on_behalf.strip_prefix("a=") {
            Some(other) if name(other)? == user => {}
            None if on_behalf.is_empty() => {}
            _ => return Err(ScramError::Message),
        }
        let known = file.users.get(&*user);
        let verifier = known.cloned().unwrap_or_else(|| file.nobody(&user));
        let nonce = format!("{theirs}{nonce}");
        let (salt, iterations) = (STANDARD.encode(&verifier.salt), verifier.iterations);
        let answer = format!("r={nonce},s={salt},i={iterations}");
        let exchange = Self {
            user,
            known: known.is_some(),
            verifier,
            binding: STANDARD.encode(format!("{flag},{on_behalf},")).into(),
            nonce: nonce.into(),
            said: format!("{bare},{answer}").into(),
        };
        Ok((exchange, answer.into_bytes().into()))
    }

    /// The client's second message; returns the broker's own proof.
    ///
    /// # Errors
    /// When it is no such message, or does not prove the password.
    pub fn finish(&self, message: &[u8]) -> Result<Box<[u8]>, ScramError> {
        let message = text(message)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Message)?;
        let mut attributes = without_proof.split(',');
        let binding = part(attributes.next())?.strip_prefix("c=").ok_or(ScramError::Message)?;
        let nonce = part(attributes.next())?.strip_prefix("r=").ok_or(ScramError::Message)?;
        if binding != &*self.binding || nonce != &*self.nonce {
            return Err(ScramError::Message);
        }
        let proof = STANDARD.decode(proof).map_err(|_| ScramError::Message)?;
        let proof = Key::try_from(proof).map_err(|_| ScramError::Message)?;
        let said = [self.said.as_bytes(), b",", without_proof.as_bytes()];
        let mut client_key = mac(&self.verifier.stored_key, &said);
        for (byte, proved) in client_key.iter_mut().zip(proof) {
            *byte ^= proved;
        }
        let right: bool =
            Sha256::digest(client_key).as_slice().ct_eq(&self.verifier.stored_key).into();
        if !(right && self.known) {
            return Err(ScramError::Proof);
        }
        let signature = STANDARD.encode(mac(&self.verifier.server_key, &said));
        Ok(format!("v={signature}").into_bytes().into())
    }

    /// Who the client says it is.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }
}

fn mac(key: &Key, parts: &[&[u8]]) -> Key {
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else {
        unreachable!("a key of any length will do");
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    std::str::from_utf8(message)
        .ok()
        .filter(|text| text.len() <= MESSAGE_SIZE_MAX && !text.contains('\0'))
        .ok_or(ScramError::Message)
}

fn part(found: Option<&str>) -> Result<&str, ScramError> {
    found.ok_or(ScramError::Message)
}

fn is_nonce(text: &str) -> bool {
    (1..=NONCE_SIZE_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// A name with its commas and equals signs back in their places.
fn name(text: &str) -> Result<Box<str>, ScramError> {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        name.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (sign, behind) = match (rest.strip_prefix("2C"), rest.strip_prefix("3D")) {
            (Some(behind), _) => (',', behind),
            (_, Some(behind)) => ('=', behind),
            _ => return Err(ScramError::Message),
        };
        name.push(sign);
        rest = behind;
    }
    name.push_str(rest);
    if name.is_empty() { Err(ScramError::Message) } else { Ok(name.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const OURS: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn file() -> ScramFile {
        let salt = STANDARD.decode(SALT).unwrap().try_into().unwrap();
        let line = |name| format!("{name}:{}\n", Verifier::create(b"pencil", salt, 4096).encode());
        ScramFile::parse(&format!("# people\n\n{}{}", line("user"), line("a=b,c"))).unwrap()
    }

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_rfcs_example() {
        let (exchange, answer) = Exchange::begin(&file(), FIRST.as_bytes(), OURS).unwrap();
        let expected = format!("r=rOprNGfwEbeRWgbNEkqO{OURS},s={SALT},i=4096");
        assert_eq!(std::str::from_utf8(&answer).unwrap(), expected);
        let signature = exchange.finish(FINAL.as_bytes()).unwrap();
        assert_eq!(&*signature, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(exchange.user(), "user");
    }

    #[test]
    fn a_proof_is_for_one_exchange() {
        let (exchange, _) = Exchange::begin(&file(), FIRST.as_bytes(), "another").unwrap();
        assert_eq!(exchange.finish(FINAL.as_bytes()), Err(ScramError::Message));
        let (exchange, _) = Exchange::begin(&file(), FIRST.as_bytes(), OURS).unwrap();
        let changed = FINAL.replace("p=dH", "p=eH");
        assert_eq!(exchange.finish(changed.as_bytes()), Err(ScramError::Proof));
    }

    /// A user that does not exist looks like one that does, each time, until the end.
    #[test]
    fn nobody_fails_at_the_end() {
        let first = FIRST.replace("n=user", "n=nobody");
        let (exchange, answer) = Exchange::begin(&file(), first.as_bytes(), OURS).unwrap();
        let (_, again) = Exchange::begin(&file(), first.as_bytes(), OURS).unwrap();
        assert_eq!(answer, again);
        let text = std::str::from_utf8(&answer).unwrap();
        assert!(text.ends_with(",i=4096") && !text.contains(SALT), "{text}");
        assert_eq!(exchange.finish(FINAL.as_bytes()), Err(ScramError::Proof));
        let other = FIRST.replace("n=user", "n=nobody2");
        let (_, other) = Exchange::begin(&file(), other.as_bytes(), OURS).unwrap();
        assert_ne!(answer, other);
    }

    #[test]
    fn names_may_hold_signs_of_the_method() {
        let first = "n,a=a=3Db=2Cc,n=a=3Db=2Cc,r=x";
        let (exchange, _) = Exchange::begin(&file(), first.as_bytes(), OURS).unwrap();
        assert_eq!((exchange.user(), exchange.known), ("a=b,c", true));
    }

    #[test]
    fn messages_that_are_none() {
        for first in [
            "",
            "n",
            "n,,",
            "n,,n=user",
            "n,,r=x,n=user",
            "n,,n=,r=x",
            "n,,n=a=b,r=x",
            "n,,n=user,r=",
            "n,,n=user,r=a b",
            "p=tls-unique,,n=user,r=x",
            "x,,n=user,r=x",
            "n,a=other,n=user,r=x",
            "n,b,n=user,r=x",
            "n,,m=1,n=user,r=x",
            "n,,n=us\0er,r=x",
        ] {
            let begun = Exchange::begin(&file(), first.as_bytes(), OURS);
            assert_eq!(begun.map(|_| ()), Err(ScramError::Message), "{first}");
        }
        assert!(Exchange::begin(&file(), &[0xff], OURS).is_err());
        let long = format!("n,,n={},r=x", "a".repeat(5000));
        assert!(Exchange::begin(&file(), long.as_bytes(), OURS).is_err());
        let (exchange, _) = Exchange::begin(&file(), FIRST.as_bytes(), OURS).unwrap();
        for last in ["", "c=biws", &FINAL[..60], &FINAL.replace("biws", "eSws")] {
            assert_eq!(exchange.finish(last.as_bytes()), Err(ScramError::Message), "{last}");
        }
        for proof in ["p=", "p=AAAA", "p=####"] {
            let last = format!("{},{proof}", FINAL.split_once(",p=").unwrap().0);
            assert_eq!(exchange.finish(last.as_bytes()), Err(ScramError::Message), "{last}");
        }
    }

    #[test]
    fn a_bad_line_is_named_and_refuses_the_file() {
        let good = Verifier::create(b"x", [1; 16], 4096).encode();
        for (text, line, reason) in [
            (format!("a:{good}\nb:plain\n"), 2, "not SCRAM-SHA-256$"),
            (format!("a:{good}\n\na:{good}\n"), 3, "already"),
            (format!(":{good}\n"), 1, "no user name"),
            ("anna\n".to_owned(), 1, "no colon"),
            (format!("a:{}\n", good.replace("$4096:", "$4095:")), 1, "iterations"),
            (format!("a:{}\n", good.replace("$4096:", "$4096:####")), 1, "base64"),
            (format!("a:{}\n", &good[..good.len() - 4]), 1, "32 bytes"),
            ("a:SCRAM-SHA-256$4096:AAAA$AAAA:AAAA\n".to_owned(), 1, "8 to 64"),
        ] {
            let error = ScramFile::parse(&text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.message.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_kept_does_not_show_itself() {
        let (exchange, _) = Exchange::begin(&file(), FIRST.as_bytes(), OURS).unwrap();
        let shown = format!("{:?} {exchange:?}", file());
        for secret in [SALT, OURS, "rOpr", "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(!shown.contains("stored_key"), "{shown}");
    }
}

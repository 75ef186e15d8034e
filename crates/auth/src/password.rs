//! One kept password, in the three forms of mosquitto's password files.
//!
//! | form | layout | what is computed |
//! |---|---|---|
//! | `$6$` | `$6$SALT$HASH` | one SHA-512 over the password and the salt behind it |
//! | `$7$` | `$7$ITERATIONS$SALT$HASH` | PBKDF2 with HMAC-SHA-512, 64 bytes |
//! | `$argon2id$` | `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH` | Argon2id |
//!
//! Salts and hashes are base64, padded in the first two, unpadded in the third.

use std::fmt;

use argon2::{Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

/// Bytes of a hash in the first two forms, and of the ones that we make.
const HASH_SIZE: usize = 64;

/// Bytes of a salt: what older and newer tools wrote.
const SALT_SIZES: [usize; 2] = [12, 64];

/// PBKDF2 rounds, at most: a second of one core.
const ITERATIONS_MAX: u32 = 10_000_000;

/// Memory of one Argon2 check in KiB, at most: 1 GiB.
const ARGON2_MEMORY_KIB_MAX: u32 = 1 << 20;

/// Passes over that memory, at most.
const ARGON2_PASSES_MAX: u32 = 64;

/// How a new password is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `$6$`: fast to check, and so fast to guess. For files that older tools must read.
    Sha512,
    /// `$7$`: PBKDF2 with this many iterations, 1 to 10,000,000.
    Pbkdf2 {
        /// Rounds.
        iterations: u32,
    },
    /// `$argon2id$` with 46 MiB and one pass, as mosquitto 2.1 makes them. The default.
    Argon2id,
}

/// A password as a file keeps it: it can be checked against, not read back.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptPassword {
    kind: Kind,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sha512,
    Pbkdf2 { iterations: u32 },
    Argon2id { version: u32, memory_kib: u32, passes: u32, lanes: u32 },
}

/// Mosquitto's own parameters, those of a recommendation of the OWASP.
const ARGON2ID: Kind = Kind::Argon2id { version: 0x13, memory_kib: 47_104, passes: 1, lanes: 1 };

impl fmt::Debug for KeptPassword {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeptPassword(..)")
    }
}

impl KeptPassword {
    /// Reads one of the three forms.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(text) = text.strip_prefix('$') else {
            return Err("the password is not hashed; hash it with `midge passwd`");
        };
        let mut parts = text.split('$');
        let kept = match parts.next() {
            Some("6") => {
                let (salt, hash) = salt_and_hash(&mut parts)?;
                Self { kind: Kind::Sha512, salt, hash }
            }
            Some("7") => {
                let iterations = parts
                    .next()
                    .and_then(|number| number.parse().ok())
                    .filter(|iterations| (1..=ITERATIONS_MAX).contains(iterations))
                    .ok_or("the number of iterations is not between 1 and 10,000,000")?;
                let (salt, hash) = salt_and_hash(&mut parts)?;
                Self { kind: Kind::Pbkdf2 { iterations }, salt, hash }
            }
            Some("argon2id") => Self::parse_argon2id(&mut parts)?,
            _ => return Err("the password begins with neither $6$ nor $7$ nor $argon2id$"),
        };
        match parts.next() {
            None => Ok(kept),
            Some(_) => Err("there is something behind the password's hash"),
        }
    }

    fn parse_argon2id<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Result<Self, &'static str> {
        const WRONG: &str = "the parameters of $argon2id$ are not v=19$m=KIB,t=PASSES,p=LANES";
        fn number(text: &str, name: &str) -> Option<u32> {
            text.strip_prefix(name)?.strip_prefix('=')?.parse().ok()
        }
        let version = parts.next().and_then(|text| number(text, "v")).ok_or(WRONG)?;
        Version::try_from(version).map_err(|_| WRONG)?;
        let mut parameters = parts.next().ok_or(WRONG)?.split(',');
        let mut parameter =
            |name| parameters.next().and_then(|text| number(text, name)).ok_or(WRONG);
        let (memory_kib, passes, lanes) = (parameter("m")?, parameter("t")?, parameter("p")?);
        if memory_kib > ARGON2_MEMORY_KIB_MAX || passes > ARGON2_PASSES_MAX {
            return Err("$argon2id$ may take 1 GiB and 64 passes at the most");
        }
        let mut decode = || {
            let text = parts.next().ok_or(WRONG)?;
            STANDARD_NO_PAD.decode(text).map_err(|_| "the salt or the hash is not base64")
        };
        let (salt, hash) = (decode()?, decode()?);
        Params::new(memory_kib, passes, lanes, Some(hash.len())).map_err(|_| WRONG)?;
        if !(8..=1024).contains(&salt.len()) || hash.len() > 1024 {
            return Err("the salt or the hash of $argon2id$ is too short or too long");
        }
        let kind = Kind::Argon2id { version, memory_kib, passes, lanes };
        Ok(Self { kind, salt: salt.into(), hash: hash.into() })
    }

    /// Keeps `password`. `salt` must be random and used once.
    #[must_use]
    pub fn create(algorithm: Algorithm, password: &[u8], salt: [u8; HASH_SIZE]) -> Self {
        let kind = match algorithm {
            Algorithm::Sha512 => Kind::Sha512,
            Algorithm::Pbkdf2 { iterations } => {
                Kind::Pbkdf2 { iterations: iterations.clamp(1, ITERATIONS_MAX) }
            }
            Algorithm::Argon2id => ARGON2ID,
        };
        // mosquitto 2.0 reads its two forms with short salts only; 96 random bits are as good as 512 here.
        let salt = match kind {
            Kind::Sha512 | Kind::Pbkdf2 { .. } => &salt[..SALT_SIZES[0]],
            Kind::Argon2id { .. } => &salt[..],
        };
        let hash = compute(kind, password, salt, HASH_SIZE);
        Self { kind, salt: salt.into(), hash: hash.into() }
    }

    /// What a check costs, to compare with another's.
    pub(crate) fn cost(&self) -> u64 {
        match self.kind {
            Kind::Sha512 => 1,
            Kind::Pbkdf2 { iterations } => 1 + u64::from(iterations),
            // A KiB is a thousand bytes read and mixed: about as much as one round of PBKDF2.
            Kind::Argon2id { memory_kib, passes, .. } => u64::from(memory_kib) * u64::from(passes),
        }
    }

    /// The text for the file.
    #[must_use]
    pub fn encode(&self) -> String {
        match self.kind {
            Kind::Sha512 => {
                format!("$6${}${}", STANDARD.encode(&self.salt), STANDARD.encode(&self.hash))
            }
            Kind::Pbkdf2 { iterations } => {
                let (salt, hash) = (STANDARD.encode(&self.salt), STANDARD.encode(&self.hash));
                format!("$7${iterations}${salt}${hash}")
            }
            Kind::Argon2id { version, memory_kib, passes, lanes } => {
                let salt = STANDARD_NO_PAD.encode(&self.salt);
                let hash = STANDARD_NO_PAD.encode(&self.hash);
                format!("$argon2id$v={version}$m={memory_kib},t={passes},p={lanes}${salt}${hash}")
            }
        }
    }

    /// Whether this is the password. Takes from a microsecond (`$6$`) to tens of milliseconds and 46 MiB
    /// (`$argon2id$`): never on a shard.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let computed = compute(self.kind, password, &self.salt, self.hash.len());
        computed.ct_eq(&self.hash).into()
    }
}

type SaltAndHash = (Box<[u8]>, Box<[u8]>);

fn salt_and_hash<'a>(
    parts: &mut impl Iterator<Item = &'a str>,
) -> Result<SaltAndHash, &'static str> {
    let mut decode = |missing| {
        let text = parts.next().ok_or(missing)?;
        STANDARD.decode(text).map_err(|_| "the salt or the hash is not base64")
    };
    let salt = decode("there is no salt")?;
    let hash = decode("there is no hash behind the salt")?;
    if !SALT_SIZES.contains(&salt.len()) {
        return Err("the salt has neither 12 nor 64 bytes");
    }
    if hash.len() != HASH_SIZE {
        return Err("the hash has not 64 bytes");
    }
    Ok((salt.into(), hash.into()))
}

fn compute(kind: Kind, password: &[u8], salt: &[u8], size: usize) -> Vec<u8> {
    match kind {
        Kind::Sha512 => Sha512::new().chain_update(password).chain_update(salt).finalize().to_vec(),
        Kind::Pbkdf2 { iterations } => {
            let mut hash = vec![0; size];
            pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, &mut hash);
            hash
        }
        Kind::Argon2id { version, memory_kib, passes, lanes } => {
            let mut hash = vec![0; size];
            let computed = Params::new(memory_kib, passes, lanes, Some(size)).ok().and_then(|p| {
                let version = Version::try_from(version).ok()?;
                let argon2 = Argon2::new(argon2::Algorithm::Argon2id, version, p);
                argon2.hash_password_into(password, salt, &mut hash).ok()
            });
            // The parameters were checked when the line was read; a password that is too long for the algorithm (4 GiB)
            // does not come in a packet. An empty hash equals none.
            if computed.is_some() { hash } else { Vec::new() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; HASH_SIZE] = [7; HASH_SIZE];

    #[test]
    fn what_is_kept_can_be_checked_and_read_again() {
        for algorithm in
            [Algorithm::Sha512, Algorithm::Pbkdf2 { iterations: 101 }, Algorithm::Argon2id]
        {
            let kept = KeptPassword::create(algorithm, b"secret", SALT);
            let again = KeptPassword::parse(&kept.encode()).unwrap();
            assert!(again == kept, "{algorithm:?}");
            assert!(again.verify(b"secret"), "{algorithm:?}");
            for wrong in [&b"Secret"[..], b"", b"secret ", b"secre"] {
                assert!(!again.verify(wrong), "{algorithm:?}");
            }
        }
    }

    /// Made by Debian's `mosquitto_passwd` 2.0.11 (`$7$`, and `$6$` with `-H sha512`).
    #[test]
    fn lines_that_mosquitto_made() {
        for (kept, password) in MOSQUITTO {
            let parsed = KeptPassword::parse(kept).unwrap();
            assert!(parsed.verify(password.as_bytes()), "{kept}");
            assert!(!parsed.verify(b"other"), "{kept}");
            assert_eq!(&parsed.encode(), kept);
        }
    }

    const MOSQUITTO: &[(&str, &str)] = &[
        (
            "$7$101$l9KnIps7Ycy8/OjU$Tkzvv9duIuvavKzHciMxsWlcFGOLpxgyulpqf/PdqXJTLVV6LU+Z3LGjjYUM2CrRIr5aT2COjk2fDiLfKoLSkw==",
            "geheim",
        ),
        (
            "$7$101$oEjSYRRUMxfcm5yN$54Uf0uqj3Etj7aoKQjjLqJ+RODN4bCqr/3fSq4dSEveEAqndrSkQxUmeXh6eKBYs8LzOP1/NDQOasb8UKR6nKg==",
            "p:w $x",
        ),
        (
            "$6$wTdA7IS4vsWSEKpH$ycbt0sTUkB6w5n3gKYKKjrrfyFILnnnHfj/HkmXcfYXUuD8GA43GYpwQw/yXthAPxju3YnXApEcMVb277Yeolw==",
            "alt",
        ),
    ];

    #[test]
    fn what_cannot_be_used_says_why() {
        for (text, reason) in [
            ("plain", "not hashed"),
            ("$5$abc$def", "neither"),
            ("$6$", "base64|12 nor 64|no hash"),
            ("$6$####$AAAA", "base64"),
            ("$6$AAAA$AAAA", "12 nor 64"),
            ("$7$0$AAAA$AAAA", "iterations"),
            ("$7$many$AAAA$AAAA", "iterations"),
            ("$7$99999999999$AAAA$AAAA", "iterations"),
            ("$7$101", "no salt"),
            ("$argon2id$v=19$m=4,t=1", "parameters"),
            ("$argon2id$v=19$m=99999999,t=1,p=1$AAAAAAAAAAAAAAAA$AAAA", "1 GiB"),
            ("$argon2id$v=7$m=4096,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAA", "parameters"),
        ] {
            let message = KeptPassword::parse(text).unwrap_err();
            assert!(reason.split('|').any(|r| message.contains(r)), "{text}: {message}");
        }
    }

    #[test]
    fn a_kept_password_does_not_show_itself() {
        let kept = KeptPassword::create(Algorithm::Sha512, b"secret", SALT);
        assert_eq!(format!("{kept:?}"), "KeptPassword(..)");
    }
}

//! Keys for signatures.

use std::fmt;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header};

/// Bytes of a shared secret, at least: as many as the shortest hash has (RFC 7518 §3.2).
const SECRET_SIZE_MIN: usize = 32;

/// Keys of a set, at most.
const KEYS_MAX: usize = 64;

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[Algorithm::RS256];
const EC: &[Algorithm] = &[Algorithm::ES256];
const ED: &[Algorithm] = &[Algorithm::EdDSA];

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyError(pub &'static str);

impl fmt::Display for KeyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for KeyError {}

struct Key {
    id: Option<Box<str>>,
    algorithms: &'static [Algorithm],
    key: DecodingKey,
}

/// Keys that tokens may be signed with.
#[derive(Default)]
pub struct Keys(Vec<Key>);

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// A shared secret, for HS256, HS384 and HS512.
    ///
    /// # Errors
    /// When it is shorter than 32 bytes.
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < SECRET_SIZE_MIN {
            return Err(KeyError("the secret is shorter than 32 bytes; take a longer one"));
        }
        let key = DecodingKey::from_secret(secret).map_err(|_| KeyError("this is no secret"))?;
        Ok(Self(vec![Key { id: None, algorithms: HMAC, key }]))
    }

    /// One public key, or one certificate, in PEM: RSA (RS256), P-256 (ES256), Ed25519 (EdDSA).
    ///
    /// # Errors
    /// When it is none of them.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        if text.windows(11).any(|part| part == b"PRIVATE KEY") {
            return Err(KeyError("this is a private key; name the file of the public one"));
        }
        let found = DecodingKey::from_ed_pem(text)
            .map(|key| (ED, key))
            .or_else(|_| DecodingKey::from_ec_pem(text).map(|key| (EC, key)))
            .or_else(|_| DecodingKey::from_rsa_pem(text).map(|key| (RSA, key)));
        match found {
            Ok((algorithms, key)) => Ok(Self(vec![Key { id: None, algorithms, key }])),
            Err(_) => Err(KeyError("this is no public key of RSA, P-256 or Ed25519 in PEM")),
        }
    }

    /// A JWK set (RFC 7517). Keys that are not for signatures, and those of other kinds, are passed over.
    ///
    /// # Errors
    /// When it is no set, or no key of it can be used, or one is a shared secret: those belong in a secret file.
    pub fn from_jwks(text: &[u8]) -> Result<Self, KeyError> {
        let set: JwkSet =
            serde_json::from_slice(text).map_err(|_| KeyError("this is no JWK set"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeyError("there are more than 64 keys in the set"));
        }
        let mut keys = Vec::new();
        for jwk in &set.keys {
            let for_others = matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption));
            let algorithms = match &jwk.algorithm {
                AlgorithmParameters::OctetKey(_) => {
                    return Err(KeyError(
                        "a shared secret stands in the set; it belongs in a file of its own",
                    ));
                }
                _ if for_others => continue,
                AlgorithmParameters::RSA(_) => RSA,
                AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => EC,
                AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => ED,
                _ => continue,
            };
            // Its own algorithm, if it names one, must be the one that we would use it for.
            let named = jwk.common.key_algorithm.map(|named| named.to_string());
            if named.is_some_and(|named| algorithms.iter().all(|one| format!("{one:?}") != named)) {
                continue;
            }
            let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
            let id = jwk.common.key_id.as_deref().map(Into::into);
            keys.push(Key { id, algorithms, key });
        }
        if keys.is_empty() {
            return Err(KeyError("no key of the set is for RS256, ES256 or EdDSA"));
        }
        Ok(Self(keys))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none: then no token is good.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that a token with this header may be signed with.
    pub(crate) fn for_token(&self, header: &Header) -> impl Iterator<Item = &DecodingKey> {
        let kid = header.kid.as_deref();
        let fits = move |key: &&Key| {
            key.algorithms.contains(&header.alg)
                && (kid.is_none() || key.id.is_none() || key.id.as_deref() == kid)
        };
        self.0.iter().filter(fits).map(|key| &key.key)
    }
}

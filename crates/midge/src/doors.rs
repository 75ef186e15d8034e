//! Who answers the shards about clients: on the threads that are asked, with files that can be exchanged meanwhile.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use midge_auth::{
    Authenticator, Challenge, Exchange, Grant, Login, PasswordAnswer, PasswordFile, ScramFile,
    Step, Verdict,
};
use midge_reactor::Reply;
use midge_services::Refresher;
use midge_token::{Checked, Keys, Tokens};
use sha2::{Digest, Sha512};

use crate::{security::random, service::Service};

/// Passwords known to be right, at most: beyond it all are forgotten.
const CACHED_MAX: usize = 100_000;

/// Users that can be exchanged while threads check passwords against them.
#[derive(Debug)]
pub(crate) struct Users {
    file: RwLock<Arc<PasswordFile>>,
    right: Mutex<HashMap<[u8; 64], Instant>>,
    /// How long one that was right is remembered, in milliseconds.
    remembered_ms: AtomicU64,
    /// Makes what is remembered of a password worthless to whoever sees it elsewhere.
    key: [u8; 64],
}

impl Users {
    fn new(file: PasswordFile, remembered_for: Duration) -> Result<Self, String> {
        Ok(Self {
            file: RwLock::new(Arc::new(file)),
            right: Mutex::default(),
            remembered_ms: AtomicU64::new(as_ms(remembered_for)),
            key: random()?,
        })
    }

    /// What the file says about a user and a password; slow, unless it was right a moment ago.
    fn check(&self, user: &str, password: Option<&[u8]>) -> PasswordAnswer {
        let remembered = password.map(|password| self.digest(user, password));
        let now = Instant::now();
        let known = |right: &HashMap<_, _>| {
            remembered.and_then(|one| right.get(&one)).is_some_and(|at| *at > now)
        };
        if known(&self.right.lock().unwrap_or_else(PoisonError::into_inner)) {
            return PasswordAnswer::Right;
        }
        let file = Arc::clone(&self.file.read().unwrap_or_else(PoisonError::into_inner));
        let answer = file.verify(user, password);
        // Relaxed: a number that stands by itself.
        let remembered_for = Duration::from_millis(self.remembered_ms.load(Ordering::Relaxed));
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        // What was right for a file that was exchanged meanwhile is not remembered.
        let file_now = self.file.read().unwrap_or_else(PoisonError::into_inner);
        if answer == PasswordAnswer::Right
            && !remembered_for.is_zero()
            && Arc::ptr_eq(&file, &file_now)
            && let Some(remembered) = remembered
        {
            if right.len() >= CACHED_MAX {
                right.retain(|_, at| *at > now);
            }
            if right.len() >= CACHED_MAX {
                right.clear();
            }
            right.insert(remembered, now + remembered_for);
        }
        answer
    }

    fn exchange(&self, file: PasswordFile, remembered_for: Duration) {
        self.remembered_ms.store(as_ms(remembered_for), Ordering::Relaxed);
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
        self.right.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn digest(&self, user: &str, password: &[u8]) -> [u8; 64] {
        let hash = Sha512::new()
            .chain_update(self.key)
            .chain_update((user.len() as u64).to_le_bytes())
            .chain_update(user)
            .chain_update(password);
        hash.finalize().into()
    }
}

/// What was read of the files that know users.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) passwords: Option<PasswordFile>,
    pub(crate) scram: Option<ScramFile>,
    pub(crate) tokens: Option<Tokens>,
}

/// Who knows tokens.
#[derive(Debug, Default)]
struct Holders {
    tokens: Option<Arc<Tokens>>,
    /// How often it was decided where keys are fetched from: what comes from elsewhere, later, is not taken.
    source: u64,
}

/// Everybody who may be asked.
#[derive(Debug)]
pub(crate) struct Doors {
    users: Users,
    scram: RwLock<Option<Arc<ScramFile>>>,
    tokens: RwLock<Holders>,
    /// Where the keys of tokens are fetched from.
    keys: Mutex<Option<Refresher>>,
    service: RwLock<Option<Arc<Service>>>,
}

impl Doors {
    pub(crate) fn new(files: Files, remembered_for: Duration) -> Result<Self, String> {
        // Also without a file: a reload may bring the first one.
        let users = Users::new(files.passwords.unwrap_or_else(nobody), remembered_for)?;
        Ok(Self {
            users,
            scram: RwLock::new(files.scram.map(Arc::new)),
            tokens: RwLock::new(Holders { tokens: files.tokens.map(Arc::new), source: 0 }),
            keys: Mutex::default(),
            service: RwLock::default(),
        })
    }

    /// Answers about a client, now or later.
    pub(crate) fn ask(&self, login: &Login, reply: Reply) {
        let verdict = match login.asked {
            Authenticator::PasswordFile => self.ask_passwords(login),
            Authenticator::Scram => self.ask_scram(login),
            Authenticator::Token => self.ask_tokens(login),
            Authenticator::Service => {
                let service = self.service.read().unwrap_or_else(PoisonError::into_inner).clone();
                match service {
                    Some(service) => return service.ask(login, reply),
                    None => Verdict::Unknown,
                }
            }
        };
        reply.give(verdict);
    }

    /// Another service is asked from now on, or none. Questions that are under way are answered by the one before.
    pub(crate) fn set_service(&self, service: Option<Service>) {
        let service = service.map(Arc::new);
        *self.service.write().unwrap_or_else(PoisonError::into_inner) = service;
    }

    /// Nothing is fetched any more by whom it was until now, and those keys of tokens that there are count no more, if they are
    /// to be forgotten. Returns by what number others are to be brought: [`Doors::fetched`].
    pub(crate) fn change_source(&self, forget: bool) -> u64 {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut holders = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        holders.source += 1;
        if forget {
            let without = |tokens: &Arc<Tokens>| Arc::new(tokens.with_keys(Keys::default()));
            holders.tokens = holders.tokens.as_ref().map(without);
        }
        holders.source
    }

    /// Keys of tokens are fetched from now on.
    pub(crate) fn set_refresher(&self, refresher: Refresher) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(refresher);
    }

    /// A set of keys was fetched, or not. A set that cannot be used leaves the old one.
    pub(crate) fn fetched(&self, source: u64, url: &str, body: Option<&[u8]>) {
        let keys = match body.map(Keys::from_jwks) {
            Some(Ok(keys)) => keys,
            None => return tracing::warn!("{url}: no keys came; those that are there stay"),
            Some(Err(error)) => {
                return tracing::warn!("{url}: {error}; the keys that are there stay");
            }
        };
        let mut holders = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = &holders.tokens
            && holders.source == source
        {
            holders.tokens = Some(Arc::new(tokens.with_keys(keys)));
        }
    }

    fn ask_passwords(&self, login: &Login) -> Verdict {
        let Some(user) = &login.user else { return Verdict::Unknown };
        let password = login.password.as_ref().map(|password| &*password.0);
        match self.users.check(user, password) {
            PasswordAnswer::Right => Verdict::user(user),
            PasswordAnswer::Wrong => Verdict::Refused,
            PasswordAnswer::Unknown => Verdict::Unknown,
        }
    }

    fn ask_scram(&self, login: &Login) -> Verdict {
        let file = self.scram.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(file) = file else { return Verdict::Refused };
        match &login.step {
            None => Verdict::Unknown,
            Some(Step::First(message)) => {
                let Ok(random) = random() else { return Verdict::Busy };
                // 144 bits; base64 has no comma.
                let nonce = STANDARD_NO_PAD.encode(&random[..18]);
                match Exchange::begin(&file, &message.0, &nonce) {
                    // Who also says a user name says the same one.
                    Ok((exchange, _))
                        if login.user.as_deref().is_some_and(|user| user != exchange.user()) =>
                    {
                        Verdict::Refused
                    }
                    Ok((exchange, data)) => {
                        Verdict::Continue(Box::new(Challenge { data, exchange }))
                    }
                    Err(_) => Verdict::Refused,
                }
            }
            Some(Step::Final(exchange, message)) => match exchange.finish(&message.0) {
                Ok(data) => Verdict::Granted(Box::new(Grant {
                    user: Some(exchange.user().into()),
                    data: Some(data),
                    ..Grant::default()
                })),
                Err(_) => Verdict::Refused,
            },
        }
    }

    fn ask_tokens(&self, login: &Login) -> Verdict {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner).tokens.clone();
        let Some(tokens) = tokens else { return Verdict::Unknown };
        match tokens.check(login, now_seconds()) {
            Checked::Verdict(verdict) => verdict,
            Checked::KeyUnknown => {
                // It may be there by the time that the client tries again.
                let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(keys) = &*keys {
                    keys.refresh();
                }
                if tokens.has_keys() { Verdict::Refused } else { Verdict::Unavailable }
            }
        }
    }

    /// The users of these files count from now on.
    pub(crate) fn exchange(&self, files: Files, remembered_for: Duration) {
        self.users.exchange(files.passwords.unwrap_or_else(nobody), remembered_for);
        *self.scram.write().unwrap_or_else(PoisonError::into_inner) = files.scram.map(Arc::new);
        let mut holders = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        let earlier = holders.tokens.take();
        holders.tokens = files.tokens.map(|new| match &earlier {
            // Fetched keys stand in no file.
            Some(earlier) if !new.has_keys() => Arc::new(new.with_keys_of(earlier)),
            _ => Arc::new(new),
        });
    }
}

fn as_ms(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

/// A password file without users.
fn nobody() -> PasswordFile {
    PasswordFile::parse("").expect("no line, no mistake")
}

/// Since 1970.
pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use midge_auth::{Algorithm, KeptPassword};

    use super::*;

    fn file(lines: &[(&str, &str)]) -> PasswordFile {
        let line = |(user, password): &(&str, &str)| {
            let kept = KeptPassword::create(Algorithm::Sha512, password.as_bytes(), [1; 64]);
            format!("{user}:{}\n", kept.encode())
        };
        PasswordFile::parse(&lines.iter().map(line).collect::<String>()).unwrap()
    }

    #[test]
    fn what_was_right_is_remembered_until_the_file_changes() {
        let users = Users::new(file(&[("anna", "a")]), Duration::from_secs(60)).unwrap();
        let check = |password: &[u8]| users.check("anna", Some(password)) == PasswordAnswer::Right;
        assert!(!check(b"b"));
        assert!(users.right.lock().unwrap().is_empty(), "a wrong password is not remembered");
        assert!(check(b"a"));
        assert_eq!(users.right.lock().unwrap().len(), 1);
        assert!(check(b"a"));
        assert_eq!(users.check("anna", None), PasswordAnswer::Wrong);
        users.exchange(file(&[("anna", "b")]), Duration::from_secs(60));
        assert!(!check(b"a"), "the old password");
        assert!(check(b"b"));
        users.exchange(file(&[("anna", "c")]), Duration::ZERO);
        assert!(check(b"c"));
        assert!(users.right.lock().unwrap().is_empty(), "nothing is remembered any more");
    }

    /// Keys that come late from where they are not fetched any more.
    #[test]
    fn keys_from_elsewhere_are_not_taken() {
        let tokens = || Some(Tokens::new(midge_token::Settings::default(), Keys::default()));
        let files = || Files { tokens: tokens(), ..Files::default() };
        let doors = Doors::new(files(), Duration::ZERO).unwrap();
        // That of RFC 8037.
        let set = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let has_keys = || doors.tokens.read().unwrap().tokens.as_ref().unwrap().has_keys();
        let first = doors.change_source(true);
        doors.fetched(first, "first", Some(set.as_bytes()));
        assert!(has_keys());
        // The same settings read again keep what was fetched; other ones do not.
        doors.exchange(files(), Duration::ZERO);
        assert!(has_keys());
        let second = doors.change_source(true);
        assert!(!has_keys());
        doors.fetched(first, "first", Some(set.as_bytes()));
        assert!(!has_keys());
        doors.fetched(second, "second", Some(set.as_bytes()));
        assert!(has_keys());
    }

    #[test]
    fn user_and_password_are_told_apart() {
        let users = Users::new(file(&[]), Duration::ZERO).unwrap();
        assert_ne!(users.digest("ab", b"c"), users.digest("a", b"bc"));
    }
}

//! Users and rules: from the files that the configuration names to what shards ask for.
//!
//! Read at the start and again at SIGHUP. Everything is read before anything changes: a file that cannot be used leaves
//! the old state as it was.

use std::{
    collections::HashMap,
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use midge_auth::{
    AccessRules, Authenticator, CertificateName, Chain, Link, PasswordAnswer, PasswordFile, Verdict,
};
use midge_config::{Address, Choice, Config, DenyAction};
use midge_reactor::Doorman;
use midge_shard::Security;
use sha2::{Digest, Sha512};

use crate::failure::Failure;

/// Passwords known to be right, at most: beyond it all are forgotten.
const CACHED_MAX: usize = 100_000;

/// Users that can be exchanged while threads check passwords against them.
#[derive(Debug)]
pub(crate) struct Users {
    file: RwLock<Arc<PasswordFile>>,
    right: Mutex<HashMap<[u8; 64], Instant>>,
    remembered_for: Duration,
    /// Makes what is remembered of a password worthless to whoever sees it elsewhere.
    key: [u8; 64],
}

impl Users {
    fn new(file: PasswordFile, remembered_for: Duration) -> Result<Self, String> {
        Ok(Self {
            file: RwLock::new(Arc::new(file)),
            right: Mutex::default(),
            remembered_for,
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
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        // What was right for a file that was exchanged meanwhile is not remembered.
        let file_now = self.file.read().unwrap_or_else(PoisonError::into_inner);
        if answer == PasswordAnswer::Right
            && !self.remembered_for.is_zero()
            && Arc::ptr_eq(&file, &file_now)
            && let Some(remembered) = remembered
        {
            if right.len() >= CACHED_MAX {
                right.retain(|_, at| *at > now);
            }
            if right.len() >= CACHED_MAX {
                right.clear();
            }
            right.insert(remembered, now + self.remembered_for);
        }
        answer
    }

    fn exchange(&self, file: PasswordFile) {
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

/// What the shards are told, and who answers them about clients.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) security: Security,
    users: Option<Arc<Users>>,
}

impl Guard {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// A file that cannot be read or used, or a configuration that lets nobody in.
    pub(crate) fn load(config: &Config) -> Result<Self, Failure> {
        let (security, passwords) = read(config).map_err(Failure::configuration)?;
        if security.chains.iter().any(Chain::is_empty) {
            return Err(Failure::configuration(
                "security.allow_anonymous: nobody may connect: there is no password file, and a listener that is \
                 not on a loopback address; set security.password_file, or security.allow_anonymous to true \
                 (--allow-anonymous) where everybody may",
            ));
        }
        let remembered_for = config.security.password_cache.duration();
        let users = match passwords {
            None => None,
            Some(file) => Some(Arc::new(Users::new(file, remembered_for).map_err(Failure::Other)?)),
        };
        Ok(Self { security, users })
    }

    /// Who is asked about clients, where anybody is.
    pub(crate) fn doorman(&self, config: &Config) -> Option<Doorman> {
        let mut links = self.security.chains.iter().flat_map(|chain| chain.links());
        if !links.any(|link| matches!(link, Link::Ask(_))) {
            return None;
        }
        let users = self.users.clone();
        let ask = Arc::new(move |login: &midge_auth::Login, reply: midge_reactor::Reply| {
            reply.give(match login.asked {
                Authenticator::PasswordFile => match (&users, &login.user) {
                    (Some(users), Some(user)) => {
                        let password = login.password.as_ref().map(|password| &*password.0);
                        match users.check(user, password) {
                            PasswordAnswer::Right => Verdict::user(user),
                            PasswordAnswer::Wrong => Verdict::Refused,
                            PasswordAnswer::Unknown => Verdict::Unknown,
                        }
                    }
                    _ => Verdict::Unknown,
                },
            });
        });
        Some(Doorman { ask, threads: config.security.password_threads })
    }

    /// Reads the files again; the users count from now on, the rest is for the shards.
    ///
    /// # Errors
    /// A sentence; nothing has changed then.
    pub(crate) fn reload(&self, config: &Config) -> Result<Security, String> {
        let (security, passwords) = read(config)?;
        if let (Some(users), Some(file)) = (&self.users, passwords) {
            users.exchange(file);
        }
        Ok(security)
    }
}

fn read(config: &Config) -> Result<(Security, Option<PasswordFile>), String> {
    let settings = &config.security;
    let passwords = settings.password_file.as_deref().map(read_passwords).transpose()?;
    let access = settings.acl_file.as_deref().map(read_rules).transpose()?;
    let security = Security {
        chains: config.listeners.iter().map(|listener| chain(config, listener)).collect(),
        access: access.map(Arc::new),
        deny_disconnects: settings.deny_action == DenyAction::Disconnect,
    };
    Ok((security, passwords))
}

/// Who is asked about the clients of a listener: those that it names, else those that all have, else whoever is there.
fn chain(config: &Config, listener: &midge_config::Listener) -> Chain {
    let settings = &config.security;
    let named = listener.authenticators.as_ref().or(settings.authenticators.as_ref());
    let mut links: Vec<Link> = match named {
        Some(named) => named.iter().map(|one| link(*one, settings)).collect(),
        None => {
            let password_file = settings.password_file.as_ref();
            password_file.map(|_| Link::Ask(Authenticator::PasswordFile)).into_iter().collect()
        }
    };
    let loopback = || config.listeners.iter().all(|listener| is_local(&listener.address));
    let anonymous = match settings.allow_anonymous {
        Choice::Yes => true,
        Choice::No => false,
        Choice::Auto => named.is_none() && links.is_empty() && loopback(),
    };
    if anonymous && !links.contains(&Link::Anonymous) {
        links.push(Link::Anonymous);
    }
    Chain::new(&links)
}

fn link(authenticator: midge_config::Authenticator, settings: &midge_config::Security) -> Link {
    match authenticator {
        midge_config::Authenticator::Certificate => {
            Link::Certificate(match settings.certificate_name {
                midge_config::CertificateName::CommonName => CertificateName::CommonName,
                midge_config::CertificateName::Subject => CertificateName::Subject,
                midge_config::CertificateName::Dns => CertificateName::Dns,
                midge_config::CertificateName::Email => CertificateName::Email,
                midge_config::CertificateName::Uri => CertificateName::Uri,
            })
        }
        midge_config::Authenticator::PasswordFile => Link::Ask(Authenticator::PasswordFile),
        midge_config::Authenticator::Anonymous => Link::Anonymous,
    }
}

/// Whether only this machine can reach an address.
fn is_local(address: &Address) -> bool {
    match address {
        Address::Ip(address) => address.ip().is_loopback(),
        Address::Unix(_) => true,
    }
}

fn read_passwords(path: &Path) -> Result<PasswordFile, String> {
    let key = "security.password_file";
    let text = text(key, path)?;
    // Hashes can be guessed against by whoever reads them.
    if let Ok(metadata) = fs::metadata(path)
        && metadata.mode() & 0o004 != 0
    {
        tracing::warn!(
            "{key}: everybody on this machine may read {}; chmod o-r it",
            path.display()
        );
    }
    let file = PasswordFile::parse(&text)
        .map_err(|error| format!("{key}: {}:{}: {}", path.display(), error.line, error.message))?;
    if file.is_empty() {
        tracing::warn!("{key}: {} has no users", path.display());
    }
    Ok(file)
}

fn read_rules(path: &Path) -> Result<AccessRules, String> {
    let key = "security.acl_file";
    AccessRules::parse(&text(key, path)?)
        .map_err(|error| format!("{key}: {}:{}: {}", path.display(), error.line, error.message))
}

fn text(key: &str, path: &Path) -> Result<String, String> {
    fs::read_to_string(path)
        .map_err(|error| format!("{key}: cannot read {}: {error}", path.display()))
}

/// Bytes that nobody can foresee.
pub(crate) fn random() -> Result<[u8; 64], String> {
    let mut bytes = [0; 64];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| format!("cannot read random bytes from /dev/urandom: {error}"))?;
    Ok(bytes)
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
        users.exchange(file(&[("anna", "b")]));
        assert!(!check(b"a"), "the old password");
        assert!(check(b"b"));
    }

    #[test]
    fn user_and_password_are_told_apart() {
        let users = Users::new(file(&[]), Duration::ZERO).unwrap();
        assert_ne!(users.digest("ab", b"c"), users.digest("a", b"bc"));
    }

    #[test]
    fn anonymous_clients_are_served_where_only_this_machine_connects() {
        for (address, choice, expected) in [
            ("127.0.0.1:1883", Choice::Auto, true),
            ("[::1]:1883", Choice::Auto, true),
            ("0.0.0.0:1883", Choice::Auto, false),
            ("192.0.2.1:1883", Choice::Yes, true),
            ("127.0.0.1:1883", Choice::No, false),
        ] {
            let mut config = Config::default();
            config.listeners[0].address = Address::Ip(address.parse().unwrap());
            config.security.allow_anonymous = choice;
            let chain = &read(&config).unwrap().0.chains[0];
            let anonymous = chain.links().contains(&Link::Anonymous);
            assert_eq!(anonymous, expected, "{address} {choice:?}");
            assert_eq!(Guard::load(&config).is_ok(), expected, "{address} {choice:?}");
        }
    }

    #[test]
    fn a_listener_has_the_chain_that_it_names() {
        use midge_config::Authenticator as Named;
        let anonymous = Link::Anonymous;
        let certificate = Link::Certificate(CertificateName::Email);
        for (all, own, choice, expected) in [
            (None, None, Choice::Auto, &[anonymous][..]),
            // A chain that is named says itself whether nobody may come in.
            (Some(vec![Named::Certificate]), None, Choice::Auto, &[certificate]),
            (Some(vec![Named::Certificate]), None, Choice::Yes, &[certificate, anonymous]),
            (
                Some(vec![Named::Certificate]),
                Some(vec![Named::Anonymous]),
                Choice::Auto,
                &[anonymous],
            ),
            (
                None,
                Some(vec![Named::Anonymous, Named::Certificate]),
                Choice::Yes,
                &[anonymous, certificate],
            ),
        ] {
            let mut config = Config::default();
            config.security.certificate_name = midge_config::CertificateName::Email;
            config.security.authenticators = all;
            config.security.allow_anonymous = choice;
            config.listeners[0].authenticators = own;
            assert_eq!(read(&config).unwrap().0.chains[0].links(), expected);
        }
    }
}

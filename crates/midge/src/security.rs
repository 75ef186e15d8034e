//! Users and rules: from the files that the configuration names to what shards ask for.
//!
//! Read at the start and again at each reload. Everything is read before anything changes: a file that cannot be used leaves
//! the old state as it was.

use std::{fmt, fs, io::Read, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use midge_auth::{
    AccessRules, Authenticator, CertificateName, Chain, FileError, Link, Login, PasswordFile,
    ScramFile,
};
use midge_config::{Address, Choice, Config, DenyAction, HttpAuthenticator, Jwt, Period};
use midge_reactor::{Doorman, Reply};
use midge_services::{CallerSettings, Outgoing};
use midge_shard::Security;
use midge_token::{Claim, KeyError, Keys, Tokens};

use crate::{
    doors::{Doors, Files},
    failure::Failure,
    service::Service,
};

/// What the shards are told, and who answers them about clients.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) security: Security,
    doors: Arc<Doors>,
    /// From which others are asked; `None` where nobody has been yet.
    outgoing: Option<Outgoing>,
    /// Whom, in force.
    others: Others,
}

/// Who is asked over HTTP, and with what.
#[derive(Clone, Default, PartialEq, Eq)]
struct Others {
    service: Option<HttpAuthenticator>,
    /// The secret header of its questions: a file's, which can change while its name does not.
    authorization: Option<String>,
    /// Where keys of tokens are fetched from, and how often.
    keys: Option<(String, Period)>,
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Others").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// Others that can be asked from now on.
#[derive(Debug, Default)]
struct Ready {
    /// Where there was no thread for it yet.
    outgoing: Option<Outgoing>,
    wanted: Others,
    /// Where it differs: the new one, or none any more.
    service: Option<Option<Service>>,
}

impl Guard {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// A file that cannot be read or used, or a configuration that lets nobody in.
    pub(crate) fn load(config: &Config) -> Result<Self, Failure> {
        let (security, files) = read(config).map_err(Failure::configuration)?;
        let remembered_for = config.security.password_cache.duration();
        let doors = Arc::new(Doors::new(files, remembered_for).map_err(Failure::Other)?);
        Ok(Self { security, doors, outgoing: None, others: Others::default() })
    }

    /// Asks whoever is to be asked over HTTP, from now on.
    ///
    /// # Errors
    /// When there is no thread for it, or an address or a file cannot be used.
    pub(crate) fn ask_others(&mut self, config: &Config) -> Result<(), Failure> {
        let ready = self.make_ready(config)?;
        self.turn_to(ready);
        Ok(())
    }

    /// Everything about others that can fail.
    fn make_ready(&self, config: &Config) -> Result<Ready, Failure> {
        let security = &config.security;
        let key = "security.http.authorization_file";
        let file = security.http.as_ref().and_then(|http| http.authorization_file.as_deref());
        let text = file.map(|path| secret_text(key, path)).transpose();
        let first_line = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
        let jwt = security.jwt.as_ref();
        let wanted = Others {
            service: security.http.clone(),
            authorization: text.map_err(Failure::configuration)?.map(first_line),
            keys: jwt.and_then(|jwt| Some((jwt.jwks_url.clone()?, jwt.refresh))),
        };
        let mut ready = Ready { wanted, ..Ready::default() };
        if ready.wanted == self.others {
            return Ok(ready);
        }
        let needed = ready.wanted.service.is_some() || ready.wanted.keys.is_some();
        if needed && self.outgoing.is_none() {
            ready.outgoing = Some(Outgoing::start().map_err(|error| {
                Failure::Other(format!("cannot ask others over HTTP: {error}"))
            })?);
        }
        let wrong =
            |key: &str, reason: &str| Failure::configuration(format_args!("{key}: {reason}"));
        if let Some((url, _)) = &ready.wanted.keys {
            Outgoing::check_address(url)
                .map_err(|reason| wrong("security.jwt.jwks_url", reason))?;
        }
        let (of_now, of_then) = (&self.others, &ready.wanted);
        if (&of_now.service, &of_now.authorization) != (&of_then.service, &of_then.authorization) {
            let outgoing = ready.outgoing.as_ref().or(self.outgoing.as_ref());
            ready.service = Some(match (&of_then.service, outgoing) {
                (Some(http), Some(outgoing)) => {
                    let caller = outgoing
                        .caller(caller_settings(http, of_then.authorization.clone()))
                        .map_err(|reason| wrong("security.http", reason))?;
                    let service = Service::new(caller, http.cache.duration());
                    Some(service.map_err(Failure::Other)?)
                }
                _ => None,
            });
        }
        Ok(ready)
    }

    /// They are asked from now on.
    fn turn_to(&mut self, ready: Ready) {
        let Ready { outgoing, wanted, service } = ready;
        if let Some(outgoing) = outgoing {
            self.outgoing = Some(outgoing);
        }
        if let Some(service) = service {
            self.doors.set_service(service);
        }
        if wanted.keys != self.others.keys {
            let address = |others: &Others| others.keys.as_ref().map(|(url, _)| url.clone());
            let elsewhere = address(&wanted) != address(&self.others);
            let source = self.doors.change_source(wanted.keys.is_some() && elsewhere);
            if let (Some((url, refresh)), Some(outgoing)) = (&wanted.keys, &self.outgoing) {
                // The doors hold the refresher: were they held by it in turn, neither would end.
                let (weak, named) = (Arc::downgrade(&self.doors), url.clone());
                let then = move |body: Option<Vec<u8>>| {
                    if let Some(doors) = weak.upgrade() {
                        doors.fetched(source, &named, body.as_deref());
                    }
                };
                // Its address has been looked at.
                if let Ok(refresher) = outgoing.fetch(url, refresh.duration(), FETCH_TIMEOUT, then)
                {
                    self.doors.set_refresher(refresher);
                }
            }
        }
        self.others = wanted;
    }

    /// Whom each listener asks, by number.
    pub(crate) fn chains(&self) -> Arc<[Chain]> {
        Arc::clone(&self.security.chains)
    }

    /// The same in another order.
    pub(crate) fn set_chains(&mut self, chains: &Arc<[Chain]>) {
        self.security.chains = Arc::clone(chains);
    }

    /// Who is asked about clients. Also where nobody is: a reload may change that.
    pub(crate) fn doorman(&self, config: &Config) -> Doorman {
        let doors = Arc::clone(&self.doors);
        let ask = Arc::new(move |login: &Login, reply: Reply| doors.ask(login, reply));
        Doorman { ask, threads: config.security.password_threads }
    }

    /// Reads the files again, or other ones.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn prepare(&self, config: &Config) -> Result<Prepared, Failure> {
        let (security, files) = read(config).map_err(Failure::configuration)?;
        let ready = self.make_ready(config)?;
        let remembered_for = config.security.password_cache.duration();
        Ok(Prepared { security, files, ready, remembered_for })
    }

    /// The users count from now on; the rest is for the shards.
    pub(crate) fn apply(&mut self, prepared: Prepared) -> Security {
        let Prepared { security, files, ready, remembered_for } = prepared;
        self.doors.exchange(files, remembered_for);
        self.turn_to(ready);
        self.security = security.clone();
        security
    }
}

/// Users and rules that are read and may count from now on.
#[derive(Debug)]
pub(crate) struct Prepared {
    security: Security,
    files: Files,
    ready: Ready,
    /// How long a password that was right is known to be right.
    remembered_for: Duration,
}

fn caller_settings(http: &HttpAuthenticator, authorization: Option<String>) -> CallerSettings {
    CallerSettings {
        url: http.url.clone(),
        authorization,
        timeout: http.timeout.duration(),
        concurrency_max: http.concurrency_max.into(),
        waiting_max: 4 * usize::from(http.concurrency_max),
        failures_max: http.failures_max.into(),
        pause: http.pause.duration(),
    }
}

/// How long a set of keys may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

fn read(config: &Config) -> Result<(Security, Files), String> {
    let settings = &config.security;
    let passwords = settings.password_file.as_deref().map(read_passwords).transpose()?;
    let scram = settings.scram_file.as_deref().map(read_scram).transpose()?;
    let tokens = settings.jwt.as_ref().map(read_tokens).transpose()?;
    let access = settings.acl_file.as_deref().map(read_rules).transpose()?;
    let security = Security {
        chains: config.listeners.iter().map(|listener| chain(config, listener)).collect(),
        access: access.map(Arc::new),
        deny_disconnects: settings.deny_action == DenyAction::Disconnect,
    };
    if security.chains.iter().any(Chain::is_empty) {
        return Err(
            "security.allow_anonymous: nobody may connect: there is no password file, and a listener that is \
             not on a loopback address; set security.password_file, or security.allow_anonymous to true \
             (--allow-anonymous) where everybody may"
                .into(),
        );
    }
    Ok((security, Files { passwords, scram, tokens }))
}

/// Who is asked about the clients of a listener: those that it names, else those that all have, else whoever is there.
fn chain(config: &Config, listener: &midge_config::Listener) -> Chain {
    let settings = &config.security;
    let named = listener.authenticators.as_ref().or(settings.authenticators.as_ref());
    let mut links: Vec<Link> = match named {
        Some(named) => named.iter().map(|one| link(*one, settings)).collect(),
        None => [
            settings.scram_file.as_ref().map(|_| Authenticator::Scram),
            settings.jwt.as_ref().map(|_| Authenticator::Token),
            settings.password_file.as_ref().map(|_| Authenticator::PasswordFile),
            settings.http.as_ref().map(|_| Authenticator::Service),
        ]
        .into_iter()
        .flatten()
        .map(Link::Ask)
        .collect(),
    };
    let loopback = || config.listeners.iter().all(is_local);
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
        midge_config::Authenticator::Scram => Link::Ask(Authenticator::Scram),
        midge_config::Authenticator::Jwt => Link::Ask(Authenticator::Token),
        midge_config::Authenticator::Http => Link::Ask(Authenticator::Service),
        midge_config::Authenticator::Anonymous => Link::Anonymous,
    }
}

/// Whether only programs of this machine are served by a listener: it has no other address, and no proxy in front brings
/// strangers.
fn is_local(listener: &midge_config::Listener) -> bool {
    let address = match &listener.address {
        Address::Ip(address) => address.ip().is_loopback(),
        Address::Unix(_) => true,
    };
    address && listener.proxy_protocol.is_none() && listener.websocket.trusted_proxies.is_empty()
}

fn read_passwords(path: &Path) -> Result<PasswordFile, String> {
    let key = "security.password_file";
    let text = secret_text(key, path)?;
    let file = PasswordFile::parse(&text).map_err(|error| at_line(key, path, &error))?;
    if file.is_empty() {
        tracing::warn!("{key}: {} has no users", path.display());
    }
    Ok(file)
}

fn read_scram(path: &Path) -> Result<ScramFile, String> {
    let key = "security.scram_file";
    let text = secret_text(key, path)?;
    let file = ScramFile::parse(&text).map_err(|error| at_line(key, path, &error))?;
    if file.is_empty() {
        tracing::warn!("{key}: {} has no users", path.display());
    }
    Ok(file)
}

fn read_tokens(jwt: &Jwt) -> Result<Tokens, String> {
    let of_bytes = |key: &str, path: &Path, parse: fn(&[u8]) -> Result<Keys, KeyError>| {
        let bytes = fs::read(path)
            .map_err(|error| format!("{key}: cannot read {}: {error}", path.display()))?;
        parse(&bytes).map_err(|error| format!("{key}: {}: {error}", path.display()))
    };
    let keys = if let Some(path) = &jwt.secret_file {
        warn_of_readers("security.jwt.secret_file", path);
        of_bytes("security.jwt.secret_file", path, |bytes| {
            Keys::from_secret(without_line_end(bytes))
        })?
    } else if let Some(path) = &jwt.public_key_file {
        of_bytes("security.jwt.public_key_file", path, Keys::from_pem)?
    } else if let Some(path) = &jwt.jwks_file {
        of_bytes("security.jwt.jwks_file", path, Keys::from_jwks)?
    } else {
        Keys::default()
    };
    let claims = jwt.claims.iter();
    let settings = midge_token::Settings {
        issuers: jwt.issuers.clone(),
        audiences: jwt.audiences.clone(),
        user_claim: jwt.user_claim.clone(),
        claims: claims
            .map(|(name, value)| Claim { name: name.clone(), value: value.clone() })
            .collect(),
        acl_claim: jwt.acl_claim.clone(),
        roles_claim: jwt.roles_claim.clone(),
        require_expiry: jwt.require_expiry,
        leeway_seconds: jwt.leeway.duration().as_secs(),
    };
    Ok(Tokens::new(settings, keys))
}

/// The bytes of a secret without the line end that an editor puts behind it.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

fn at_line(key: &str, path: &Path, error: &FileError) -> String {
    format!("{key}: {}:{}: {}", path.display(), error.line, error.message)
}

/// The text of a file of secrets.
fn secret_text(key: &str, path: &Path) -> Result<String, String> {
    warn_of_readers(key, path);
    text(key, path)
}

/// That others may read a file of secrets is warned of: what is kept of a password can be guessed against.
fn warn_of_readers(key: &str, path: &Path) {
    if let Ok(metadata) = fs::metadata(path)
        && metadata.mode() & 0o004 != 0
    {
        tracing::warn!(
            "{key}: everybody on this machine may read {}; chmod o-r it",
            path.display()
        );
    }
}

fn read_rules(path: &Path) -> Result<AccessRules, String> {
    let key = "security.acl_file";
    let rules = AccessRules::parse(&text(key, path)?);
    let rules = rules.map_err(|error| at_line(key, path, &error))?;
    Ok(rules.named(&path.display().to_string()))
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
    use super::*;

    /// What comes through a proxy of this machine comes from anywhere.
    #[test]
    fn a_proxy_in_front_makes_a_local_listener_public() {
        let mut config = Config::default();
        assert!(read(&config).is_ok());
        config.listeners[0].websocket.trusted_proxies = vec!["127.0.0.1".into()];
        assert!(read(&config).is_err());
        config.security.allow_anonymous = Choice::Yes;
        assert!(read(&config).is_ok());
        let mut config = Config::default();
        config.listeners[0].address = Address::Unix("/run/midge/mqtt.sock".into());
        assert!(read(&config).is_ok());
        let proxy = midge_config::ProxyProtocol { trusted: Vec::new() };
        config.listeners[0].proxy_protocol = Some(proxy);
        assert!(read(&config).is_err());
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
            let read = read(&config)
                .map(|(security, _)| security.chains[0].links().contains(&Link::Anonymous));
            assert_eq!(read.unwrap_or(false), expected, "{address} {choice:?}");
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

    /// Nothing that is secret stands in what a `Debug` shows, or in why a file is refused.
    #[test]
    fn secrets_show_themselves_nowhere() {
        use midge_auth::{Algorithm, KeptPassword, Verifier};
        let directory = std::env::temp_dir().join(format!("midge-secrets-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let kept = KeptPassword::create(Algorithm::Sha512, b"pencil", [9; 64]).encode();
        let verifier = Verifier::create(b"pencil", [9; 16], 4096).encode();
        let secret = "the secret of all tokens, long enough";
        let mut config = Config::default();
        let security = &mut config.security;
        security.password_file = Some(write("passwords", &format!("anna:{kept}\n")));
        security.scram_file = Some(write("scram", &format!("anna:{verifier}\n")));
        security.jwt = Some(Jwt { secret_file: Some(write("jwt", secret)), ..Jwt::default() });
        let guard = Guard::load(&config).unwrap();
        let shown = format!("{guard:?} {config:?}");
        // A bad line of each, in which the secret stands.
        config.security.password_file = Some(write("passwords", &format!("anna:{kept}x$\n")));
        let mut errors = vec![read(&config).map(|_| ()).unwrap_err()];
        config.security.password_file = None;
        config.security.scram_file = Some(write("scram", &format!("anna:{verifier}====\n")));
        errors.push(read(&config).map(|_| ()).unwrap_err());
        config.security.scram_file = None;
        config.security.jwt =
            Some(Jwt { secret_file: Some(write("jwt", "pencil")), ..Jwt::default() });
        errors.push(read(&config).map(|_| ()).unwrap_err());
        fs::remove_dir_all(&directory).unwrap();
        for text in errors.iter().chain([&shown]) {
            let parts = kept.split('$').chain(verifier.split(['$', ':'])).filter(|p| p.len() > 6);
            for hidden in parts.filter(|part| !part.starts_with("SCRAM")).chain([secret, "pencil"])
            {
                assert!(!text.contains(hidden), "{hidden} in {text}");
            }
        }
    }
}

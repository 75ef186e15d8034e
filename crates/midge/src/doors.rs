//! Who answers the shards about clients: on the threads that are asked, with files that can be exchanged meanwhile.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
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
const RIGHT_MAX: usize = 100_000;

/// Passwords known not to be right, at most: beyond it all are forgotten. Fewer, since anybody can bring them.
const WRONG_MAX: usize = 10_000;

/// Work for a client that is not let in, from which on the thread rests.
const REST_FROM: Duration = Duration::from_micros(100);

/// How much longer it rests than it worked.
const REST_TIMES: u32 = 3;

/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(200);

/// Answers of a moment ago, by the keyed digest of the question.
///
/// A device with an old password asks the same again and again, and so does a whole fleet of them: to be told the same again
/// must not cost a hash each time. Who guesses gains nothing: a guess that was wrong is worth nothing the second time.
#[derive(Debug, Default)]
struct Remembered {
    right: HashMap<[u8; 64], Instant>,
    /// Apart, so that no number of wrong ones drives out one that was right.
    wrong: HashMap<[u8; 64], (PasswordAnswer, Instant)>,
}

impl Remembered {
    fn answer(&self, question: &[u8; 64], now: Instant) -> Option<PasswordAnswer> {
        if self.right.get(question).is_some_and(|until| *until > now) {
            return Some(PasswordAnswer::Right);
        }
        let (answer, until) = self.wrong.get(question)?;
        (*until > now).then_some(*answer)
    }

    fn insert(
        &mut self,
        question: [u8; 64],
        answer: PasswordAnswer,
        now: Instant,
        remembered_for: Duration,
    ) {
        let until = now + remembered_for;
        if answer == PasswordAnswer::Right {
            make_room(&mut self.right, RIGHT_MAX, |at| *at > now);
            self.right.insert(question, until);
        } else {
            make_room(&mut self.wrong, WRONG_MAX, |(_, at)| *at > now);
            self.wrong.insert(question, (answer, until));
        }
    }
}

/// Room for one more: those that are outdated go, and all if that is not enough.
fn make_room<T>(answers: &mut HashMap<[u8; 64], T>, max: usize, counts: impl Fn(&T) -> bool) {
    if answers.len() >= max {
        answers.retain(|_, answer| counts(answer));
    }
    if answers.len() >= max {
        answers.clear();
    }
}

/// Users that can be exchanged while threads check passwords against them.
#[derive(Debug)]
pub(crate) struct Users {
    file: RwLock<Arc<PasswordFile>>,
    remembered: Mutex<Remembered>,
    /// How long an answer is remembered, in milliseconds.
    remembered_ms: AtomicU64,
    /// Makes what is remembered of a password worthless to whoever sees it elsewhere.
    key: [u8; 64],
}

impl Users {
    fn new(file: PasswordFile, remembered_for: Duration) -> Result<Self, String> {
        Ok(Self {
            file: RwLock::new(Arc::new(file)),
            remembered: Mutex::default(),
            remembered_ms: AtomicU64::new(as_ms(remembered_for)),
            key: random()?,
        })
    }

    /// What the file says about a user and a password; slow, unless the same was asked a moment ago.
    fn check(&self, user: &str, password: Option<&[u8]>) -> PasswordAnswer {
        let Some(password) = password else { return self.file().verify(user, None) };
        let question = self.digest(user, password);
        let now = Instant::now();
        if let Some(answer) = self.remembered().answer(&question, now) {
            return answer;
        }
        let file = self.file();
        let answer = file.verify(user, Some(password));
        // Relaxed: a number that stands by itself.
        let remembered_for = Duration::from_millis(self.remembered_ms.load(Ordering::Relaxed));
        let mut remembered = self.remembered();
        // What a file said that was exchanged meanwhile is not remembered.
        if !remembered_for.is_zero() && Arc::ptr_eq(&file, &self.file()) {
            remembered.insert(question, answer, now, remembered_for);
        }
        answer
    }

    fn file(&self) -> Arc<PasswordFile> {
        Arc::clone(&self.file.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exchange(&self, file: PasswordFile, remembered_for: Duration) {
        self.remembered_ms.store(as_ms(remembered_for), Ordering::Relaxed);
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
        *self.remembered() = Remembered::default();
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

/// How long a thread rests that has worked so long for somebody who is not let in.
fn rest_after(worked: Duration) -> Option<Duration> {
    (worked >= REST_FROM).then(|| worked.saturating_mul(REST_TIMES).min(REST_MAX))
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
    ///
    /// Who is not let in costs a quarter of the thread's time: whoever guesses passwords by the thousand would otherwise have
    /// all that the machine has left, and everybody else would feel it.
    pub(crate) fn ask(&self, login: &Login, reply: Reply) {
        let began = Instant::now();
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
        let let_in = matches!(verdict, Verdict::Granted(_) | Verdict::Continue(_));
        reply.give(verdict);
        if !let_in && let Some(rest) = rest_after(began.elapsed()) {
            thread::sleep(rest);
        }
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
    fn answers_are_remembered_until_the_file_changes() {
        let users = Users::new(file(&[("anna", "a")]), Duration::from_secs(60)).unwrap();
        let counts = || {
            let remembered = users.remembered();
            (remembered.right.len(), remembered.wrong.len())
        };
        let check = |user: &str, password: &[u8]| users.check(user, Some(password));
        for _ in 0..2 {
            assert_eq!(check("anna", b"b"), PasswordAnswer::Wrong);
            assert_eq!(check("nobody", b"a"), PasswordAnswer::Unknown);
            assert_eq!(check("anna", b"a"), PasswordAnswer::Right);
            assert_eq!(users.check("anna", None), PasswordAnswer::Wrong);
            assert_eq!(counts(), (1, 2));
        }
        users.exchange(file(&[("anna", "b")]), Duration::from_secs(60));
        assert_eq!(check("anna", b"a"), PasswordAnswer::Wrong, "the old password");
        assert_eq!(check("anna", b"b"), PasswordAnswer::Right, "wrong a moment ago");
        users.exchange(file(&[("anna", "c")]), Duration::ZERO);
        assert_eq!(check("anna", b"c"), PasswordAnswer::Right);
        assert_eq!(check("anna", b"b"), PasswordAnswer::Wrong);
        assert_eq!(counts(), (0, 0), "nothing is remembered any more");
    }

    #[test]
    fn wrong_answers_are_bounded_and_drive_out_no_right_one() {
        let mut remembered = Remembered::default();
        let now = Instant::now();
        let question = |number: usize| {
            let mut question = [0; 64];
            question[..8].copy_from_slice(&number.to_le_bytes());
            question
        };
        let minute = Duration::from_secs(60);
        remembered.insert(question(0), PasswordAnswer::Right, now, minute);
        for number in 1..=3 * WRONG_MAX {
            remembered.insert(question(number), PasswordAnswer::Wrong, now, minute);
            assert!(remembered.wrong.len() <= WRONG_MAX);
        }
        assert_eq!(remembered.answer(&question(0), now), Some(PasswordAnswer::Right));
        let last = question(3 * WRONG_MAX);
        assert_eq!(remembered.answer(&last, now), Some(PasswordAnswer::Wrong));
        assert_eq!(remembered.answer(&last, now + minute), None);
    }

    #[test]
    fn who_is_not_let_in_has_a_quarter_of_the_time_at_most() {
        let look_up = Duration::from_micros(5);
        assert_eq!(rest_after(look_up), None, "what was remembered costs nobody a rest");
        for micros in [100, 1_000, 10_000, 50_000] {
            let worked = Duration::from_micros(micros);
            let rest = rest_after(worked).expect("a hash was made");
            assert!(worked * 4 <= worked + rest, "{worked:?} of work, {rest:?} of rest");
        }
        // A hash that somebody made far too dear must not keep the others waiting for minutes.
        assert_eq!(rest_after(Duration::from_secs(10)), Some(REST_MAX));
        assert_eq!(rest_after(Duration::MAX), Some(REST_MAX));
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

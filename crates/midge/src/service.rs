//! A service that is asked about clients over HTTP, and what it has answered a moment ago.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use midge_auth::{Login, Verdict};
use midge_reactor::Reply;
use midge_services::{Caller, Outcome};
use sha2::{Digest, Sha512};

use crate::{doors::now_seconds, security::random};

/// Answers that are remembered, at most: beyond it all are forgotten.
const CACHED_MAX: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Service {
    caller: Caller,
    remembered: Arc<Remembered>,
}

/// Answers by a keyed hash of the question, which holds a password.
struct Remembered {
    key: [u8; 64],
    for_so_long: Duration,
    answers: Mutex<HashMap<[u8; 64], Answer>>,
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Remembered(..)")
    }
}

struct Answer {
    given: Instant,
    until: Instant,
    verdict: Verdict,
}

impl Remembered {
    fn digest(&self, question: &[u8]) -> [u8; 64] {
        Sha512::new().chain_update(self.key).chain_update(question).finalize().into()
    }

    fn find(&self, digest: &[u8; 64], now: Instant) -> Option<Verdict> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answers.get(digest).filter(|answer| answer.until > now)?;
        let mut verdict = answer.verdict.clone();
        if let Verdict::Granted(grant) = &mut verdict
            && let Some(seconds) = &mut grant.valid_for_seconds
        {
            // It was valid for so long when it was given.
            *seconds = seconds.checked_sub(now.duration_since(answer.given).as_secs())?;
            if *seconds == 0 {
                return None;
            }
        }
        Some(verdict)
    }

    fn note(&self, digest: [u8; 64], verdict: &Verdict, now: Instant) {
        if self.for_so_long.is_zero() {
            return;
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= CACHED_MAX {
            answers.retain(|_, answer| answer.until > now);
        }
        if answers.len() >= CACHED_MAX {
            answers.clear();
        }
        let until = now + self.for_so_long;
        answers.insert(digest, Answer { given: now, until, verdict: verdict.clone() });
    }
}

impl Service {
    pub(crate) fn new(caller: Caller, for_so_long: Duration) -> Result<Self, String> {
        let remembered = Remembered { key: random()?, for_so_long, answers: Mutex::default() };
        Ok(Self { caller, remembered: Arc::new(remembered) })
    }

    /// Answers about a client: what is remembered at once, the rest when the service has spoken.
    pub(crate) fn ask(&self, login: &Login, reply: Reply) {
        let question = midge_token::request(login);
        let digest = self.remembered.digest(&question);
        if let Some(verdict) = self.remembered.find(&digest, Instant::now()) {
            return reply.give(verdict);
        }
        let (remembered, login) = (Arc::clone(&self.remembered), login.clone());
        self.caller.call(question, move |outcome| {
            let verdict = match outcome {
                Outcome::Busy => Verdict::Busy,
                Outcome::Unavailable => Verdict::Unavailable,
                Outcome::Answered(answer) => {
                    match midge_token::verdict(&login, &answer, now_seconds()) {
                        None => Verdict::Unavailable,
                        Some(verdict) => {
                            remembered.note(digest, &verdict, Instant::now());
                            verdict
                        }
                    }
                }
            };
            reply.give(verdict);
        });
    }
}

#[cfg(test)]
mod tests {
    use midge_auth::Grant;

    use super::*;

    #[test]
    fn answers_are_remembered_for_a_while() {
        let remembered = Remembered {
            key: [7; 64],
            for_so_long: Duration::from_secs(10),
            answers: Mutex::default(),
        };
        let grant = Grant { valid_for_seconds: Some(5), ..Grant::default() };
        let granted = Verdict::Granted(Box::new(grant));
        let (start, one, other) =
            (Instant::now(), remembered.digest(b"1"), remembered.digest(b"2"));
        remembered.note(one, &granted, start);
        remembered.note(other, &Verdict::Refused, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let Some(Verdict::Granted(found)) = remembered.find(&one, at(3)) else { panic!() };
        assert_eq!(found.valid_for_seconds, Some(2));
        assert_eq!(remembered.find(&one, at(5)), None, "no longer valid");
        assert_eq!(remembered.find(&other, at(9)), Some(Verdict::Refused));
        assert_eq!(remembered.find(&other, at(10)), None);
        assert_eq!(remembered.find(&remembered.digest(b"3"), start), None);
    }
}

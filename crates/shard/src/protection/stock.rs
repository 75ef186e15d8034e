//! What the clients of a listener may have retained together.
//!
//! A retained message counts for the listener by which it came, until another takes its place or it is removed, by whomever.
//! It carries the listener's name ([`midge_session::Author`]), also into the log, so that it counts again after a restart.
//!
//! Topics are spread over the shards by hash, and the few that one listener may retain need not be spread evenly. So no shard
//! has a fixed part of the limit: all take from one stock for each listener, two atomic numbers, and give back. Where the
//! limit is large they take a little more than they need, so that most retained messages touch no atomic; what lies unused at
//! all shards together is at most a 64th of the limit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;

use super::Protection;
use super::together::ListenerMeters;
use crate::ids::ListenerId;

/// What the messages that came by one listener may come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedQuota {
    /// By what number it is counted.
    pub listener: ListenerId,
    /// Its name.
    pub label: Arc<str>,
    /// Messages; 0: any number.
    pub messages_max: u64,
    /// Bytes; 0: any number.
    pub bytes_max: u64,
}

impl RetainedQuota {
    fn limits<'a>(&self, meters: &'a ListenerMeters, shards: u16) -> [Option<Limit<'a>>; 2] {
        let Some([messages, bytes]) = meters.retained(self.listener) else { return [None, None] };
        let limit = |shared, max: u64| {
            let slack = max / (128 * u64::from(shards.max(1)));
            (max > 0).then_some(Limit { shared, max, slack })
        };
        [limit(messages, self.messages_max), limit(bytes, self.bytes_max)]
    }
}

/// What one of an account's numbers is held to.
#[derive(Debug, Clone, Copy)]
struct Limit<'a> {
    /// What all shards have taken. Relaxed: a number that stands by itself.
    shared: &'a AtomicU64,
    max: u64,
    /// What a shard may have taken beyond what it needs.
    slack: u64,
}

impl Limit<'_> {
    fn take(&self, wanted: u64) -> bool {
        let more = |taken: u64| taken.checked_add(wanted).filter(|sum| *sum <= self.max);
        self.shared.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// One number of an account.
#[derive(Debug, Default)]
struct Stock {
    used: u64,
    /// From what all shards share; nothing where there is no limit.
    taken: u64,
}

impl Stock {
    /// Needs so much more, if it is there.
    fn grow(&mut self, amount: u64, limit: Option<Limit<'_>>) -> bool {
        let missing = (self.used + amount).saturating_sub(self.taken);
        if let Some(limit) = limit.filter(|_| missing > 0) {
            let taken = [missing + limit.slack, missing].into_iter().find(|one| limit.take(*one));
            let Some(taken) = taken else { return false };
            self.taken += taken;
        }
        self.used += amount;
        true
    }

    /// Needs so much less.
    fn shrink(&mut self, amount: u64, limit: Option<Limit<'_>>) {
        debug_assert!(self.used >= amount, "what goes has come");
        self.used = self.used.saturating_sub(amount);
        let unused = self.taken.saturating_sub(self.used);
        if let Some(limit) = limit.filter(|limit| unused > 2 * limit.slack) {
            let surplus = unused - limit.slack;
            self.taken -= surplus;
            limit.shared.fetch_sub(surplus, Ordering::Relaxed);
        }
    }

    /// The limit is another one, or none: what is there counts, also beyond it.
    fn settle(&mut self, earlier: Option<&AtomicU64>, limit: Option<Limit<'_>>) {
        match (limit, earlier) {
            (Some(limit), _) if self.used > self.taken => {
                limit.shared.fetch_add(self.used - self.taken, Ordering::Relaxed);
                self.taken = self.used;
            }
            (None, Some(shared)) => {
                shared.fetch_sub(self.taken, Ordering::Relaxed);
                self.taken = 0;
            }
            _ => {}
        }
    }
}

/// What one shard keeps that came by one listener.
#[derive(Debug, Default)]
struct Account {
    messages: Stock,
    bytes: Stock,
}

/// What counts for a listener: its name, and a size.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub(crate) label: Arc<str>,
    pub(crate) size: u64,
}

/// One shard's accounts, by the listeners' names: those that ever had a limit while something came by them.
#[derive(Debug)]
pub(crate) struct Accounts(HashMap<Arc<str>, Account, RandomState>);

impl Accounts {
    pub(crate) fn new(hasher: RandomState) -> Self {
        Self(HashMap::with_hasher(hasher))
    }

    /// One message takes the place of another, or of none. Whether there is room; if not, whose limit it is, and nothing has
    /// changed.
    pub(crate) fn replace(
        &mut self,
        earlier: Option<&Counted>,
        new: Option<&Counted>,
        protection: &Protection,
        shards: u16,
    ) -> Result<(), ListenerId> {
        if let Some(new) = new {
            let same = earlier.filter(|earlier| earlier.label == new.label);
            let (count, size) = same.map_or((0, 0), |same| (1, same.size));
            let [messages, bytes] = protection.retained_limits(&new.label, shards);
            let account = self.0.entry(Arc::clone(&new.label)).or_default();
            let full = || protection.retained_quota(&new.label).map(|quota| quota.listener);
            let full = || full().unwrap_or(ListenerId(u16::MAX));
            if !account.messages.grow(1 - count, messages) {
                return Err(full());
            }
            if !account.bytes.grow(new.size.saturating_sub(size), bytes) {
                account.messages.shrink(1 - count, messages);
                return Err(full());
            }
            if same.is_some() {
                account.bytes.shrink(size.saturating_sub(new.size), bytes);
                return Ok(());
            }
        }
        if let Some(earlier) = earlier {
            let [messages, bytes] = protection.retained_limits(&earlier.label, shards);
            let account = self.0.entry(Arc::clone(&earlier.label)).or_default();
            account.messages.shrink(1, messages);
            account.bytes.shrink(earlier.size, bytes);
        }
        Ok(())
    }

    /// One that is there counts, whatever the limits say.
    pub(crate) fn admit(&mut self, one: &Counted, protection: &Protection, shards: u16) {
        let account = self.0.entry(Arc::clone(&one.label)).or_default();
        account.messages.used += 1;
        account.bytes.used += one.size;
        let [messages, bytes] = protection.retained_limits(&one.label, shards);
        account.messages.settle(None, messages);
        account.bytes.settle(None, bytes);
    }

    /// The limits are other ones.
    pub(crate) fn settle(&mut self, earlier: &Protection, protection: &Protection, shards: u16) {
        for (label, account) in &mut self.0 {
            let before =
                earlier.retained_limits(label, shards).map(|one| one.map(|one| one.shared));
            let [messages, bytes] = protection.retained_limits(label, shards);
            account.messages.settle(before[0], messages);
            account.bytes.settle(before[1], bytes);
        }
    }

    /// Messages and bytes by name, for comparison with what is there.
    pub(crate) fn used(&self) -> impl Iterator<Item = (&Arc<str>, u64, u64)> {
        self.0.iter().map(|(label, account)| (label, account.messages.used, account.bytes.used))
    }
}

impl Protection {
    fn retained_quota(&self, label: &str) -> Option<&RetainedQuota> {
        let mut quotas = self.listeners.iter().filter_map(|one| one.retained.as_deref());
        quotas.find(|quota| *quota.label == *label)
    }

    fn retained_limits(&self, label: &str, shards: u16) -> [Option<Limit<'_>>; 2] {
        match (self.retained_quota(label), self.meters.as_deref()) {
            (Some(quota), Some(meters)) => quota.limits(meters, shards),
            _ => [None, None],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ListenerProtection;
    use super::*;

    fn protection(messages_max: u64, bytes_max: u64) -> Protection {
        let quota =
            RetainedQuota { listener: ListenerId(0), label: "a".into(), messages_max, bytes_max };
        let own =
            ListenerProtection { retained: Some(Arc::new(quota)), ..ListenerProtection::default() };
        Protection {
            listeners: vec![own],
            meters: Some(Arc::new(ListenerMeters::new())),
            ..Protection::default()
        }
    }

    fn accounts() -> Accounts {
        Accounts::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    fn counted(label: &str, size: u64) -> Counted {
        Counted { label: label.into(), size }
    }

    /// However uneven the shards are, all of a limit can be used but for a 64th, nothing goes beyond it, and all of it comes back.
    #[test]
    fn a_limit_is_held_and_used_by_all_shards_together() {
        for (max, shards, busy) in [(10, 4, 1), (10, 4, 4), (100_000, 64, 1), (100_000, 64, 64)] {
            let protection = protection(max, 0);
            let mut all: Vec<Accounts> = (0..shards).map(|_| accounts()).collect();
            let one = counted("a", 7);
            let mut count = 0;
            for turn in 0.. {
                let account = &mut all[turn % busy];
                if account.replace(None, Some(&one), &protection, shards as u16).is_err() {
                    break;
                }
                count += 1;
            }
            assert!(count <= max && count >= max - max / 64, "{count} of {max} at {busy}");
            let shared = &protection.meters.as_ref().unwrap().retained(ListenerId(0)).unwrap()[0];
            assert!(shared.load(Ordering::Relaxed) <= max);
            for account in &mut all {
                for _ in 0..account.used().map(|(_, messages, _)| messages).sum() {
                    account.replace(Some(&one), None, &protection, shards as u16).unwrap();
                }
            }
            assert!(shared.load(Ordering::Relaxed) <= max / 64, "{max} at {busy}");
        }
    }

    #[test]
    fn what_takes_the_place_of_another_counts_for_its_own_listener() {
        let protection = protection(2, 100);
        let mut accounts = accounts();
        let mut replace = |earlier: Option<&Counted>, new: Option<&Counted>| {
            accounts.replace(earlier, new, &protection, 1).is_ok()
        };
        let (small, large) = (counted("a", 10), counted("a", 90));
        let other = counted("b", 1000);
        assert!(replace(None, Some(&small)));
        assert!(replace(None, Some(&large)));
        assert!(!replace(None, Some(&counted("a", 0))), "a third");
        assert!(!replace(Some(&small), Some(&counted("a", 11))), "a byte too many");
        assert!(replace(Some(&large), Some(&counted("a", 80))));
        assert!(replace(Some(&small), Some(&counted("a", 20))));
        // Another listener has no limit, and what takes its place must find room.
        assert!(replace(Some(&counted("a", 80)), Some(&other)));
        assert!(!replace(Some(&other), Some(&counted("a", 81))));
        assert!(replace(Some(&other), Some(&counted("a", 80))));
        assert!(replace(Some(&counted("a", 80)), None));
        assert!(replace(Some(&counted("a", 20)), None));
        assert!(accounts.used().all(|(_, messages, bytes)| (messages, bytes) == (0, 0)));
    }

    #[test]
    fn limits_that_come_find_what_is_there_and_give_it_up_when_they_go() {
        let (none, some) = (Protection::default(), protection(3, 0));
        let mut accounts = accounts();
        let one = counted("a", 5);
        for _ in 0..5 {
            accounts.admit(&one, &none, 1);
        }
        accounts.settle(&none, &some, 1);
        let shared = || {
            some.meters.as_ref().unwrap().retained(ListenerId(0)).unwrap()[0]
                .load(Ordering::Relaxed)
        };
        assert_eq!(shared(), 5);
        for _ in 0..2 {
            assert!(accounts.replace(None, Some(&one), &some, 1).is_err());
            accounts.replace(Some(&one), None, &some, 1).unwrap();
        }
        assert!(accounts.replace(None, Some(&one), &some, 1).is_err());
        accounts.replace(Some(&one), None, &some, 1).unwrap();
        assert!(accounts.replace(None, Some(&one), &some, 1).is_ok());
        accounts.settle(&some, &none, 1);
        assert_eq!(shared(), 0);
        assert!(accounts.replace(None, Some(&one), &none, 1).is_ok());
        accounts.settle(&none, &some, 1);
        assert_eq!(shared(), 4);
    }
}

//! What all clients of a listener may publish together.
//!
//! A listener's clients live on all shards, and nobody knows how evenly. So no shard has a fixed part of the rate: it *books*
//! portions of it as its clients need them. What shards share is one meter for each listener and kind, the moment up to which
//! the rate is given away. Booking moves it on by what the portion costs; the portion counts from where the meter stood, which
//! may lie ahead. So whoever books first goes first, on whichever shard, and nobody is turned away and has to try again.
//!
//! # Cost
//! A publication takes from the shard's own portion: no atomic. A portion is a 128th of a shard's equal part of a second, and
//! more where more clients wait, up to a quarter of it; at least one publication. So at most a second's worth (what may come
//! at once after a pause) and a quarter is given away ahead, and shards where more clients wait get more.
//!
//! # In line
//! A client that must wait stands in its shard's line for the listener, and all that come while somebody waits stand behind
//! it. When the portion counts, those in front are called, each with an equal part of it. A line has one entry for each
//! connection that waits, and stale ones of those that are gone, which are swept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use midge_session::Time;

use super::LISTENERS_MAX;
use super::by_listener::Happening;
use super::meter::Rates;
use crate::action::Action;
use crate::connection::Flags;
use crate::ids::{ConnectionId, ListenerId};
use crate::shard::Shard;

const SECOND_NS: u64 = 1_000_000_000;

/// Connections of one line that may go on in one turn.
const CALLED_PER_TURN: u64 = 256;

/// How far each listener's rates are given away, and what its clients have retained, for all shards together.
#[derive(Debug)]
pub struct ListenerMeters(Box<[Meters]>);

/// Relaxed throughout: each stands by itself, and nothing else is read because of it.
#[derive(Debug, Default)]
struct Meters {
    /// Moments in nanoseconds.
    publishes: AtomicU64,
    bytes: AtomicU64,
    /// Messages and bytes.
    retained: [AtomicU64; 2],
}

impl ListenerMeters {
    /// Nothing is given away.
    #[must_use]
    pub fn new() -> Self {
        Self((0..LISTENERS_MAX).map(|_| Meters::default()).collect())
    }

    pub(super) fn retained(&self, listener: ListenerId) -> Option<&[AtomicU64; 2]> {
        Some(&self.0.get(usize::from(listener.0))?.retained)
    }

    /// Retained messages, and their bytes, that have come by a listener with a limit of them; with what shards have set
    /// aside, at most a 64th of the limit.
    #[must_use]
    pub fn retained_of(&self, listener: ListenerId) -> [u64; 2] {
        let load = |counts: &[AtomicU64; 2]| [0, 1].map(|at| counts[at].load(Ordering::Relaxed));
        self.retained(listener).map(load).unwrap_or_default()
    }
}

impl Default for ListenerMeters {
    fn default() -> Self {
        Self::new()
    }
}

/// Pays a debt and books a portion behind it. From when on the portion counts: in the past, at once.
fn book(meter: &AtomicU64, rate: u64, debt: u64, portion: u64, now: Time) -> Time {
    let cost = |amount: u64| {
        let cost = (u128::from(amount) * u128::from(SECOND_NS)).div_ceil(u128::from(rate.max(1)));
        u64::try_from(cost).unwrap_or(u64::MAX)
    };
    let debt = cost(debt);
    let cost = cost(portion).saturating_add(debt);
    // What nobody used in the last second may still be used.
    let floor = now.as_nanos().saturating_sub(SECOND_NS);
    let book = |earlier: u64| Some(earlier.max(floor).saturating_add(cost));
    let earlier = meter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, book);
    let start = earlier.unwrap_or_else(|same| same).max(floor);
    Time::from_nanos(start.saturating_add(debt))
}

/// What a shard has of one rate.
#[derive(Debug, Default)]
struct Purse {
    /// Below zero after a packet that was larger than what was left: the next portion pays for it first.
    left: i64,
    /// The next portion, and from when on it counts.
    booked: Option<(i64, Time)>,
}

impl Purse {
    /// Whether there is something left, after booking what is needed.
    fn open(&mut self, meter: &AtomicU64, rate: u64, portion: u64, now: Time) -> bool {
        if self.left <= 0 && self.booked.is_none() {
            let from = book(meter, rate, self.left.unsigned_abs(), portion, now);
            self.left = 0;
            self.booked = Some((i64::try_from(portion).unwrap_or(i64::MAX), from));
        }
        if let Some((portion, from)) = self.booked
            && from <= now
        {
            self.left = self.left.saturating_add(portion);
            self.booked = None;
        }
        self.left > 0
    }

    fn due(&self) -> Time {
        match self.booked {
            Some((_, from)) if self.left <= 0 => from,
            _ => Time::ZERO,
        }
    }

    fn take(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(i64::try_from(amount).unwrap_or(i64::MAX));
    }
}

/// How much to book at a time, of a rate of one of so many shards, for what waits now.
fn portion(rate: u64, shards: u16, waiting: u64) -> u64 {
    let equal = rate / u64::from(shards.max(1));
    waiting.clamp((equal / 128).max(1), (equal / 4).max(1))
}

/// One listener's rates at one shard.
#[derive(Debug)]
pub(super) struct Share {
    listener: ListenerId,
    publishes: Purse,
    bytes: Purse,
    /// Of the last packet: what those that wait will be like, most likely.
    size: usize,
    line: VecDeque<(ConnectionId, u32)>,
}

impl Share {
    fn new(listener: ListenerId) -> Self {
        let (publishes, bytes) = (Purse::default(), Purse::default());
        Self { listener, publishes, bytes, size: 1, line: VecDeque::new() }
    }

    /// Whether somebody may publish now.
    fn open(&mut self, meters: &ListenerMeters, rates: Rates, shards: u16, now: Time) -> bool {
        let Some(meters) = meters.0.get(usize::from(self.listener.0)) else { return true };
        let waiting = self.line.len() as u64 + 1;
        let mut is_open = true;
        if rates.publishes_per_second > 0 {
            let rate = rates.publishes_per_second.into();
            let portion = portion(rate, shards, waiting);
            is_open &= self.publishes.open(&meters.publishes, rate, portion, now);
        }
        if rates.bytes_per_second > 0 {
            let rate = rates.bytes_per_second;
            let portion = portion(rate, shards, waiting.saturating_mul(self.size as u64));
            is_open &= self.bytes.open(&meters.bytes, rate, portion, now);
        }
        is_open
    }

    /// How many publications there is room for, when it is open.
    fn room(&self, rates: Rates) -> u64 {
        let mut room = u64::MAX;
        if rates.publishes_per_second > 0 {
            room = u64::try_from(self.publishes.left).unwrap_or(0);
        }
        if rates.bytes_per_second > 0 {
            let left = u64::try_from(self.bytes.left).unwrap_or(0);
            room = room.min((left / self.size.max(1) as u64).max(1));
        }
        room
    }

    /// When the first in line is called. [`Time::ZERO`]: at once.
    pub(super) fn due(&self) -> Option<Time> {
        (!self.line.is_empty()).then(|| self.publishes.due().max(self.bytes.due()))
    }

    /// The rates are other ones: what was booked of the earlier ones is given up.
    pub(super) fn begin_anew(&mut self) {
        self.publishes = Purse::default();
        self.bytes = Purse::default();
    }
}

impl Shard {
    /// Whether the listener of a client lets it publish now; if not, it stands in line.
    pub(super) fn may_publish_together(&mut self, id: ConnectionId, listener: ListenerId) -> bool {
        let protection = &self.settings.protection;
        let rates = protection.rates_together(listener);
        let Some(meters) = protection.meters.as_deref().filter(|_| rates.is_bounded()) else {
            return true;
        };
        let pace = self.watch.by_connection.get_mut(&id);
        let share = share_of(&mut self.watch.shares, listener);
        if let Some(pace) = pace
            && pace.turn > 0
        {
            if rates.bytes_per_second == 0 || share.bytes.left > 0 {
                return true;
            }
            // Those before it had larger packets than was thought.
            share.publishes.left += i64::from(std::mem::take(&mut pace.turn));
        } else if share.line.is_empty() && share.open(meters, rates, self.shards, self.now) {
            return true;
        }
        let Some(connection) = self.connections.get_mut(id.0) else { return true };
        connection.flags.set(Flags::PACED, true);
        share.line.push_back((id, connection.serial));
        if share.line.len() > 2 * self.connections.len() + 64 {
            share.line.retain(|(id, serial)| {
                let one = self.connections.get(id.0);
                one.is_some_and(|one| one.serial == *serial && one.flags.has(Flags::PACED))
            });
        }
        self.counters.publishers_paced_together += 1;
        self.note_by_listener(listener, Happening::Paced);
        self.actions.push_back(Action::Pause(id));
        false
    }

    /// A client has published one packet of so many bytes.
    pub(super) fn charge_together(&mut self, id: ConnectionId, listener: ListenerId, size: usize) {
        let rates = self.settings.protection.rates_together(listener);
        if !rates.is_bounded() {
            return;
        }
        let pace = self.watch.by_connection.get_mut(&id);
        let share = share_of(&mut self.watch.shares, listener);
        match pace {
            // Its turn was taken from the portion when it was called.
            Some(pace) if pace.turn > 0 => pace.turn -= 1,
            _ if rates.publishes_per_second > 0 => share.publishes.take(1),
            _ => {}
        }
        if rates.bytes_per_second > 0 {
            share.bytes.take(size);
        }
        share.size = size;
    }

    /// Goes on with those in front of each line.
    pub(super) fn call_from_lines(&mut self) {
        let mut shares = std::mem::take(&mut self.watch.shares);
        for share in shares.iter_mut().filter(|share| !share.line.is_empty()) {
            self.call_from_line(share);
        }
        self.watch.shares = shares;
    }

    fn call_from_line(&mut self, share: &mut Share) {
        let protection = &self.settings.protection;
        let rates = protection.rates_together(share.listener);
        let bounded = rates.is_bounded();
        if let Some(meters) = protection.meters.as_deref()
            && bounded
            && !share.open(meters, rates, self.shards, self.now)
        {
            return;
        }
        let mut room = share.room(rates);
        let turn = (room / share.line.len().max(1) as u64).clamp(1, u32::MAX.into());
        let mut calls = CALLED_PER_TURN;
        while room > 0
            && calls > 0
            && let Some((id, serial)) = share.line.pop_front()
        {
            let Some(connection) = self.connections.get_mut(id.0) else { continue };
            if connection.serial != serial || !connection.flags.has(Flags::PACED) {
                continue;
            }
            // We did not read from it, so its silence was ours.
            connection.hear(self.now);
            if bounded {
                let turn = u32::try_from(turn.min(room)).unwrap_or(u32::MAX);
                room -= u64::from(turn);
                if rates.publishes_per_second > 0 {
                    share.publishes.left -= i64::from(turn);
                }
                self.watch.by_connection.entry(id).or_default().turn = turn;
            }
            calls -= 1;
            self.release(id, Flags::PACED);
        }
    }
}

fn share_of(shares: &mut Vec<Share>, listener: ListenerId) -> &mut Share {
    let at = shares.iter().position(|share| share.listener == listener).unwrap_or_else(|| {
        shares.push(Share::new(listener));
        shares.len() - 1
    });
    &mut shares[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { publishes_per_second: 1000, bytes_per_second: 0 };

    /// Publications that shards let through in some seconds when each wants to publish so many in each millisecond.
    fn taken(rates: Rates, size: usize, seconds: u64, wanted: &[u64]) -> Vec<u64> {
        let meters = ListenerMeters::new();
        let shards = u16::try_from(wanted.len()).unwrap();
        let mut shares: Vec<Share> = wanted.iter().map(|_| Share::new(ListenerId(0))).collect();
        let mut taken = vec![0; wanted.len()];
        let start = Time::from_seconds(100);
        for millisecond in 0..seconds * 1000 {
            let now = start.plus_millis(millisecond);
            for ((share, wanted), taken) in shares.iter_mut().zip(wanted).zip(&mut taken) {
                for _ in 0..*wanted {
                    if share.open(&meters, rates, shards, now) {
                        share.publishes.take(1);
                        share.bytes.take(size);
                        share.size = size;
                        *taken += 1;
                    }
                }
            }
        }
        taken
    }

    /// The rate is that of all shards, however its clients are spread, and a second's worth comes at once.
    #[test]
    fn a_rate_is_held_and_used_whole_however_uneven_the_shards_are() {
        for wanted in [&[100][..], &[100, 0, 0, 0], &[100, 100, 100, 100], &[100, 1, 0, 100]] {
            let counts = taken(RATES, 10, 10, wanted);
            let all: u64 = counts.iter().sum();
            assert!((10_900..=11_300).contains(&all), "{wanted:?}: {counts:?}");
        }
        let by_bytes = Rates { publishes_per_second: 0, bytes_per_second: 100_000 };
        for size in [10, 1000, 90_000] {
            let counts = taken(by_bytes, size, 10, &[100, 100, 0]);
            let bytes = counts.iter().sum::<u64>() * size as u64;
            assert!((1_000_000..=1_350_000).contains(&bytes), "{size}: {counts:?}");
        }
    }

    /// No shard waits for another to leave something over.
    #[test]
    fn shards_take_turns() {
        let slow = Rates { publishes_per_second: 10, bytes_per_second: 0 };
        for rates in [RATES, slow] {
            let counts = taken(rates, 10, 10, &[100, 100, 100]);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= most / 4 + 10, "{counts:?}");
        }
    }

    #[test]
    fn portions_grow_with_the_line() {
        assert_eq!(portion(1000, 2, 1), 3);
        assert_eq!(portion(1000, 2, 50), 50);
        assert_eq!(portion(1000, 2, 5000), 125);
        assert_eq!(portion(1, 64, 5000), 1);
    }
}

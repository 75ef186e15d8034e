//! Everybody's connections by address and listener, for all shards together.
//!
//! The connections of one address live on all shards, and a connect is judged before anybody knows its home. So this is the
//! third thing that shards share: an array of atomics of fixed size, touched at connects and disconnects alone, and made
//! only where a limit needs it.
//!
//! # Exactness
//! An address counts in two places, chosen by two hashes that nobody outside knows, and the better one of the two decides.
//! An address whose both places are also those of crowded ones is held to less than it may; among 1,000 crowded addresses
//! that is one of a thousand. Nobody gets more than the limit. (Two shards that judge at the same moment may let one more in
//! each.)

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ahash::RandomState;
use midge_session::Time;

use super::meter::Quota;
use crate::ids::ListenerId;

/// Places of each of the two rows: 3 MiB in all.
const PLACES: usize = 65_536;

/// Numbers of listeners that are counted. Those beyond are not held to their limits.
pub const LISTENERS_MAX: usize = 4096;

/// Counts by address and listener.
#[derive(Debug)]
pub struct Crowd {
    hashers: [RandomState; 2],
    rows: [Box<[Place]>; 2],
    listeners: Box<[Place]>,
}

#[derive(Debug, Default)]
struct Place {
    connections: AtomicU32,
    /// Meters: see [`Quota`].
    connects: AtomicU64,
    failures: AtomicU64,
}

/// Who is counted: an IPv4 address, or the first half of an IPv6 address, because the other half is for its owner to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin(u128);

impl Origin {
    /// `None`: no Internet address.
    pub(crate) fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            address if address.is_unspecified() => None,
            IpAddr::V4(address) => Some(Self(address.to_ipv6_mapped().to_bits())),
            IpAddr::V6(address) => Some(Self(address.to_bits() & !u128::from(u64::MAX))),
        }
    }
}

fn places(count: usize) -> Box<[Place]> {
    (0..count).map(|_| Place::default()).collect()
}

impl Crowd {
    /// Nobody is there.
    #[must_use]
    pub fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            hashers: [RandomState::with_seeds(a, b, c, d), RandomState::with_seeds(d, a, b, c)],
            rows: [places(PLACES), places(PLACES)],
            listeners: places(LISTENERS_MAX),
        }
    }

    fn of_origin(&self, origin: Origin) -> [&Place; 2] {
        [0, 1].map(|row| {
            let hash = self.hashers[row].hash_one(origin.0);
            &self.rows[row][hash as usize % PLACES]
        })
    }

    fn of_listener(&self, listener: ListenerId) -> [Option<&Place>; 1] {
        [self.listeners.get(usize::from(listener.0))]
    }

    /// One more connection of an address; how many there are now.
    pub(crate) fn enter(&self, origin: Origin) -> u32 {
        enter(self.of_origin(origin).into_iter())
    }

    pub(crate) fn leave(&self, origin: Origin) {
        leave(self.of_origin(origin).into_iter());
    }

    /// One more connection by a listener; how many there are now.
    pub(crate) fn enter_by(&self, listener: ListenerId) -> u32 {
        enter(self.of_listener(listener).into_iter().flatten())
    }

    pub(crate) fn leave_by(&self, listener: ListenerId) {
        leave(self.of_listener(listener).into_iter().flatten());
    }

    /// Whether an address may connect now; if so, it has.
    pub(crate) fn connect(&self, origin: Origin, quota: Quota, now: Time) -> bool {
        take(self.of_origin(origin).into_iter().map(|place| &place.connects), quota, now)
    }

    /// Whether somebody may connect by a listener now; if so, he has.
    pub(crate) fn connect_by(&self, listener: ListenerId, quota: Quota, now: Time) -> bool {
        let places = self.of_listener(listener).into_iter().flatten();
        take(places.map(|place| &place.connects), quota, now)
    }

    /// An address has failed to log in; whether that is still within the quota.
    pub(crate) fn fail(&self, origin: Origin, quota: Quota, now: Time) -> bool {
        take(self.of_origin(origin).into_iter().map(|place| &place.failures), quota, now)
    }

    /// Its failures are forgotten.
    pub(crate) fn forgive(&self, origin: Origin) {
        for place in self.of_origin(origin) {
            place.failures.store(0, Ordering::Relaxed);
        }
    }
}

// Relaxed throughout: each number stands by itself, and nothing else is read because of it.

fn enter<'a>(places: impl Iterator<Item = &'a Place>) -> u32 {
    let counts = places.map(|place| place.connections.fetch_add(1, Ordering::Relaxed) + 1);
    counts.min().unwrap_or(0)
}

fn leave<'a>(places: impl Iterator<Item = &'a Place>) {
    for place in places {
        let earlier = place.connections.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(earlier > 0, "whoever leaves has entered");
    }
}

fn take<'a>(meters: impl Iterator<Item = &'a AtomicU64> + Clone, quota: Quota, now: Time) -> bool {
    let allowed = meters.clone().any(|meter| quota.allows(meter.load(Ordering::Relaxed), now));
    if allowed {
        for meter in meters {
            // It never says no, so this always succeeds.
            let _ = meter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |earlier| {
                Some(quota.take(earlier, now))
            });
        }
    }
    allowed
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn origin(number: u32) -> Origin {
        Origin::of(Ipv4Addr::from_bits(0x0a00_0000 | number).into()).unwrap()
    }

    #[test]
    fn whoever_leaves_makes_room() {
        let crowd = Crowd::new([1, 2, 3, 4]);
        for round in 1..=3 {
            assert_eq!(crowd.enter(origin(7)), round);
            assert_eq!(crowd.enter_by(ListenerId(5)), round);
        }
        assert_eq!(crowd.enter(origin(8)), 1);
        crowd.leave(origin(7));
        crowd.leave_by(ListenerId(5));
        assert_eq!(crowd.enter(origin(7)), 3);
        assert_eq!(crowd.enter_by(ListenerId(5)), 3);
        // No place for it, so no limit.
        assert_eq!(crowd.enter_by(ListenerId(u16::MAX)), 0);
    }

    /// The promise of the module: a thousand that are crowded hide hardly anybody else.
    #[test]
    fn crowded_addresses_do_not_crowd_others_out() {
        let crowd = Crowd::new([5, 6, 7, 8]);
        for number in 0..1000 {
            for _ in 0..100 {
                crowd.enter(origin(number));
            }
        }
        let wronged = (10_000..60_000).filter(|number| {
            let count = crowd.enter(origin(*number));
            crowd.leave(origin(*number));
            count > 100
        });
        assert!(wronged.count() < 100);
    }

    #[test]
    fn rates_are_by_address_and_heal() {
        let crowd = Crowd::new([1, 2, 3, 4]);
        let quota = Quota { count: 3, period_ms: 1000 };
        let now = Time::from_seconds(9);
        let connects =
            |number, now| (0..10).filter(|_| crowd.connect(origin(number), quota, now)).count();
        assert_eq!(connects(1, now), 3);
        assert_eq!(connects(2, now), 3);
        assert_eq!(connects(1, now.plus_seconds(1)), 3);
        assert_eq!((0..10).filter(|_| crowd.connect_by(ListenerId(0), quota, now)).count(), 3);
        assert_eq!((0..10).filter(|_| crowd.fail(origin(1), quota, now)).count(), 3);
        crowd.forgive(origin(1));
        assert!(crowd.fail(origin(1), quota, now));
    }

    #[test]
    fn an_ipv6_network_is_one_origin() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.6"), of("192.0.2.7"));
        assert_eq!(of("0.0.0.0"), None);
    }
}

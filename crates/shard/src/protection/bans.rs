//! Who may not connect for now.
//!
//! The list is kept by an alien, who hears of new bans from shards ([`crate::Action::Ban`]) and operators, and gives all
//! shards the same immutable copy. A broker without bans has none.

use std::collections::HashMap;
use std::net::IpAddr;

use midge_session::Time;

/// Somebody who is banned.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BanSubject {
    /// A client identifier.
    Client(Box<str>),
    /// An address; of IPv6 its network of 64 bits.
    Address(IpAddr),
}

impl BanSubject {
    /// In the one form that is looked up.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::Address(address) => Self::Address(canonical(address)),
            client => client,
        }
    }
}

/// A ban that a shard asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Whom.
    pub subject: BanSubject,
    /// Its end.
    pub until: Time,
    /// Why: a sentence without an end.
    pub cause: &'static str,
}

/// All bans at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bans {
    until: HashMap<BanSubject, Time>,
}

impl Bans {
    /// Bans with their ends.
    #[must_use]
    pub fn new(bans: impl IntoIterator<Item = (BanSubject, Time)>) -> Self {
        Self { until: bans.into_iter().map(|(who, until)| (who.canonical(), until)).collect() }
    }

    pub(crate) fn has_address(&self, address: IpAddr, now: Time) -> bool {
        self.has(&BanSubject::Address(canonical(address)), now)
    }

    pub(crate) fn has_client(&self, client_id: &str, now: Time) -> bool {
        self.has(&BanSubject::Client(client_id.into()), now)
    }

    fn has(&self, subject: &BanSubject, now: Time) -> bool {
        self.until.get(subject).is_some_and(|until| *until > now)
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_end_and_hold_for_networks() {
        let now = Time::from_seconds(10);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let bans = Bans::new([
            (BanSubject::Address(address("2001:db8::1")), now.plus_seconds(5)),
            (BanSubject::Client("c".into()), now.plus_seconds(9)),
        ]);
        assert!(bans.has_address(address("2001:db8::2"), now));
        assert!(!bans.has_address(address("2001:db9::2"), now));
        assert!(!bans.has_address(address("2001:db8::2"), now.plus_seconds(5)));
        assert!(bans.has_client("c", now.plus_seconds(8)));
        assert!(!bans.has_client("d", now));
    }
}

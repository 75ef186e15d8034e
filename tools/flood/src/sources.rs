//! Source addresses: where the ports come from when one address has too few.
//!
//! A connection is named by both addresses and both ports, so against one broker each source address gives as many
//! connections as the kernel has ephemeral ports, about 28,000. All of 127.0.0.0/8 is this machine, so a broker on
//! loopback can be reached from sixteen million addresses without any set-up.
//!
//! # Limits
//! - On loopback an address gets [`LOOPBACK_CONNECTIONS`] connections and then it is the next one's turn: the kernel tries
//!   ports one after the other, and with half of them taken a connect costs ten times what it should. Closed
//!   connections count for a minute, so each run begins at other addresses.
//! - A broker elsewhere is reached from the addresses given with `--source` only, in turn, and from three quarters of
//!   their ports: other programs need some.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What Linux does without configuration.
const PORTS_DEFAULT: u32 = 60_999 - 32_768 + 1;

/// Connections of one loopback address: a seventh of its ports.
const LOOPBACK_CONNECTIONS: u64 = 4096;

/// Loopback addresses used, 127.1.0.1 to 127.250.249.250: out of the way of what people bind by hand.
const LOOPBACK_ADDRESSES: u64 = 250 * 250 * 250;

/// Hands out a source address for each connection.
#[derive(Debug)]
pub(crate) struct Sources {
    given: Vec<IpAddr>,
    loopback: bool,
    connections_per_source: u32,
    first: u64,
}

impl Sources {
    /// `given` may be empty; `salt` makes runs begin at different loopback addresses.
    pub(crate) fn new(remote: SocketAddr, given: Vec<IpAddr>, salt: u32) -> Self {
        let ports = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|text| port_count(&text))
            .unwrap_or(PORTS_DEFAULT);
        let loopback = matches!(remote.ip(), IpAddr::V4(address) if address.is_loopback());
        // A large step, so that the runs of neighbouring process identifiers stay apart.
        let first = u64::from(salt) * 1009 % LOOPBACK_ADDRESSES;
        Self { given, loopback, connections_per_source: (ports / 4 * 3).max(1), first }
    }

    /// Connections that one given source address carries.
    pub(crate) fn connections_per_source(&self) -> u32 {
        self.connections_per_source
    }

    /// How many connections all addresses together carry; `None`: as many as anybody will ask for.
    pub(crate) fn capacity(&self) -> Option<u64> {
        let per_source = u64::from(self.connections_per_source);
        match (self.given.len(), self.loopback) {
            (0, true) => None,
            (0, false) => Some(per_source),
            (count, _) => Some(count as u64 * per_source),
        }
    }

    /// The address to bind connection number `connection` to; `None`: the kernel's choice.
    pub(crate) fn source(&self, connection: u64) -> Option<IpAddr> {
        if !self.given.is_empty() {
            let index = connection % self.given.len() as u64;
            return Some(self.given[index as usize]);
        }
        if !self.loopback {
            return None;
        }
        let index = (self.first + connection / LOOPBACK_CONNECTIONS) % LOOPBACK_ADDRESSES;
        let octet = |value: u64, first: u64| (value % 250 + first) as u8;
        Some(IpAddr::V4(Ipv4Addr::new(
            127,
            octet(index / 250 / 250, 1),
            octet(index / 250, 0),
            octet(index, 1),
        )))
    }
}

fn port_count(range: &str) -> Option<u32> {
    let mut words = range.split_ascii_whitespace().map(|word| word.parse::<u32>().ok());
    let (first, last) = (words.next()??, words.next()??);
    last.checked_sub(first).map(|ports| ports + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn loopback_spreads_by_itself() {
        for salt in [0, 1, 4_000_000_000] {
            let sources = Sources::new(([127, 0, 0, 1], 1).into(), Vec::new(), salt);
            assert_eq!(sources.capacity(), None);
            let mut used: HashMap<IpAddr, u64> = HashMap::new();
            for connection in 0..1_000_000 {
                let source = sources.source(connection).expect("loopback always has one");
                *used.entry(source).or_default() += 1;
            }
            assert!(used.values().all(|count| *count <= LOOPBACK_CONNECTIONS));
            let loopback = |source: &IpAddr| matches!(source, IpAddr::V4(v4) if v4.is_loopback());
            assert!(used.keys().all(loopback));
        }
    }

    #[test]
    fn given_addresses_are_used_in_turn() {
        let given: Vec<IpAddr> = vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let sources = Sources::new(([10, 0, 0, 9], 1).into(), given.clone(), 7);
        let chosen = [0, 1, 2].map(|index| sources.source(index));
        assert_eq!(chosen, [Some(given[0]), Some(given[1]), Some(given[0])]);
        assert_eq!(sources.capacity(), Some(2 * u64::from(sources.connections_per_source())));
    }

    #[test]
    fn elsewhere_the_kernel_chooses() {
        let sources = Sources::new(([10, 0, 0, 9], 1).into(), Vec::new(), 7);
        assert_eq!(sources.source(5), None);
        assert_eq!(sources.capacity(), Some(u64::from(sources.connections_per_source())));
    }

    #[test]
    fn reads_the_port_range() {
        assert_eq!(port_count("32768\t60999\n"), Some(PORTS_DEFAULT));
        assert_eq!(port_count("5 4"), None);
        assert_eq!(port_count("x"), None);
    }
}

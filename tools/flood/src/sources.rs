//! Source addresses: where the ports come from when one address has too few.
//!
//! A connection is named by both addresses and both ports, so against one broker each source address gives as many
//! connections as the kernel has ephemeral ports, about 28,000. All of 127.0.0.0/8 is this machine, so a broker on
//! loopback can be reached from sixteen million addresses without any set-up.
//!
//! # Limits
//! - Of each address three quarters of the ports are used: the kernel's search for a free one gets slow near the end,
//!   and other programs need some.
//! - A broker elsewhere is reached from the addresses given with `--source` only.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What Linux does without configuration.
const PORTS_DEFAULT: u32 = 60_999 - 32_768 + 1;

/// Hands out a source address for each connection.
#[derive(Debug)]
pub(crate) struct Sources {
    given: Vec<IpAddr>,
    loopback: bool,
    connections_per_source: u32,
}

impl Sources {
    /// `given` may be empty.
    pub(crate) fn new(remote: SocketAddr, given: Vec<IpAddr>) -> Self {
        let ports = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|text| port_count(&text))
            .unwrap_or(PORTS_DEFAULT);
        let loopback = matches!(remote.ip(), IpAddr::V4(address) if address.is_loopback());
        Self { given, loopback, connections_per_source: (ports / 4 * 3).max(1) }
    }

    /// Connections that one source address carries.
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
    ///
    /// Consecutive blocks of connections take consecutive addresses; past the last one it begins again.
    pub(crate) fn source(&self, connection: u64) -> Option<IpAddr> {
        let block = connection / u64::from(self.connections_per_source);
        if !self.given.is_empty() {
            let index = block % self.given.len() as u64;
            return Some(self.given[index as usize]);
        }
        if !self.loopback || block == 0 {
            return None;
        }
        // 127.1.0.1 and up, out of the way of what people bind by hand; 250 addresses in each of 250 times 250 blocks.
        let block = block - 1;
        let octet = |index: u64, first: u64| (index % 250 + first) as u8;
        Some(IpAddr::V4(Ipv4Addr::new(
            127,
            octet(block / 250 / 250, 1),
            octet(block / 250, 0),
            octet(block, 1),
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
        let sources = Sources::new(([127, 0, 0, 1], 1).into(), Vec::new());
        assert_eq!(sources.capacity(), None);
        assert_eq!(sources.source(0), None);
        let mut used: HashMap<Option<IpAddr>, u32> = HashMap::new();
        for connection in 0..1_000_000 {
            *used.entry(sources.source(connection)).or_default() += 1;
        }
        assert!(used.values().all(|count| *count <= sources.connections_per_source()));
        let loopback = |source: &IpAddr| matches!(source, IpAddr::V4(v4) if v4.is_loopback());
        assert!(used.keys().flatten().all(loopback));
    }

    #[test]
    fn given_addresses_are_used_in_blocks() {
        let given: Vec<IpAddr> = vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let sources = Sources::new(([10, 0, 0, 9], 1).into(), given.clone());
        let block = u64::from(sources.connections_per_source());
        let chosen = [0, block - 1, block, 2 * block].map(|index| sources.source(index));
        assert_eq!(chosen, [Some(given[0]), Some(given[0]), Some(given[1]), Some(given[0])]);
        assert_eq!(sources.capacity(), Some(2 * block));
    }

    #[test]
    fn reads_the_port_range() {
        assert_eq!(port_count("32768\t60999\n"), Some(PORTS_DEFAULT));
        assert_eq!(port_count("5 4"), None);
        assert_eq!(port_count("x"), None);
    }
}

//! Numbers for things, so that they cannot be mixed up.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// One Network Connection of this shard: the slot that the net ring gave it.
///
/// The number is used again after the connection is closed, so whatever may come late also carries a serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

/// One session of this shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(pub u32);

/// Which listener accepted a connection: its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ListenerId(pub u16);

/// A session at a moment: the number and the serial that tells it from an earlier one with that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionRef {
    /// The number.
    pub id: SessionId,
    /// Distinguishes uses of the number.
    pub serial: u32,
}

/// A peer's address in 18 bytes: an IPv4 address is kept as IPv6-mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress {
    octets: [u8; 16],
    port: [u8; 2],
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        let octets = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        Self { octets, port: address.port().to_be_bytes() }
    }
}

impl From<PeerAddress> for SocketAddr {
    fn from(address: PeerAddress) -> Self {
        let ip = Ipv6Addr::from(address.octets).to_canonical();
        SocketAddr::new(ip, u16::from_be_bytes(address.port))
    }
}

/// The home shard of a client id: `hash(client id) mod shards`.
///
/// The same in every run and on every shard, since any shard may accept the connection (FNV-1a with a final mix:
/// client ids are short, and the modulus needs all bits to count).
#[must_use]
pub fn home_shard(client_id: &str, shards: u16) -> midge_mesh::ShardId {
    midge_mesh::ShardId::new((stable_hash(client_id) % u64::from(shards)) as u16)
}

/// The shard that keeps the retained message of a topic, and that chooses for a shared subscription's filter.
#[must_use]
pub(crate) fn keeper_shard(topic: &str, shards: u16) -> midge_mesh::ShardId {
    home_shard(topic, shards)
}

fn stable_hash(text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_packing() {
        for text in ["127.0.0.1:1883", "[::1]:65535", "[2001:db8::7]:0", "255.1.2.3:80"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(PeerAddress::from(address)), address);
        }
        assert_eq!(size_of::<PeerAddress>(), 18);
    }

    #[test]
    fn homes_are_spread_evenly() {
        for shards in [1u16, 2, 3, 8, 64] {
            let mut counts = vec![0u32; usize::from(shards)];
            for client in 0..20_000 {
                counts[home_shard(&format!("client-{client}"), shards).index()] += 1;
            }
            let fair = 20_000 / u32::from(shards);
            for count in counts {
                assert!(count > fair * 7 / 10 && count < fair * 13 / 10, "{count} of {fair}");
            }
        }
    }
}

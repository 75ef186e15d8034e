//! What a shard shows to its peers beside the rings: its bell and its room requests, both counted
//! in groups of peers.
//!
//! A word has 63 bits for peers ([`GROUPS_MAX`]). Up to 64 shards each peer has a bit of its own;
//! beyond, neighbours share one (17 peers a bit at 1,024 shards), and a set bit means "look at all
//! of these".

use crate::bell::{Bell, GROUPS_MAX};
use crate::room::RoomRequests;
use crate::shard_id::ShardId;

/// One shard's words that its peers write. The doors of all shards lie in one shared slice, by
/// shard.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) bell: Bell,
    pub(crate) room_requests: RoomRequests,
}

impl Door {
    pub(crate) fn new() -> Self {
        Self { bell: Bell::new(), room_requests: RoomRequests::new() }
    }
}

/// The bit that stands for `source` in the words of `target`'s door, among `shards` shards.
///
/// A target's peers are counted without the target itself, so that the 63 peers of 64 shards have a
/// bit each.
#[inline]
pub(crate) fn group_bit(source: ShardId, target: ShardId, shards: usize) -> u64 {
    debug_assert!(source != target);
    let peer = source.index() - usize::from(source > target);
    1 << (peer / group_size(shards))
}

/// The shards that share the bit number `group` in the words of `target`'s door.
#[inline]
pub(crate) fn sources_of(
    group: u32,
    target: ShardId,
    shards: usize,
) -> impl Iterator<Item = ShardId> {
    let size = group_size(shards);
    let group = group as usize;
    let peers = group * size..((group + 1) * size).min(shards - 1);
    // Below the number of shards, which fits.
    peers.map(move |peer| ShardId::new((peer + usize::from(peer >= target.index())) as u16))
}

/// How many peers share one bit.
#[inline]
fn group_size(shards: usize) -> usize {
    if shards <= GROUPS_MAX + 1 { 1 } else { (shards - 1).div_ceil(GROUPS_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every source of every target is in exactly the group that its bit says.
    #[test]
    fn groups_cover_all_peers_once() {
        for shards in [2, 3, 63, 64, 65, 66, 127, 128, 129, 500, 1023, 1024] {
            for target in [0, 1, shards / 2, shards - 1].map(ShardId::new) {
                let mut seen = vec![0; usize::from(shards)];
                for group in 0..GROUPS_MAX as u32 {
                    for source in sources_of(group, target, usize::from(shards)) {
                        assert_eq!(group_bit(source, target, usize::from(shards)), 1 << group);
                        seen[source.index()] += 1;
                    }
                }
                let expected: Vec<i32> =
                    (0..shards).map(|source| i32::from(source != target.get())).collect();
                assert_eq!(seen, expected, "{shards} shards, target {target}");
            }
        }
    }

    #[test]
    fn up_to_64_shards_have_a_bit_for_each_peer() {
        let last = ShardId::new(63);
        assert_eq!(sources_of(62, ShardId::new(0), 64).collect::<Vec<_>>(), [last]);
        assert_eq!(sources_of(62, last, 64).collect::<Vec<_>>(), [ShardId::new(62)]);
    }
}

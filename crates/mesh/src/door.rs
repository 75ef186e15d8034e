//! What a shard shows to its peers beside the rings: its bell and its room requests, both counted
//! in groups of peers.
//!
//! A word has 63 bits for peers ([`GROUPS_MAX`]). Up to 64 shards each peer has a bit of its own;
//! beyond, neighbours share one (17 peers a bit at 1,024 shards), and a set bit means "look at all
//! of these".

use crate::bell::{Bell, GROUPS_MAX};
use crate::room::RoomRequests;
use crate::shard_id::ShardId;
use crate::shard_set::ShardSet;

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
    if shards <= GROUPS_MAX + 1 { 1 << peer } else { 1 << (peer / group_size(shards)) }
}

/// Adds to `sources` the shards that the bits `groups` stand for in the words of `target`'s door.
#[inline]
pub(crate) fn add_sources(groups: u64, target: ShardId, shards: usize, sources: &mut ShardSet) {
    debug_assert!(groups >> GROUPS_MAX == 0);
    if shards <= GROUPS_MAX + 1 {
        // Peers below the target have their own number, those above one less: all at once.
        let below = (1 << target.index()) - 1;
        sources.insert_word(0, groups & below | (groups & !below) << 1);
    } else {
        add_sources_of_many(groups, target, shards, sources);
    }
}

#[cold] // Not on machines with up to 64 shards.
fn add_sources_of_many(mut groups: u64, target: ShardId, shards: usize, sources: &mut ShardSet) {
    let size = group_size(shards);
    while groups != 0 {
        let group = groups.trailing_zeros() as usize;
        groups &= groups - 1;
        for peer in group * size..((group + 1) * size).min(shards - 1) {
            // Below the number of shards, which fits.
            sources.insert(ShardId::new((peer + usize::from(peer >= target.index())) as u16));
        }
    }
}

/// How many peers share one bit, beyond 64 shards.
#[cold]
fn group_size(shards: usize) -> usize {
    (shards - 1).div_ceil(GROUPS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources_of(groups: u64, target: ShardId, shards: u16) -> Vec<ShardId> {
        let mut sources = ShardSet::new();
        add_sources(groups, target, usize::from(shards), &mut sources);
        sources.iter().collect()
    }

    /// Every source of every target is in exactly the group that its bit says.
    #[test]
    fn groups_cover_all_peers_once() {
        for shards in [2, 3, 63, 64, 65, 66, 127, 128, 129, 500, 1023, 1024] {
            for target in [0, 1, shards / 2, shards - 1].map(ShardId::new) {
                let mut seen = Vec::new();
                for group in (0..GROUPS_MAX).map(|number| 1 << number) {
                    // Senders set bits of peers that there are, no others.
                    if shards <= 64 && group >> (shards - 1) != 0 {
                        break;
                    }
                    for source in sources_of(group, target, shards) {
                        assert_eq!(group_bit(source, target, usize::from(shards)), group);
                        seen.push(source);
                    }
                }
                let all = (0..shards).map(ShardId::new).filter(|&source| source != target);
                assert!(all.eq(seen.iter().copied()), "{shards} shards, target {target}");
                let every_bit = seen
                    .iter()
                    .map(|&source| group_bit(source, target, usize::from(shards)))
                    .fold(0, |bits, bit| bits | bit);
                assert_eq!(sources_of(every_bit, target, shards), seen);
            }
        }
    }

    #[test]
    fn up_to_64_shards_have_a_bit_for_each_peer() {
        let last = ShardId::new(63);
        assert_eq!(sources_of(1 << 62, ShardId::new(0), 64), [last]);
        assert_eq!(sources_of(1 << 62, last, 64), [ShardId::new(62)]);
    }
}

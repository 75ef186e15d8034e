//! The set against one from the standard library.

use std::collections::BTreeSet;

use super::ShardSet;
use crate::random::for_each_seed;
use crate::shard_id::{SHARDS_MAX, ShardId};

fn set_of(numbers: &[u16]) -> ShardSet {
    numbers.iter().map(|&number| ShardId::new(number)).collect()
}

#[test]
fn model_behaves_like_a_sorted_set() {
    for_each_seed("model_behaves_like_a_sorted_set", 100, |random| {
        let limit = [3, 64, 65, 200, usize::from(SHARDS_MAX)][random.below(5)];
        let mut set = ShardSet::new();
        let mut model = BTreeSet::new();
        for _ in 0..400 {
            let shard = ShardId::new(random.below(limit) as u16);
            match random.below(8) {
                0..3 => assert_eq!(set.insert(shard), model.insert(shard)),
                3..5 => assert_eq!(set.remove(shard), model.remove(&shard)),
                5 => assert_eq!(set.pop_first(), model.pop_first()),
                6 => assert_eq!(set.next_from(shard), model.range(shard..).next().copied()),
                _ if random.one_in(20) => {
                    set.clear();
                    model.clear();
                }
                _ => assert_eq!(set.contains(shard), model.contains(&shard)),
            }
            assert_eq!(set.is_empty(), model.is_empty());
            assert_eq!(set.count(), model.len());
        }
        assert!(set.iter().eq(model.iter().copied()));
        assert_eq!(set, model.iter().copied().collect());
    });
}

#[test]
fn equality_is_about_shards_not_about_memory() {
    let mut once_large = set_of(&[3, 1000]);
    assert_ne!(once_large, set_of(&[3]));
    once_large.remove(ShardId::new(1000));
    assert_eq!(once_large, set_of(&[3]));
    assert_eq!(set_of(&[3]), once_large);
}

#[test]
fn words_at_once() {
    let mut set = set_of(&[5, 70]);
    set.insert_word(1, 0b11);
    assert_eq!(set, set_of(&[5, 64, 65, 70]));
    set.insert_word(9, 0);
    set.assign(0b100);
    assert_eq!(set, set_of(&[2]));
}

#[test]
fn debug_shows_the_numbers() {
    assert_eq!(format!("{:?}", set_of(&[64, 2])), "{2, 64}");
}

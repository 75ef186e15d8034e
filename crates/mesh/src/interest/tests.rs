//! The interest map against naive matching.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::key::{Key, LEVELS_HASHED_MAX, Shape, key_of_filter, walk};
use super::{
    BUCKETS_DEFAULT, BUCKETS_MAX, BUCKETS_MIN, InterestMap, InterestWriter, buckets_recommended,
};
use crate::random::{Random, for_each_seed};
use crate::shard_id::ShardId;
use crate::shard_set::ShardSet;

/// Whether a Topic Filter matches a Topic Name, by the words of the specification.
fn matches(filter: &str, topic: &str) -> bool {
    // [MQTT-4.7.2-1]
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        match (level, names.next()) {
            // "sport/#" also matches "sport": the parent level is included.
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// What the map answers when no two keys collide: by whole name, or by literal prefix.
fn matches_as_hashed(filter: &str, topic: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    match levels.iter().position(|level| matches!(*level, "+" | "#")) {
        None => filter == topic,
        Some(0) => !topic.starts_with('$'),
        Some(prefix) => {
            let names: Vec<&str> = topic.split('/').take(prefix).collect();
            names == levels[..prefix]
        }
    }
}

fn keys_of_topic(topic: &str) -> Vec<(Shape, Key)> {
    let mut keys = Vec::new();
    walk(topic.as_bytes(), |shape, key| keys.push((shape, key)));
    keys
}

fn interested(map: &InterestMap, topic: &str) -> ShardSet {
    let mut out = ShardSet::new();
    map.interested(topic, &mut out);
    out
}

/// The shards with a filter in a bucket that the topic looks up, and one of the shape it looks up
/// there.
fn bits_expected(map: &InterestMap, held: &[(usize, String)], topic: &str) -> ShardSet {
    let mut expected = ShardSet::new();
    for (shape, key) in keys_of_topic(topic) {
        let keys = || held.iter().map(|(shard, filter)| (*shard, key_of_filter(filter)));
        let bucket = map.bucket_of(key.hash());
        for (shard, _) in keys().filter(|(_, (_, key))| map.bucket_of(key.hash()) == bucket) {
            if keys().any(|(other, (other_shape, _))| other == shard && other_shape == shape) {
                expected.insert(ShardId::new(shard as u16));
            }
        }
    }
    expected
}

fn map_with_writers(shards: u16, buckets: usize) -> (Arc<InterestMap>, Vec<InterestWriter>) {
    let map = Arc::new(InterestMap::new(shards, buckets));
    let writer = |number| InterestWriter::new(Arc::clone(&map), ShardId::new(number));
    let writers = (0..shards).map(writer).collect();
    (map, writers)
}

/// Few level names, so that filters and topics meet; of lengths that put `/` everywhere in a word
/// of eight bytes.
fn random_level(random: &mut Random) -> &'static str {
    ["", "a", "b", "sensor", "$SYS", "eight888", "fifteen-bytes15", "ü"][random.below(8)]
}

fn random_topic(random: &mut Random) -> String {
    let levels: Vec<&str> = (0..1 + random.below(5)).map(|_| random_level(random)).collect();
    levels.join("/")
}

fn random_filter(random: &mut Random) -> String {
    let mut levels: Vec<&str> = (0..1 + random.below(5)).map(|_| random_level(random)).collect();
    for level in &mut levels {
        if random.one_in(4) {
            *level = "+";
        }
    }
    if random.one_in(3) {
        *levels.last_mut().expect("at least one") = "#";
    }
    levels.join("/")
}

#[test]
fn which_filters_a_topic_looks_up() {
    #[rustfmt::skip]
    let table = [
        ("a", "a", true), ("a", "b", false), ("a/b", "a", false), ("a", "a/b", false),
        ("a/b", "a/b", true), ("#", "a", true), ("#", "a/b/c", true), ("+", "a", true),
        ("#", "/", true), ("#", "", true),
        // The parent of `#` is matched too.
        ("a/#", "a", true), ("a/#", "a/b", true), ("a/b/c/#", "a/b/c", true),
        ("a/b/c/#", "a/b", false), ("a/+", "ab/c", false), ("a/b/+/c", "a/b/x/c", true),
        ("a/b/+/c", "a/c", false),
        // [MQTT-4.7.2-1]
        ("#", "$SYS/uptime", false), ("+/uptime", "$SYS/uptime", false),
        ("$SYS/#", "$SYS/uptime", true), ("$SYS/+", "$SYS", true), ("#", "a/$SYS", true),
        // Empty levels are levels.
        ("/+", "/a", true), ("/+", "a", false), ("+/a", "/a", true), ("//#", "//", true),
        ("/#", "a", false), ("a//+", "a//b", true), ("a//+", "a/b", false), ("/", "/", true),
        ("/", "", false), ("/", "//", false),
        // A `/` at each end of the words of eight bytes.
        ("1234567/+", "1234567/x", true), ("12345678/+", "12345678/x", true),
        ("12345678/+", "12345678", true), ("1234567/#", "1234567", true),
        ("123456789abcdef/x", "123456789abcdef/x", true),
        ("123456789abcdef/#", "123456789abcdef/x/y", true),
        ("1234567/9abcdef/#", "1234567/9abcdef/", true),
        ("1234567/9abcdef/#", "1234567/9abcdeg/", false),
    ];
    for (filter, topic, expected) in table {
        let found = keys_of_topic(topic).contains(&key_of_filter(filter));
        assert_eq!(found, expected, "{filter} for {topic}");
        assert_eq!(matches_as_hashed(filter, topic), expected, "{filter} for {topic}, naively");
    }
}

#[test]
fn keys_are_the_prefixes_and_the_name() {
    for_each_seed("keys_are_the_prefixes_and_the_name", 500, |random| {
        let topic = random_topic(random);
        let levels: Vec<&str> = topic.split('/').collect();
        let mut expected = Vec::new();
        if !topic.starts_with('$') {
            expected.push(key_of_filter("#"));
        }
        for count in 1..=levels.len() {
            expected.push(key_of_filter(&format!("{}/+", levels[..count].join("/"))));
        }
        expected.push(key_of_filter(&topic));
        assert_eq!(keys_of_topic(&topic), expected, "{topic}");
    });
}

#[test]
fn deep_names_are_hashed_to_a_limit_and_found() {
    let levels = |count: usize| vec!["x"; count].join("/");
    for depth in [LEVELS_HASHED_MAX - 1, LEVELS_HASHED_MAX, LEVELS_HASHED_MAX + 1, 30_000] {
        let topic = levels(depth);
        let keys = keys_of_topic(&topic);
        assert!(keys.len() <= LEVELS_HASHED_MAX + 2);
        assert!(keys.contains(&key_of_filter(&topic)), "{depth} levels, whole");
        for wildcards in [1, 2] {
            let filter = format!("{}/#", levels(depth - wildcards));
            assert!(keys.contains(&key_of_filter(&filter)), "{depth} levels, {wildcards} beyond");
        }
    }
}

/// What may never happen: a matching subscription that the map does not name.
#[test]
fn model_never_a_false_negative() {
    for_each_seed("model_never_a_false_negative", 150, |random| {
        let shards = [1, 2, 3, 8, 33, 64, 65, 130][random.below(8)];
        // Small maps collide all the time, large ones hardly ever.
        let buckets = [BUCKETS_MIN, 1 << 12][random.below(2)];
        let (map, mut writers) = map_with_writers(shards, buckets);
        let mut held: Vec<(usize, String)> = Vec::new();
        for _ in 0..150 {
            if random.one_in(3) && !held.is_empty() {
                let (shard, filter) = held.swap_remove(random.below(held.len()));
                writers[shard].remove(&filter);
            } else {
                let (shard, filter) = (random.below(usize::from(shards)), random_filter(random));
                writers[shard].add(&filter);
                held.push((shard, filter));
            }
            let topic = random_topic(random);
            let found = interested(&map, &topic);
            for (shard, filter) in held.iter().filter(|(_, filter)| matches(filter, &topic)) {
                let shard = ShardId::new(*shard as u16);
                assert!(found.contains(shard), "{filter} of {shard} for {topic}");
            }
            let expected = bits_expected(&map, &held, &topic);
            assert_eq!(found, expected, "no bit too many either, for {topic}");
        }
        for (shard, filter) in held {
            writers[shard].remove(&filter);
        }
        for writer in &writers {
            let statistics = writer.statistics();
            assert_eq!((statistics.filters, statistics.buckets_used), (0, 0), "counts are exact");
        }
        assert!(map.is_blank(), "no bit stays behind");
    });
}

/// A name as devices have them, and the hash fills buckets as chance would: 1 − e^(−m/B) of them.
#[test]
fn numbered_names_fill_buckets_as_chance_would() {
    let (map, mut writers) = map_with_writers(8, BUCKETS_DEFAULT);
    let count = BUCKETS_DEFAULT / 4;
    let names: [fn(usize) -> String; 4] = [
        |n| format!("device/{n:06}/command"),
        |n| format!("device/{n}/+"),
        |n| format!("{n}"),
        |n| format!("site/{}/line/{}/cell/{}", n % 16, n / 16 % 64, n / 1024),
    ];
    for (writer, name) in writers.iter_mut().zip(names) {
        for number in 0..count {
            writer.add(&name(number));
        }
        let share = writer.statistics().buckets_used as f64 / BUCKETS_DEFAULT as f64;
        let expected = 1.0 - (-0.25f64).exp();
        assert!((share - expected).abs() < 0.005, "{share} for {}", name(0));
    }
    // A stranger's name of the same shape is found by accident as often.
    let wrong = (0..10_000)
        .filter(|number| {
            let found = interested(&map, &format!("device/{number:06}/comment"));
            found.contains(ShardId::new(0))
        })
        .count();
    assert!((1_900..2_550).contains(&wrong), "{wrong} of 10,000, 2,212 expected");
    // Of a shape that the shard has no filter of: never.
    let found = interested(&map, "device/000001/command/more");
    assert!(!found.contains(ShardId::new(0)));
}

#[test]
fn a_filter_added_twice_wants_two_removals() {
    let (map, mut writers) = map_with_writers(2, BUCKETS_MIN);
    let shard = ShardId::new(1);
    for _ in 0..300 {
        writers[1].add("a/+");
    }
    for _ in 0..300 {
        assert!(interested(&map, "a/b").contains(shard));
        writers[1].remove("a/+");
    }
    assert!(interested(&map, "a/b").is_empty());
}

#[test]
fn a_look_up_replaces_what_the_set_held() {
    for shards in [4, 100] {
        let (map, mut writers) = map_with_writers(shards, BUCKETS_MIN);
        writers[3].add("a");
        let mut out: ShardSet = [0, 90].map(ShardId::new).into_iter().collect();
        map.interested("a", &mut out);
        assert!(out.iter().eq([ShardId::new(3)]));
    }
}

#[test]
fn hops_are_counted() {
    let (_, mut writers) = map_with_writers(1, BUCKETS_MIN);
    assert_eq!(writers[0].statistics().false_positive_rate(), 0.0);
    for matched in [true, false, true, true] {
        writers[0].record_hop(matched);
    }
    let statistics = writers[0].statistics();
    assert_eq!((statistics.hops, statistics.hops_without_match), (4, 1));
    assert_eq!(statistics.false_positive_rate(), 0.25);
}

#[test]
fn recommended_sizes() {
    #[rustfmt::skip]
    let table = [
        (0, BUCKETS_DEFAULT), (1_000, BUCKETS_DEFAULT), (16_384, BUCKETS_DEFAULT), (16_385, 1 << 19),
        (156_250, 1 << 22), (usize::MAX, BUCKETS_MAX),
    ];
    for (filters, expected) in table {
        assert_eq!(buckets_recommended(filters), expected, "{filters}");
    }
}

#[test]
#[should_panic(expected = "a second writer")]
fn a_shard_has_one_writer() {
    let (map, _writers) = map_with_writers(2, BUCKETS_MIN);
    let _ = InterestWriter::new(map, ShardId::new(1));
}

#[test]
#[should_panic(expected = "not added")]
fn removing_what_was_not_added_is_our_own_mistake() {
    let (_, mut writers) = map_with_writers(2, BUCKETS_MIN);
    writers[0].add("a");
    writers[0].remove("a/+");
}

/// Two shards that change bits of the same words at once do not undo each other's, and who learns
/// of an added filter by any chain of releases and acquires finds it.
#[test]
fn who_has_heard_of_a_filter_finds_it() {
    const ROUNDS: u64 = 20_000;
    let (map, writers) = map_with_writers(2, BUCKETS_MIN);
    // By shard: how many filters it has added. Stands for the SUBACK and what follows from it.
    let announced = [AtomicU64::new(0), AtomicU64::new(0)];
    let filter = |shard: usize, round: u64| format!("{shard}/{}", round % 50);
    thread::scope(|scope| {
        for mut writer in writers {
            let (map, announced) = (&map, &announced);
            scope.spawn(move || {
                let own = writer.shard().index();
                let peer = 1 - own;
                for round in 1..=ROUNDS {
                    writer.add(&filter(own, round));
                    announced[own].store(round, Ordering::Release);
                    let heard = announced[peer].load(Ordering::Acquire);
                    if heard > 0 {
                        let found = interested(map, &filter(peer, heard));
                        // It may be gone again by now, but then the peer has announced more.
                        let gone = announced[peer].load(Ordering::Acquire) >= heard + 40;
                        let present = found.contains(ShardId::new(peer as u16));
                        assert!(present || gone, "shard {own} missed {heard} of shard {peer}");
                    }
                    if round > 40 {
                        writer.remove(&filter(own, round - 40));
                    }
                }
            });
        }
    });
}

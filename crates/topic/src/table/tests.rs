//! The table against a list of subscriptions and the definition of "matches".

use std::collections::{BTreeMap, HashMap};

use super::{FilterId, Subscribed, SubscriberId, SubscriptionTable, Unsubscribed};
use crate::{
    TopicFilter, TopicLimits, TopicName,
    hashing::{hash, hash_state},
    testing::{Random, all_paths, for_seeds},
};

const DEEP: TopicLimits = TopicLimits { levels_max: u16::MAX, size_max: u16::MAX };

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text, &DEEP).unwrap()
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::parse(text, &DEEP).unwrap()
}

/// The table beside what it should hold.
struct Model {
    table: SubscriptionTable<u32>,
    expected: BTreeMap<String, BTreeMap<SubscriberId, u32>>,
}

impl Model {
    fn new() -> Self {
        Self { table: SubscriptionTable::with_seed(7), expected: BTreeMap::new() }
    }

    fn subscribe(&mut self, text: &str, subscriber: SubscriberId, value: u32) {
        let first = !self.expected.contains_key(text);
        let previous = self.expected.entry(text.to_owned()).or_default().insert(subscriber, value);
        let subscribed = self.table.subscribe(filter(text), subscriber, value);
        let filter_id = self.table.find(text).expect("just subscribed");
        assert_eq!(subscribed, Subscribed { filter_id, previous, first });
        assert_eq!(self.table.filter(filter_id), text);
        assert_eq!(self.table.value(filter_id, subscriber), Some(value));
    }

    fn unsubscribe(&mut self, text: &str, subscriber: SubscriberId) {
        let Some(filter_id) = self.table.find(text) else {
            assert!(!self.expected.contains_key(text), "a filter with subscribers is found");
            return;
        };
        let subscribers = self.expected.get_mut(text).expect("a filter has subscribers");
        let value = subscribers.remove(&subscriber);
        let last = subscribers.is_empty();
        if last {
            self.expected.remove(text);
        }
        let unsubscribed = self.table.unsubscribe(filter_id, subscriber);
        let filter = last.then(|| text.into());
        assert_eq!(unsubscribed, value.map(|value| Unsubscribed { value, last, filter }));
        assert_eq!(self.table.value(filter_id, subscriber), None);
        assert_eq!(self.table.find(text).is_none(), last);
    }

    /// Some subscription that is in.
    fn pick(&self, random: &mut Random) -> (String, SubscriberId) {
        let (text, subscribers) =
            self.expected.iter().nth(random.below(self.expected.len())).expect("below len");
        let (&subscriber, _) =
            subscribers.iter().nth(random.below(subscribers.len())).expect("below len");
        (text.clone(), subscriber)
    }

    fn check_topic(&self, text: &str) {
        let name = topic(text);
        let mut expected = Vec::new();
        let mut filters: Vec<&str> = Vec::new();
        for (filter_text, subscribers) in &self.expected {
            if crate::matches(filter(filter_text), name) {
                expected
                    .extend(subscribers.iter().map(|(&subscriber, &value)| (subscriber, value)));
                filters.push(filter_text);
            }
        }
        expected.sort_unstable();
        let mut found = vec![(SubscriberId(u32::MAX), 0)];
        let sources = self.table.matches(name, &mut found);
        found.sort_unstable();
        assert_eq!(found, expected, "topic {text:?}");
        assert_eq!(sources, filters.len(), "topic {text:?}, filters {filters:?}");
        let mut visited = Vec::new();
        self.table.visit(name, |filter_id| visited.push(self.table.filter(filter_id)));
        visited.sort_unstable();
        assert_eq!(visited, filters, "topic {text:?}");
    }

    fn check_all(&self) {
        self.table.check_integrity();
        let mut subscription_count = 0;
        for (filter_id, text) in self.table.filters() {
            let subscribers: BTreeMap<SubscriberId, u32> =
                self.table.subscribers(filter_id).collect();
            assert_eq!(self.expected.get(text), Some(&subscribers), "filter {text:?}");
            assert_eq!(self.table.subscriber_count(filter_id), subscribers.len());
            subscription_count += subscribers.len();
        }
        let first = self.table.filters().next().map(|it| it.0);
        assert!(self.table.filters_after(first).eq(self.table.filters().skip(1)));
        assert_eq!(self.table.filters().count(), self.expected.len());
        assert_eq!(self.table.filter_count(), self.expected.len());
        assert_eq!(self.table.subscription_count(), subscription_count);
    }
}

/// Every filter of up to three levels and `#` against every topic of up to four, all filters in the
/// table at once, then fewer and fewer. [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.2-1]
#[test]
fn every_small_filter_against_every_small_topic() {
    let topics = all_paths(&["", "a", "ab", "$"], 4);
    let topics: Vec<&str> = topics.iter().map(String::as_str).filter(|it| !it.is_empty()).collect();
    let mut filters = all_paths(&["", "a", "ab", "$", "+"], 3);
    let multi: Vec<String> = filters.iter().map(|it| format!("{it}/#")).collect();
    filters.extend(multi);
    filters.push("#".to_owned());
    filters.retain(|it| !it.is_empty());
    let mut model = Model::new();
    for (subscriber, text) in (0..).zip(&filters) {
        model.subscribe(text, SubscriberId(subscriber), 1);
    }
    model.check_all();
    assert!(model.table.node_count() <= 2 * filters.len());
    for text in &topics {
        model.check_topic(text);
    }
    let mut random = Random::new(1);
    while !filters.is_empty() {
        let text = filters.swap_remove(random.below(filters.len()));
        let (&subscriber, _) = model.expected[&text].first_key_value().expect("is in");
        model.unsubscribe(&text, subscriber);
        model.table.check_integrity();
        for _ in 0..4 {
            model.check_topic(random.pick(&topics));
        }
    }
    assert_eq!(model.table.filter_count(), 0);
    assert_eq!(model.table.node_count(), 0);
}

/// Thousands of operations in tides, so that lists and nodes grow past every threshold and shrink
/// back.
#[test]
fn random_operations() {
    for_seeds("random_operations", 4, |mut random| {
        let words = ["", "a", "b", "aa", "ab", "a!", "ü", "$", "sensor", "+", "+", "+"];
        let topic_words = &words[..9];
        let mut model = Model::new();
        for step in 0..8_000 {
            let flood = step / 2_000 % 2 == 0;
            let text = match random.below(10) {
                // A few filters with many subscribers.
                0..3 => random.pick(&["a", "+/b", "#", "a/#", "sensor/+/ü"]).to_owned(),
                3..6 => random.path(topic_words, 4),
                6..8 => random.path(&words, 5),
                _ => format!("{}/#", random.path(&words, 4)),
            };
            if text.is_empty() {
                continue;
            }
            let subscriber = SubscriberId(random.below(120) as u32);
            if random.chance(if flood { 85 } else { 15 }) {
                model.subscribe(&text, subscriber, random.below(1000) as u32);
            } else if random.chance(50) || model.expected.is_empty() {
                model.unsubscribe(&text, subscriber);
            } else {
                let (text, subscriber) = model.pick(&mut random);
                model.unsubscribe(&text, subscriber);
            }
            if step % 16 == 0 {
                let text = random.path(topic_words, 6);
                if !text.is_empty() {
                    model.check_topic(&text);
                }
            }
            if step % 200 == 0 {
                model.check_all();
            }
        }
        while !model.expected.is_empty() {
            let (text, subscriber) = model.pick(&mut random);
            model.unsubscribe(&text, subscriber);
        }
        model.check_all();
        assert_eq!(model.table.node_count(), 0);
    });
}

/// Deep filters that differ in a few levels: labels of many levels, cut and joined again and again.
#[test]
fn random_operations_on_deep_filters() {
    for_seeds("random_operations_on_deep_filters", 6, |mut random| {
        let mut model = Model::new();
        let mut texts: Vec<String> = Vec::new();
        for step in 0..1_200 {
            if random.chance(if step % 600 < 350 { 70 } else { 30 }) || texts.is_empty() {
                let mut levels = vec!["+"; 1 + random.below(60)];
                for _ in 0..random.below(4) {
                    let at = random.below(levels.len());
                    levels[at] = random.pick(&["a", "b", ""]);
                }
                if random.chance(20) {
                    levels.push("#");
                }
                let text = levels.join("/");
                if text.is_empty() {
                    continue;
                }
                model.subscribe(&text, SubscriberId(1), step);
                texts.push(text);
            } else {
                let text = texts.swap_remove(random.below(texts.len()));
                model.unsubscribe(&text, SubscriberId(1));
            }
            model.table.check_integrity();
            if step % 10 == 0 {
                let levels = vec![random.pick(&["a", "b", "c"]); 1 + random.below(62)];
                model.check_topic(&levels.join("/"));
            }
            assert!(model.table.node_count() <= 2 * model.table.filter_count());
        }
    });
}

/// Other texts with the same hash: two numbers are looked for until they collide, then used as
/// filters, as levels of filters and as topics.
#[test]
fn equal_hashes_are_told_apart() {
    let state = hash_state(7);
    let mut by_hash = HashMap::new();
    let (first, second) = (0..1 << 20)
        .find_map(|number: u32| {
            let text = format!("{number:07}");
            let other = by_hash.insert(hash(&state, text.as_bytes()), text.clone())?;
            Some((other, text))
        })
        .expect("a million 32-bit hashes collide");
    assert_ne!(first, second);
    for others in [&["x", "x/y"][..], &["x", "y", "z", "z/+", "+/x", "y/+"]] {
        for (present, absent) in [(&first, &second), (&second, &first)] {
            let mut model = Model::new();
            for text in others {
                model.subscribe(text, SubscriberId(0), 0);
            }
            model.subscribe(present, SubscriberId(1), 1);
            assert_eq!(model.table.find(absent), None);
            model.subscribe(&format!("{present}/+"), SubscriberId(1), 2);
            model.check_topic(&format!("{absent}/a"));
            model.check_topic(&format!("{present}/a"));
            model.subscribe(absent, SubscriberId(1), 3);
            model.subscribe(&format!("{absent}/+"), SubscriberId(1), 4);
            model.check_all();
            for text in [present, absent] {
                model.check_topic(text);
                model.check_topic(&format!("{text}/a"));
            }
            model.unsubscribe(present, SubscriberId(1));
            model.unsubscribe(&format!("{present}/+"), SubscriberId(1));
            model.check_all();
            for text in [present, absent] {
                model.check_topic(text);
                model.check_topic(&format!("{text}/a"));
            }
        }
    }
}

#[test]
fn near_texts_are_told_apart() {
    let mut model = Model::new();
    let texts = ["a", "a/", "/a", "A", "a ", "a\u{301}", "á", "aa", "a/+", "a/+/", "+/a", "a/#"];
    for (value, text) in (0..).zip(texts) {
        model.subscribe(text, SubscriberId(1), value);
    }
    model.check_all();
    for text in ["a", "a/", "/a", "A", "a ", "a\u{301}", "á", "aa", "a//", "b/a", "a/b/c", "b"] {
        model.check_topic(text);
    }
}

/// The same level below another parent is another node, also where the index has to ask to find
/// out.
#[test]
fn equal_levels_of_other_parents_are_told_apart() {
    let mut model = Model::new();
    for parent in 0..4_000 {
        let level = if parent < 3_000 { "a" } else { "b" };
        model.subscribe(&format!("{parent}/{level}/+"), SubscriberId(1), parent);
        model.subscribe(&format!("{parent}/c/+"), SubscriberId(1), parent);
    }
    let mut out = Vec::new();
    for parent in 0..4_000 {
        let name = format!("{parent}/a/x");
        let expected = usize::from(parent < 3_000);
        assert_eq!(model.table.matches(topic(&name), &mut out), expected, "{name}");
    }
}

/// A second subscription of a client for the same filter replaces the first. [MQTT-3.8.4-3]
#[test]
fn a_second_subscription_replaces_the_first() {
    for text in ["a/b", "a/+"] {
        let mut table = SubscriptionTable::new();
        let first = table.subscribe(filter(text), SubscriberId(1), 10_u32);
        assert_eq!((first.previous, first.first), (None, true));
        let second = table.subscribe(filter(text), SubscriberId(1), 20);
        assert_eq!((second.previous, second.first), (Some(10), false));
        assert_eq!(second.filter_id, first.filter_id);
        let mut out = Vec::new();
        assert_eq!(table.matches(topic("a/b"), &mut out), 1);
        assert_eq!(out, [(SubscriberId(1), 20)]);
        assert_eq!(table.subscription_count(), 1);
    }
}

/// [MQTT-4.7.2-1]
#[test]
fn dollar_topics_hide_from_leading_wildcards() {
    let mut table = SubscriptionTable::new();
    for (value, text) in
        (0..).zip(["#", "+", "+/a", "+/#", "$SYS/#", "$SYS/+", "$SYS", "$SYS/a", "a/#"])
    {
        table.subscribe(filter(text), SubscriberId(0), value);
    }
    let check = |name: &str, expected: &[i32]| {
        let mut out = Vec::new();
        table.matches(topic(name), &mut out);
        let mut values: Vec<i32> = out.iter().map(|it| it.1).collect();
        values.sort_unstable();
        assert_eq!(values, expected, "{name}");
    };
    check("$SYS", &[4, 6]);
    check("$SYS/a", &[4, 5, 7]);
    check("$", &[]);
    check("a/$SYS", &[0, 3, 8]);
    check("x", &[0, 1, 3]);
}

/// Removal gives back everything: records, texts, nodes, lists and their indices.
#[test]
fn removal_frees_everything() {
    let mut table = SubscriptionTable::new();
    let empty = table.memory_bytes();
    for round in 0..3 {
        let mut ids: Vec<(FilterId, SubscriberId)> = Vec::new();
        for number in 0..5_000_u32 {
            for text in
                [format!("l/{number}"), format!("w/{number}/+/x"), format!("m/+/{number}/#")]
            {
                let subscriber = SubscriberId(number);
                ids.push((
                    table.subscribe(filter(&text), subscriber, number).filter_id,
                    subscriber,
                ));
            }
            let subscriber = SubscriberId(number);
            ids.push((table.subscribe(filter("all"), subscriber, number).filter_id, subscriber));
        }
        let full = table.memory_bytes();
        if round % 2 == 1 {
            ids.reverse();
        }
        for (filter_id, subscriber) in ids {
            assert!(table.unsubscribe(filter_id, subscriber).is_some());
        }
        table.check_integrity();
        assert_eq!(table.subscription_count(), 0);
        let left = table.memory_bytes() - empty;
        assert!(left < full / 20, "{left} bytes are left of {full}");
    }
}

/// The budget of DESIGN: at most 90 bytes beside the text for a literal filter with one subscriber,
/// 300 bytes in all for one with a wildcard.
#[test]
fn a_subscription_is_small() {
    for (pattern, limit) in [("device/NUMBER/command", 90), ("device/NUMBER/+/state/#", 300)] {
        let mut table = SubscriptionTable::new();
        let before = table.memory_bytes();
        let mut texts_size = 0;
        for number in 0..100_000 {
            let text = pattern.replace("NUMBER", &number.to_string());
            texts_size += text.len();
            table.subscribe(filter(&text), SubscriberId(1), 0_u32);
        }
        let each = (table.memory_bytes() - before - texts_size) / 100_000;
        assert!(each <= limit, "{each} bytes beside the text for {pattern}");
    }
}

/// Filters built to explode: all 4,096 of `{a,+}` in twelve levels match, and each is told once.
#[test]
fn a_filter_for_each_choice_of_wildcards() {
    let mut table = SubscriptionTable::new();
    for choice in 0..4096_u32 {
        let levels: Vec<&str> =
            (0..12).map(|bit| if choice >> bit & 1 == 0 { "a" } else { "+" }).collect();
        table.subscribe(filter(&levels.join("/")), SubscriberId(choice), choice);
    }
    let mut out = Vec::new();
    assert_eq!(table.matches(topic(&["a"; 12].join("/")), &mut out), 4096);
    out.sort_unstable();
    assert!(out.iter().map(|it| it.1).eq(0..4096));
    assert!(table.node_count() < 8192);
    assert_eq!(table.matches(topic(&["a"; 13].join("/")), &mut out), 0);
    assert!(out.is_empty());
    table.check_integrity();
}

/// The deepest topic of the wire format, with limits raised to allow it: no recursion, nothing kept
/// after it.
#[test]
fn the_deepest_topic() {
    let deepest = "/".repeat(65_534);
    let mut table = SubscriptionTable::new();
    let plus = ["+"; 32_768].join("/");
    let multi = format!("{}/#", ["+"; 32_767].join("/"));
    for (value, text) in (0..).zip(["#", "+/#", deepest.as_str(), plus.as_str(), multi.as_str()]) {
        table.subscribe(filter(text), SubscriberId(0), value);
    }
    table.check_integrity();
    let mut out = Vec::new();
    assert_eq!(table.matches(topic(&deepest), &mut out), 4);
    out.sort_unstable();
    assert_eq!(out.iter().map(|it| it.1).collect::<Vec<_>>(), [0, 1, 2, 4]);
    assert_eq!(table.matches(topic(&"/".repeat(32_767)), &mut out), 4);
}

/// An id whose filter is gone is void: no panic, no other filter's subscribers.
#[test]
fn a_void_id_finds_nothing() {
    let mut table = SubscriptionTable::new();
    let filter_id = table.subscribe(filter("a"), SubscriberId(1), 1_u32).filter_id;
    assert_eq!(table.unsubscribe(filter_id, SubscriberId(2)), None);
    assert!(table.unsubscribe(filter_id, SubscriberId(1)).is_some());
    assert_eq!(table.unsubscribe(filter_id, SubscriberId(1)), None);
    assert_eq!(table.value(filter_id, SubscriberId(1)), None);
    assert_eq!(table.subscriber_count(filter_id), 0);
    assert_eq!(table.subscribers(filter_id).count(), 0);
    assert_eq!(table.find("a"), None);
}

/// The order of matches comes from the operations alone, so a simulation replays with any hash
/// seed.
#[test]
fn order_does_not_depend_on_the_hash_seed() {
    let told = |seed| {
        let mut table = SubscriptionTable::with_seed(seed);
        let mut random = Random::new(3);
        let mut out = Vec::new();
        let mut all = Vec::new();
        for number in 0..2_000 {
            let text = random.path(&["a", "b", "c", "+"], 4);
            table.subscribe(filter(&text), SubscriberId(number % 50), number);
            table.matches(topic(&random.path(&["a", "b", "c"], 4)), &mut out);
            all.push(out.clone());
        }
        all
    };
    assert_eq!(told(1), told(2));
}

//! The index against a set of topics and the definition of "matches".

use std::collections::BTreeSet;

use super::{
    RetainedIndex, Scan, Topic,
    step::{Step, step},
};
use crate::{
    TopicFilter, TopicLimits, TopicName,
    testing::{Random, all_paths, for_seeds},
};

impl Topic for String {
    fn topic(&self) -> &str {
        self
    }
}

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text, &TopicLimits::DEFAULT).unwrap()
}

fn matches(filter_text: &str, topic: &str) -> bool {
    crate::matches(filter(filter_text), TopicName::parse(topic, &TopicLimits::DEFAULT).unwrap())
}

fn index_of<'a>(topics: impl IntoIterator<Item = &'a str>) -> RetainedIndex<String> {
    let mut index = RetainedIndex::new();
    for topic in topics {
        index.insert(topic.to_owned());
    }
    index
}

/// Scans to the end in parts; the topics found and the number of parts.
fn scan_all(index: &RetainedIndex<String>, text: &str, budget: usize) -> (Vec<String>, usize) {
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    for parts in 1.. {
        let mut in_part = 0;
        let scan = index.scan(filter(text), after.as_deref(), budget, &mut |it| {
            found.push(it.clone());
            in_part += 1;
        });
        assert!(in_part <= budget, "the budget bounds what is found");
        match scan {
            Scan::Done => return (found, parts),
            Scan::More { after: last } => {
                assert!(after.as_deref() < Some(last), "each part gets further");
                after = Some(last.to_owned());
            }
        }
    }
    unreachable!("the loop has no end of its own")
}

/// The bytes around `/` and around `$`, and words that are prefixes of each other: where skipping
/// could go wrong.
const WORDS: [&str; 10] = ["", "a", "a!", "a0", "ab", "!", "0", "$", "%", "ü"];

#[test]
fn insert_replace_find_remove() {
    struct Message(&'static str, u32);
    impl Topic for Message {
        fn topic(&self) -> &str {
            self.0
        }
    }
    let mut index = RetainedIndex::new();
    assert!(index.is_empty());
    assert!(index.insert(Message("a", 1)).is_none());
    assert!(index.insert(Message("b", 2)).is_none());
    // One per topic. [MQTT-3.3.1-5]
    assert_eq!(index.insert(Message("a", 3)).map(|it| it.1), Some(1));
    assert_eq!(index.len(), 2);
    assert_eq!(index.find("a").map(|it| it.1), Some(3));
    assert!(index.find("c").is_none());
    // [MQTT-3.3.1-6]
    assert_eq!(index.remove("a").map(|it| it.1), Some(3));
    assert!(index.remove("a").is_none());
    assert!(index.find("a").is_none());
    assert_eq!(index.iter_after(None).map(|it| it.1).collect::<Vec<_>>(), [2]);
    assert_eq!(index.iter_after(Some("b")).count(), 0);
    assert_eq!(format!("{index:?}"), r#"{"b"}"#);
}

/// The step on its own: no topic between the one at hand and the target matches, and a match is a
/// match. [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.2-1]
#[test]
fn every_step_skips_only_what_cannot_match() {
    let mut topics = all_paths(&WORDS, 3);
    topics.retain(|it| !it.is_empty());
    topics.sort_unstable();
    let mut filters = all_paths(&["", "a", "a!", "$", "+"], 3);
    filters.retain(|it| !it.is_empty());
    let multi: Vec<String> = filters.iter().map(|it| format!("{it}/#")).collect();
    filters.extend(multi);
    filters.push("#".to_owned());
    filters.push("/#".to_owned());
    let mut target = String::new();
    for text in &filters {
        // From the last topic to the first, with the least match above the one at hand.
        let mut match_above: Option<&str> = None;
        for topic in topics.iter().rev() {
            let expected = matches(text, topic);
            match step(text, topic, &mut target) {
                Step::Match => assert!(expected, "filter {text:?}, topic {topic:?}"),
                Step::Next => assert!(!expected, "filter {text:?}, topic {topic:?}"),
                Step::Seek => {
                    assert!(!expected, "filter {text:?}, topic {topic:?}");
                    assert!(target.as_str() > topic.as_str(), "{target:?} is behind {topic:?}");
                    assert!(
                        match_above.is_none_or(|it| it >= target.as_str()),
                        "filter {text:?}, topic {topic:?}: {target:?} skips {match_above:?}"
                    );
                }
                Step::Done => {
                    assert!(!expected, "filter {text:?}, topic {topic:?}");
                    assert_eq!(match_above, None, "filter {text:?}, topic {topic:?}");
                }
            }
            if expected {
                match_above = Some(topic);
            }
        }
    }
}

#[test]
fn steps() {
    #[track_caller]
    fn check(filter: &str, topic: &str, expected: Step, expected_target: &str) {
        let mut target = String::new();
        assert_eq!(step(filter, topic, &mut target), expected, "{filter:?} at {topic:?}");
        assert_eq!(target, expected_target, "{filter:?} at {topic:?}");
    }
    check("a/#", "a", Step::Match, "");
    check("a/#", "a!", Step::Seek, "a/");
    check("a/#", "a/b/c", Step::Match, "");
    check("a/#", "a0", Step::Done, "");
    check("+/b", "a/a", Step::Seek, "a/b");
    check("+/b", "a/c", Step::Seek, "a0");
    check("+/b", "a/b", Step::Match, "");
    check("+/b", "a/b/c", Step::Seek, "a0");
    check("+/b", "a", Step::Next, "");
    check("+/b/+", "a/b!", Step::Seek, "a/b/");
    check("+/b/+", "a/b", Step::Seek, "a/b/");
    check("+/+/c", "a/b/d", Step::Seek, "a/b0");
    check("a/+", "a/b/c", Step::Seek, "a/b0");
    check("#", "$SYS/x", Step::Seek, "%");
    check("+/x", "$SYS/x", Step::Seek, "%");
    check("$SYS/+", "$SYS/x", Step::Match, "");
}

/// All topics of up to three levels at once, every filter, several budgets.
#[test]
fn every_small_filter() {
    let mut topics = all_paths(&["", "a", "a!", "a0", "$", "b"], 3);
    topics.retain(|it| !it.is_empty());
    topics.sort_unstable();
    let index = index_of(topics.iter().map(String::as_str));
    let mut filters = all_paths(&["", "a", "a!", "$", "+", "#"], 4);
    filters.retain(|it| TopicFilter::parse(it, &TopicLimits::DEFAULT).is_ok());
    for text in &filters {
        let expected: Vec<&String> = topics.iter().filter(|it| matches(text, it)).collect();
        for budget in [1, 2, 7, usize::MAX] {
            let (found, _) = scan_all(&index, text, budget);
            assert!(found.iter().eq(expected.iter().copied()), "filter {text:?}, budget {budget}");
        }
    }
}

/// Messages come and go between the parts of a scan: what stays is visited exactly once and in
/// order, what is visited was there and matches.
#[test]
fn scans_under_mutation() {
    for_seeds("scans_under_mutation", 300, |mut random| {
        let mut present: BTreeSet<String> = BTreeSet::new();
        let mut index = RetainedIndex::new();
        let change = |present: &mut BTreeSet<String>,
                      index: &mut RetainedIndex<String>,
                      random: &mut Random| {
            let topic = random.path(&WORDS, 4);
            if topic.is_empty() {
                None
            } else if random.chance(60) {
                assert_eq!(index.insert(topic.clone()).is_some(), !present.insert(topic.clone()));
                Some(topic)
            } else {
                assert_eq!(index.remove(&topic).is_some(), present.remove(&topic));
                Some(topic)
            }
        };
        for _ in 0..random.below(400) {
            change(&mut present, &mut index, &mut random);
        }
        for _ in 0..8 {
            let words = ["", "a", "a!", "ab", "$", "ü", "+", "+", "+"];
            let mut text = random.path(&words, 4);
            if random.chance(40) {
                text.push_str("/#");
            }
            if text.is_empty() {
                continue;
            }
            let mut stayed = present.clone();
            let mut visited: Vec<String> = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let budget = 1 + random.below(20);
                let scan = index.scan(filter(&text), after.as_deref(), budget, &mut |it| {
                    assert!(visited.last() < Some(it), "in order, and once");
                    assert!(matches(&text, it), "filter {text:?}, topic {it:?}");
                    assert!(present.contains(it), "it is there when it is visited");
                    visited.push(it.clone());
                });
                match scan {
                    Scan::Done => break,
                    Scan::More { after: last } => after = Some(last.to_owned()),
                }
                for _ in 0..random.below(10) {
                    if let Some(topic) = change(&mut present, &mut index, &mut random) {
                        stayed.remove(&topic);
                    }
                }
            }
            let visited: BTreeSet<String> = visited.into_iter().collect();
            for topic in stayed.iter().filter(|it| matches(&text, it)) {
                assert!(visited.contains(topic), "filter {text:?} misses {topic:?}");
            }
        }
        index.check_integrity();
        assert_eq!(index.len(), present.len());
        assert!(index.iter_after(None).eq(present.iter()));
    });
}

/// A filter without wildcards is one look-up, and done once the scan is past it.
#[test]
fn a_literal_filter_is_found_at_once() {
    let index = index_of(["a", "a/b", "a/b/c", "b"]);
    let found = |text: &str, after: Option<&str>| {
        let mut found = Vec::new();
        assert_eq!(
            index.scan(filter(text), after, 1, &mut |it| found.push(it.as_str())),
            Scan::Done
        );
        found
    };
    assert_eq!(found("a/b", None), ["a/b"]);
    assert_eq!(found("a/b", Some("a")), ["a/b"]);
    assert!(found("a/b", Some("a/b")).is_empty());
    assert!(found("a/b", Some("b")).is_empty());
    assert!(found("x", None).is_empty());
}

/// What the index costs beside the messages: little of the 350 bytes that a message of 100 bytes
/// may take in all.
#[test]
fn an_entry_is_small() {
    struct Message(String);
    impl Topic for Message {
        fn topic(&self) -> &str {
            &self.0
        }
    }
    let mut index = RetainedIndex::new();
    let empty = index.memory_bytes();
    let mut random = Random::new(1);
    let mut topics: Vec<String> = Vec::new();
    while topics.len() < 50_000 {
        let topic = format!("site/{}/value", random.below(1 << 40));
        if index.insert(Box::new(Message(topic.clone()))).is_none() {
            topics.push(topic);
        }
    }
    let each = (index.memory_bytes() - empty) / topics.len();
    assert!(each <= 40, "{each} bytes");
    for topic in topics {
        assert!(index.remove(&topic).is_some());
    }
    index.check_integrity();
    assert!(index.memory_bytes() < empty + 16_384, "{} bytes are left", index.memory_bytes());
}

/// How many entries a scan looks at: subtrees that cannot match are skipped.
#[test]
fn scans_skip_subtrees() {
    let mut topics: Vec<String> = Vec::new();
    for device in 0..500 {
        for sensor in 0..50 {
            topics.push(format!("site/{device:03}/{sensor:02}/value"));
        }
        topics.push(format!("site/{device:03}/status"));
    }
    let index = index_of(topics.iter().map(String::as_str));
    let looked_at_most = |text: &str, budget: usize, expected: usize| {
        let mut found = 0;
        let scan = index.scan(filter(text), None, budget, &mut |_| found += 1);
        assert_eq!((scan, found), (Scan::Done, expected), "filter {text:?} with budget {budget}");
    };
    // The device's first topic, its neighbour, the status, and the next device's first topic.
    looked_at_most("site/+/status", 3 * 500 + 2, 500);
    looked_at_most("+/+/status", 3 * 500 + 2, 500);
    looked_at_most("site/+/07/value", 5 * 500 + 2, 500);
    looked_at_most("site/123/#", 51 + 2, 51);
    looked_at_most("site/123/+/value", 51 + 2, 50);
    looked_at_most("site/+", 2 * 500 + 2, 0);
    looked_at_most("+", 3, 0);
    looked_at_most("other/#", 1, 0);
    looked_at_most("zoo/+", 0, 0);
    looked_at_most("site/+/none/+", 4 * 500 + 2, 0);
}

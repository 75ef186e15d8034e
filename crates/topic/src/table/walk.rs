//! What one walk through the trie needs to remember: kept between walks, so that a walk does not
//! allocate.

use super::trie::NodeId;

/// Scratch that grew beyond this many entries is given back: one topic of 65,535 levels shall not
/// cost a megabyte forever.
const KEPT_CAPACITY_MAX: usize = 1024;

/// A node that is still to be visited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) node: NodeId,
    /// The level of the topic that the first level of the node's label has matched already.
    pub(super) level: u32,
    /// Bytes of that first level.
    pub(super) first_size: u32,
}

/// One level of the topic.
#[derive(Debug, Clone, Copy)]
struct Level {
    start: u32,
    end: u32,
    /// Zero while nobody asked.
    hash: u32,
}

/// The state of a walk. Levels are cut off the topic as the walk gets deeper, and hashed once each,
/// when first needed: otherwise a topic with one huge level would be hashed at each of thousands of
/// nodes.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) stack: Vec<Pending>,
    levels: Vec<Level>,
    /// Separators before this byte of the topic are known; past its end when all are.
    scanned: usize,
    /// Where the first level begins whose end is not known.
    open_start: usize,
}

impl Walk {
    #[inline]
    pub(super) fn begin(&mut self) {
        self.stack.clear();
        self.levels.clear();
        self.scanned = 0;
        self.open_start = 0;
    }

    pub(super) fn end(&mut self) {
        if self.stack.capacity() > KEPT_CAPACITY_MAX {
            self.stack = Vec::new();
        }
        if self.levels.capacity() > KEPT_CAPACITY_MAX {
            self.levels = Vec::new();
        }
    }

    /// The text of a level; `None` when the topic has fewer.
    #[inline]
    pub(super) fn level<'t>(&mut self, index: usize, topic: &'t [u8]) -> Option<&'t [u8]> {
        while self.levels.len() <= index {
            if self.scanned > topic.len() {
                return None;
            }
            self.scan(topic);
        }
        let level = self.levels[index];
        Some(&topic[level.start as usize..level.end as usize])
    }

    /// Finds the separators in the next eight bytes, or in the last ones.
    fn scan(&mut self, topic: &[u8]) {
        let rest = &topic[self.scanned..];
        let Some(chunk) = rest.first_chunk::<8>() else {
            for (at, _) in (self.scanned..).zip(rest).filter(|&(_, &byte)| byte == b'/') {
                self.close(at);
            }
            self.close(topic.len());
            self.scanned = topic.len() + 1;
            return;
        };
        let mut marks = separators_in(u64::from_le_bytes(*chunk));
        while marks != 0 {
            self.close(self.scanned + marks.trailing_zeros() as usize / 8);
            marks &= marks - 1;
        }
        self.scanned += 8;
    }

    #[inline]
    fn close(&mut self, end: usize) {
        self.levels.push(Level { start: self.open_start as u32, end: end as u32, hash: 0 });
        self.open_start = end + 1;
    }

    /// The text and the hash of a level; `hash` must not give zero.
    #[inline]
    pub(super) fn level_hash<'t>(
        &mut self,
        index: usize,
        topic: &'t [u8],
        hash: impl Fn(&[u8]) -> u32,
    ) -> Option<(&'t [u8], u32)> {
        let text = self.level(index, topic)?;
        let known = &mut self.levels[index].hash;
        if *known == 0 {
            *known = hash(text);
        }
        Some((text, *known))
    }

    /// Compares the levels of `label` with the topic's levels from `index` on; the index of the
    /// level after them, or `None` if they differ or the topic is shorter.
    #[inline]
    pub(super) fn follow(&mut self, label: &[u8], index: usize, topic: &[u8]) -> Option<usize> {
        let mut index = index;
        let mut rest = label;
        loop {
            let level = self.level(index, topic)?;
            index += 1;
            let after = match rest {
                // Any one level [MQTT-4.7.1-2].
                [b'+', after @ ..] => after,
                _ => rest.strip_prefix(level)?,
            };
            match after {
                [] => return Some(index),
                [b'/', next @ ..] => rest = next,
                _ => return None,
            }
        }
    }
}

/// The top bit of each of the eight bytes that is `/`, and no other.
#[inline]
const fn separators_in(bytes: u64) -> u64 {
    const SEPARATORS: u64 = u64::from_le_bytes([b'/'; 8]);
    const TOPS: u64 = u64::from_le_bytes([0x80; 8]);
    let zeros = bytes ^ SEPARATORS;
    // Adding carries into a byte's top bit unless the seven below are zero, and never beyond it.
    !(((zeros & !TOPS) + !TOPS) | zeros) & TOPS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(topic: &str) {
        let mut walk = Walk::default();
        walk.begin();
        let expected: Vec<&str> = topic.split('/').collect();
        for (index, level) in expected.iter().enumerate() {
            assert_eq!(walk.level(index, topic.as_bytes()), Some(level.as_bytes()), "{topic:?}");
        }
        assert_eq!(walk.level(expected.len(), topic.as_bytes()), None, "{topic:?}");
        // Asking for the last one first finds the same.
        walk.begin();
        assert_eq!(walk.level(expected.len(), topic.as_bytes()), None, "{topic:?}");
        assert!(
            walk.levels.iter().map(|it| &topic[it.start as usize..it.end as usize]).eq(expected)
        );
    }

    /// U+00AF ends in the byte that is a separator but for its top bit.
    #[test]
    fn levels() {
        for text in [
            "a",
            "/",
            "//",
            "a/",
            "/a",
            "ü/ñ",
            "12345678",
            "1234567/",
            "12345678/",
            "\u{af}\u{af}\u{af}\u{af}/\u{af}",
        ] {
            check(text);
        }
        for size in 1..40 {
            check(&"/".repeat(size));
            for at in 0..size {
                let mut text = ".".repeat(size);
                text.replace_range(at..=at, "/");
                check(&text);
            }
        }
    }

    #[test]
    fn a_level_is_hashed_once() {
        let mut walk = Walk::default();
        walk.begin();
        let count = std::cell::Cell::new(0);
        for _ in 0..3 {
            let hash = |text: &[u8]| {
                count.set(count.get() + 1);
                text.len() as u32
            };
            assert_eq!(walk.level_hash(1, b"a/bcd/e", hash), Some((&b"bcd"[..], 3)));
        }
        assert_eq!(count.get(), 1);
        assert_eq!(walk.level_hash(3, b"a/bcd/e", |_| 1), None);
    }

    #[test]
    fn follow() {
        fn check(label: &str, topic: &str, expected: Option<usize>) {
            let mut walk = Walk::default();
            walk.begin();
            let found = walk.follow(label.as_bytes(), 1, topic.as_bytes());
            assert_eq!(found, expected, "label {label:?} at level 1 of {topic:?}");
        }
        check("b", "a/b", Some(2));
        check("b", "a/b/c", Some(2));
        check("b/c", "a/b/c", Some(3));
        check("+", "a/b", Some(2));
        check("+/c", "a/b/c", Some(3));
        check("+/", "a/b/", Some(3));
        check("", "a/", Some(2));
        check("/", "a//", Some(3));
        check("b", "a", None);
        check("b", "a/bc", None);
        check("bc", "a/b", None);
        check("b/c", "a/b", None);
        check("b", "a/+", None);
        check("+/+", "a/b", None);
        check("", "a/b", None);
    }

    /// What a deep topic needed is given back.
    #[test]
    fn scratch_is_bounded() {
        let mut walk = Walk::default();
        walk.begin();
        let topic = "/".repeat(65_534);
        assert!(walk.level(65_534, topic.as_bytes()).is_some());
        walk.end();
        assert_eq!(walk.levels.capacity(), 0);
    }
}

//! What one walk through the trie needs to remember: kept between walks, so that a walk does not allocate.

use super::trie::NodeId;

/// Scratch that grew beyond this many entries is given back: one topic of 65,535 levels shall not cost a megabyte forever.
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

/// The state of a walk. Levels are cut off the topic as the walk gets deeper, and hashed once each, when first needed:
/// otherwise a topic with one huge level would be hashed at each of thousands of nodes.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) stack: Vec<Pending>,
    levels: Vec<Level>,
}

impl Walk {
    #[inline]
    pub(super) fn begin(&mut self) {
        self.stack.clear();
        self.levels.clear();
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
            let start = self.levels.last().map_or(0, |level| level.end as usize + 1);
            let rest = topic.get(start..)?;
            let size = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            self.levels.push(Level { start: start as u32, end: (start + size) as u32, hash: 0 });
        }
        let level = self.levels[index];
        Some(&topic[level.start as usize..level.end as usize])
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

    /// Compares the levels of `label` with the topic's levels from `index` on; the index of the level after them, or
    /// `None` if they differ or the topic is shorter.
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

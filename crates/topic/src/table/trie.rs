//! The filters with wildcards, as a trie of levels.
//!
//! # Shape
//! A node stands for a run of levels (its *label*), so that a chain of levels without a fork is one
//! node: there are fewer than two nodes for each filter, however deep the filters are, and a walk
//! reads a label from front to back instead of chasing pointers. A label is not stored: it is a
//! range of bytes of the text of some filter that passes through the node, and since all those
//! filters agree up to the end of the label the same range holds in each of them.
//!
//! A node's children are one for `+` and a list of literal ones, found by the hash of (parent,
//! first level). `#` is not a child: it is always last, so the filter `a/#` is a field of the node
//! of `a`.
//!
//! # Invariants
//! - A node has a filter that ends at it (here or with `/#`), or at least two children.
//! - `label` names a filter in the node's own subtree.
//! - Literal children are doubly linked: unlinking one of a hundred thousand costs the same as one
//!   of two.
//!
//! # Cost of a walk
//! Depth first with a stack of its own. Each node is visited at most once a walk, because it has
//! one parent; at each node at most two children are followed. So a walk is bounded by the number
//! of nodes (at most twice the filters) plus the levels in their labels, whatever the topic. Each
//! level of the topic is hashed at most once.

use std::num::NonZeroU32;

use ahash::RandomState;

use super::{
    FilterId,
    walk::{Pending, Walk},
};
use crate::{hashing::hash, index::Index, slab::Slab};

/// Where the texts of filters are kept.
pub(super) trait Texts {
    /// The text of a filter that is in.
    fn text(&self, id: FilterId) -> &[u8];
}

/// Stable while the node is in; four bytes as an `Option`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(NonZeroU32);

impl NodeId {
    fn from_index(index: u32) -> Self {
        Self(NonZeroU32::MIN.checked_add(index).expect("fewer than 2^32 - 1 nodes"))
    }

    const fn index(self) -> u32 {
        self.0.get() - 1
    }
}

/// What hangs at the end of a node's label, or at the root.
#[derive(Debug, Clone, Copy, Default)]
struct Branch {
    /// The filter that ends here.
    filter: Option<FilterId>,
    /// The filter that ends here but for `/#`.
    multi: Option<FilterId>,
    /// The child whose label begins with `+`.
    single: Option<NodeId>,
    /// The first of the children whose label begins with a literal level.
    literal: Option<NodeId>,
}

#[derive(Debug)]
struct Node {
    /// A filter whose text holds the label.
    label: FilterId,
    /// First byte of the label.
    label_start: u16,
    /// The byte after the label.
    label_end: u16,
    /// Hash of the label's first level; zero when that is `+`.
    level_hash: u32,
    /// `None` is the root.
    parent: Option<NodeId>,
    branch: Branch,
    /// Neighbours in the list of literal children.
    previous: Option<NodeId>,
    next: Option<NodeId>,
}

const _: () = assert!(size_of::<Option<Node>>() == 40);

#[derive(Debug)]
pub(super) struct Trie {
    root: Branch,
    nodes: Slab<Node>,
    /// All nodes that are literal children, by [`child_hash`].
    literals: Index<NodeId>,
    hashes: RandomState,
}

impl Trie {
    pub(super) fn new(hashes: RandomState) -> Self {
        Self { root: Branch::default(), nodes: Slab::new(), literals: Index::large(), hashes }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.count() == 0 && self.root.multi.is_none()
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.count()
    }

    /// Tells `visit` each filter that matches `topic`, once.
    pub(super) fn walk(
        &self,
        texts: &impl Texts,
        topic: &str,
        walk: &mut Walk,
        mut visit: impl FnMut(FilterId),
    ) {
        walk.begin();
        // A leading wildcard does not see topics that begin with `$` [MQTT-4.7.2-1].
        let root = match topic.as_bytes().first() {
            Some(b'$') => Branch { multi: None, single: None, ..self.root },
            _ => self.root,
        };
        // `#` alone matches everything else.
        if let Some(filter) = root.multi {
            visit(filter);
        }
        let topic = topic.as_bytes();
        let mut next = self.fork(texts, None, &root, 0, topic, walk);
        while let Some(Pending { node: id, level, first_size }) = next.or_else(|| walk.stack.pop())
        {
            next = None;
            let Some(node) = self.nodes.get(id.index()) else {
                debug_assert!(false, "links lead to nodes");
                continue;
            };
            // The first level of the label is known to match: the fork looked at it.
            let mut level = level as usize + 1;
            let label_at = usize::from(node.label_start) + first_size as usize;
            let label_end = usize::from(node.label_end);
            if label_at < label_end {
                let rest = &texts.text(node.label)[label_at + 1..label_end];
                match walk.follow(rest, level, topic) {
                    Some(end) => level = end,
                    None => continue,
                }
            }
            // Zero or more levels follow [MQTT-4.7.1-1].
            if let Some(filter) = node.branch.multi {
                visit(filter);
            }
            if walk.level(level, topic).is_none() {
                if let Some(filter) = node.branch.filter {
                    visit(filter);
                }
            } else {
                next = self.fork(texts, Some(id), &node.branch, level, topic, walk);
            }
        }
    }

    /// The child that agrees with the topic in `level`, to go on with; if there are two, the other
    /// one waits on the stack.
    #[inline]
    fn fork(
        &self,
        texts: &impl Texts,
        parent: Option<NodeId>,
        branch: &Branch,
        level: usize,
        topic: &[u8],
        walk: &mut Walk,
    ) -> Option<Pending> {
        let pending =
            |node, first_size| Pending { node, level: level as u32, first_size: first_size as u32 };
        let single = branch.single.map(|node| pending(node, 1));
        let literal = branch.literal.and_then(|first| {
            let (text, hash) = walk.level_hash(level, topic, |text| self.level_hash(text))?;
            let node = self.literal_child(texts, parent, first, text, hash)?;
            Some(pending(node, text.len()))
        });
        if literal.is_some() {
            walk.stack.extend(single);
            return literal;
        }
        single
    }

    /// Adds a filter with a wildcard that is not in yet; its text must be in `texts` already.
    pub(super) fn insert(&mut self, texts: &impl Texts, id: FilterId) {
        let text = texts.text(id);
        let mut parent = None;
        // Where the next level begins; past the end of the text when there is none.
        let mut at = 0;
        while at <= text.len() {
            let level = level_at(text, at);
            if level == b"#" {
                self.branch_mut(parent).multi = Some(id);
                return;
            }
            let Some(child) = self.child(texts, parent, level) else {
                let (end, filter, multi) = match text.strip_suffix(b"/#") {
                    Some(rest) => (rest.len(), None, Some(id)),
                    None => (text.len(), Some(id), None),
                };
                let node = self.nodes.insert(Node {
                    label: id,
                    label_start: at as u16,
                    label_end: end as u16,
                    level_hash: 0,
                    parent: None,
                    branch: Branch { filter, multi, ..Branch::default() },
                    previous: None,
                    next: None,
                });
                self.link(texts, parent, NodeId::from_index(node));
                return;
            };
            let node = self.node(child);
            let label_end = usize::from(node.label_end);
            let label = &texts.text(node.label)[..label_end];
            let end = common_levels_end(label, text, usize::from(node.label_start));
            parent = Some(if end == label_end { child } else { self.split(texts, child, end) });
            at = end + 1;
        }
        self.branch_mut(parent).filter = Some(id);
    }

    /// Removes a filter that is in; its text must still be in `texts`.
    pub(super) fn remove(&mut self, texts: &impl Texts, id: FilterId) {
        let mut at = self.detach(texts, id);
        if let Some(node) = at {
            at = self.prune(texts, node);
        }
        // Labels above that were read in the text which is about to go are read in another one from
        // now on. From the bottom up, so that a child's label can be relied upon.
        while let Some(node) = at {
            if self.node(node).label == id {
                self.node_mut(node).label = self.filter_below(node);
            }
            at = self.node(node).parent;
        }
    }

    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.memory_bytes() + self.literals.memory_bytes()
    }

    /// Finds the end of the filter's path and clears it there; the node, or `None` for the root.
    fn detach(&mut self, texts: &impl Texts, id: FilterId) -> Option<NodeId> {
        let text = texts.text(id);
        let mut parent = None;
        let mut at = 0;
        while at <= text.len() {
            let level = level_at(text, at);
            if level == b"#" {
                let multi = self.branch_mut(parent).multi.take();
                debug_assert_eq!(multi, Some(id), "only what is in is removed");
                return parent;
            }
            let child = self.child(texts, parent, level).expect("each filter has a path");
            at = usize::from(self.node(child).label_end) + 1;
            parent = Some(child);
        }
        let filter = self.branch_mut(parent).filter.take();
        debug_assert_eq!(filter, Some(id), "only what is in is removed");
        parent
    }

    /// Restores the invariant "a filter or two children" at `id` and, if that removes `id`, at its
    /// parent. The lowest node that is left on the path.
    fn prune(&mut self, texts: &impl Texts, id: NodeId) -> Option<NodeId> {
        let mut id = id;
        let node = self.node(id);
        if node.branch.is_empty() {
            let parent = node.parent;
            self.unlink(id);
            self.nodes.remove(id.index());
            // The parent had two children or a filter, so it is not empty now.
            id = parent?;
        }
        let node = self.node(id);
        let Some(child) = self.only_child(&node.branch) else {
            return Some(id);
        };
        // One child and no filter: the child takes the place, with the joined label.
        let (parent, label_start) = (node.parent, node.label_start);
        self.unlink(child);
        self.unlink(id);
        self.nodes.remove(id.index());
        self.node_mut(child).label_start = label_start;
        self.link(texts, parent, child);
        parent
    }

    /// The child, if there is exactly one and no filter.
    fn only_child(&self, branch: &Branch) -> Option<NodeId> {
        if branch.filter.is_some() || branch.multi.is_some() {
            return None;
        }
        match (branch.single, branch.literal) {
            (Some(child), None) => Some(child),
            (None, Some(child)) if self.node(child).next.is_none() => Some(child),
            _ => None,
        }
    }

    /// Some filter in the subtree of `id`, given that the labels of its children are right.
    fn filter_below(&self, id: NodeId) -> FilterId {
        let branch = &self.node(id).branch;
        let child = || branch.single.or(branch.literal).map(|child| self.node(child).label);
        branch.filter.or(branch.multi).or_else(child).expect("a node has a filter or a child")
    }

    /// Cuts the label of `id` at byte `end`, the end of one of its levels but the last: the new
    /// node with the upper part, whose only child is `id`.
    fn split(&mut self, texts: &impl Texts, id: NodeId, end: usize) -> NodeId {
        self.unlink(id);
        let node = self.node(id);
        let (parent, label, label_start) = (node.parent, node.label, node.label_start);
        let upper = NodeId::from_index(self.nodes.insert(Node {
            label,
            label_start,
            label_end: end as u16,
            level_hash: 0,
            parent: None,
            branch: Branch::default(),
            previous: None,
            next: None,
        }));
        self.link(texts, parent, upper);
        self.node_mut(id).label_start = end as u16 + 1;
        self.link(texts, Some(upper), id);
        upper
    }

    /// Makes `id` a child of `parent`, by the first level of its label.
    fn link(&mut self, texts: &impl Texts, parent: Option<NodeId>, id: NodeId) {
        let node = self.node(id);
        let label = &texts.text(node.label)[..usize::from(node.label_end)];
        let level = level_at(label, usize::from(node.label_start));
        let level_hash = if level == b"+" { 0 } else { self.level_hash(level) };
        if level_hash == 0 {
            let branch = self.branch_mut(parent);
            debug_assert!(branch.single.is_none(), "one child for `+`");
            branch.single = Some(id);
            let node = self.node_mut(id);
            (node.parent, node.level_hash) = (parent, 0);
            (node.previous, node.next) = (None, None);
            return;
        }
        let next = self.branch_mut(parent).literal.replace(id);
        if let Some(next) = next {
            self.node_mut(next).previous = Some(id);
        }
        let node = self.node_mut(id);
        (node.parent, node.level_hash) = (parent, level_hash);
        (node.previous, node.next) = (None, next);
        let Self { nodes, literals, .. } = self;
        literals.insert(child_hash(parent, level_hash), id, |it| hash_of(nodes, it));
    }

    /// Undoes [`Self::link`].
    fn unlink(&mut self, id: NodeId) {
        let node = self.node(id);
        let (parent, level_hash) = (node.parent, node.level_hash);
        let (previous, next) = (node.previous, node.next);
        if level_hash == 0 {
            self.branch_mut(parent).single = None;
            return;
        }
        match previous {
            Some(previous) => self.node_mut(previous).next = next,
            None => self.branch_mut(parent).literal = next,
        }
        if let Some(next) = next {
            self.node_mut(next).previous = previous;
        }
        let Self { nodes, literals, .. } = self;
        literals.remove(child_hash(parent, level_hash), id, |it| hash_of(nodes, it));
    }

    fn child(&self, texts: &impl Texts, parent: Option<NodeId>, level: &[u8]) -> Option<NodeId> {
        if level == b"+" {
            return self.branch(parent).single;
        }
        let first = self.branch(parent).literal?;
        self.literal_child(texts, parent, first, level, self.level_hash(level))
    }

    /// The literal child whose label begins with `level`. `first` is the first one of the list.
    #[inline]
    fn literal_child(
        &self,
        texts: &impl Texts,
        parent: Option<NodeId>,
        first: NodeId,
        level: &[u8],
        level_hash: u32,
    ) -> Option<NodeId> {
        let begins = |node: &Node| {
            let start = usize::from(node.label_start);
            let label = &texts.text(node.label)[start..usize::from(node.label_end)];
            label.strip_prefix(level).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        };
        // An only child is asked itself: it will be read anyway if it is the one, and the index
        // would be two more lines of memory.
        let node = self.nodes.get(first.index())?;
        if node.next.is_none() {
            return (node.level_hash == level_hash && begins(node)).then_some(first);
        }
        self.literals.find(child_hash(parent, level_hash), |id| {
            self.nodes.get(id.index()).is_some_and(|node| {
                node.parent == parent && node.level_hash == level_hash && begins(node)
            })
        })
    }

    /// Never zero, which is the mark of `+`.
    #[inline]
    fn level_hash(&self, level: &[u8]) -> u32 {
        hash(&self.hashes, level).max(1)
    }

    fn branch(&self, id: Option<NodeId>) -> &Branch {
        match id {
            Some(id) => &self.node(id).branch,
            None => &self.root,
        }
    }

    fn branch_mut(&mut self, id: Option<NodeId>) -> &mut Branch {
        match id {
            Some(id) => &mut self.node_mut(id).branch,
            None => &mut self.root,
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id.index()).expect("links lead to nodes")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(id.index()).expect("links lead to nodes")
    }
}

/// One hash for a literal child: its parent and its first level, folded so that both reach all
/// bits.
#[inline]
fn child_hash(parent: Option<NodeId>, level_hash: u32) -> u32 {
    let parent = parent.map_or(0, |parent| u64::from(parent.0.get()));
    let mixed = (parent << 32 | u64::from(level_hash)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed >> 32) as u32
}

fn hash_of(nodes: &Slab<Node>, id: NodeId) -> u32 {
    nodes.get(id.index()).map_or(0, |node| child_hash(node.parent, node.level_hash))
}

/// The level that begins at byte `at`, which may be one past the end: the last, empty level of
/// `a/`.
fn level_at(text: &[u8], at: usize) -> &[u8] {
    let rest = &text[at..];
    &rest[..rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len())]
}

/// Both texts agree before `start`, where a level begins, and in that level: the end of the last
/// level in which they agree.
fn common_levels_end(label: &[u8], text: &[u8], start: usize) -> usize {
    let mut end = start + level_at(label, start).len();
    while end < label.len() && end < text.len() {
        let level = level_at(label, end + 1);
        if level != level_at(text, end + 1) {
            break;
        }
        end += 1 + level.len();
    }
    end
}

impl Branch {
    fn is_empty(&self) -> bool {
        self.filter.is_none()
            && self.multi.is_none()
            && self.single.is_none()
            && self.literal.is_none()
    }
}

impl Trie {
    /// Panics if the shape is not as the module's head says, or if the filters are not exactly
    /// `filters`. For tests.
    pub(super) fn check_integrity(&self, texts: &impl Texts, filter_count: usize) {
        self.nodes.check_integrity();
        let (mut nodes, mut literals, mut filters) = (0, 0, 0);
        let mut stack = vec![None];
        while let Some(id) = stack.pop() {
            let branch = self.branch(id);
            let path = id.map(|id| {
                let node = self.node(id);
                &texts.text(node.label)[..usize::from(node.label_end)]
            });
            if let Some(filter) = branch.filter {
                assert_eq!(Some(texts.text(filter)), path, "a filter ends at its path");
            }
            if let Some(filter) = branch.multi {
                let expected = path.map_or(b"#".to_vec(), |path| [path, b"/#"].concat());
                assert_eq!(texts.text(filter), expected, "a multi-level filter ends at its path");
            }
            let mut children: Vec<NodeId> = branch.single.into_iter().collect();
            let (mut literal, mut previous) = (branch.literal, None);
            while let Some(child) = literal {
                let node = self.node(child);
                assert_eq!(node.previous, previous, "literal children are linked both ways");
                assert_ne!(node.level_hash, 0, "literal children have a hash");
                children.push(child);
                (previous, literal) = (literal, node.next);
                literals += 1;
            }
            for &child in &children {
                let node = self.node(child);
                let start = usize::from(node.label_start);
                let text = texts.text(node.label);
                let level = level_at(&text[..usize::from(node.label_end)], start);
                assert_eq!(node.parent, id, "children know their parent");
                assert_eq!(start, path.map_or(0, |path| path.len() + 1), "labels join");
                assert_eq!(&text[..start.saturating_sub(1)], path.unwrap_or(b""), "labels agree");
                assert_eq!(self.child(texts, id, level), Some(child), "children are found");
                assert!(!text[start..usize::from(node.label_end)].contains(&b'#'));
                stack.push(Some(child));
            }
            let here = usize::from(branch.filter.is_some()) + usize::from(branch.multi.is_some());
            assert!(id.is_none() || here > 0 || children.len() > 1, "no node without need");
            filters += here;
            nodes += 1;
        }
        assert_eq!(nodes - 1, self.nodes.count(), "each node is reachable");
        assert_eq!(literals, self.literals.count(), "the index holds the literal children");
        assert_eq!(filters, filter_count, "each filter with a wildcard is in");
    }
}

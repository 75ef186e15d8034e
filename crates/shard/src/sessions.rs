//! The sessions of one shard and the index of their client ids.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use midge_session::{Session, SubscriptionOptions, Time};
use midge_topic::FilterId;

use crate::durable::Kept;
use crate::ids::{ConnectionId, SessionId, SessionRef};
use crate::slab::Slab;

/// One session and what the shard keeps beside it.
#[derive(Debug)]
pub(crate) struct SessionEntry {
    pub(crate) session: Session,
    /// The connection that serves it.
    pub(crate) connection: Option<ConnectionId>,
    /// Tells it from an earlier session with the same number.
    pub(crate) serial: u32,
    /// When its connection came, or went, in seconds. (It lies in what alignment would leave empty.)
    pub(crate) since_seconds: u32,
    /// Its filters in this shard's table.
    pub(crate) subscriptions: Subscriptions,
    /// Its shared subscriptions; their filters stand in the choosers' tables.
    pub(crate) shares: Option<Box<Shares>>,
    /// While no connection serves it: what happens when.
    pub(crate) away: Option<Box<Away>>,
    /// What the log has of it; `None`: it does not outlive the process.
    pub(crate) kept: Option<Box<Kept>>,
}

/// Deadlines of a session without a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Away {
    /// Marks the one timer entry that counts.
    pub(crate) timer_serial: u32,
    /// When its connection was gone.
    pub(crate) since: Time,
    /// End of the Session Expiry Interval; `None` never.
    pub(crate) expires_at: Option<Time>,
    /// End of the Will Delay Interval; `None` when no will waits.
    pub(crate) will_at: Option<Time>,
}

impl Away {
    pub(crate) fn next(&self) -> Option<Time> {
        match (self.expires_at, self.will_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// The shared subscriptions of one session.
#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) groups: HashMap<Arc<str>, SubscriptionOptions, RandomState>,
    /// The choosers were told that this session is full.
    pub(crate) told_full: bool,
    /// It is in the shard's list of those that are asked again whether they have room.
    pub(crate) is_watched: bool,
}

impl Shares {
    pub(crate) fn new(hasher: &RandomState) -> Self {
        Self { groups: HashMap::with_hasher(hasher.clone()), told_full: false, is_watched: false }
    }
}

/// The filters of one session: most have one or two.
#[derive(Debug, Default)]
pub(crate) enum Subscriptions {
    #[default]
    None,
    One(FilterId),
    Two(FilterId, FilterId),
    #[expect(clippy::box_collection, reason = "one word, so that the usual cases stay two")]
    Many(Box<HashSet<FilterId, RandomState>>),
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Two(..) => 2,
            Self::Many(set) => set.len(),
        }
    }

    /// Adds a filter that is not there yet.
    pub(crate) fn insert(&mut self, filter: FilterId, hasher: &RandomState) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(filter),
            Self::One(first) => Self::Two(first, filter),
            Self::Two(first, second) => {
                let mut set = HashSet::with_hasher(hasher.clone());
                set.extend([first, second, filter]);
                Self::Many(Box::new(set))
            }
            Self::Many(mut set) => {
                set.insert(filter);
                Self::Many(set)
            }
        };
    }

    pub(crate) fn remove(&mut self, filter: FilterId) {
        *self = match std::mem::take(self) {
            Self::One(first) if first == filter => Self::None,
            Self::Two(first, second) if first == filter => Self::One(second),
            Self::Two(first, second) if second == filter => Self::One(first),
            Self::Many(mut set) => {
                set.remove(&filter);
                if set.is_empty() { Self::None } else { Self::Many(set) }
            }
            other => other,
        };
    }

    /// All of them, in an order that stays for as long as they do.
    pub(crate) fn iter(&self) -> impl Iterator<Item = FilterId> {
        let (few, many) = match self {
            Self::None => ([None, None], None),
            Self::One(first) => ([Some(*first), None], None),
            Self::Two(first, second) => ([Some(*first), Some(*second)], None),
            Self::Many(set) => ([None, None], Some(set)),
        };
        few.into_iter().flatten().chain(many.into_iter().flat_map(|set| set.iter().copied()))
    }

    pub(crate) fn to_vec(&self) -> Vec<FilterId> {
        self.iter().collect()
    }
}

/// All sessions of a shard, found by number or by client id.
pub(crate) struct Sessions {
    slab: Slab<SessionEntry>,
    by_client: HashTable<u32>,
    hasher: RandomState,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sessions").field("count", &self.slab.len()).finish()
    }
}

impl Sessions {
    pub(crate) fn new(hasher: RandomState) -> Self {
        Self { slab: Slab::new(), by_client: HashTable::new(), hasher }
    }

    pub(crate) fn find(&self, client_id: &str) -> Option<SessionId> {
        let hash = self.hasher.hash_one(client_id);
        let same = |index: &u32| {
            self.slab.get(*index).is_some_and(|entry| &*entry.session.client_id == client_id)
        };
        self.by_client.find(hash, same).map(|index| SessionId(*index))
    }

    /// Adds a session whose client id is not there yet.
    pub(crate) fn insert(&mut self, session: Session, serial: u32) -> SessionId {
        debug_assert!(self.find(&session.client_id).is_none());
        let hash = self.hasher.hash_one(&*session.client_id);
        let index = self.slab.insert(SessionEntry {
            session,
            connection: None,
            serial,
            since_seconds: 0,
            subscriptions: Subscriptions::None,
            shares: None,
            away: None,
            kept: None,
        });
        let Self { slab, by_client, hasher } = self;
        by_client.insert_unique(hash, index, |index| {
            let entry = slab.get(*index).expect("the index names sessions that exist");
            hasher.hash_one(&*entry.session.client_id)
        });
        SessionId(index)
    }

    /// Takes a session out. Its client id is free; its number is when [`Sessions::free`] says so.
    pub(crate) fn retire(&mut self, id: SessionId) -> Option<SessionEntry> {
        let entry = self.slab.clear(id.0)?;
        let hash = self.hasher.hash_one(&*entry.session.client_id);
        if let Ok(found) = self.by_client.find_entry(hash, |index| *index == id.0) {
            found.remove();
        }
        Some(entry)
    }

    /// Lets the number of a retired session be used again.
    pub(crate) fn free(&mut self, id: SessionId) {
        self.slab.free(id.0);
    }

    #[inline]
    pub(crate) fn get(&self, id: SessionId) -> Option<&SessionEntry> {
        self.slab.get(id.0)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut SessionEntry> {
        self.slab.get_mut(id.0)
    }

    /// The session, if it is still the one that was meant.
    pub(crate) fn current(&mut self, session: SessionRef) -> Option<&mut SessionEntry> {
        self.slab.get_mut(session.id.0).filter(|entry| entry.serial == session.serial)
    }

    pub(crate) fn reference(&self, id: SessionId) -> Option<SessionRef> {
        self.get(id).map(|entry| SessionRef { id, serial: entry.serial })
    }

    pub(crate) fn hasher(&self) -> &RandomState {
        &self.hasher
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// All numbers of sessions are below this.
    pub(crate) fn end(&self) -> u32 {
        self.slab.end()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &SessionEntry)> {
        self.slab.iter().map(|(index, entry)| (SessionId(index), entry))
    }
}

/// What a session costs its shard, beside its client id.
const _: () = assert!(size_of::<SessionEntry>() <= 104);

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        Sessions::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn found_by_client_id_until_removed() {
        let mut sessions = sessions();
        let ids: Vec<SessionId> =
            (0..1000).map(|n| sessions.insert(Session::new(&format!("c{n}"), 0), n)).collect();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(sessions.find(&format!("c{n}")), Some(*id));
        }
        let gone = sessions.reference(ids[7]).unwrap();
        sessions.retire(ids[7]).unwrap();
        assert_eq!(sessions.find("c7"), None);
        assert_ne!(sessions.insert(Session::new("meanwhile", 0), 4999), ids[7]);
        sessions.free(ids[7]);
        assert_eq!(sessions.insert(Session::new("again", 0), 5000), ids[7]);
        assert!(sessions.current(gone).is_none(), "an old reference does not name the new session");
    }

    #[test]
    fn a_few_subscriptions_need_no_set() {
        let mut table = midge_topic::SubscriptionTable::<u32>::new();
        let limits = midge_topic::TopicLimits::default();
        let filters: Vec<FilterId> = (0..5)
            .map(|n| {
                let text = format!("f{n}");
                let filter = midge_topic::TopicFilter::parse(&text, &limits).unwrap();
                table.subscribe(filter, midge_topic::SubscriberId(1), 0).filter_id
            })
            .collect();
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let mut subscriptions = Subscriptions::default();
        for filter in &filters {
            subscriptions.insert(*filter, &hasher);
        }
        assert_eq!(subscriptions.len(), 5);
        for (gone, filter) in filters.iter().enumerate() {
            subscriptions.remove(*filter);
            assert_eq!(subscriptions.len(), 4 - gone);
            assert!(!subscriptions.to_vec().contains(filter));
        }
        assert!(matches!(subscriptions, Subscriptions::None));
    }
}

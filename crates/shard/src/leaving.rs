//! Sessions that have ended, and whose subscriptions are still being taken back.
//!
//! A session may have a hundred thousand subscriptions, and taking one back costs half a microsecond: all of them in one
//! turn would hold up everybody else for tens of milliseconds. So a session that ends is gone at once (its client id is free,
//! nothing is delivered to it any more), and its subscriptions go in slices, a part in each turn.
//!
//! # Invariants
//! - The number of the session is given to no other one before the last of its subscriptions is gone: the table knows
//!   subscribers by number alone.
//! - A group whose chooser still has the session for a member gets back what it gives it ([`Shard::return_shared`]).
//!
//! # Limits
//! Each turn takes back a [`SHARE_OF_ALL`]th of what waits, and at least [`PER_TURN_MIN`]: however fast sessions come and go, no more
//! waits than that many times what they subscribe to in one turn.

use std::collections::VecDeque;
use std::sync::Arc;

use midge_topic::{FilterId, SubscriberId};

use crate::envelope::{Envelope, ShareMember, chooser};
use crate::ids::SessionRef;
use crate::sessions::SessionEntry;
use crate::shard::Shard;

/// A session with no more subscriptions than this ends in one turn: about a tenth of a millisecond.
const AT_ONCE_MAX: usize = 256;
/// Subscriptions that go in one turn, at least: about half a millisecond.
const PER_TURN_MIN: usize = 1024;
/// The part of all that wait which goes in one turn.
const SHARE_OF_ALL: usize = 64;

/// What one session has left behind.
#[derive(Debug)]
struct Left {
    session: SessionRef,
    filters: Vec<FilterId>,
    groups: Vec<Arc<str>>,
}

/// Filled by the ends of sessions, drained by [`Shard::run_leaving`] in every turn.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    line: VecDeque<Left>,
    /// Subscriptions of all sessions in the line.
    count: usize,
}

impl Leaving {
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Sessions whose numbers are not free yet.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionRef> {
        self.line.iter().map(|left| left.session)
    }
}

impl Shard {
    /// Takes back the subscriptions of a session that has been retired, now or in the turns to come, and frees its number.
    pub(crate) fn leave_subscriptions(&mut self, session: SessionRef, entry: &SessionEntry) {
        let groups = entry.shares.iter().flat_map(|shares| shares.groups.keys().cloned()).collect();
        let mut left = Left { session, filters: entry.subscriptions.to_vec(), groups };
        let count = left.filters.len() + left.groups.len();
        if count > AT_ONCE_MAX {
            self.leaving.count += count;
            self.leaving.line.push_back(left);
            return;
        }
        while self.take_back(&mut left) {}
        self.sessions.free(session.id);
    }

    /// Goes on with sessions that have ended.
    pub(crate) fn run_leaving(&mut self) {
        let budget = PER_TURN_MIN.max(self.leaving.count / SHARE_OF_ALL);
        for _ in 0..budget {
            let Some(mut left) = self.leaving.line.pop_front() else { return };
            if self.take_back(&mut left) {
                self.leaving.count -= 1;
                self.leaving.line.push_front(left);
            } else {
                self.sessions.free(left.session.id);
            }
        }
    }

    /// Takes back one subscription; `false` when there is none any more.
    fn take_back(&mut self, left: &mut Left) -> bool {
        let session = left.session;
        if let Some(filter) = left.filters.pop() {
            self.unsubscribe_table(filter, SubscriberId(session.id.0));
            return true;
        }
        let Some(group) = left.groups.pop() else { return false };
        if !mutant!("share-leave-lost") {
            let target = chooser(&group, self.shards);
            self.send(target, Envelope::ShareLeave(Box::new(ShareMember { group, session })));
        }
        true
    }
}

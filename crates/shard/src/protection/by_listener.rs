//! What came by each listener, for all shards together.
//!
//! Statistics pages have no names in them, and listeners come and go while the process lives. So these few numbers are
//! atomics that the whole process shares, by the listener's number, touched at connects and disconnects, and when
//! somebody is held to a limit, and made only where somebody looks at them.

use std::sync::atomic::{AtomicU64, Ordering};

use midge_metrics::ConnectionRefusal;

use super::LISTENERS_MAX;
use crate::ids::{ConnectionId, ListenerId};
use crate::shard::Shard;

/// Counts by listener. Those with numbers beyond [`LISTENERS_MAX`] are not counted.
#[derive(Debug)]
pub struct ListenerCounts(Box<[Counts]>);

/// What has come by one listener. Relaxed throughout: numbers that stand by themselves.
#[derive(Debug, Default)]
struct Counts {
    /// A connection that moves between shards is one less here and one more there, in either order: it wraps around zero and
    /// back for a moment.
    connections: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    connects_refused: AtomicU64,
    paced: AtomicU64,
    retained_refused: AtomicU64,
}

/// The numbers of one listener, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenerNumbers {
    /// Connections that exist now.
    pub connections: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that were closed before anybody looked at what they sent.
    pub refused: u64,
    /// CONNECT packets refused.
    pub connects_refused: u64,
    /// Times a client was not read from because it, or all of the listener together, had published more than they may.
    pub publishers_paced: u64,
    /// Retained messages refused because the listener's limit was reached.
    pub retained_refused: u64,
}

/// What happens to a connection of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    Accepted,
    Arrived,
    Gone,
    Refused,
    ConnectRefused,
    Paced,
    RetainedRefused,
}

impl ListenerCounts {
    /// Nothing so far.
    #[must_use]
    pub fn new() -> Self {
        Self((0..LISTENERS_MAX).map(|_| Counts::default()).collect())
    }

    /// What has come by a listener.
    #[must_use]
    pub fn of(&self, listener: ListenerId) -> ListenerNumbers {
        let Some(counts) = self.0.get(usize::from(listener.0)) else {
            return ListenerNumbers::default();
        };
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let connections = load(&counts.connections);
        ListenerNumbers {
            // Below zero for a moment: none.
            connections: if connections > u64::MAX / 2 { 0 } else { connections },
            accepted: load(&counts.accepted),
            refused: load(&counts.refused),
            connects_refused: load(&counts.connects_refused),
            publishers_paced: load(&counts.paced),
            retained_refused: load(&counts.retained_refused),
        }
    }

    pub(crate) fn note(&self, listener: ListenerId, happening: Happening) {
        let Some(counts) = self.0.get(usize::from(listener.0)) else { return };
        match happening {
            Happening::Accepted => counts.accepted.fetch_add(1, Ordering::Relaxed),
            Happening::Arrived => counts.connections.fetch_add(1, Ordering::Relaxed),
            Happening::Gone => counts.connections.fetch_sub(1, Ordering::Relaxed),
            Happening::Refused => counts.refused.fetch_add(1, Ordering::Relaxed),
            Happening::ConnectRefused => counts.connects_refused.fetch_add(1, Ordering::Relaxed),
            Happening::Paced => counts.paced.fetch_add(1, Ordering::Relaxed),
            Happening::RetainedRefused => counts.retained_refused.fetch_add(1, Ordering::Relaxed),
        };
    }
}

impl Default for ListenerCounts {
    fn default() -> Self {
        Self::new()
    }
}

impl Shard {
    /// Counts one that is in the table already, and must go.
    pub(crate) fn note_refused_connection(&mut self, id: ConnectionId, refusal: ConnectionRefusal) {
        self.counters.connections_refused[refusal as usize] += 1;
        if let Some(connection) = self.connections.get(id.0) {
            self.note_by_listener(connection.listener, Happening::Refused);
        }
    }

    /// Counts a CONNECT that is refused.
    pub(crate) fn note_refused_connect(&self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(id.0) {
            self.note_by_listener(connection.listener, Happening::ConnectRefused);
        }
    }

    /// Counts a connection that was just accepted.
    pub(crate) fn note_newcomer(&self, listener: ListenerId) {
        self.note_by_listener(listener, Happening::Accepted);
    }

    /// Counts a connection that is in the table from now on.
    pub(crate) fn note_arrived(&self, listener: ListenerId) {
        self.note_by_listener(listener, Happening::Arrived);
    }

    pub(crate) fn note_by_listener(&self, listener: ListenerId, happening: Happening) {
        if let Some(counts) = &self.settings.protection.listener_counts {
            counts.note(listener, happening);
        }
    }
}

//! What must hold beyond [`Shard::check_integrity`]: that no queue exceeds its bound, and that nothing is left when all
//! clients are gone. For tests and the simulator.

use crate::shard::Shard;

impl Shard {
    /// Every queue is within its bound.
    ///
    /// # Panics
    /// When one is not.
    pub fn check_bounds(&self) {
        let settings = &*self.settings;
        for (_, entry) in self.sessions.iter() {
            let Some(outbound) = &entry.session.outbound else { continue };
            assert!(outbound.queued_count() <= settings.queue.messages_max, "a session's queue");
            assert!(
                outbound.queued_bytes() <= settings.queue.bytes_max,
                "a session's queue, bytes"
            );
            let restored = self.durable.as_ref().map_or(0, |durable| durable.in_flight_restored);
            let maximum = usize::from(settings.limits.in_flight_max).max(restored);
            assert!(outbound.in_flight_count() <= maximum, "messages in flight");
        }
        // What one packet may add before the bound is looked at: an answer, or the largest message there can be.
        let slack = settings.limits.maximum_packet_size as usize + 64;
        for (_, connection) in self.connections.iter() {
            let waiting = connection.output_size();
            assert!(waiting <= settings.output_bytes_max + slack, "an output of {waiting} bytes");
        }
        self.groups.check_bounds(settings.share_backlog_messages_max);
        let handshaking = self.connections.iter().filter(|(_, c)| c.is_unproven());
        let unproven: usize = handshaking.map(|(_, connection)| connection.unproven_size()).sum();
        assert_eq!(self.unproven.bytes, unproven, "bytes before CONNECT");
    }

    /// Nothing waits: for a moment in which every session has its connection and every message is acknowledged.
    ///
    /// # Panics
    /// When something does.
    pub fn check_rest(&self) {
        for (_, entry) in self.sessions.iter() {
            let Some(outbound) = &entry.session.outbound else { continue };
            assert!(outbound.is_empty(), "messages for {}", entry.session.client_id);
        }
        self.groups.check_rest();
    }

    /// Nothing is left of any client: for the end of a run, when all are gone and time has passed.
    ///
    /// # Panics
    /// When something is.
    pub fn check_empty(&self) {
        assert_eq!(self.connections.len(), 0, "connections");
        assert_eq!(self.sessions.len(), 0, "sessions");
        assert!(self.leaving.is_empty(), "sessions that leave");
        assert_eq!(self.table.subscription_count(), 0, "subscriptions");
        assert_eq!(self.table.filter_count(), 0, "filters");
        assert_eq!(self.groups.len(), 0, "groups");
        assert!(self.outboxes.is_empty(), "envelopes");
        assert!(self.outboxes.nobody_waits(), "parked publishers");
        assert!(self.waiting_acks.iter().all(std::collections::VecDeque::is_empty), "tickets");
        assert!(self.unanswered.is_empty(), "unanswered publications");
        assert!(self.runnable.is_empty(), "connections that may go on");
        assert!(self.pumping.is_empty(), "retained pumps");
        assert!(self.actions.is_empty(), "actions");
        assert_eq!(self.unproven.bytes, 0, "bytes before CONNECT");
        self.retained.check_unshared();
        if let Some(interest) = &self.interest {
            assert_eq!(interest.statistics().buckets_used, 0, "interest bits");
        }
    }
}

//! Counting what is there now, and when what is sent was received.
//!
//! What has happened is counted where it happens, by an add. This file holds what is less simple: numbers that must go
//! down again, and the way of a message's time of arrival to the output that it ends in.

use midge_metrics::{ConnectionState, Counters, LogCondition, MemoryKind, Qos, Series};
use midge_session::{Outbound, Time};
use midge_store::Condition;

use crate::connection::{Connection, State};
use crate::durable::Durable;
use crate::sessions::SessionEntry;
use crate::shard::Shard;

/// When and where the message that is being routed came into the broker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// When the turn began that received it.
    pub(crate) received: Time,
    /// Another shard received it.
    pub(crate) remote: bool,
}

impl Origin {
    /// Which of an output's counts a message of this QoS (0 to 2) belongs to: the number of its latency's series.
    #[inline]
    pub(crate) const fn kind(self, qos: usize) -> usize {
        self.remote as usize * Qos::COUNT + qos
    }
}

const _: () = {
    assert!(midge_output::NOTE_KINDS == 2 * Qos::COUNT);
    assert!(Series::latency(2, false) as usize == 2);
    assert!(Series::latency(2, true) as usize == Qos::COUNT + 2);
};

/// Messages of a session that wait, and that are in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    queued: u64,
    queued_bytes: u64,
    in_flight: u64,
}

impl Load {
    #[inline]
    pub(crate) fn of(outbound: &Outbound) -> Self {
        Self {
            queued: outbound.queued_count() as u64,
            queued_bytes: outbound.queued_bytes() as u64,
            in_flight: outbound.in_flight_count() as u64,
        }
    }

    /// Takes note of what has become of a session's line since this was measured.
    #[inline]
    pub(crate) fn has_become(self, after: Self, counters: &mut Counters) {
        let Counters { messages_queued_now, queued_bytes_now, messages_in_flight_now, .. } =
            counters;
        *queued_bytes_now =
            queued_bytes_now.wrapping_add(after.queued_bytes).wrapping_sub(self.queued_bytes);
        *messages_queued_now =
            messages_queued_now.wrapping_add(after.queued).wrapping_sub(self.queued);
        *messages_in_flight_now =
            messages_in_flight_now.wrapping_add(after.in_flight).wrapping_sub(self.in_flight);
    }

    pub(crate) const NOTHING: Self = Self { queued: 0, queued_bytes: 0, in_flight: 0 };
}

/// Queued messages of a session that the log alone has. They are among those of [`Load`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InLog {
    messages: u64,
    bytes: u64,
}

impl InLog {
    pub(crate) const NOTHING: Self = Self { messages: 0, bytes: 0 };

    pub(crate) fn of(outbound: &Outbound) -> Self {
        let (messages, bytes) = outbound.in_log();
        Self { messages: messages as u64, bytes: bytes as u64 }
    }

    /// Takes note of what has become of it since it was measured.
    pub(crate) fn has_become(self, after: Self, counters: &mut Counters) {
        let Counters { messages_queued_in_log_now, queued_bytes_in_log_now, .. } = counters;
        *messages_queued_in_log_now =
            messages_queued_in_log_now.wrapping_add(after.messages).wrapping_sub(self.messages);
        *queued_bytes_in_log_now =
            queued_bytes_in_log_now.wrapping_add(after.bytes).wrapping_sub(self.bytes);
    }
}

/// What a state counts as.
const fn counted_as(state: State) -> ConnectionState {
    match state {
        State::Handshaking | State::HandingOver | State::Authenticating | State::Exchanging => {
            ConnectionState::Handshaking
        }
        State::Connected => ConnectionState::Connected,
        State::Closing | State::Closed => ConnectionState::Ending,
    }
}

/// A connection is there.
pub(crate) fn count_arrived(connection: &Connection, counters: &mut Counters) {
    counters.connections_by_state_now[counted_as(connection.state) as usize] += 1;
}

/// A connection is gone.
pub(crate) fn count_gone(connection: Option<Connection>, counters: &mut Counters) {
    if let Some(connection) = connection {
        counters.connections_by_state_now[counted_as(connection.state) as usize] -= 1;
    }
}

/// Gives a connection another state.
pub(crate) fn set_state(connection: &mut Connection, state: State, counters: &mut Counters) {
    counters.connections_by_state_now[counted_as(connection.state) as usize] -= 1;
    counters.connections_by_state_now[counted_as(state) as usize] += 1;
    connection.state = state;
}

/// What the log says about itself.
fn count_log(durable: &Durable, counters: &mut Counters) {
    let condition = match durable.log.condition() {
        Condition::Healthy => LogCondition::Healthy,
        Condition::Full => LogCondition::Full,
        Condition::Failed => LogCondition::Failed,
    };
    let log = durable.log.statistics();
    counters.logs_by_condition_now[condition as usize] = 1;
    counters.log_damage_now = durable.damage.places;
    counters.log_records_lost_now = durable.damage.records;
    counters.log_segments_now = log.segments.into();
    counters.log_bytes_now = log.bytes_total;
    counters.log_live_bytes_now = log.bytes_live;
    counters.log_prepared_bytes_now = log.bytes_reserved;
    counters.log_records = log.records;
    counters.log_writes = log.writes;
    counters.log_syncs = log.syncs;
    counters.log_bytes_written = log.bytes_written;
    counters.log_reads = log.reads;
    counters.log_bytes_read = log.bytes_read;
    counters.log_failures = log.failures;
    counters.log_refusals = log.refusals;
    counters.log_segments_retired = log.segments_retired;
}

impl Shard {
    /// Where the message that is being routed came from. Without another word: from a connection of this shard, now.
    #[inline]
    pub(crate) fn origin(&self) -> Origin {
        self.origin.unwrap_or(Origin { received: self.now, remote: false })
    }

    /// A message for the sketches of the busiest clients and topics; `count` of them that are alike.
    #[inline]
    pub(crate) fn sample(&mut self, session: crate::ids::SessionId, topic: &str, count: u32) {
        if let Some(weight) = self.busiest.sample(count) {
            self.record_sample(session, topic, weight);
        }
    }

    #[cold]
    fn record_sample(&mut self, session: crate::ids::SessionId, topic: &str, weight: u64) {
        if let Some(entry) = self.sessions.get(session) {
            self.busiest.record(&entry.session.client_id, topic, weight);
        }
    }

    /// What has been counted, and how much there is now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut memory = [0; MemoryKind::COUNT];
        let bytes = |count: usize, size: usize| (count * size) as u64;
        memory[MemoryKind::Connections as usize] =
            bytes(self.connections.len(), size_of::<Connection>());
        memory[MemoryKind::Sessions as usize] =
            bytes(self.sessions.len(), size_of::<SessionEntry>());
        memory[MemoryKind::Subscriptions as usize] = self.table.memory_bytes() as u64;
        memory[MemoryKind::Retained as usize] = self.retained.bytes() as u64;
        memory[MemoryKind::Outboxes as usize] = self.outboxes.bytes() as u64;
        let mut counters = self.counters;
        if let Some(durable) = &self.durable {
            count_log(durable, &mut counters);
        }
        Counters {
            connections_now: self.connections.len() as u64,
            sessions_now: self.sessions.len() as u64,
            subscriptions_now: self.table.subscription_count() as u64,
            shared_subscriptions_now: self.groups.len() as u64,
            retained_now: self.retained.len() as u64,
            retained_bytes_now: self.retained.bytes() as u64,
            packets_sent: self.wire.sent.packets,
            packet_bytes_sent: self.wire.sent.bytes,
            sends_coalesced: self.wire.sent.coalesced,
            memory_bytes_now: memory,
            ..counters
        }
    }

    /// The sketches of the busiest clients and topics, for whoever publishes them.
    pub fn busiest_mut(&mut self) -> &mut midge_metrics::Busiest {
        &mut self.busiest
    }

    /// That what was counted on the way is what is there. Part of [`Shard::check_integrity`].
    pub(crate) fn check_tallies(&self) {
        let mut states = [0; ConnectionState::COUNT];
        for (_, connection) in self.connections.iter() {
            states[counted_as(connection.state) as usize] += 1;
        }
        assert_eq!(self.counters.connections_by_state_now, states, "connections by state");
        let mut load = Load::NOTHING;
        let mut in_log = InLog::NOTHING;
        for outbound in self.sessions.iter().filter_map(|(_, e)| e.session.outbound.as_ref()) {
            load.queued += Load::of(outbound).queued;
            load.queued_bytes += Load::of(outbound).queued_bytes;
            load.in_flight += Load::of(outbound).in_flight;
            in_log.messages += InLog::of(outbound).messages;
            in_log.bytes += InLog::of(outbound).bytes;
        }
        let counters = &self.counters;
        assert_eq!(counters.messages_queued_now, load.queued, "messages queued");
        assert_eq!(counters.queued_bytes_now, load.queued_bytes, "bytes queued");
        assert_eq!(counters.messages_in_flight_now, load.in_flight, "messages in flight");
        assert_eq!(counters.messages_queued_in_log_now, in_log.messages, "messages in the log");
        assert_eq!(counters.queued_bytes_in_log_now, in_log.bytes, "bytes in the log");
    }
}

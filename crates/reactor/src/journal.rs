//! Rate-limited log lines about connections.
//!
//! A peer that breaks the protocol a million times a second must not fill a disk: each kind of event has a few
//! lines a second, and the first line after a pause says how many were left out.

use std::net::SocketAddr;

use midge_session::Time;
use midge_shard::{Event, Note, PeerError};
use midge_transport::CloseReason;

/// Kinds of events that are limited apart from each other.
const KINDS: usize = 8;

/// The kind of what a transport refuses; the others are the shard's events.
const TRANSPORT: usize = 7;

/// One second.
const PERIOD_NS: u64 = 1_000_000_000;

#[derive(Debug, Default, Clone, Copy)]
struct Limit {
    period_start: Time,
    written: u32,
    suppressed: u64,
}

/// The log of one shard's connections.
#[derive(Debug)]
pub(crate) struct Journal {
    shard: u16,
    lines_per_second_max: u32,
    limits: [Limit; KINDS],
}

impl Journal {
    pub(crate) fn new(shard: u16, lines_per_second_max: u32) -> Self {
        Self { shard, lines_per_second_max, limits: [Limit::default(); KINDS] }
    }

    pub(crate) fn write(&mut self, note: &Note, now: Time) {
        let Some(suppressed) = self.admit(kind(note.event), now) else { return };
        let shard = self.shard;
        let peer = SocketAddr::from(note.peer);
        let client_id = note.client_id.as_deref().unwrap_or("-");
        match note.event {
            Event::PeerError(PeerError::Decode(error)) => tracing::warn!(
                shard, %peer, client_id, suppressed,
                reason_code = error.reason_code() as u8,
                statement = error.statement(),
                "malformed packet: {error:?}"
            ),
            Event::PeerError(PeerError::Protocol(violation)) => tracing::warn!(
                shard, %peer, client_id, suppressed,
                reason_code = violation.reason_code() as u8,
                "protocol error: {violation:?}"
            ),
            Event::Refused(refusal) => tracing::warn!(
                shard, %peer, client_id, suppressed,
                reason_code = refusal.reason_code as u8,
                "connection refused: {}", refusal.reason
            ),
            Event::ConnectTimeout => {
                tracing::info!(shard, %peer, suppressed, "no CONNECT came in time");
            }
            Event::KeepAliveTimeout => {
                tracing::info!(shard, %peer, client_id, suppressed, "keep alive timeout");
            }
            Event::TakenOver => {
                tracing::info!(shard, %peer, client_id, suppressed, "session taken over");
            }
            Event::Kicked => {
                tracing::info!(shard, %peer, client_id, suppressed, "closed by an operator");
            }
            Event::NotKept => tracing::warn!(
                shard, %peer, client_id, suppressed,
                "closed without an acknowledgement: the disk did not take what it would say"
            ),
        }
    }

    /// A connection that did not get as far as MQTT, or not on.
    pub(crate) fn write_transport(&mut self, peer: SocketAddr, reason: CloseReason, now: Time) {
        let Some(suppressed) = self.admit(TRANSPORT, now) else { return };
        let shard = self.shard;
        tracing::warn!(
            shard, %peer, suppressed,
            reason = reason.name(),
            "connection closed: {}", reason.sentence()
        );
    }

    /// How many lines of this kind were left out before this one; `None` leaves this one out, too.
    fn admit(&mut self, kind: usize, now: Time) -> Option<u64> {
        let limit = &mut self.limits[kind];
        if now.since(limit.period_start) >= PERIOD_NS {
            limit.period_start = now;
            limit.written = 0;
        }
        if limit.written >= self.lines_per_second_max {
            limit.suppressed += 1;
            return None;
        }
        limit.written += 1;
        Some(std::mem::take(&mut limit.suppressed))
    }
}

fn kind(event: Event) -> usize {
    match event {
        Event::PeerError(_) => 0,
        Event::Refused(_) => 1,
        Event::ConnectTimeout => 2,
        Event::KeepAliveTimeout => 3,
        Event::TakenOver => 4,
        Event::Kicked => 5,
        Event::NotKept => 6,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use super::*;

    #[test]
    fn a_flood_leaves_a_few_lines_and_a_count() {
        let mut journal = Journal::new(0, 2);
        let now = Time::from_seconds(10);
        let admitted: Vec<_> = (0..5).map(|_| journal.admit(0, now)).collect();
        assert_eq!(admitted, [Some(0), Some(0), None, None, None]);
        assert_eq!(journal.admit(1, now), Some(0), "other kinds have lines of their own");
        assert_eq!(journal.admit(0, now.plus_seconds(1)), Some(3));
    }

    #[test]
    fn every_kind_has_its_own_limit() {
        let events = [
            Event::PeerError(PeerError::Protocol(midge_shard::Violation::SecondConnect)),
            Event::ConnectTimeout,
            Event::KeepAliveTimeout,
            Event::TakenOver,
            Event::Kicked,
            Event::NotKept,
        ];
        for (at, one) in events.iter().enumerate() {
            for other in &events[at + 1..] {
                assert_ne!(discriminant(one), discriminant(other));
                assert_ne!(kind(*one), kind(*other));
            }
        }
    }
}

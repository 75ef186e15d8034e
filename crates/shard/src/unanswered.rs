//! QoS 2 publications whose connection was gone before other shards had answered.
//!
//! Their packet ids are taken: when the client sends one again it is not delivered again [MQTT-4.3.3-10]. So whoever
//! sends it again must hear what the first one comes to, which may be that it was not kept; and when that is known before
//! it is sent again, the id is free and the publication begins anew.

use std::collections::BTreeMap;

use midge_codec::{PacketId, QoS, ReasonCode};

use crate::connection::{Answer, PendingAck};
use crate::ids::{ConnectionId, SessionId, SessionRef};
use crate::shard::{Shard, Waiter};

/// The connection, its serial, and the acknowledgement's number there: what those who answer know it by.
pub(crate) type Key = (ConnectionId, u32, u32);

/// One of them.
#[derive(Debug)]
pub(crate) struct Unanswered {
    session: SessionRef,
    ack: PendingAck,
    /// It was sent again, and that acknowledgement waits for the answers to the first.
    then: Option<Waiter>,
}

/// All of a shard. Filled when a connection ends, emptied by the answers; bounded by what publishers may have unacknowledged.
pub(crate) type AllUnanswered = BTreeMap<Key, Unanswered>;

/// Puts one back that an earlier life of the process did not answer; returns who is to be told what it comes to.
pub(crate) fn restore(all: &mut AllUnanswered, session: SessionRef, packet_id: PacketId) -> Waiter {
    let ack = PendingAck::at_once(packet_id, QoS::ExactlyOnce, ReasonCode::Success);
    let ack = PendingAck { waiting_for: 1, ..ack };
    // No connection has this number.
    let (connection, serial) = (ConnectionId(u32::MAX), 0);
    let number = u32::try_from(all.len()).unwrap_or(u32::MAX);
    all.insert((connection, serial, number), Unanswered { session, ack, then: None });
    Waiter::Ack { connection, serial, number }
}

impl Shard {
    /// A connection leaves its session: what other shards have not answered yet is kept for the next one.
    pub(crate) fn keep_unanswered(&mut self, id: ConnectionId, session: SessionId) {
        let Some(reference) = self.sessions.reference(session) else { return };
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let serial = connection.serial;
        let Some(extra) = connection.extra.as_mut() else { return };
        for (number, ack) in extra.acks.take_all() {
            if ack.qos != QoS::ExactlyOnce {
                continue;
            }
            if ack.waiting_for > 0 {
                let one = Unanswered { session: reference, ack, then: None };
                self.unanswered.insert((id, serial, number), one);
            } else if ack.outcome() != Answer::Kept {
                self.forget_refused(session, ack.packet_id, ack.qos);
            }
        }
    }

    /// A publication came again whose first coming is not answered yet: the new acknowledgement waits for that. Whether it is so.
    pub(crate) fn wait_for_unanswered(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        ack: PendingAck,
    ) -> bool {
        let Some(reference) = self.sessions.reference(session) else { return false };
        let first = self.unanswered.values_mut().find(|one| {
            one.session == reference && one.ack.packet_id == ack.packet_id && one.then.is_none()
        });
        let Some(first) = first else { return false };
        let Some(connection) = self.connections.get_mut(id.0) else { return false };
        let serial = connection.serial;
        let number = connection.extra().acks.push(PendingAck { waiting_for: 1, ..ack });
        first.then = Some(Waiter::Ack { connection: id, serial, number });
        true
    }

    /// One of those that it waits for has answered.
    pub(crate) fn answer_unanswered(&mut self, key: Key, answer: Answer) {
        let Some(one) = self.unanswered.get_mut(&key) else { return };
        one.ack.answer(answer);
        if one.ack.waiting_for > 0 {
            return;
        }
        let Some(done) = self.unanswered.remove(&key) else { return };
        let (outcome, packet_id): (Answer, PacketId) = (done.ack.outcome(), done.ack.packet_id);
        if let Some(waiter) = done.then {
            self.answer_waiter(waiter, outcome);
        } else if outcome != Answer::Kept && self.sessions.current(done.session).is_some() {
            self.forget_refused(done.session.id, packet_id, QoS::ExactlyOnce);
        }
    }
}

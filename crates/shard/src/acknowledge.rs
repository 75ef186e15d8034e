//! PUBACK, PUBREC and PUBCOMP from a client: what we sent has arrived.

use midge_codec::{PacketId, PubRec, PubRel, ReasonCode};
use midge_session::{Acknowledged, Outbound};

use crate::action::Violation;
use crate::ids::ConnectionId;
use crate::receive::Handled;
use crate::shard::Shard;
use crate::tally::Load;

impl Shard {
    /// QoS 1 is done [MQTT-4.3.2-5].
    pub(crate) fn handle_puback(&mut self, id: ConnectionId, packet_id: PacketId) -> Handled {
        self.finish(id, |outbound| outbound.puback(packet_id))
    }

    /// QoS 2 is done.
    pub(crate) fn handle_pubcomp(&mut self, id: ConnectionId, packet_id: PacketId) -> Handled {
        self.finish(id, |outbound| outbound.pubcomp(packet_id))
    }

    /// An acknowledgement of something unknown is ignored: it may belong to an earlier session.
    fn finish(
        &mut self,
        id: ConnectionId,
        acknowledge: impl FnOnce(&mut Outbound) -> Acknowledged,
    ) -> Handled {
        let Some(connection) = self.connections.get(id.0) else { return Ok(()) };
        let Some(session) = connection.session else { return Ok(()) };
        let Some(entry) = self.sessions.get_mut(session) else { return Ok(()) };
        let Some(outbound) = entry.session.outbound.as_mut() else { return Ok(()) };
        let before = Load::of(outbound);
        let outcome = acknowledge(outbound);
        before.has_become(Load::of(outbound), &mut self.counters);
        match outcome {
            Acknowledged::Mismatch => return Err(Violation::AcknowledgementMismatch.into()),
            Acknowledged::Done | Acknowledged::Release | Acknowledged::Unknown => {}
        }
        if outbound.has_gone() {
            self.note_gone(session);
        }
        self.after_acknowledgement(id);
        Ok(())
    }

    /// QoS 2, first half: the client has the message, unless it refused it.
    pub(crate) fn handle_pubrec(&mut self, id: ConnectionId, ack: &PubRec<'_>) -> Handled {
        let Some(connection) = self.connections.get_mut(id.0) else { return Ok(()) };
        let Some(session) = connection.session else { return Ok(()) };
        let Some(entry) = self.sessions.get_mut(session) else { return Ok(()) };
        let outcome = match entry.session.outbound.as_mut() {
            Some(outbound) => {
                let before = Load::of(outbound);
                let outcome = outbound.pubrec(ack.packet_id, ack.reason_code.is_error());
                before.has_become(Load::of(outbound), &mut self.counters);
                outcome
            }
            None => Acknowledged::Unknown,
        };
        if let (Some(kept), Some(durable), Some(outbound)) =
            (&entry.kept, &mut self.durable, entry.session.outbound.as_mut())
            && matches!(outcome, Acknowledged::Release)
        {
            durable.note_received(kept.key, outbound, ack.packet_id, connection);
        }
        let gone = entry.session.outbound.as_ref().is_some_and(|outbound| outbound.has_gone());
        let reason_code = match outcome {
            Acknowledged::Mismatch => return Err(Violation::AcknowledgementMismatch.into()),
            Acknowledged::Done => None,
            // [MQTT-4.3.3-4]
            Acknowledged::Release => Some(ReasonCode::Success),
            Acknowledged::Unknown if ack.reason_code.is_error() => None,
            Acknowledged::Unknown => Some(ReasonCode::PacketIdentifierNotFound),
        };
        if let Some(reason_code) = reason_code
            && !mutant!("drop-pubrel")
        {
            let release = PubRel::new(ack.packet_id, reason_code);
            self.wire.answer(id, connection, |version, out| release.encode(version, out));
        }
        if gone {
            self.note_gone(session);
        }
        self.after_acknowledgement(id);
        Ok(())
    }

    /// A place in the window is free.
    fn after_acknowledgement(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let Some(session) = connection.session else { return };
        let has_pumps = connection.extra.as_ref().is_some_and(|extra| !extra.pumps.is_empty());
        self.pump(session);
        if has_pumps {
            self.advance_pumps(id);
        }
    }
}

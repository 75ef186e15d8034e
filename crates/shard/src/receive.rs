//! Bytes in, packets to the files that know them.

use crate::action::{Action, PeerError, Violation};
use crate::connection::{Flags, State};
use crate::ids::ConnectionId;
use crate::shard::Shard;
use midge_codec::{
    Connect, DecodeError, Framed, Packet, PacketType, PingResp, ProtocolVersion, PubAck, PubComp,
    PubRec, PubRel, RawPacket, decode, frame,
};
use midge_mesh::ShardId;

/// Every packet handler ends with this: the connection goes on, or the peer has broken a rule and is told so.
pub(crate) type Handled = Result<(), PeerError>;

/// An AUTH, or a goodbye, of a client that has proved nothing yet: nothing that it has to say is longer.
const EXCHANGE_PACKET_SIZE_MAX: u32 = 8192;

/// Whether a packet that begins like this may come between CONNECT and CONNACK, once a method was named.
fn is_of_exchange(first_byte: u8) -> bool {
    let kind = first_byte >> 4;
    kind == PacketType::Auth as u8 || kind == PacketType::Disconnect as u8
}

impl From<DecodeError> for PeerError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<Violation> for PeerError {
    fn from(violation: Violation) -> Self {
        Self::Protocol(violation)
    }
}

impl Shard {
    /// Bytes from a connection, as many as there were. What cannot be used yet is kept.
    pub(crate) fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        self.counters.bytes_received += bytes.len() as u64;
        if matches!(connection.state, State::Closing | State::Closed) {
            return;
        }
        if connection.is_unproven() {
            self.unproven.bytes -= connection.input_size();
        }
        match connection.input.take() {
            None if !connection.waits() => {
                let used = self.consume(id, bytes);
                self.keep(id, &bytes[used..]);
            }
            kept => {
                let mut input = kept.unwrap_or_default();
                input.extend_from_slice(bytes);
                connection.input = Some(input);
                if !connection.waits() {
                    self.resume_input(id);
                }
            }
        }
        self.bound_unproven(id);
    }

    /// Goes on with what was kept.
    pub(crate) fn resume_input(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let Some(mut input) = connection.input.take() else { return };
        let used = self.consume(id, &input);
        input.drain(..used.min(input.len()));
        if let Some(connection) = self.connections.get_mut(id.0)
            && !input.is_empty()
            && !matches!(connection.state, State::Closing | State::Closed)
        {
            connection.input = Some(input);
        }
    }

    /// The peer has closed, perhaps while it was held. What it had said before counts: a DISCONNECT among it takes the will back
    /// [MQTT-3.14.4-3]. An outbox may exceed its bound by what was kept, which is at most what one receive brought.
    pub(crate) fn finish_input(&mut self, id: ConnectionId) {
        let mut left = usize::MAX;
        // It goes: there is nothing to wait for, and what it has said is not dropped for its pace. It counts, though: who comes
        // and goes takes from what its listener's clients have together.
        self.watch.hurries = true;
        while let Some(connection) = self.connections.get_mut(id.0)
            && connection.state == State::Connected
            && let Some(size) = connection.input.as_ref().map(|input| input.len())
            && size < left
        {
            left = size;
            connection.flags.set(Flags::PARKED | Flags::CHOKED | Flags::PACED, false);
            self.resume_input(id);
        }
        self.watch.hurries = false;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if connection.state == State::Connected
            && let Some(input) = connection.input.take()
        {
            self.find_goodbye(id, &input);
        }
    }

    /// The log had no room for what a client said last: that is as if it had been lost, but not its goodbye.
    fn find_goodbye(&mut self, id: ConnectionId, mut rest: &[u8]) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let version = connection.version;
        while let Ok(Framed::Packet(raw)) = frame(rest, self.settings.limits.maximum_packet_size) {
            rest = &rest[raw.size..];
            if let Ok(Packet::Disconnect(disconnect)) = decode(raw, version) {
                // It says goodbye or not: the connection is gone either way.
                let _ = self.handle_disconnect(id, &disconnect);
                return;
            }
        }
    }

    fn keep(&mut self, id: ConnectionId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(connection) = self.connections.get_mut(id.0)
            && !matches!(connection.state, State::Closing | State::Closed)
        {
            connection.input = Some(Box::new(bytes.to_vec()));
        }
    }

    /// Works through whole packets; returns how many bytes are done with. Stops early when the connection is held,
    /// is handed over or closes.
    fn consume(&mut self, id: ConnectionId, bytes: &[u8]) -> usize {
        let mut at = 0;
        let mut heard = false;
        while at < bytes.len() {
            let Some(connection) = self.connections.get(id.0) else { return bytes.len() };
            let (state, version) = (connection.state, connection.version);
            // Whoever holds it has sent along everything from the CONNECT on.
            if state == State::HandingOver {
                return bytes.len();
            }
            if connection.is_held() || state == State::Authenticating {
                break;
            }
            let mut rest = &bytes[at..];
            let maximum_packet_size = self.packet_size_max(connection.listener);
            // QoS 0 needs no room in the log.
            if self.durable.is_some()
                && state == State::Connected
                && !matches!(rest[0] & 0xf6, 0x30)
                && !self.has_log_room(id, rest[0] >> 4)
            {
                self.park_for_log(id);
                break;
            }
            if state == State::Exchanging && !is_of_exchange(rest[0]) {
                // [MQTT-3.1.2-30]
                self.refuse_step(id, Violation::AuthenticationMisplaced);
                return bytes.len();
            }
            let maximum = match state {
                State::Exchanging => maximum_packet_size.min(EXCHANGE_PACKET_SIZE_MAX),
                _ => maximum_packet_size,
            };
            let raw = match frame(rest, maximum) {
                Ok(Framed::Packet(raw)) => raw,
                // [MQTT-3.1.0-1]: nothing but a CONNECT is waited for.
                Ok(Framed::Incomplete { .. })
                    if state == State::Handshaking && rest[0] >> 4 != PacketType::Connect as u8 =>
                {
                    let header = RawPacket { first_byte: rest[0], body: &[], size: 1 };
                    self.handle_first(id, header, rest);
                    return bytes.len();
                }
                Ok(Framed::Incomplete { .. }) => break,
                Err(_) if state == State::Exchanging => {
                    self.refuse_step(id, Violation::AuthenticationMisplaced);
                    return bytes.len();
                }
                Err(error) => {
                    self.fail(id, error.into());
                    return bytes.len();
                }
            };
            let is_paced = self.watch.paces
                && state == State::Connected
                && raw.first_byte >> 4 == PacketType::Publish as u8;
            if is_paced {
                if !self.may_publish_now(id) {
                    break;
                }
                // One by one.
                rest = &rest[..raw.size];
            }
            let kind = usize::from(raw.first_byte >> 4);
            self.counters.packets_received[kind] += 1;
            self.counters.packet_bytes_received[kind] += raw.size as u64;
            heard = true;
            let handled = match state {
                State::Connected => {
                    if raw.first_byte >> 4 == PacketType::Publish as u8 {
                        match self.handle_publish(id, version, raw, rest) {
                            Ok(used) => {
                                at += used;
                                if is_paced && used > 0 {
                                    self.charge_publish(id, used);
                                }
                                // QoS 0 has no answer.
                                if raw.first_byte & 0b0110 != 0 {
                                    self.choke_if_deaf(id);
                                }
                                continue;
                            }
                            Err(error) => Err(error),
                        }
                    } else {
                        self.handle_other(id, version, raw)
                    }
                }
                State::Handshaking => {
                    self.handle_first(id, raw, rest);
                    Ok(())
                }
                State::Exchanging => {
                    self.handle_step(id, raw);
                    Ok(())
                }
                State::HandingOver | State::Authenticating | State::Closing | State::Closed => {
                    return bytes.len();
                }
            };
            at += raw.size;
            if let Err(error) = handled {
                self.fail(id, error);
                return bytes.len();
            }
            self.choke_if_deaf(id);
        }
        if heard && let Some(connection) = self.connections.get_mut(id.0) {
            connection.hear(self.now);
        }
        at
    }

    /// The first packet of a connection [MQTT-3.1.0-1].
    fn handle_first(&mut self, id: ConnectionId, raw: RawPacket<'_>, rest: &[u8]) {
        match Connect::decode(raw) {
            Ok(connect) => self.handle_connect(id, &connect, rest),
            Err(error) => self.refuse_malformed_connect(id, raw, error),
        }
    }

    /// Any packet but PUBLISH. The acknowledgements come as often as publications, so they do not take the way
    /// through the enum of all packets, which is a copy of two hundred bytes.
    fn handle_other(
        &mut self,
        id: ConnectionId,
        version: ProtocolVersion,
        raw: RawPacket<'_>,
    ) -> Handled {
        match raw.packet_type() {
            Some(PacketType::PubAck) => {
                self.handle_puback(id, PubAck::decode(raw, version)?.packet_id)
            }
            Some(PacketType::PubRec) => self.handle_pubrec(id, &PubRec::decode(raw, version)?),
            Some(PacketType::PubRel) => {
                self.handle_pubrel(id, PubRel::decode(raw, version)?.packet_id);
                Ok(())
            }
            Some(PacketType::PubComp) => {
                self.handle_pubcomp(id, PubComp::decode(raw, version)?.packet_id)
            }
            _ => self.handle_packet(id, decode(raw, version)?),
        }
    }

    fn handle_packet(&mut self, id: ConnectionId, packet: Packet<'_>) -> Handled {
        match packet {
            Packet::PubAck(ack) => return self.handle_puback(id, ack.packet_id),
            Packet::PubRec(ack) => return self.handle_pubrec(id, &ack),
            Packet::PubComp(ack) => return self.handle_pubcomp(id, ack.packet_id),
            Packet::PubRel(release) => self.handle_pubrel(id, release.packet_id),
            Packet::Subscribe(subscribe) => return self.handle_subscribe(id, &subscribe),
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(id, &unsubscribe),
            // [MQTT-3.12.4-1]
            Packet::PingReq => {
                let Some(connection) = self.connections.get_mut(id.0) else { return Ok(()) };
                self.wire.answer(id, connection, |_, out| PingResp.encode(out));
            }
            Packet::Disconnect(disconnect) => return self.handle_disconnect(id, &disconnect),
            Packet::Auth(auth) => return self.handle_auth(id, &auth),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => return Err(Violation::SecondConnect.into()),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                return Err(Violation::ServerPacket.into());
            }
            // Handled by the caller, which has the bytes behind it.
            Packet::Publish(_) => unreachable!("PUBLISH has its own path"),
        }
        Ok(())
    }

    /// A client that causes answers and does not read them is not read from until it does.
    fn choke_if_deaf(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if connection.output_size() > self.settings.output_bytes_max
            && !connection.flags.has(Flags::CHOKED)
        {
            connection.flags.set(Flags::CHOKED, true);
            self.actions.push_back(Action::Pause(id));
        }
    }

    /// Holds a publisher back until `target`'s outbox has room.
    pub(crate) fn park(&mut self, id: ConnectionId, target: ShardId) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if connection.flags.has(Flags::PARKED) || connection.state != State::Connected {
            return;
        }
        connection.flags.set(Flags::PARKED, true);
        self.outboxes.park(target, id, connection.serial);
        self.counters.publishers_parked += 1;
        self.actions.push_back(Action::Pause(id));
    }

    /// Lists a connection whose reason to be held is gone.
    pub(crate) fn release(&mut self, id: ConnectionId, flag: u16) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        connection.flags.set(flag, false);
        if !connection.is_held() && !connection.flags.has(Flags::RUNNABLE) {
            connection.flags.set(Flags::RUNNABLE, true);
            self.runnable.push_back((id, connection.serial));
        }
    }

    /// Goes on with connections that were held: at most `budget` of them.
    pub(crate) fn run_released(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some((id, serial)) = self.runnable.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(id.0) else { continue };
            if connection.serial != serial {
                continue;
            }
            connection.flags.set(Flags::RUNNABLE, false);
            if connection.is_held() || connection.state != State::Connected {
                continue;
            }
            self.resume_input(id);
            let receives = self
                .connections
                .get(id.0)
                .is_some_and(|c| !c.is_held() && c.state == State::Connected);
            if receives {
                self.actions.push_back(Action::Receive(id));
            }
        }
    }
}

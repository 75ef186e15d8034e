//! One Network Connection, as its shard knows it.
//!
//! Ten million of these are counted in bytes: what an idle client does not need hangs on a pointer.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use midge_codec::{PacketId, ProtocolVersion, QoS, ReasonCode};
use midge_output::Output;
use midge_session::Time;
use midge_session::alias::{InboundAliases, OutboundAliases};
use midge_store::Sequence;

use crate::durable::wait::{Gate, LATE};
use crate::enhanced::Enhanced;
use crate::identity::Identity;
use crate::ids::{ListenerId, PeerAddress, SessionId};
use crate::login::PendingLogin;
use crate::retained::{RetainedPump, YoungSent};

/// Where a connection is in its life. It only moves down the list, but for the two of authentication, which may take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Accepted; no CONNECT yet.
    Handshaking,
    /// On its way to its client's home.
    HandingOver,
    /// At home, somebody being asked about it. Not read from; its CONNECT and what came behind it are kept.
    Authenticating,
    /// At home, and to say the next of enhanced authentication: AUTH is read, and nothing else.
    Exchanging,
    /// CONNECT accepted.
    Connected,
    /// Says its last words, then closes. Nothing is read any more.
    Closing,
    /// The close was asked for.
    Closed,
}

/// Small facts, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u16);

impl Flags {
    /// In the list of connections to flush.
    pub(crate) const DIRTY: u16 = 1;
    /// A send is in flight.
    pub(crate) const SENDING: u16 = 1 << 1;
    /// Not read from: another shard's outbox is full.
    pub(crate) const PARKED: u16 = 1 << 2;
    /// Not read from: its own output is full, it does not read our answers.
    pub(crate) const CHOKED: u16 = 1 << 3;
    /// The client wants reason strings and user properties.
    pub(crate) const PROBLEM_INFORMATION: u16 = 1 << 4;
    /// CONNECT had a Session Expiry Interval of zero (or none): DISCONNECT must not raise it.
    pub(crate) const NO_EXPIRY_AT_CONNECT: u16 = 1 << 5;
    /// In the list of connections whose kept input goes on in the next turn; before CONNECT, of those that wait for a receive.
    pub(crate) const RUNNABLE: u16 = 1 << 6;
    /// The client has said goodbye and is given a moment to close first.
    pub(crate) const LINGERING: u16 = 1 << 7;
    /// Not read from: its client has published more than it may in a second.
    pub(crate) const PACED: u16 = 1 << 8;
    /// Counted among the connections of its address.
    pub(crate) const COUNTED_BY_ADDRESS: u16 = 1 << 9;
    /// Counted among the connections of its listener.
    pub(crate) const COUNTED_BY_LISTENER: u16 = 1 << 10;

    #[inline]
    pub(crate) fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    #[inline]
    pub(crate) fn set(&mut self, bits: u16, on: bool) {
        if on {
            self.0 |= bits;
        } else {
            self.0 &= !bits;
        }
    }
}

/// Sixty-four milliseconds: the unit in which a connection remembers when it was last heard of. It wraps in 8.7 years.
const HEARD_UNIT_MS: u64 = 64;

#[derive(Debug)]
pub(crate) struct Connection {
    /// The session it serves, once connected.
    pub(crate) session: Option<SessionId>,
    /// Tells it from an earlier connection in the same slot. Changes when CONNECT is accepted, so that timers of the
    /// handshake do not count for what follows.
    pub(crate) serial: u32,
    /// When the last packet was complete, in units of 64 ms, rounded up.
    heard: u32,
    /// The client's Maximum Packet Size.
    pub(crate) maximum_packet_size: u32,
    /// Keep Alive in force; zero is off.
    pub(crate) keep_alive_seconds: u16,
    /// QoS 1 and 2 publications in flight to the client, at most.
    pub(crate) window: u16,
    pub(crate) listener: ListenerId,
    pub(crate) peer: PeerAddress,
    pub(crate) state: State,
    pub(crate) version: ProtocolVersion,
    pub(crate) flags: Flags,
    /// Received and not consumed: a part of a packet, or what came while it was not read from.
    #[expect(clippy::box_collection, reason = "one word while idle instead of three")]
    pub(crate) input: Option<Box<Vec<u8>>>,
    /// To be sent.
    pub(crate) output: Option<Box<Output>>,
    /// While its output says something that is not committed.
    pub(crate) gate: Option<Box<Gate>>,
    /// What most connections never need.
    pub(crate) extra: Option<Box<Extra>>,
}

/// A login that is valid for longer than a century is valid for a century.
const VALID_SECONDS_MAX: u64 = 100 * 365 * 86_400;

/// What most connections never need.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// What the transport has proved about the peer.
    pub(crate) identity: Option<Box<Identity>>,
    /// While somebody is asked about the client.
    pub(crate) login: Option<Box<PendingLogin>>,
    /// Of a client that named a method of enhanced authentication: it may authenticate again.
    pub(crate) enhanced: Option<Box<Enhanced>>,
    /// When what the client showed is no longer valid.
    pub(crate) valid_until: Option<Time>,
    pub(crate) inbound_aliases: InboundAliases,
    pub(crate) outbound_aliases: Option<OutboundAliases>,
    pub(crate) acks: PendingAcks,
    pub(crate) subacks: Vec<PendingSubAck>,
    /// Retained messages on their way to new subscriptions; the front one is served.
    pub(crate) pumps: VecDeque<RetainedPump>,
    /// Young retained messages that were sent: they may also come directly.
    pub(crate) young_sent: Vec<YoungSent>,
    /// The pumps have had their part of this turn; the connection is in the shard's list of those that go on.
    pub(crate) gave_way: bool,
}

/// What another shard says about a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has it, or did not want it.
    Kept,
    /// It had no room.
    Refused,
    /// It must keep it, and its disk did not take it.
    Unkept,
}

/// A SUBACK that waits for choosers on other shards.
#[derive(Debug)]
pub(crate) struct PendingSubAck {
    pub(crate) token: u64,
    pub(crate) packet_id: PacketId,
    pub(crate) reason_codes: Vec<ReasonCode>,
    pub(crate) waiting_for: u32,
}

/// Acknowledgements that wait for other shards, in the order of the PUBLISH packets [MQTT-4.6.0-2].
#[derive(Debug, Default)]
pub(crate) struct PendingAcks {
    line: VecDeque<PendingAck>,
    /// The number of the front one.
    first: u32,
    /// QoS 1 publications in the line.
    at_least_once: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PendingAck {
    pub(crate) packet_id: PacketId,
    pub(crate) qos: QoS,
    pub(crate) reason_code: ReasonCode,
    pub(crate) waiting_for: u16,
    /// Somebody has it, or nobody said that he had no room.
    pub(crate) kept: bool,
    /// Somebody wanted it and had no room.
    pub(crate) refused: bool,
    /// Somebody must keep it, and the disk did not take it.
    pub(crate) unkept: bool,
    /// What the log must have reached before it leaves.
    pub(crate) after: Sequence,
}

impl PendingAck {
    /// One that waits for nobody.
    pub(crate) const fn at_once(packet_id: PacketId, qos: QoS, reason_code: ReasonCode) -> Self {
        Self {
            packet_id,
            qos,
            reason_code,
            waiting_for: 0,
            kept: false,
            refused: false,
            unkept: false,
            after: Sequence(0),
        }
    }

    /// One of the shards that it waits for has answered.
    pub(crate) fn answer(&mut self, answer: Answer) {
        debug_assert!(self.waiting_for > 0);
        let refused = answer != Answer::Kept;
        self.waiting_for = self.waiting_for.saturating_sub(1);
        self.refused |= refused;
        self.kept |= !refused;
        self.unkept |= answer == Answer::Unkept;
        // Refused by all that wanted it: one full queue of many is not the publisher's failure, and a publisher
        // that is told so publishes again, which would reach those who have it twice.
        self.reason_code = match self.reason_code {
            _ if self.unkept => ReasonCode::QuotaExceeded,
            ReasonCode::Success | ReasonCode::QuotaExceeded if self.refused && !self.kept => {
                ReasonCode::QuotaExceeded
            }
            ReasonCode::QuotaExceeded => ReasonCode::Success,
            other => other,
        };
    }

    /// What it waited for in this shard's log is not kept.
    fn give_up(&mut self) {
        if self.qos == QoS::ExactlyOnce {
            // What it became stays, so its publisher must not be told to send it anew: it is written again.
            self.after = LATE;
        } else {
            self.after = Sequence(0);
            self.unkept = true;
            self.reason_code = ReasonCode::QuotaExceeded;
        }
    }

    /// What the answers so far come to.
    pub(crate) fn outcome(&self) -> Answer {
        match self.reason_code.is_error() {
            _ if self.unkept => Answer::Unkept,
            true => Answer::Refused,
            false => Answer::Kept,
        }
    }
}

impl PendingAcks {
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// QoS 1 publications in the line. (QoS 2 ones are counted by their unreleased ids.)
    pub(crate) fn at_least_once_count(&self) -> usize {
        self.at_least_once
    }

    /// Puts one at the end; the number is for [`PendingAcks::answer`].
    pub(crate) fn push(&mut self, ack: PendingAck) -> u32 {
        let number = self.first.wrapping_add(u32::try_from(self.line.len()).unwrap_or(u32::MAX));
        self.at_least_once += usize::from(ack.qos == QoS::AtLeastOnce);
        self.line.push_back(ack);
        number
    }

    /// One of the shards that number `number` waits for has answered.
    pub(crate) fn answer(&mut self, number: u32, answer: Answer) {
        if let Some(ack) = self.line.get_mut(number.wrapping_sub(self.first) as usize) {
            ack.answer(answer);
        }
    }

    /// One of them waits for this record as well.
    pub(crate) fn wait_for(&mut self, number: u32, after: Sequence) {
        if let Some(ack) = self.line.get_mut(number.wrapping_sub(self.first) as usize) {
            ack.after = ack.after.max(after);
        }
    }

    /// Records that these waited for are not kept. (The front one waits for another shard, so nothing leaves now.)
    pub(crate) fn give_up(&mut self, lost: &RangeInclusive<Sequence>) {
        self.line.iter_mut().filter(|ack| lost.contains(&ack.after)).for_each(PendingAck::give_up);
    }

    /// All of them with their numbers, when the connection is gone.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = (u32, PendingAck)> + use<> {
        let first = self.first;
        let line = std::mem::take(self).line.into_iter();
        line.zip(0u32..).map(move |(ack, at)| (first.wrapping_add(at), ack))
    }

    /// What waited for records that had no room waits for this from now on.
    pub(crate) fn redeem(&mut self, sequence: Sequence) {
        for ack in self.line.iter_mut().filter(|ack| ack.after == LATE) {
            ack.after = sequence;
        }
    }

    /// The next one that may leave.
    pub(crate) fn pop_ready(&mut self) -> Option<PendingAck> {
        if self.line.front()?.waiting_for > 0 {
            return None;
        }
        self.first = self.first.wrapping_add(1);
        let ack = self.line.pop_front()?;
        self.at_least_once -= usize::from(ack.qos == QoS::AtLeastOnce);
        Some(ack)
    }
}

impl Connection {
    pub(crate) fn new(peer: PeerAddress, listener: ListenerId, serial: u32, now: Time) -> Self {
        let mut connection = Self {
            session: None,
            serial,
            heard: 0,
            maximum_packet_size: u32::MAX,
            keep_alive_seconds: 0,
            window: 0,
            listener,
            peer,
            state: State::Handshaking,
            version: ProtocolVersion::V311,
            flags: Flags::default(),
            input: None,
            output: None,
            gate: None,
            extra: None,
        };
        connection.hear(now);
        connection
    }

    /// A packet was complete.
    #[inline]
    pub(crate) fn hear(&mut self, now: Time) {
        self.heard = now.as_millis().div_ceil(HEARD_UNIT_MS) as u32;
    }

    /// When the Keep Alive runs out: one and a half times after the last packet [MQTT-3.1.2-22].
    pub(crate) fn keep_alive_deadline(&self, now: Time) -> Option<Time> {
        if self.keep_alive_seconds == 0 {
            return None;
        }
        let now_units = now.as_millis().div_ceil(HEARD_UNIT_MS);
        let silent_units = (now_units as u32).wrapping_sub(self.heard);
        let heard_ms = (now_units - u64::from(silent_units).min(now_units)) * HEARD_UNIT_MS;
        Some(Time::ZERO.plus_millis(heard_ms + u64::from(self.keep_alive_seconds) * 1500))
    }

    /// When what the client showed is no longer valid.
    pub(crate) fn valid_until(&self) -> Option<Time> {
        self.extra.as_ref()?.valid_until
    }

    /// When its timer is needed next.
    pub(crate) fn next_deadline(&self, now: Time) -> Option<Time> {
        self.keep_alive_deadline(now).into_iter().chain(self.valid_until()).min()
    }

    /// What the client has shown is valid for so long; `None`: for ever.
    pub(crate) fn set_valid_for(&mut self, seconds: Option<u64>, now: Time) {
        let until = seconds.map(|seconds| now.plus_millis(seconds.min(VALID_SECONDS_MAX) * 1000));
        if until.is_some() || self.valid_until().is_some() {
            self.extra().valid_until = until;
        }
    }

    /// Whether its end has begun.
    #[inline]
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.state, State::Closing | State::Closed)
    }

    /// Whether received bytes must wait.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.flags.has(Flags::PARKED | Flags::CHOKED | Flags::PACED)
    }

    /// Whether its client has proved nothing yet.
    #[inline]
    pub(crate) fn is_unproven(&self) -> bool {
        matches!(self.state, State::Handshaking | State::Authenticating | State::Exchanging)
    }

    /// Whether what comes is kept for later, whatever it is.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.is_held() || matches!(self.state, State::HandingOver | State::Authenticating)
    }

    /// Bytes that wait for the socket, without those of the send in flight.
    #[inline]
    pub(crate) fn output_size(&self) -> usize {
        let held = self.gate.as_ref().map_or(0, |gate| gate.held_size());
        held + self.output.as_ref().map_or(0, |output| output.size())
    }

    /// Bytes received and not consumed.
    #[inline]
    pub(crate) fn input_size(&self) -> usize {
        self.input.as_ref().map_or(0, |input| input.len())
    }

    /// Bytes kept for a client that has proved nothing yet.
    pub(crate) fn unproven_size(&self) -> usize {
        let login = self.extra.as_ref().and_then(|extra| extra.login.as_ref());
        self.input_size() + login.map_or(0, |login| login.connect.len())
    }

    pub(crate) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

/// What an idle connection costs its shard.
const _: () = assert!(size_of::<Connection>() <= 80);

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(now: Time) -> Connection {
        let peer = PeerAddress::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        Connection::new(peer, ListenerId(0), 1, now)
    }

    /// Never before one and a half Keep Alives, and less than a quarter of a second after [MQTT-3.1.2-22].
    #[test]
    fn keep_alive_is_counted_from_the_last_packet() {
        for start_ms in [0, 1, 63, 64, 1_000_007, (1u64 << 38) - 10] {
            let heard = Time::ZERO.plus_millis(start_ms);
            let mut connection = connection(heard);
            assert_eq!(connection.keep_alive_deadline(heard), None);
            connection.keep_alive_seconds = 10;
            for later_ms in [0, 1, 100, 14_000] {
                let deadline = connection.keep_alive_deadline(heard.plus_millis(later_ms)).unwrap();
                assert!(deadline >= heard.plus_millis(15_000), "{start_ms} {later_ms}");
                assert!(deadline <= heard.plus_millis(15_064), "{start_ms} {later_ms}");
            }
        }
    }

    /// [MQTT-4.6.0-2]: acknowledgements leave in the order of the publications.
    #[test]
    fn acknowledgements_keep_their_order() {
        let ack = |id, waiting_for| PendingAck {
            packet_id: PacketId::new(id).unwrap(),
            qos: QoS::AtLeastOnce,
            reason_code: ReasonCode::Success,
            waiting_for,
            kept: false,
            refused: false,
            unkept: false,
            after: Sequence(0),
        };
        let mut acks = PendingAcks::default();
        let first = acks.push(ack(1, 2));
        let second = acks.push(ack(2, 1));
        acks.push(ack(3, 0));
        acks.answer(second, Answer::Refused);
        assert_eq!(acks.pop_ready(), None);
        acks.answer(first, Answer::Kept);
        assert_eq!(acks.pop_ready(), None);
        acks.answer(first, Answer::Kept);
        assert_eq!(acks.pop_ready().map(|a| a.reason_code), Some(ReasonCode::Success));
        assert_eq!(acks.pop_ready().map(|a| a.reason_code), Some(ReasonCode::QuotaExceeded));
        assert_eq!(acks.pop_ready().map(|a| a.packet_id.get()), Some(3));
        assert!(acks.is_empty());
    }
}

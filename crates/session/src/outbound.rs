//! What is in flight towards the client, and what waits for a place.
//!
//! One session's outgoing QoS 1 and 2 messages stand in one line: first those that have a packet id, oldest first, then
//! those that wait for a place in the client's Receive Maximum or for the client to come back. The line is
//! the order in which messages leave, and leave again after a reconnect [MQTT-4.6.0-1].
//!
//! ```text
//!   in flight, sent on this connection | in flight, to be sent again | queued
//!   0 ..................... sent       | sent .............. len     | 0 ......
//! ```
//!
//! After a reconnect `sent` is zero: everything in flight is sent again, as fast as the (perhaps smaller) new window
//! lets it, before anything queued moves up.
//!
//! A part of the queue may be in the log alone: see the `backlog` file below this one.
//!
//! # Limits
//! In flight: the window given with each call, at most 65,535. Queued: [`QueueLimits`]; beyond either bound an offer
//! comes back as [`Offer::Full`] and the caller counts it.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use midge_codec::{PacketId, QoS};

use crate::publication::Publication;
use crate::time::Time;

mod backlog;

use backlog::Backlog;
pub use backlog::{Fetched, Spilled};

/// Bounds of one session's queue of messages without a packet id.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Messages, at most.
    pub messages_max: usize,
    /// Bytes as [`Publication::memory_size`] counts them, at most. Payloads shared with other sessions count in each.
    pub bytes_max: usize,
}

/// Where a delivery stands in its shard's log; what the numbers mean is the shard's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The message's id in the log. In one session's line ids grow from the front to the back.
    pub message: NonZeroU64,
    /// The segment of its record.
    pub segment: u32,
    /// Where in the segment.
    pub offset: u32,
    /// How many bytes of the record are there for this delivery.
    pub share: u32,
}

/// One message for one client.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub publication: Arc<Publication>,
    /// The lower of the publisher's and the subscription's QoS [MQTT-3.8.4-8].
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// What most deliveries do not have.
    pub extra: Option<Box<DeliveryExtra>>,
    /// Where it stands in the log; `None` when it is not kept there.
    pub keep: Option<Keep>,
}

/// What a message that waits for a client costs, beside the message.
const _: () = assert!(size_of::<Delivery>() <= 48);

/// What most deliveries do not have.
#[derive(Debug, Clone, Default)]
pub struct DeliveryExtra {
    /// The identifiers of all subscriptions that matched [MQTT-3.3.4-3].
    pub subscription_identifiers: Box<[u32]>,
    /// The shared subscription (its whole filter, `$share/…`) that chose this session; whoever cannot keep the
    /// message gives it back to that group's chooser.
    pub share: Option<Arc<str>>,
}

impl Delivery {
    /// The identifiers of all subscriptions that matched; empty when there are none.
    #[must_use]
    pub fn subscription_identifiers(&self) -> &[u32] {
        self.extra.as_ref().map_or(&[], |extra| &extra.subscription_identifiers)
    }

    /// The shared subscription that chose this session.
    #[must_use]
    pub fn share(&self) -> Option<&Arc<str>> {
        self.extra.as_ref().and_then(|extra| extra.share.as_ref())
    }
}

/// A delivery that stands in the log, for whoever copies its record.
#[derive(Debug)]
pub struct Kept<'a> {
    /// Where; to be changed when it was copied.
    pub keep: &'a mut Keep,
    /// Its packet id, when it has one.
    pub packet_id: Option<PacketId>,
    /// The message; `None` when the client has it and only its PUBREL is left.
    pub message: Option<KeptMessage<'a>>,
}

/// See [`Kept::message`].
#[derive(Debug)]
pub struct KeptMessage<'a> {
    /// The message.
    pub publication: &'a Arc<Publication>,
    /// As [`Delivery::qos`].
    pub qos: QoS,
    /// As [`Delivery::retain`].
    pub retain: bool,
    /// As [`Delivery::extra`].
    pub extra: &'a Option<Box<DeliveryExtra>>,
}

/// The answer to [`Outbound::offer`].
#[derive(Debug)]
pub enum Offer<'a> {
    /// It has a packet id: send it now.
    Send(PacketId, &'a Delivery),
    /// It waits.
    Queued,
    /// No room: here it is again.
    Full(Delivery),
}

/// What to send next.
#[derive(Debug)]
pub enum Resend<'a> {
    /// A PUBLISH with this id; the flag says whether it was sent before (DUP) [MQTT-3.3.1-1].
    Publish(PacketId, &'a Delivery, bool),
    /// A queued QoS 0 PUBLISH; it has no id.
    PublishOnce(Delivery),
    /// A PUBREL.
    Release(PacketId),
}

/// What an acknowledgement from the client meant.
#[derive(Debug)]
pub enum Acknowledged {
    /// The message is done; its packet id is free.
    Done,
    /// QoS 2, first half: send PUBREL.
    Release,
    /// We have nothing in flight under that id.
    Unknown,
    /// The id is in use, but not for a message that this packet acknowledges: a protocol error.
    Mismatch,
}

/// Which acknowledgement is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::enum_variant_names,
    reason = "the names of the packets, as the specification has them"
)]
enum Stage {
    PubAck,
    PubRec,
    PubComp,
}

impl Stage {
    /// Of a message that is sent at this QoS.
    fn first(qos: QoS) -> Self {
        match qos {
            QoS::ExactlyOnce => Self::PubRec,
            QoS::AtLeastOnce | QoS::AtMostOnce => Self::PubAck,
        }
    }
}

#[derive(Debug)]
struct InFlight {
    packet_id: PacketId,
    stage: Stage,
    /// Counts assignments, so that "could the next id still be in use?" is one subtraction.
    serial: u32,
    /// Whether a PUBLISH left on an earlier connection.
    sent_before: bool,
    /// `None` once PUBREC came: the client has the message. Before, `None` means that the log alone has it.
    delivery: Option<Delivery>,
    /// Where it, or the fact that the client has it, stands in the log.
    keep: Option<Keep>,
}

/// One session's outgoing line.
#[derive(Debug)]
pub struct Outbound {
    in_flight: VecDeque<InFlight>,
    /// How many of `in_flight`, from the front, were sent on this connection.
    sent: usize,
    /// What is next in the queue, and nearly always all of it.
    queue: VecDeque<Delivery>,
    /// The rest of it; `None`: there is none.
    backlog: Option<Box<Backlog>>,
    /// Bytes of the whole queue.
    queue_bytes: usize,
    /// QoS 0 messages in the whole queue.
    queued_once: usize,
    next_packet_id: PacketId,
    next_serial: u32,
    /// Kept deliveries that are done, for the log.
    gone: Vec<Keep>,
    /// Of those in flight, how many the log alone has.
    unloaded: u32,
    /// In the shard's line of queues of which a part is to be left to the log.
    is_listed: bool,
    /// What comes is left to the log as soon as it is there, as long as the client is away.
    is_spilling: bool,
    /// Messages are being read from the log.
    is_loading: bool,
    /// Reads that have failed since the last one that did not.
    read_failures: u8,
    /// In `queue` something stands before what is older than it: it could not be left to the log.
    is_mixed: bool,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            in_flight: VecDeque::new(),
            sent: 0,
            queue: VecDeque::new(),
            backlog: None,
            queue_bytes: 0,
            queued_once: 0,
            next_packet_id: FIRST_PACKET_ID,
            next_serial: 0,
            gone: Vec::new(),
            unloaded: 0,
            is_listed: false,
            is_spilling: false,
            is_loading: false,
            read_failures: 0,
            is_mixed: false,
        }
    }
}

/// Packet ids start at one [MQTT-2.2.1-4].
const FIRST_PACKET_ID: PacketId = match PacketId::new(1) {
    Some(id) => id,
    None => unreachable!(),
};

impl Outbound {
    /// A QoS 1 or 2 message for this client. `window` is how many may be in flight: zero while the client is away or
    /// its connection has no room.
    ///
    /// Never allocates when the message can be sent and the line has been this long before.
    #[inline]
    pub fn offer(&mut self, delivery: Delivery, window: u16, limits: &QueueLimits) -> Offer<'_> {
        debug_assert!(delivery.qos != QoS::AtMostOnce);
        if self.queue.is_empty()
            && self.backlog.is_none()
            && self.sent == self.in_flight.len()
            && self.sent < usize::from(window) + usize::from(mutant!("window-off-by-one"))
            && let Some(packet_id) = self.assign_packet_id()
        {
            self.push_in_flight(packet_id, delivery);
            self.sent += 1;
            let last = self.in_flight.back().expect("pushed in the line above");
            return match &last.delivery {
                Some(delivery) => Offer::Send(packet_id, delivery),
                None => unreachable!("a message that was just pushed is there"),
            };
        }
        self.enqueue(delivery, limits)
    }

    /// A message that waits in any case: the client is away.
    pub fn enqueue(&mut self, delivery: Delivery, limits: &QueueLimits) -> Offer<'_> {
        let size = delivery.publication.memory_size();
        if self.queued_count() >= limits.messages_max
            || self.queue_bytes.saturating_add(size) > limits.bytes_max
        {
            return Offer::Full(delivery);
        }
        self.queue_bytes += size;
        self.queued_once += usize::from(delivery.qos == QoS::AtMostOnce);
        if let Some(backlog) = &mut self.backlog {
            backlog.push_back(delivery);
            return Offer::Queued;
        }
        if mutant!("queue-backwards") {
            self.queue.push_front(delivery);
            return Offer::Queued;
        }
        self.queue.push_back(delivery);
        Offer::Queued
    }

    /// What may be sent now, one at a time; `None` when the window is used up, nothing waits, or what is next must be read
    /// from the log first ([`Outbound::wants_load`]). Expired messages that were never sent are dropped on the way and
    /// counted in `expired` [MQTT-3.3.2-5].
    pub fn next(&mut self, window: u16, now: Time, expired: &mut u64) -> Option<Resend<'_>> {
        if self.sent < self.in_flight.len() {
            if self.sent >= usize::from(window) {
                return None;
            }
            let entry = &self.in_flight[self.sent];
            if entry.is_unloaded() {
                return None;
            }
            self.sent += 1;
            return match &entry.delivery {
                Some(delivery) if entry.stage != Stage::PubComp => {
                    let again = entry.sent_before && !mutant!("dup-not-set");
                    Some(Resend::Publish(entry.packet_id, delivery, again))
                }
                _ => Some(Resend::Release(entry.packet_id)),
            };
        }
        while let Some(front) = self.queue.front() {
            if front.publication.expired(now) && !mutant!("expired-delivered") {
                let gone = self.pop_queue();
                self.gone.extend(gone.and_then(|delivery| delivery.keep));
                *expired += 1;
                continue;
            }
            if front.qos == QoS::AtMostOnce {
                let once = self.pop_queue()?;
                self.gone.extend(once.keep);
                return Some(Resend::PublishOnce(once));
            }
            if self.sent >= usize::from(window) {
                return None;
            }
            let packet_id = self.assign_packet_id()?;
            let delivery = self.pop_queue()?;
            self.push_in_flight(packet_id, delivery);
            self.sent += 1;
            let entry = self.in_flight.back()?;
            return entry.delivery.as_ref().map(|d| Resend::Publish(packet_id, d, false));
        }
        None
    }

    /// PUBACK: a QoS 1 message is done [MQTT-4.3.2-5].
    #[inline]
    pub fn puback(&mut self, packet_id: PacketId) -> Acknowledged {
        self.finish(packet_id, Stage::PubAck)
    }

    /// PUBREC. With a reason code of 0x80 or more (`refused`) the message is done; otherwise the client has it, and what
    /// remains is to release the id [MQTT-4.3.3-4]. A PUBREC that comes again is answered again.
    pub fn pubrec(&mut self, packet_id: PacketId, refused: bool) -> Acknowledged {
        let Some(index) = self.position(packet_id) else { return Acknowledged::Unknown };
        match self.in_flight[index].stage {
            Stage::PubAck => Acknowledged::Mismatch,
            Stage::PubRec | Stage::PubComp if refused => {
                self.remove(index);
                Acknowledged::Done
            }
            Stage::PubRec | Stage::PubComp => {
                let entry = &mut self.in_flight[index];
                self.unloaded -= u32::from(entry.is_unloaded());
                entry.stage = Stage::PubComp;
                entry.delivery = None;
                Acknowledged::Release
            }
        }
    }

    /// PUBCOMP: a QoS 2 message is done.
    pub fn pubcomp(&mut self, packet_id: PacketId) -> Acknowledged {
        self.finish(packet_id, Stage::PubComp)
    }

    /// The connection is gone: what is in flight will be sent again when the client is back [MQTT-4.4.0-1].
    pub fn disconnected(&mut self) {
        for entry in self.in_flight.iter_mut().take(self.sent) {
            entry.sent_before = true;
        }
        if mutant!("resume-sends-nothing") {
            return;
        }
        self.sent = 0;
    }

    /// Takes back a packet that [`Outbound::next`] or [`Outbound::offer`] gave out but that can never be sent to this
    /// client (larger than its Maximum Packet Size): as if it was done [MQTT-3.1.2-25].
    pub fn discard(&mut self, packet_id: PacketId) -> Option<Delivery> {
        let index = self.position(packet_id)?;
        self.remove(index)
    }

    /// Everything undelivered, oldest first, when the session ends: for the groups whose messages these were.
    /// QoS 2 messages that have left for the client are not among them: they must not go to another
    /// member [MQTT-4.8.2-5]. Neither is what the log alone has: those are nobody's but this session's.
    pub fn into_undelivered(self) -> impl Iterator<Item = Delivery> {
        let in_flight = self.in_flight.into_iter().filter(|e| e.stage == Stage::PubAck);
        let back = self.backlog.into_iter().flat_map(|backlog| backlog.into_back());
        in_flight.filter_map(|entry| entry.delivery).chain(self.queue).chain(back)
    }

    /// Notes where the delivery that was taken last stands in the log.
    pub fn keep_last(&mut self, keep: Keep) {
        if let Some(last) = self.backlog.as_mut().and_then(|backlog| backlog.last_mut()) {
            last.keep = Some(keep);
        } else if let Some(last) = self.queue.back_mut() {
            last.keep = Some(keep);
        } else if let Some(last) = self.in_flight.back_mut() {
            last.keep = Some(keep);
        }
    }

    /// Where the message with this packet id stands in the log.
    #[must_use]
    pub fn keep_of(&self, packet_id: PacketId) -> Option<Keep> {
        self.in_flight[self.position(packet_id)?].keep
    }

    /// Notes that the log now says something else about the message with this packet id; returns where the earlier record is.
    pub fn replace_keep(&mut self, packet_id: PacketId, keep: Keep) -> Option<Keep> {
        let index = self.position(packet_id)?;
        self.in_flight[index].keep.replace(keep)
    }

    /// Kept deliveries that have been done since the last call: acknowledged, expired, given up.
    pub fn take_gone(&mut self) -> impl Iterator<Item = Keep> + '_ {
        self.gone.drain(..)
    }

    /// Whether kept deliveries have been done since [`Outbound::take_gone`].
    #[inline]
    #[must_use]
    pub fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Puts a message back in flight after a restart, behind those put back before.
    pub fn restore_in_flight(&mut self, packet_id: PacketId, delivery: Delivery) {
        if self.position(packet_id).is_some() {
            // Two with one id: only a damaged log says so. It gets another.
            self.restore_queued(delivery);
            return;
        }
        self.push_in_flight(packet_id, delivery);
        self.restored(packet_id);
    }

    /// Puts a message back of which the client is known to have it: its PUBREL is next.
    pub fn restore_received(&mut self, packet_id: PacketId, keep: Keep) {
        if self.position(packet_id).is_some() {
            return;
        }
        self.in_flight.push_back(InFlight {
            packet_id,
            stage: Stage::PubComp,
            serial: 0,
            sent_before: true,
            delivery: None,
            keep: Some(keep),
        });
        self.restored(packet_id);
    }

    /// Puts a message back in the queue after a restart. No bound is asked: it was taken once.
    pub fn restore_queued(&mut self, delivery: Delivery) {
        self.queue_bytes += delivery.publication.memory_size();
        self.queued_once += usize::from(delivery.qos == QoS::AtMostOnce);
        self.queue.push_back(delivery);
    }

    /// What was put back may lie any number of ids apart: until it is done, each new id is looked for in the line.
    fn restored(&mut self, packet_id: PacketId) {
        let serial = self.next_serial.wrapping_sub(u32::from(u16::MAX));
        if let Some(entry) = self.in_flight.back_mut() {
            entry.serial = serial;
            entry.sent_before = true;
        }
        self.next_packet_id = successor(packet_id);
    }

    /// Messages in flight.
    #[must_use]
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Messages that wait.
    #[must_use]
    pub fn queued_count(&self) -> usize {
        self.queue.len() + self.backlog.as_ref().map_or(0, |backlog| backlog.len())
    }

    /// Whether QoS 0 messages wait: one that comes now must not overtake them [MQTT-4.6.0-6].
    #[inline]
    #[must_use]
    pub fn has_queued_once(&self) -> bool {
        self.queued_once > 0
    }

    /// Bytes that wait, as [`Publication::memory_size`] counts them.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Whether nothing is in flight and nothing waits: the box that holds this can go.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.queue.is_empty() && self.backlog.is_none()
    }

    /// Whether something could be sent if the window had room.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.sent < self.in_flight.len() || !self.queue.is_empty() || self.backlog.is_some()
    }

    /// What must always hold; for tests and the simulator, at the edges of every event.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_integrity(&self) {
        assert!(self.sent <= self.in_flight.len());
        let mut ids: Vec<PacketId> = self.in_flight.iter().map(|entry| entry.packet_id).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "a packet id is in use twice");
        let bytes: usize = self.queue.iter().map(|d| d.publication.memory_size()).sum();
        let once = self.queue.iter().filter(|d| d.qos == QoS::AtMostOnce).count();
        let (backlog_bytes, backlog_once) =
            self.backlog.as_ref().map_or((0, 0), |backlog| backlog.check_integrity());
        assert_eq!(bytes + backlog_bytes, self.queue_bytes);
        assert_eq!(once + backlog_once, self.queued_once);
        for entry in &self.in_flight {
            assert!(entry.delivery.is_none() || entry.stage != Stage::PubComp);
            assert!(!entry.is_unloaded() || entry.keep.is_some(), "nobody has the message");
        }
        let unloaded = self.in_flight.iter().filter(|entry| entry.is_unloaded()).count();
        assert_eq!(unloaded, self.unloaded as usize);
        let sent = self.in_flight.iter().take(self.sent);
        assert_eq!(sent.filter(|entry| entry.is_unloaded()).count(), 0, "it was sent");
    }

    fn push_in_flight(&mut self, packet_id: PacketId, delivery: Delivery) {
        let stage = Stage::first(delivery.qos);
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        self.in_flight.push_back(InFlight {
            packet_id,
            stage,
            serial,
            sent_before: false,
            keep: delivery.keep,
            delivery: Some(delivery),
        });
    }

    fn pop_queue(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        self.queue_bytes -= delivery.publication.memory_size();
        self.queued_once -= usize::from(delivery.qos == QoS::AtMostOnce);
        Some(delivery)
    }

    fn finish(&mut self, packet_id: PacketId, stage: Stage) -> Acknowledged {
        let Some(index) = self.position(packet_id) else { return Acknowledged::Unknown };
        if self.in_flight[index].stage != stage {
            return Acknowledged::Mismatch;
        }
        self.remove(index);
        Acknowledged::Done
    }

    fn remove(&mut self, index: usize) -> Option<Delivery> {
        if index < self.sent {
            self.sent -= 1;
        }
        let entry = self.in_flight.remove(index)?;
        self.unloaded -= u32::from(entry.is_unloaded());
        self.gone.extend(entry.keep);
        entry.delivery
    }

    /// Clients acknowledge in the order of arrival [MQTT-4.6.0-2], so this nearly always looks at one entry.
    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.in_flight.iter().position(|entry| entry.packet_id == packet_id)
    }

    /// A packet id that is not in use [MQTT-2.2.1-3]; `None` when all 65,535 are.
    fn assign_packet_id(&mut self) -> Option<PacketId> {
        let oldest = self.in_flight.front().map_or(self.next_serial, |entry| entry.serial);
        let mut candidate = self.next_packet_id;
        // Ids go round: only when 65,535 were given out since the oldest one in use can the next one be in use, and
        // only then is the line searched.
        if self.next_serial.wrapping_sub(oldest) >= u32::from(u16::MAX) {
            let mut tries = u32::from(u16::MAX);
            while self.position(candidate).is_some() {
                candidate = successor(candidate);
                tries -= 1;
                if tries == 0 {
                    return None;
                }
            }
        }
        if !mutant!("packet-id-twice") {
            self.next_packet_id = successor(candidate);
        }
        Some(candidate)
    }
}

impl InFlight {
    /// Whether the log alone has the message.
    fn is_unloaded(&self) -> bool {
        self.delivery.is_none() && self.stage != Stage::PubComp
    }
}

fn successor(packet_id: PacketId) -> PacketId {
    PacketId::new(packet_id.get().wrapping_add(1)).unwrap_or(FIRST_PACKET_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QueueLimits = QueueLimits { messages_max: 10, bytes_max: 10_000 };
    const NOW: Time = Time::from_seconds(1000);

    fn delivery(payload: &str, qos: QoS) -> Delivery {
        expiring(payload, qos, None)
    }

    fn expiring(payload: &str, qos: QoS, expires_at: Option<Time>) -> Delivery {
        let publication = Publication::new("t", b"", payload.as_bytes(), qos, false, expires_at);
        Delivery { publication: Arc::new(publication), qos, retain: false, extra: None, keep: None }
    }

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    /// Everything that can be sent now, as text: `1:a` a first PUBLISH, `1:a!` one with DUP, `1:rel` a PUBREL.
    fn sent(outbound: &mut Outbound, window: u16) -> Vec<String> {
        let mut list = Vec::new();
        let mut expired = 0;
        while let Some(next) = outbound.next(window, NOW, &mut expired) {
            list.push(match next {
                Resend::Publish(id, delivery, duplicate) => {
                    let payload = std::str::from_utf8(delivery.publication.payload()).unwrap();
                    format!("{}:{payload}{}", id.get(), if duplicate { "!" } else { "" })
                }
                Resend::PublishOnce(delivery) => {
                    format!("-:{}", std::str::from_utf8(delivery.publication.payload()).unwrap())
                }
                Resend::Release(id) => format!("{}:rel", id.get()),
            });
        }
        outbound.check_integrity();
        list
    }

    fn offer(outbound: &mut Outbound, payload: &str, qos: QoS, window: u16) -> Option<u16> {
        let given = match outbound.offer(delivery(payload, qos), window, &LIMITS) {
            Offer::Send(id, _) => Some(id.get()),
            Offer::Queued => None,
            Offer::Full(_) => panic!("full"),
        };
        outbound.check_integrity();
        given
    }

    /// The window is never exceeded [MQTT-3.3.4-9], and what waits follows in order.
    #[test]
    fn the_window_holds_and_the_queue_moves_up_in_order() {
        let mut outbound = Outbound::default();
        let ids: Vec<_> = ["a", "b", "c", "d", "e"]
            .iter()
            .map(|payload| offer(&mut outbound, payload, QoS::AtLeastOnce, 2))
            .collect();
        assert_eq!(ids, [Some(1), Some(2), None, None, None]);
        assert!(sent(&mut outbound, 2).is_empty());
        assert!(matches!(outbound.puback(id(1)), Acknowledged::Done));
        assert_eq!(sent(&mut outbound, 2), ["3:c"]);
        assert!(matches!(outbound.puback(id(3)), Acknowledged::Done));
        assert!(matches!(outbound.puback(id(2)), Acknowledged::Done));
        assert_eq!(sent(&mut outbound, 2), ["4:d", "5:e"]);
    }

    /// After a reconnect: PUBLISH with DUP and PUBREL again, in the original order, before anything new
    /// [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.6.0-1], and never more than the new window.
    #[test]
    fn a_reconnect_sends_again_in_order_within_the_new_window() {
        let mut outbound = Outbound::default();
        for (payload, qos) in [
            ("a", QoS::AtLeastOnce),
            ("b", QoS::ExactlyOnce),
            ("c", QoS::ExactlyOnce),
            ("d", QoS::AtLeastOnce),
        ] {
            offer(&mut outbound, payload, qos, 10);
        }
        assert!(matches!(outbound.pubrec(id(2), false), Acknowledged::Release));
        outbound.disconnected();
        assert_eq!(offer(&mut outbound, "e", QoS::AtLeastOnce, 0), None);
        assert_eq!(sent(&mut outbound, 3), ["1:a!", "2:rel", "3:c!"]);
        assert!(matches!(outbound.pubcomp(id(2)), Acknowledged::Done));
        assert_eq!(sent(&mut outbound, 3), ["4:d!"]);
        assert!(matches!(outbound.puback(id(1)), Acknowledged::Done));
        assert_eq!(sent(&mut outbound, 3), ["5:e"]);
    }

    #[test]
    fn a_message_queued_while_away_is_not_a_duplicate() {
        let mut outbound = Outbound::default();
        assert_eq!(offer(&mut outbound, "a", QoS::AtLeastOnce, 0), None);
        outbound.disconnected();
        assert_eq!(sent(&mut outbound, 5), ["1:a"]);
    }

    /// An in-flight message that the small new window kept back on this connection is still a duplicate on the next.
    #[test]
    fn what_was_sent_once_stays_a_duplicate() {
        let mut outbound = Outbound::default();
        offer(&mut outbound, "a", QoS::AtLeastOnce, 5);
        offer(&mut outbound, "b", QoS::AtLeastOnce, 5);
        outbound.disconnected();
        assert_eq!(sent(&mut outbound, 1), ["1:a!"]);
        outbound.disconnected();
        assert_eq!(sent(&mut outbound, 5), ["1:a!", "2:b!"]);
    }

    #[test]
    fn the_queue_is_bounded_in_messages_and_in_bytes() {
        let mut outbound = Outbound::default();
        for _ in 0..LIMITS.messages_max {
            assert_eq!(offer(&mut outbound, "x", QoS::AtLeastOnce, 0), None);
        }
        assert!(matches!(
            outbound.offer(delivery("y", QoS::AtLeastOnce), 0, &LIMITS),
            Offer::Full(_)
        ));
        let mut outbound = Outbound::default();
        let large = "x".repeat(LIMITS.bytes_max);
        assert!(matches!(
            outbound.offer(delivery(&large, QoS::AtLeastOnce), 0, &LIMITS),
            Offer::Full(_)
        ));
    }

    #[test]
    fn acknowledgements_fit_the_stage() {
        let mut outbound = Outbound::default();
        offer(&mut outbound, "a", QoS::AtLeastOnce, 5);
        offer(&mut outbound, "b", QoS::ExactlyOnce, 5);
        assert!(matches!(outbound.puback(id(2)), Acknowledged::Mismatch));
        assert!(matches!(outbound.pubrec(id(1), false), Acknowledged::Mismatch));
        assert!(matches!(outbound.pubcomp(id(2)), Acknowledged::Mismatch));
        assert!(matches!(outbound.puback(id(9)), Acknowledged::Unknown));
        assert!(matches!(outbound.pubrec(id(2), false), Acknowledged::Release));
        assert!(matches!(outbound.pubrec(id(2), false), Acknowledged::Release));
        assert!(matches!(outbound.pubcomp(id(2)), Acknowledged::Done));
        offer(&mut outbound, "c", QoS::ExactlyOnce, 5);
        assert!(matches!(outbound.pubrec(id(3), true), Acknowledged::Done));
        assert_eq!(outbound.in_flight_count(), 1);
    }

    /// [MQTT-3.3.2-5]
    #[test]
    fn expired_messages_are_dropped_on_the_way_out() {
        let mut outbound = Outbound::default();
        for (payload, expires_at) in
            [("a", Some(NOW)), ("b", None), ("c", Some(NOW.plus_seconds(1)))]
        {
            let delivery = expiring(payload, QoS::AtLeastOnce, expires_at);
            assert!(matches!(outbound.offer(delivery, 0, &LIMITS), Offer::Queued));
        }
        assert_eq!(sent(&mut outbound, 5), ["1:b", "2:c"]);
    }

    /// A packet id in use is not given out again, however often the numbers go round [MQTT-2.2.1-3].
    #[test]
    fn ids_go_round_a_stuck_one() {
        let mut outbound = Outbound::default();
        assert_eq!(offer(&mut outbound, "stuck", QoS::AtLeastOnce, 5), Some(1));
        for round in 0..3u32 {
            for number in 2..=u16::MAX {
                assert_eq!(offer_quietly(&mut outbound), Some(number), "round {round}");
                assert!(matches!(outbound.puback(id(number)), Acknowledged::Done));
            }
        }
        outbound.check_integrity();
    }

    fn offer_quietly(outbound: &mut Outbound) -> Option<u16> {
        match outbound.offer(delivery("x", QoS::AtLeastOnce), 5, &LIMITS) {
            Offer::Send(id, _) => Some(id.get()),
            Offer::Queued | Offer::Full(_) => None,
        }
    }

    /// [MQTT-4.8.2-5]: QoS 2 messages that have left do not go to another member; the rest does.
    #[test]
    fn what_a_leaving_member_gives_back() {
        let mut outbound = Outbound::default();
        offer(&mut outbound, "a", QoS::AtLeastOnce, 2);
        offer(&mut outbound, "b", QoS::ExactlyOnce, 2);
        offer(&mut outbound, "c", QoS::ExactlyOnce, 2);
        let back: Vec<_> = outbound
            .into_undelivered()
            .map(|d| String::from_utf8(d.publication.payload().to_vec()).unwrap())
            .collect();
        assert_eq!(back, ["a", "c"]);
    }
}

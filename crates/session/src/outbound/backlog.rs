//! A queue of which a part is in the log alone.
//!
//! ```text
//!   queue              | stubs                       | back
//!   next, in memory    | the log alone has them      | what has come since
//!   <── load ───────── front                    back <── spill ──
//! ```
//!
//! Whoever owns the line decides when: [`Outbound::spill`] leaves to the log what is surely there, oldest first, and keeps twenty
//! bytes a message; [`Outbound::load`] takes back what was read. Between the two nothing overtakes anything, but
//! for what cannot be left to the log (a shared subscription's messages, which go to another member when the session ends,
//! and QoS 0 that the log had no room for): that waits in `queue`, before older ones.
//!
//! After a restart what is in flight may be in the log alone, too.
//!
//! # Limits
//! Of a line in the log no more is loaded ahead than [`AHEAD_MESSAGES`] or [`AHEAD_BYTES`] and one read.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use midge_codec::{PacketId, QoS};

use super::{Delivery, InFlight, Keep, Kept, KeptMessage, Outbound, Stage};
use crate::spares::Spares;
use crate::stubs::{Stub, Stubs};

/// Messages that are in memory before more are read: those that a window of the usual size takes.
const AHEAD_MESSAGES: usize = 128;

/// The same in bytes.
const AHEAD_BYTES: usize = 64 << 10;

/// A larger ring behind the stubs than this is made smaller, to [`BACK_CAPACITY`].
const BACK_CAPACITY_MAX: usize = 4 * BACK_CAPACITY;

/// Room for what comes until the disk has it, under load.
const BACK_CAPACITY: usize = 16 << 10;

/// What of a queue is not in front. `stubs` is not empty.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    stubs: Stubs,
    back: VecDeque<Delivery>,
    back_bytes: usize,
}

/// What became of a message that was to be read from the log.
#[derive(Debug)]
pub enum Fetched {
    /// Here it is.
    Message(Delivery),
    /// It is damaged: it is given up.
    Lost,
    /// Not in what was read: another time.
    Elsewhere,
}

/// What [`Outbound::spill`] or [`Outbound::load`] have moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spilled {
    /// Messages that went from memory to the log alone, or came back.
    pub messages: usize,
    /// Messages that are no more: damaged, or of QoS 0 and nowhere kept.
    pub lost: usize,
    /// There is more that may go later.
    pub more: bool,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.stubs.len() + self.back.len()
    }

    pub(super) fn push_back(&mut self, delivery: Delivery) {
        self.back_bytes += delivery.publication.memory_size();
        self.back.push_back(delivery);
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Delivery> {
        self.back.back_mut()
    }

    pub(super) fn into_back(self) -> VecDeque<Delivery> {
        self.back
    }

    /// Bytes and QoS 0 messages, counted again.
    pub(super) fn check_integrity(&self) -> (usize, usize) {
        self.stubs.check_integrity();
        assert!(!self.stubs.is_empty(), "what is behind nothing is in front");
        let bytes: usize = self.back.iter().map(|d| d.publication.memory_size()).sum();
        assert_eq!(bytes, self.back_bytes);
        let once = self.back.iter().filter(|d| d.qos == QoS::AtMostOnce).count();
        (bytes + self.stubs.bytes(), once + self.stubs.once_count())
    }

    fn pop_back_line(&mut self) -> Option<Delivery> {
        let delivery = self.back.pop_front()?;
        self.back_bytes -= delivery.publication.memory_size();
        Some(delivery)
    }
}

/// Whether a message may be left to the log, once it is there.
fn may_go(delivery: &Delivery) -> Option<Keep> {
    delivery.keep.filter(|_| delivery.share().is_none())
}

fn stub_of(delivery: &Delivery, keep: Keep) -> Stub {
    let size = u32::try_from(delivery.publication.memory_size()).unwrap_or(u32::MAX);
    Stub { keep, size, qos: delivery.qos }
}

impl Outbound {
    /// Leaves messages of the queue to the log, at most `count_max` of them: those behind the first `ahead` of which
    /// `is_kept` says that the log surely has them. `spares` is given what was in memory.
    pub fn spill(
        &mut self,
        ahead: usize,
        count_max: usize,
        is_kept: impl Fn(&Keep) -> bool,
        spares: &mut Spares,
    ) -> Spilled {
        let mut spilled = Spilled::default();
        if self.backlog.is_none() {
            let mut queued = self.queue.iter().enumerate().skip(ahead).take(count_max);
            let first = queued.find_map(|(at, delivery)| Some((at, may_go(delivery)?)));
            let Some((at, keep)) = first else { return spilled };
            if !is_kept(&keep) {
                spilled.more = true;
                return spilled;
            }
            self.backlog = Some(Box::new(self.split_queue(at)));
        }
        let Some(backlog) = &mut self.backlog else { return spilled };
        while spilled.messages + spilled.lost < count_max
            && let Some(first) = backlog.back.front()
        {
            match may_go(first) {
                Some(keep) if is_kept(&keep) => {
                    let earlier = backlog.stubs.insert(stub_of(first, keep));
                    debug_assert!(earlier.is_none(), "a message stands in a line once");
                    if let Some(Delivery { publication, .. }) = backlog.pop_back_line() {
                        spares.give(publication);
                    }
                    spilled.messages += 1;
                }
                Some(_) => break,
                None => {
                    let Some(stays) = backlog.pop_back_line() else { break };
                    if stays.qos == QoS::AtMostOnce && backlog.stubs.once_count() > 0 {
                        // [MQTT-4.6.0-6]: it must not overtake those, and is nowhere else.
                        self.queue_bytes -= stays.publication.memory_size();
                        self.queued_once -= 1;
                        self.gone.extend(stays.keep);
                        spilled.lost += 1;
                    } else {
                        self.is_mixed |= !backlog.stubs.is_empty();
                        self.queue.push_back(stays);
                    }
                }
            }
        }
        spilled.more = !backlog.back.is_empty();
        if backlog.back.capacity() > BACK_CAPACITY_MAX && backlog.back.len() < BACK_CAPACITY {
            // Grown while all of the line was in memory, it would go round through cold memory from now on.
            backlog.back.shrink_to(BACK_CAPACITY);
        }
        self.close_backlog();
        spilled
    }

    /// The queue behind its first `ahead` messages.
    fn split_queue(&mut self, ahead: usize) -> Backlog {
        let mut backlog = Backlog {
            stubs: Stubs::default(),
            back: std::mem::take(&mut self.queue),
            back_bytes: self.queue_bytes,
        };
        for _ in 0..ahead {
            self.queue.extend(backlog.pop_back_line());
        }
        backlog
    }

    /// Whether messages should be read from the log now, for a client that is there.
    #[inline]
    #[must_use]
    pub fn wants_load(&self) -> bool {
        if self.is_loading || (self.backlog.is_none() && self.unloaded == 0) {
            return false;
        }
        self.unloaded > 0
            || self.backlog.as_ref().is_some_and(|backlog| {
                let behind = backlog.stubs.bytes() + backlog.back_bytes;
                self.queue.len() < AHEAD_MESSAGES && self.queue_bytes - behind < AHEAD_BYTES
            })
    }

    /// The first message that is to be read, and its size, as far as it is known.
    #[must_use]
    pub fn first_to_load(&self) -> Option<(Keep, u32)> {
        let in_flight = self.in_flight.iter().filter(|_| self.unloaded > 0);
        let first = in_flight.filter(|entry| entry.is_unloaded()).find_map(|entry| entry.keep);
        first
            .map(|keep| (keep, keep.share))
            .or_else(|| self.backlog.as_ref()?.stubs.front().map(|stub| (stub.keep, stub.size)))
    }

    /// Takes back what was read: `fetch` is asked for one message after the other, until it has one not.
    pub fn load(&mut self, mut fetch: impl FnMut(&Keep) -> Fetched) -> Spilled {
        let mut loaded = Spilled::default();
        let mut at = self.sent;
        while self.unloaded > 0 && at < self.in_flight.len() {
            let entry = &mut self.in_flight[at];
            let Some(keep) = entry.keep.filter(|_| entry.is_unloaded()) else {
                at += 1;
                continue;
            };
            match fetch(&keep) {
                Fetched::Message(delivery) => {
                    entry.delivery = Some(Delivery { keep: Some(keep), ..delivery });
                    self.unloaded -= 1;
                    loaded.messages += 1;
                    at += 1;
                }
                Fetched::Lost => {
                    self.remove(at);
                    loaded.lost += 1;
                }
                Fetched::Elsewhere => return loaded,
            }
        }
        let Some(backlog) = &mut self.backlog else { return loaded };
        while let Some(stub) = backlog.stubs.front() {
            let fetched = fetch(&stub.keep);
            if matches!(fetched, Fetched::Elsewhere) {
                break;
            }
            backlog.stubs.pop_front();
            self.queue_bytes -= stub.size as usize;
            self.queued_once -= usize::from(stub.qos == QoS::AtMostOnce);
            if let Fetched::Message(delivery) = fetched {
                self.queue_bytes += delivery.publication.memory_size();
                self.queued_once += usize::from(delivery.qos == QoS::AtMostOnce);
                self.queue.push_back(Delivery { keep: Some(stub.keep), ..delivery });
                loaded.messages += 1;
            } else {
                self.gone.push(stub.keep);
                loaded.lost += 1;
            }
        }
        self.close_backlog();
        loaded
    }

    /// Gives up the first message that is to be read: it cannot be.
    pub fn give_up_first(&mut self) -> Spilled {
        let mut first = true;
        self.load(|_| match std::mem::take(&mut first) {
            true => Fetched::Lost,
            false => Fetched::Elsewhere,
        })
    }

    /// The client is gone: what was read ahead and not sent is left to the log again.
    pub fn unload(&mut self, is_kept: impl Fn(&Keep) -> bool) {
        let Some(backlog) = &mut self.backlog else { return };
        let oldest = backlog.stubs.front().map(|stub| stub.keep.message);
        let mut older = Vec::new();
        while let Some(last) = self.queue.back()
            && let Some(keep) = may_go(last)
            && is_kept(&keep)
            && older.last().map(|stub: &Stub| stub.keep.message).or(oldest) > Some(keep.message)
        {
            older.push(stub_of(last, keep));
            self.queue.pop_back();
        }
        backlog.stubs.prepend(older.into_iter().rev());
    }

    /// What the log alone has and `is_lost` names is no more. Returns how many messages.
    pub fn lose(&mut self, is_lost: impl Fn(&Keep) -> bool) -> usize {
        let lost: Vec<Keep> = self.keeps_in_log().filter(|keep| is_lost(keep)).collect();
        for keep in &lost {
            let in_flight = self.in_flight.iter().position(|entry| {
                entry.is_unloaded() && entry.keep.is_some_and(|one| one.message == keep.message)
            });
            if let Some(index) = in_flight {
                self.remove(index);
            } else if let Some(stub) =
                self.backlog.as_mut().and_then(|backlog| backlog.stubs.remove(keep.message))
            {
                self.queue_bytes -= stub.size as usize;
                self.queued_once -= usize::from(stub.qos == QoS::AtMostOnce);
                self.gone.push(*keep);
            }
        }
        self.close_backlog();
        lost.len()
    }

    /// Messages in flight or queued that are in memory and stand in the log, and those of which the client is known to have
    /// them: where.
    pub fn keeps_in_memory(&self) -> impl Iterator<Item = Keep> + '_ {
        let in_flight = self.in_flight.iter().filter(|entry| !entry.is_unloaded());
        let back = self.backlog.iter().flat_map(|backlog| &backlog.back);
        let queued = self.queue.iter().chain(back);
        in_flight.filter_map(|entry| entry.keep).chain(queued.filter_map(|queued| queued.keep))
    }

    /// Those that the log alone has.
    pub fn keeps_in_log(&self) -> impl Iterator<Item = Keep> + '_ {
        let in_flight = self.in_flight.iter().filter(|entry| entry.is_unloaded());
        let stubs = self.backlog.iter().flat_map(|backlog| backlog.stubs.iter());
        in_flight.filter_map(|entry| entry.keep).chain(stubs.map(|stub| stub.keep))
    }

    /// Queued messages that the log alone has, and their bytes.
    #[inline]
    #[must_use]
    pub fn in_log(&self) -> (usize, usize) {
        self.backlog.as_ref().map_or((0, 0), |one| (one.stubs.len(), one.stubs.bytes()))
    }

    /// Where a message stands in the log, and its packet id, when it has one.
    #[must_use]
    pub fn kept_at(&self, message: NonZeroU64) -> Option<(Keep, Option<PacketId>)> {
        if let Some(entry) = self.in_flight.iter().find(|entry| is_message(&entry.keep, message)) {
            return Some((entry.keep?, Some(entry.packet_id)));
        }
        let stub = self.backlog.as_ref().and_then(|backlog| backlog.stubs.get(message));
        if let Some(stub) = stub {
            return Some((stub.keep, None));
        }
        if let Some(at) = find(&self.queue, message, self.is_mixed) {
            return Some((self.queue[at].keep?, None));
        }
        let back = &self.backlog.as_ref()?.back;
        Some((back[find(back, message, false)?].keep?, None))
    }

    /// Notes that a message stands elsewhere now; whether it is in this line.
    pub fn move_kept(&mut self, keep: Keep) -> bool {
        if let Some(backlog) = &mut self.backlog
            && backlog.stubs.move_to(keep)
        {
            return true;
        }
        let mut in_flight = self.in_flight.iter_mut();
        if let Some(entry) = in_flight.find(|entry| is_message(&entry.keep, keep.message)) {
            entry.keep = Some(keep);
            return true;
        }
        if let Some(kept) = self.find_kept(keep.message) {
            *kept.keep = keep;
            return true;
        }
        false
    }

    /// Changes where each message that the log alone has stands, for which `place` knows another place.
    pub fn move_in_log(&mut self, mut place: impl FnMut(&Keep) -> Option<Keep>) {
        for entry in self.in_flight.iter_mut().filter(|entry| entry.is_unloaded()) {
            if let Some(keep) = entry.keep.and_then(|keep| place(&keep)) {
                entry.keep = Some(keep);
            }
        }
        if let Some(backlog) = &mut self.backlog {
            backlog.stubs.move_all(place);
        }
    }

    /// A delivery that is in memory and stands in the log, by its message.
    pub fn find_kept(&mut self, message: NonZeroU64) -> Option<Kept<'_>> {
        let mut in_flight = self.in_flight.iter_mut().filter(|entry| !entry.is_unloaded());
        if let Some(entry) = in_flight.find(|entry| is_message(&entry.keep, message)) {
            let InFlight { packet_id, delivery, keep, .. } = entry;
            let message = delivery.as_ref().map(|delivery| KeptMessage {
                publication: &delivery.publication,
                qos: delivery.qos,
                retain: delivery.retain,
                extra: &delivery.extra,
            });
            return Some(Kept { keep: keep.as_mut()?, packet_id: Some(*packet_id), message });
        }
        let queue = if let Some(at) = find(&self.queue, message, self.is_mixed) {
            self.queue.get_mut(at)
        } else {
            let back = &mut self.backlog.as_mut()?.back;
            let at = find(back, message, false)?;
            back.get_mut(at)
        };
        let Delivery { publication, qos, retain, extra, keep } = queue?;
        Some(Kept {
            keep: keep.as_mut()?,
            packet_id: None,
            message: Some(KeptMessage { publication, qos: *qos, retain: *retain, extra }),
        })
    }

    /// Puts a message back in flight after a restart that the log alone has, behind those put back before. It comes back when its
    /// packet id is another one's already: only a damaged log says so.
    #[must_use]
    pub fn restore_unloaded(&mut self, packet_id: PacketId, stub: Stub) -> Option<Stub> {
        if self.position(packet_id).is_some() {
            return Some(stub);
        }
        self.in_flight.push_back(InFlight {
            packet_id,
            stage: Stage::first(stub.qos),
            serial: 0,
            sent_before: true,
            delivery: None,
            keep: Some(stub.keep),
        });
        self.unloaded += 1;
        self.restored(packet_id);
        None
    }

    /// Puts back, behind what is queued already, what the log alone has, after a restart. No bound is asked: it was taken once.
    pub fn restore_backlog(&mut self, stubs: Stubs) {
        debug_assert!(self.backlog.is_none(), "once");
        if !stubs.is_empty() {
            self.is_mixed = !self.queue.is_empty();
            self.queue_bytes += stubs.bytes();
            self.queued_once += stubs.once_count();
            self.backlog = Some(Box::new(Backlog { stubs, ..Backlog::default() }));
        }
    }

    /// In the shard's line of queues of which a part is to be left to the log; the field is the shard's.
    pub fn is_listed_mut(&mut self) -> &mut bool {
        &mut self.is_listed
    }

    /// What comes is left to the log as soon as it is there, as long as the client is away; the field is the shard's.
    pub fn is_spilling_mut(&mut self) -> &mut bool {
        &mut self.is_spilling
    }

    /// Messages are being read from the log, or wait to be; the field is the shard's.
    pub fn is_loading_mut(&mut self) -> &mut bool {
        &mut self.is_loading
    }

    /// Reads that have failed one after the other; the field is the shard's.
    pub fn read_failures_mut(&mut self) -> &mut u8 {
        &mut self.read_failures
    }

    /// What is behind the last stub moves up when there is none any more.
    fn close_backlog(&mut self) {
        if let Some(mut backlog) = self.backlog.take_if(|backlog| backlog.stubs.is_empty()) {
            // The smaller of the two moves.
            let Backlog { back, .. } = &mut *backlog;
            if self.queue.len() < back.len() {
                std::mem::swap(&mut self.queue, back);
                while let Some(delivery) = back.pop_back() {
                    self.queue.push_front(delivery);
                }
            } else {
                self.queue.append(back);
            }
        }
        self.is_mixed &= !self.queue.is_empty();
    }
}

fn is_message(keep: &Option<Keep>, message: NonZeroU64) -> bool {
    keep.is_some_and(|keep| keep.message == message)
}

/// The place of a message in a line of which those that stand in the log are in the order of their ids, unless it `is_mixed`.
fn find(line: &VecDeque<Delivery>, message: NonZeroU64, is_mixed: bool) -> Option<usize> {
    if is_mixed {
        return line.iter().position(|delivery| is_message(&delivery.keep, message));
    }
    // Messages that are not kept (QoS 0, or while the log took none) stand in between: rare enough to step over. Whatever
    // is kept and left of where the search ends is older.
    let least =
        line.partition_point(|delivery| delivery.keep.is_some_and(|keep| keep.message < message));
    let rest = line.range(least..).enumerate();
    let mut reached =
        rest.skip_while(|(_, delivery)| delivery.keep.is_none_or(|keep| keep.message < message));
    let (at, delivery) = reached.next()?;
    is_message(&delivery.keep, message).then_some(least + at)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::outbound::{Acknowledged, DeliveryExtra, Offer, QueueLimits, Resend};
    use crate::{Publication, Time};

    const LIMITS: QueueLimits = QueueLimits { messages_max: 5_000, bytes_max: 1 << 30 };
    const NOW: Time = Time::from_seconds(1000);

    /// A line, and the log behind it.
    #[derive(Default)]
    struct Pair {
        outbound: Outbound,
        log: HashMap<u64, Delivery>,
        next: u64,
        spares: Spares,
        /// What stands in the log from this segment on is not synced.
        synced: u32,
    }

    impl Pair {
        fn offer(&mut self, payload: &str, qos: QoS, share: bool, window: u16) -> Option<u16> {
            let publication = Publication::new("t", b"", payload.as_bytes(), qos, false, None);
            let extra = share.then(|| {
                Box::new(DeliveryExtra { share: Some("$share/g/t".into()), ..Default::default() })
            });
            let delivery = Delivery {
                publication: Arc::new(publication),
                qos,
                retain: true,
                extra,
                keep: None,
            };
            self.next += 1;
            let message = NonZeroU64::new(self.next).unwrap();
            let keep = Keep { message, segment: 1, offset: self.next as u32 * 8, share: 9 };
            self.log.insert(self.next, delivery.clone());
            let offer = match qos {
                QoS::AtMostOnce => self.outbound.enqueue(delivery, &LIMITS),
                _ => self.outbound.offer(delivery, window, &LIMITS),
            };
            let given = match offer {
                Offer::Send(id, _) => Some(id.get()),
                Offer::Queued => None,
                Offer::Full(_) => panic!("full"),
            };
            self.outbound.keep_last(keep);
            self.outbound.check_integrity();
            given
        }

        fn queue(&mut self, payloads: &str) {
            for payload in payloads.split(' ') {
                assert_eq!(self.offer(payload, QoS::AtLeastOnce, false, 0), None);
            }
        }

        fn spill(&mut self, ahead: usize, count_max: usize) -> Spilled {
            let synced = self.synced;
            let spilled = self.outbound.spill(
                ahead,
                count_max,
                |keep| keep.segment <= synced,
                &mut self.spares,
            );
            self.outbound.check_integrity();
            spilled
        }

        /// Reads up to so many messages.
        fn load(&mut self, mut count: usize) -> Spilled {
            let log = &self.log;
            let loaded = self.outbound.load(|keep| {
                if count == 0 {
                    return Fetched::Elsewhere;
                }
                count -= 1;
                match log.get(&keep.message.get()) {
                    Some(delivery) => Fetched::Message(delivery.clone()),
                    None => Fetched::Lost,
                }
            });
            self.outbound.check_integrity();
            loaded
        }

        /// What leaves while the client acknowledges each message at once.
        fn drain(&mut self, window: u16) -> String {
            let mut left = Vec::new();
            let mut expired = 0;
            loop {
                let (id, text) = match self.outbound.next(window, NOW, &mut expired) {
                    None => break,
                    Some(Resend::Publish(id, delivery, _)) => (Some(id), text(delivery)),
                    Some(Resend::PublishOnce(delivery)) => (None, text(&delivery)),
                    Some(Resend::Release(_)) => panic!("nothing to release"),
                };
                left.push(text);
                if let Some(id) = id {
                    assert!(matches!(self.outbound.puback(id), Acknowledged::Done));
                }
                self.outbound.check_integrity();
            }
            left.join(" ")
        }
    }

    fn text(delivery: &Delivery) -> String {
        String::from_utf8(delivery.publication.payload().to_vec()).unwrap()
    }

    /// Out of memory and back, a few at a time, with others coming behind: the order stays, and so do the counts.
    #[test]
    fn a_backlog_comes_back_in_order() {
        let mut pair = Pair { synced: 1, ..Pair::default() };
        pair.queue("a b c d e f");
        assert_eq!(pair.spill(0, 4), Spilled { messages: 4, lost: 0, more: true });
        pair.queue("g");
        assert_eq!(pair.outbound.queued_count(), 7);
        let bytes = pair.outbound.queued_bytes();
        assert!(pair.outbound.has_waiting() && !pair.outbound.is_empty());
        // Nothing overtakes what is in the log, though the window is wide open.
        assert_eq!(pair.offer("h", QoS::AtLeastOnce, false, 9), None);
        assert_eq!(pair.drain(9), "");
        assert!(pair.outbound.wants_load());
        assert_eq!(pair.outbound.first_to_load().unwrap().0.message.get(), 1);
        assert_eq!(pair.load(3).messages, 3);
        assert!(pair.outbound.queued_bytes() > bytes);
        assert_eq!(pair.drain(9), "a b c");
        assert_eq!(pair.load(9).messages, 1);
        assert_eq!(pair.drain(9), "d e f g h");
        assert!(pair.outbound.is_empty() && !pair.outbound.wants_load());
        assert_eq!((pair.outbound.queued_bytes(), pair.outbound.in_log()), (0, (0, 0)));
        assert_eq!(pair.outbound.take_gone().count(), 8);
    }

    /// What the disk does not have yet stays, and what is next for a client that is there.
    #[test]
    fn only_what_is_kept_leaves_memory() {
        let mut pair = Pair::default();
        pair.queue("a b c d");
        assert_eq!(pair.spill(0, 9), Spilled { messages: 0, lost: 0, more: true });
        assert_eq!(pair.outbound.in_log().0, 0);
        pair.synced = 1;
        assert_eq!(pair.spill(3, 9), Spilled { messages: 1, lost: 0, more: false });
        assert_eq!(pair.drain(9), "a b c");
        assert_eq!(pair.spill(0, 9), Spilled::default());
        pair.load(1);
        assert_eq!(pair.drain(9), "d");
    }

    /// A shared subscription's messages stay in memory, to be given back, and in their own order.
    #[test]
    fn shared_messages_stay() {
        let mut pair = Pair { synced: 1, ..Pair::default() };
        for (payload, share) in [("A", true), ("b", false), ("C", true), ("d", false), ("E", true)]
        {
            pair.offer(payload, QoS::AtLeastOnce, share, 0);
        }
        assert_eq!(pair.spill(0, 9).messages, 2);
        assert_eq!(pair.outbound.in_log().0, 2);
        for message in 1..=5 {
            let message = NonZeroU64::new(message).unwrap();
            let (keep, _) = pair.outbound.kept_at(message).unwrap();
            assert!(pair.outbound.move_kept(Keep { segment: 7, ..keep }));
            assert_eq!(pair.outbound.kept_at(message).unwrap().0.segment, 7);
        }
        assert_eq!(pair.outbound.keeps_in_memory().count(), 3);
        assert_eq!(pair.outbound.keeps_in_log().count(), 2);
        assert_eq!(pair.drain(9), "A C E");
        pair.load(9);
        assert_eq!(pair.drain(9), "b d");
        pair.offer("F", QoS::AtLeastOnce, true, 0);
        pair.queue("g");
        pair.spill(0, 9);
        let back: Vec<String> = pair.outbound.into_undelivered().map(|d| text(&d)).collect();
        assert_eq!(back, ["F"]);
    }

    /// [MQTT-4.6.0-6]: QoS 0 is counted where it is, and does not overtake.
    #[test]
    fn once_waits_its_turn() {
        let mut pair = Pair { synced: 1, ..Pair::default() };
        for (payload, qos) in
            [("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce), ("c", QoS::AtMostOnce)]
        {
            pair.offer(payload, qos, false, 0);
        }
        pair.spill(0, 9);
        assert!(pair.outbound.has_queued_once());
        pair.load(9);
        assert_eq!(pair.drain(1), "a b c");
        assert!(!pair.outbound.has_queued_once());
    }

    /// A damaged record costs its message, whether it is queued or in flight.
    #[test]
    fn damage_costs_one_message() {
        let mut pair = Pair { synced: 1, ..Pair::default() };
        pair.queue("a b c d e");
        pair.spill(0, 9);
        pair.log.remove(&2);
        assert_eq!(pair.load(3), Spilled { messages: 2, lost: 1, more: false });
        assert_eq!(pair.outbound.give_up_first().lost, 1);
        assert_eq!(pair.outbound.lose(|keep| keep.message.get() == 5), 1);
        assert_eq!(pair.outbound.lose(|keep| keep.message.get() == 1), 0, "it is in memory");
        assert_eq!(pair.drain(9), "a c");
        assert_eq!(pair.outbound.take_gone().count(), 5);
    }

    /// A client that goes again leaves to the log what was read for it.
    #[test]
    fn what_was_read_ahead_goes_back() {
        let mut pair = Pair { synced: 1, ..Pair::default() };
        pair.queue("a b c d e f g");
        pair.spill(0, 9);
        pair.load(4);
        assert_eq!(pair.outbound.in_log().0, 3);
        pair.outbound.unload(|_| true);
        pair.outbound.check_integrity();
        assert_eq!(pair.outbound.in_log().0, 7);
        pair.load(2);
        assert_eq!(pair.drain(9), "a b");
        pair.load(9);
        assert_eq!(pair.drain(9), "c d e f g");
    }

    /// After a restart, what is in flight is read before it is sent again, and may be acknowledged before that.
    #[test]
    fn what_is_in_flight_may_be_in_the_log() {
        let mut pair = Pair { synced: 1, ..Pair::default() };
        pair.queue("a b c d e");
        pair.spill(0, 9);
        let mut stubs = Stubs::default();
        while let Some(stub) = pair.outbound.backlog.as_mut().and_then(|b| b.stubs.pop_front()) {
            stubs.insert(stub);
        }
        let mut again = Outbound::default();
        for id in [4, 9, 7] {
            let stub = stubs.pop_front().unwrap();
            assert_eq!(again.restore_unloaded(PacketId::new(id).unwrap(), stub), None);
        }
        let last = stubs.pop_front().unwrap();
        assert_eq!(again.restore_unloaded(PacketId::new(9).unwrap(), last), Some(last));
        stubs.insert(last);
        again.restore_backlog(stubs);
        again.check_integrity();
        pair.outbound = again;
        assert_eq!(pair.drain(9), "");
        assert!(matches!(pair.outbound.puback(PacketId::new(9).unwrap()), Acknowledged::Done));
        assert!(pair.outbound.wants_load());
        assert_eq!(pair.load(2).messages, 2);
        let mut expired = 0;
        for (expected, text_expected) in [(4, "a"), (7, "c")] {
            match pair.outbound.next(9, NOW, &mut expired) {
                Some(Resend::Publish(id, delivery, true)) => {
                    assert_eq!((id.get(), &*text(delivery)), (expected, text_expected));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(pair.outbound.next(9, NOW, &mut expired).is_none());
        pair.load(9);
        assert_eq!(pair.drain(9), "d e");
        assert_eq!(pair.outbound.in_flight_count(), 2);
    }
}

//! What stands between sockets and the shard on listeners that speak more than plain TCP.
//!
//! Each connection of such a listener has an entry here, found by its slot: its [`Layer`] and what is on its way to the
//! socket. The shard knows nothing of it. It gets the bytes of MQTT and its outputs back when the socket has taken what
//! they became. Connections of plain listeners have no entry: they pay one look at an empty table.
//!
//! # Queues
//! | queue | filled by | drained by | bound | when full |
//! |---|---|---|---|---|
//! | what an entry keeps of records, headers and frames | the socket | the rest of it | [`UNPROVEN_MAX`] for all that have not been answered; else one record each | the connection is closed |
//! | `pending`: bytes for the socket | the shard's output, answers of the layers | the socket | the shard's output, and [`ANSWERS_MAX`] | pings are not answered |
//! | `deferred`: handshakes of later turns | the socket | [`Layers::begin_turn`] | one receive for each connection | it is not read from |
//!
//! # Handshakes
//! A TLS handshake costs as much as hundreds of messages. A turn has a budget of them; what is beyond it waits, and
//! meanwhile is not read from, so that a storm of new clients does not stall the others.

use std::any::Any;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use midge_metrics::{TlsHandshake, TransportRefusal};
use midge_netring::{NetRing, Receive, Slot};
use midge_output::Output;
use midge_shard::{CertificateIdentity, Identity};
use midge_transport::{
    AlternativeName, CloseReason, Layer, Listener, PeerIdentity, Received, Scratch,
};

/// Handshake steps of one turn: about a millisecond.
const HANDSHAKES_PER_TURN: usize = 4;

/// What an entry may keep without being counted among the unproven.
const UNPROVEN_FREE: usize = 1024;

/// Bytes that one shard keeps of records, headers and frames of connections that it has not answered yet, at most. Beyond
/// it whoever keeps more than [`UNPROVEN_FREE`] is closed.
const UNPROVEN_MAX: usize = 8 << 20;

/// Bytes that wait for the socket, above which a peer's pings are not answered.
const ANSWERS_MAX: usize = 4096;

/// Empty outputs kept for the next use.
const POOL_MAX: usize = 256;

/// The shard's output that has gone through the layers, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    /// In `pending`.
    Pending,
    /// With the ring: its completion is the shard's.
    InFlight,
}

/// One connection with layers.
#[derive(Debug)]
pub(crate) struct Entry {
    layer: Layer,
    /// For the socket, when what is in flight has left.
    pending: Option<Box<Output>>,
    /// Received, and waiting for a turn that has time for a handshake.
    deferred: Option<Vec<u8>>,
    /// What the shard wants to receive.
    wish: Option<Receive>,
    /// What the ring was told to receive, as far as it has not.
    armed: Option<Receive>,
    owed: Owed,
    /// The ring has an output.
    sending: bool,
    /// On its way to another shard: nothing is sent from here any more.
    leaving: bool,
    /// The shard has said something: the client is one that it has accepted.
    answered: bool,
    /// The peer, or the layer, has ended it: nothing more is told.
    lost: bool,
    /// Counted in `unproven_bytes`.
    counted: usize,
}

/// What a received piece has become. The bytes of MQTT are in [`Layers::plain`].
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) identity: Option<(SocketAddr, Option<Box<Identity>>)>,
    /// The connection is over: in good order, or for a reason.
    pub(crate) end: Option<Result<(), (SocketAddr, CloseReason)>>,
}

/// What layers have counted: the numbers of the same names in the metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LayerCounters {
    pub(crate) refusals: [u64; TransportRefusal::COUNT],
    pub(crate) handshakes: [u64; TlsHandshake::COUNT],
}

/// All connections with layers of one shard.
#[derive(Debug)]
pub(crate) struct Layers {
    /// By listener.
    listeners: Arc<[Arc<Listener>]>,
    /// By slot; as long as the highest slot that has had layers.
    table: Vec<Option<Box<Entry>>>,
    deferred: VecDeque<Slot>,
    /// Connections whose output could not be encrypted.
    broken: Vec<(Slot, SocketAddr, CloseReason)>,
    budget: usize,
    unproven_bytes: usize,
    scratch: Scratch,
    /// Bytes of MQTT of the last step.
    pub(crate) plain: Vec<u8>,
    wire: Vec<u8>,
    #[expect(clippy::vec_box, reason = "the boxes travel to the net ring and back")]
    pool: Vec<Box<Output>>,
    pub(crate) counters: LayerCounters,
}

impl Layers {
    pub(crate) fn new(listeners: Arc<[Arc<Listener>]>) -> Self {
        Self {
            listeners,
            table: Vec::new(),
            deferred: VecDeque::new(),
            broken: Vec::new(),
            budget: HANDSHAKES_PER_TURN,
            unproven_bytes: 0,
            scratch: Scratch::default(),
            plain: Vec::new(),
            wire: Vec::new(),
            pool: Vec::new(),
            counters: LayerCounters::default(),
        }
    }

    /// New connections get these layers; those that are there keep theirs.
    pub(crate) fn replace_listeners(&mut self, listeners: Arc<[Arc<Listener>]>) {
        self.listeners = listeners;
    }

    /// Whether a connection has layers.
    #[inline]
    pub(crate) fn has(&self, slot: Slot) -> bool {
        self.table.get(slot.index() as usize).is_some_and(Option::is_some)
    }

    fn get(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.table.get_mut(slot.index() as usize)?.as_deref_mut()
    }

    fn put(&mut self, slot: Slot, entry: Box<Entry>) {
        let index = slot.index() as usize;
        if index >= self.table.len() {
            self.table.resize_with(index + 1, || None);
        }
        self.table[index] = Some(entry);
    }

    /// Puts layers on a new connection, if its listener has any.
    pub(crate) fn accept(
        &mut self,
        slot: Slot,
        listener: u16,
        peer: SocketAddr,
    ) -> Result<(), CloseReason> {
        let Some(listener) = self.listeners.get(usize::from(listener)) else { return Ok(()) };
        if listener.is_plain() {
            return Ok(());
        }
        let layer =
            Layer::new(listener, peer).inspect_err(|reason| self.counters.refuse(*reason))?;
        self.put(slot, Box::new(Entry::new(layer)));
        Ok(())
    }

    /// Takes in a connection that another shard's hands have packed.
    pub(crate) fn adopt(&mut self, slot: Slot, carried: Box<dyn Any + Send>, ring: &mut NetRing) {
        let entry = carried.downcast::<Entry>().expect("hands carry entries, nothing else");
        self.put(slot, entry);
        self.kick(slot, ring);
    }

    /// The connection moves to another shard. It receives nothing, and sends nothing more from here.
    pub(crate) fn leave(&mut self, slot: Slot) {
        if let Some(entry) = self.get(slot) {
            entry.leaving = true;
            entry.wish = None;
            entry.armed = None;
        }
    }

    /// The descriptor has moved: what the other shard's hands need.
    pub(crate) fn pack(&mut self, slot: Slot) -> Option<Box<dyn Any + Send>> {
        let mut entry = self.remove(slot)?;
        entry.leaving = false;
        Some(entry)
    }

    /// Forgets a connection.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Box<Entry>> {
        let mut entry = self.table.get_mut(slot.index() as usize)?.take()?;
        self.unproven_bytes -= std::mem::take(&mut entry.counted);
        Some(entry)
    }

    /// The descriptor has not moved.
    pub(crate) fn stay(&mut self, slot: Slot) {
        if let Some(entry) = self.get(slot) {
            entry.leaving = false;
        }
    }

    /// Whether any connection has had layers.
    #[inline]
    pub(crate) fn is_used(&self) -> bool {
        !self.table.is_empty()
    }

    /// Whether something waits that needs no event to go on.
    #[inline]
    pub(crate) fn wants_turn(&self) -> bool {
        !self.deferred.is_empty() || !self.broken.is_empty()
    }

    /// A new turn: there is time for handshakes again.
    #[inline]
    pub(crate) fn begin_turn(&mut self) {
        self.budget = HANDSHAKES_PER_TURN;
    }

    /// A handshake that waited and whose turn it is.
    pub(crate) fn next_deferred(&mut self) -> Option<(Slot, Vec<u8>)> {
        while self.budget > 0 {
            let slot = self.deferred.pop_front()?;
            // Gone, or another connection in its place.
            if let Some(bytes) = self.get(slot).and_then(|entry| entry.deferred.take()) {
                return Some((slot, bytes));
            }
        }
        None
    }

    /// A connection that failed while it was being sent to.
    pub(crate) fn next_broken(&mut self) -> Option<(Slot, SocketAddr, CloseReason)> {
        self.broken.pop()
    }

    /// Bytes from the socket. `None`: they wait for a turn with time for a handshake.
    pub(crate) fn receive(&mut self, slot: Slot, bytes: &[u8]) -> Option<Step> {
        self.plain.clear();
        self.wire.clear();
        let Self { table, scratch, plain, wire, budget, deferred, .. } = self;
        let entry = table.get_mut(slot.index() as usize)?.as_deref_mut()?;
        if entry.armed == Some(Receive::Once) {
            entry.armed = None;
        }
        if entry.lost {
            return Some(Step { identity: None, end: None });
        }
        if let Some(waiting) = &mut entry.deferred {
            waiting.extend_from_slice(bytes);
            return None;
        }
        if entry.layer.is_costly() {
            if *budget == 0 {
                entry.deferred = Some(bytes.to_vec());
                deferred.push_back(slot);
                return None;
            }
            *budget -= 1;
        }
        let answers = entry.pending.as_ref().is_none_or(|pending| pending.size() <= ANSWERS_MAX);
        let outcome = entry.layer.receive(bytes, answers, scratch, plain, wire);
        let identity = entry.layer.take_identity();
        let peer = entry.layer.peer();
        let end = match outcome {
            Ok(Received::Open) => self.bound_unproven(slot).map(|reason| Err((peer, reason))),
            Ok(Received::Ended) => Some(Ok(())),
            Err(reason) => Some(Err((peer, reason))),
        };
        if let Some(Err((_, reason))) = end {
            self.counters.refuse(reason);
        }
        if let Some(resumed) = identity.as_ref().and_then(|identity| identity.resumed) {
            let kind = if resumed { TlsHandshake::Resumed } else { TlsHandshake::Full };
            self.counters.handshakes[kind as usize] += 1;
        }
        if !self.wire.is_empty() {
            let wire = std::mem::take(&mut self.wire);
            self.pending(slot).extend(&wire);
            self.wire = wire;
        }
        Some(Step { identity: identity.map(translate), end })
    }

    /// Counts what a connection keeps that was not answered yet.
    fn bound_unproven(&mut self, slot: Slot) -> Option<CloseReason> {
        let entry = self.table.get_mut(slot.index() as usize)?.as_deref_mut()?;
        let kept = if entry.answered { 0 } else { entry.layer.kept_bytes() };
        self.unproven_bytes = self.unproven_bytes - entry.counted + kept;
        entry.counted = kept;
        (kept > UNPROVEN_FREE && self.unproven_bytes > UNPROVEN_MAX)
            .then_some(CloseReason::UnprovenInput)
    }

    fn pending(&mut self, slot: Slot) -> &mut Output {
        let Self { table, pool, .. } = self;
        let entry = table[slot.index() as usize].as_deref_mut().expect("a connection with layers");
        entry.pending.get_or_insert_with(|| pool.pop().unwrap_or_default())
    }

    /// After a step: sends what the layers have to say, and receives again if the shard still waits. Layers that have
    /// nothing left to do go away.
    pub(crate) fn go_on(&mut self, slot: Slot, delivered: bool, ring: &mut NetRing) {
        let Some(entry) = self.get(slot) else { return };
        if entry.leaving || entry.lost {
            return;
        }
        if delivered && entry.wish == Some(Receive::Once) {
            entry.wish = None;
        }
        if entry.layer.is_transparent() && entry.pending.is_none() && !entry.sending {
            let wish = entry.wish;
            self.remove(slot);
            if let Some(how) = wish {
                ring.receive(slot, how);
            }
            return;
        }
        self.arm(slot, ring);
    }

    fn arm(&mut self, slot: Slot, ring: &mut NetRing) {
        let Some(entry) = self.get(slot) else { return };
        // One piece at a time until MQTT is spoken: what a handshake has no time for stays in the kernel.
        let how = match entry.wish {
            Some(_) if !entry.layer.is_ready() => Some(Receive::Once),
            wish => wish,
        };
        if entry.deferred.is_none()
            && let Some(how) = how
            && entry.armed != Some(how)
        {
            entry.armed = Some(how);
            ring.receive(slot, how);
        }
    }

    /// What the shard wants to receive from now on.
    pub(crate) fn wish(&mut self, slot: Slot, wish: Option<Receive>, ring: &mut NetRing) {
        let Some(entry) = self.get(slot) else { return };
        entry.wish = wish;
        if wish.is_none() {
            entry.armed = None;
            ring.pause(slot);
        } else {
            self.arm(slot, ring);
        }
    }

    /// The shard's output.
    pub(crate) fn send(&mut self, slot: Slot, mut output: Box<Output>, ring: &mut NetRing) {
        let Self { table, scratch, pool, unproven_bytes, .. } = self;
        let Some(entry) = table[slot.index() as usize].as_deref_mut() else { return };
        entry.answered = true;
        *unproven_bytes -= std::mem::take(&mut entry.counted);
        let pending = entry.pending.get_or_insert_with(|| pool.pop().unwrap_or_default());
        let outcome = entry.layer.send(&mut output, scratch, pending);
        entry.owed = Owed::Pending;
        let peer = entry.layer.peer();
        self.recycle(output);
        if let Err(reason) = outcome {
            self.counters.refuse(reason);
            self.broken.push((slot, peer, reason));
        }
        self.kick(slot, ring);
    }

    /// The ring has sent an output. Gives it to whom it belongs.
    pub(crate) fn sent(
        &mut self,
        slot: Slot,
        output: Box<Output>,
        ring: &mut NetRing,
    ) -> Option<Box<Output>> {
        let entry = self.get(slot)?;
        entry.sending = false;
        let theirs = entry.owed == Owed::InFlight;
        if theirs {
            entry.owed = Owed::Nothing;
        }
        self.kick(slot, ring);
        if theirs {
            return Some(output);
        }
        self.recycle(output);
        None
    }

    /// The peer has closed, or the connection has failed: nobody is there to be told anything.
    pub(crate) fn lose(&mut self, slot: Slot) {
        if let Some(entry) = self.get(slot) {
            entry.lost = true;
        }
    }

    /// Before the ring closes it: says goodbye, as far as the socket takes it at once.
    pub(crate) fn close(&mut self, slot: Slot, ring: &mut NetRing) {
        let Self { table, scratch, wire, .. } = self;
        let Some(Some(entry)) = table.get_mut(slot.index() as usize) else { return };
        let silent = entry.lost || entry.sending || entry.leaving;
        if !silent {
            wire.clear();
            entry.layer.close(scratch, wire);
            if !wire.is_empty() {
                let wire = std::mem::take(wire);
                self.pending(slot).extend(&wire);
                self.wire = wire;
            }
        }
        self.kick(slot, ring);
        self.lose(slot);
    }

    /// Gives the ring what is pending, if it has nothing.
    pub(crate) fn kick(&mut self, slot: Slot, ring: &mut NetRing) {
        let Some(entry) = self.get(slot) else { return };
        if entry.sending || entry.leaving {
            return;
        }
        if let Some(output) = entry.pending.take() {
            entry.sending = true;
            if entry.owed == Owed::Pending {
                entry.owed = Owed::InFlight;
            }
            ring.send(slot, output);
        }
    }

    fn recycle(&mut self, mut output: Box<Output>) {
        if self.pool.len() < POOL_MAX {
            output.recycle();
            self.pool.push(output);
        }
    }

    /// Gives back what a burst has left behind.
    pub(crate) fn trim(&mut self) {
        const KEPT_MAX: usize = 64 * 1024;
        self.scratch.trim();
        for buffer in [&mut self.plain, &mut self.wire] {
            buffer.clear();
            buffer.shrink_to(KEPT_MAX);
        }
    }
}

impl Entry {
    fn new(layer: Layer) -> Self {
        Self {
            layer,
            pending: None,
            deferred: None,
            wish: None,
            armed: None,
            owed: Owed::Nothing,
            sending: false,
            leaving: false,
            answered: false,
            lost: false,
            counted: 0,
        }
    }
}

impl LayerCounters {
    fn refuse(&mut self, reason: CloseReason) {
        self.refusals[reason.index()] += 1;
    }
}

/// Into the shard's words. `None` when there is nothing to know but the address.
fn translate(identity: PeerIdentity) -> (SocketAddr, Option<Box<Identity>>) {
    let PeerIdentity { address, tls, resumed, certificate, authority } = identity;
    // The listener says already that its clients come over TLS.
    let news = certificate.is_some() || authority.is_some() || (tls && resumed.is_none());
    let certificate = certificate.map(|names| CertificateIdentity {
        common_name: names.common_name,
        subject: names.subject,
        alternative_names: names
            .alternative_names
            .iter()
            .map(|name| match name {
                AlternativeName::Dns(name) => format!("DNS:{name}").into(),
                AlternativeName::Email(name) => format!("email:{name}").into(),
                AlternativeName::Uri(name) => format!("URI:{name}").into(),
                AlternativeName::Ip(address) => format!("IP:{address}").into(),
                other => format!("{other:?}").into(),
            })
            .collect(),
    });
    (address, news.then(|| Box::new(Identity { tls, certificate, authority })))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The metrics name the reasons in their own list, because they know no transport.
    #[test]
    fn reasons_are_counted_under_their_names() {
        let names = CloseReason::ALL.map(CloseReason::name);
        assert_eq!(names, TransportRefusal::NAMES);
    }

    #[test]
    fn an_idle_entry_is_small() {
        assert!(size_of::<Entry>() <= size_of::<Layer>() + 64);
    }
}

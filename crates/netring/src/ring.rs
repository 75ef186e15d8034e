//! The ring: what its owner holds, one turn at a time.
//!
//! The owner's loop is: [`NetRing::turn`], then [`NetRing::next_event`] until `None`, calling whatever it likes in
//! between. Calls only queue operations; the next turn hands them to the kernel together and brings back what is done:
//! one system call for both. Nothing changes behind the owner's back between turns.

use std::{
    collections::{HashSet, VecDeque},
    fmt, io,
    marker::PhantomData,
    mem,
    net::{Ipv4Addr, TcpListener},
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use crate::{
    Counters, Event, ListenerId, NetRingError, Received, RingConfig, RingHandle, Slot, Wait, Waker,
    accept::{Listener, cancel_accept},
    buffers::Buffers,
    connection::HandOvers,
    file::FileOperations,
    handle::{Followers, Notifier, WakeSource},
    message::MessagePool,
    slot::{SlotState, SlotTable},
    sys,
    token::{Operation, Token},
    uring::{Completion, Uring},
};

/// How long the end of a ring waits for the kernel to give back memory before it leaks it.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Rings are numbered within the process, so that a buffer or a message finds only its own ring.
static NEXT_RING: AtomicU32 = AtomicU32::new(0);

/// Sockets over one io_uring. Belongs to the thread that makes it.
pub struct NetRing {
    pub(crate) uring: Uring,
    pub(crate) buffers: Buffers,
    pub(crate) slots: SlotTable,
    pub(crate) messages: MessagePool,
    pub(crate) hand_overs: HandOvers,
    pub(crate) files: FileOperations,
    pub(crate) counters: Counters,
    /// Events that no completion stands for. At most a few per call since the last turn.
    pub(crate) pending: VecDeque<Event>,
    /// Slots that are closed, until their owner takes `Closed`. Told after all that the kernel has said: what it has said
    /// may be the end of the slot's receive.
    pub(crate) ending: VecDeque<Slot>,
    /// Receives whose slot is freed already, until their last completion. They are cancelled: a turn or two.
    pub(crate) outliving: HashSet<Token>,
    /// Slots whose receive found no buffer, in the order in which they did. At most one entry per time that a slot was
    /// marked starving; entries whose mark is gone are skipped.
    pub(crate) starving: VecDeque<Slot>,
    /// Cancellations that missed: tried again in the next turn if the operation is still out.
    pub(crate) missed_cancels: Vec<Token>,
    /// Rings that we have sent to, by their number; kept so that a descriptor queued for the kernel stays theirs.
    targets: Vec<Option<RingHandle>>,
    listeners: Vec<Listener>,
    /// Some listener would like to arm an accept and may not: look again when a slot is freed.
    accepts_held: bool,
    /// Where the next search for such a listener begins, so that they take turns.
    listener_turn: usize,
    wake_source: WakeSource,
    /// Where rings of the same thread say that they have something to do; see [`NetRing::lead`].
    followers: Option<Followers>,
    handle: RingHandle,
    /// The handle's number, kept close because each message asks for it.
    id: u32,
    /// The ring is single-issuer: it must stay on its thread.
    _not_send: PhantomData<*const ()>,
}

impl NetRing {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel is too old, io_uring is forbidden, a limit is too low or a setting is out of its range; the error
    /// says what to do.
    pub fn new(config: &RingConfig) -> Result<Self, NetRingError> {
        let config = config.checked()?;
        let limit = sys::raise_descriptor_limit()
            .map_err(|error| NetRingError::system("reading the descriptor limit", &error))?;
        if u64::from(config.slots) > limit {
            return Err(NetRingError::TooFewDescriptors { slots: config.slots, limit });
        }
        let uring = Uring::new(config.entries, config.completion_entries)?;
        uring.inner().submitter().register_files_sparse(config.slots).map_err(|error| {
            NetRingError::system("registering the table of connections", &error)
        })?;
        let buffers = Buffers::new(&uring, config.receive_buffer_count, config.receive_buffer_size)
            .map_err(|error| NetRingError::system("registering receive buffers", &error))?;
        let wake_source = WakeSource::new()
            .map_err(|error| NetRingError::system("making the waker's sockets", &error))?;
        // SAFETY: the descriptor is the ring's, which is alive through the call.
        let descriptor = unsafe { BorrowedFd::borrow_raw(uring.inner().as_raw_fd()) };
        // Relaxed: the numbers only have to differ.
        let id = NEXT_RING.fetch_add(1, Ordering::Relaxed);
        let handle = RingHandle::new(descriptor, id)
            .map_err(|error| NetRingError::system("duplicating the ring's descriptor", &error))?;
        let mut ring = Self {
            uring,
            buffers,
            slots: SlotTable::new(config.slots),
            messages: MessagePool::default(),
            hand_overs: HandOvers::default(),
            files: FileOperations::default(),
            counters: Counters::default(),
            pending: VecDeque::new(),
            ending: VecDeque::new(),
            outliving: HashSet::new(),
            starving: VecDeque::new(),
            missed_cancels: Vec::new(),
            targets: Vec::new(),
            listeners: Vec::new(),
            accepts_held: false,
            listener_turn: 0,
            wake_source,
            followers: None,
            handle,
            id,
            _not_send: PhantomData,
        };
        ring.wake_source.read.arm(&mut ring.uring);
        Ok(ring)
    }

    /// Hands all queued operations to the kernel, runs its completion work, and waits as told if there is no event yet.
    /// One system call; none if there is nothing to submit, nothing to run and nothing to wait for.
    ///
    /// May return without an event: a signal came, or what happened concerns nobody outside.
    ///
    /// # Errors
    ///
    /// When the ring itself is unusable (used from a foreign thread, or the kernel lost completions). Nothing that
    /// happens to a connection is an error here.
    pub fn turn(&mut self, wait: Wait) -> io::Result<()> {
        if !self.starving.is_empty() {
            self.feed_starving();
        }
        if !self.missed_cancels.is_empty() {
            self.retry_cancels();
        }
        let ready = self.has_events();
        self.uring.enter(if ready { Wait::No } else { wait })
    }

    /// The next event of this turn. `None`: time for the next turn.
    #[inline]
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            let Some(completion) = self.uring.next_completion() else {
                let slot = self.ending.pop_front()?;
                self.free(slot);
                return Some(Event::Closed { slot });
            };
            self.counters.completions += 1;
            let event = self.complete(completion);
            if event.is_some() {
                return event;
            }
        }
    }

    /// Completions taken so far: the number in [`NetRing::counters`], which has more to gather.
    #[inline]
    #[must_use]
    pub fn completions(&self) -> u64 {
        self.counters.completions
    }

    /// Whether operations wait for a turn to hand them to the kernel.
    #[inline]
    pub fn has_operations(&mut self) -> bool {
        self.uring.has_operations()
    }

    /// Whether a turn would find something that has happened: an event, or work that the kernel has deferred to our next
    /// call. A few reads of memory, no system call.
    #[inline]
    pub fn has_work(&mut self) -> bool {
        self.uring.has_deferred_work()
            || self.has_events()
            || !self.starving.is_empty()
            || !self.missed_cancels.is_empty()
    }

    /// Whether an event can be had without a turn.
    pub fn has_events(&mut self) -> bool {
        !self.pending.is_empty() || !self.ending.is_empty() || self.uring.has_completions()
    }

    #[inline]
    fn complete(&mut self, completion: Completion) -> Option<Event> {
        let token = completion.token;
        match token.operation() {
            Some(Operation::Receive) => self.complete_receive(completion),
            Some(Operation::Send) => self.complete_send(token, completion.result),
            Some(Operation::Accept) => self.complete_accept(token, completion.result),
            Some(Operation::Close) => {
                self.complete_close(token, completion.result);
                None
            }
            Some(Operation::File) => self.complete_file(token, completion.result),
            Some(Operation::Connect) => self.complete_connect(token, completion.result),
            Some(Operation::Shutdown) => self.complete_shutdown(token),
            Some(Operation::HandOver) => self.complete_hand_over(token, completion.result),
            Some(Operation::Doorbell) => Some(Event::Doorbell),
            Some(Operation::DoorbellFailed) => self.complete_doorbell(token, completion.result),
            Some(Operation::Wake) => {
                self.wake_source.read.completed(&mut self.uring);
                Some(Event::Woken)
            }
            Some(Operation::Followers) => {
                if let Some(followers) = &mut self.followers {
                    followers.read.completed(&mut self.uring);
                }
                None
            }
            Some(
                Operation::CancelReceive
                | Operation::CancelSend
                | Operation::CancelConnect
                | Operation::CancelAccept,
            ) => {
                self.missed_cancels.push(token);
                None
            }
            Some(Operation::Install) | None => {
                self.counters.stale_completions += 1;
                None
            }
        }
    }

    /// The bytes that arrived.
    ///
    /// # Panics
    ///
    /// When `received` comes from another ring.
    #[inline]
    #[must_use]
    pub fn bytes(&self, received: &Received) -> &[u8] {
        assert_eq!(received.ring, self.id, "bytes of another ring");
        self.buffers.bytes(received.buffer, received.size)
    }

    /// The bytes that arrived, to be changed in place (unmasked, deciphered).
    ///
    /// # Panics
    ///
    /// When `received` comes from another ring.
    #[inline]
    #[must_use]
    pub fn bytes_mut(&mut self, received: &mut Received) -> &mut [u8] {
        assert_eq!(received.ring, self.id, "bytes of another ring");
        self.buffers.bytes_mut(received.buffer, received.size)
    }

    /// Gives the buffer back. Do so before the next turn, or other connections may find none.
    ///
    /// # Panics
    ///
    /// When `received` comes from another ring.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the value stands for the buffer")]
    pub fn recycle(&mut self, received: Received) {
        assert_eq!(received.ring, self.id, "a buffer of another ring");
        self.buffers.give(received.buffer);
    }

    /// Arms receives that found no buffer, as many as there are buffers now. Those that were left over from the turn before
    /// count as short again: so many peers are ready at a time.
    fn feed_starving(&mut self) {
        self.buffers.grow();
        for _ in 0..self.buffers.available() {
            let Some(slot) = self.starving.pop_front() else { break };
            if let Some(state) = self.slots.get(slot)
                && state.has(SlotState::STARVING)
            {
                state.clear(SlotState::STARVING);
                self.settle(slot);
            }
        }
    }

    /// A cancellation can miss an operation that the kernel is just about to look at again. Ask once more per turn
    /// until the operation has come back.
    fn retry_cancels(&mut self) {
        for token in mem::take(&mut self.missed_cancels) {
            let slot = token.slot();
            let (flag, operation) = match token.operation() {
                Some(Operation::CancelReceive) => (SlotState::RECEIVING, Operation::Receive),
                Some(Operation::CancelSend) => (SlotState::SENDING, Operation::Send),
                Some(Operation::CancelConnect) => (SlotState::CONNECTING, Operation::Connect),
                _ => {
                    let (listener, cell) = (token.generation(), token.index());
                    if self.listeners[listener as usize].is_armed(cell) {
                        self.counters.cancels_retried += 1;
                        cancel_accept(&mut self.uring, listener, cell);
                    }
                    continue;
                }
            };
            let target = Token::new(operation, token.generation(), slot.index());
            let is_out = match self.slots.current(slot, token.generation()) {
                Some(state) if operation == Operation::Receive => {
                    state.has(flag) && state.has(SlotState::RECEIVE_CANCELLED)
                }
                Some(state) => state.has(flag),
                None => self.outliving.contains(&target),
            };
            if is_out {
                self.counters.cancels_retried += 1;
                self.uring.cancel(target, token);
            }
        }
    }

    /// Accepts connections from `socket`, with up to `accepts_in_flight` accepts with the kernel at a time (at least
    /// one; 16 to 64 keeps up with a storm).
    ///
    /// # Errors
    ///
    /// When the socket cannot be made blocking, which a ring needs.
    pub fn listen(
        &mut self,
        socket: TcpListener,
        listener: ListenerId,
        accepts_in_flight: u16,
    ) -> io::Result<()> {
        // The kernel would answer "try again" at once for a non-blocking socket instead of waiting for a peer.
        socket.set_nonblocking(false)?;
        let listener = Listener::new(socket, listener, accepts_in_flight);
        match self.listeners.iter_mut().find(|place| place.is_closed()) {
            Some(place) => *place = listener,
            None => self.listeners.push(listener),
        }
        self.arm_accepts();
        Ok(())
    }

    /// Stops accepting and closes all listeners. A connection that was accepted just before may still be reported.
    pub fn stop_listening(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            listener.stop(&mut self.uring, index as u32);
        }
    }

    /// Stops accepting on one listener and closes it. What the kernel holds for it and nobody has accepted is closed with it;
    /// connections that were accepted stay.
    pub fn stop_listener(&mut self, listener: ListenerId) {
        for (index, place) in self.listeners.iter_mut().enumerate() {
            if place.id == listener {
                place.stop(&mut self.uring, index as u32);
            }
        }
    }

    /// The sockets of a listener, to change what connections inherit that are accepted from now on.
    pub fn listening_sockets(&self, listener: ListenerId) -> impl Iterator<Item = &TcpListener> {
        let places = self.listeners.iter();
        places
            .filter(move |place| place.id == listener && !place.is_stopping())
            .filter_map(Listener::socket)
    }

    /// Tries again to accept on listeners that are paused. A freed slot does so by itself; call this now and then in
    /// case it was the system's table that was full, or the listener that failed.
    pub fn resume_accepts(&mut self) {
        for listener in &mut self.listeners {
            listener.paused = false;
        }
        self.arm_accepts();
    }

    /// Arms as many accepts as there is room for.
    fn arm_accepts(&mut self) {
        let mut in_flight: usize = self.listeners.iter().map(Listener::in_flight).sum();
        let free = self.slots.free() as usize;
        // A listener may be paused by a slot that a hand-over took from under its accept, with slots free as far as we knew.
        self.accepts_held = self.listeners.iter().any(|listener| listener.paused);
        self.listener_turn = self.listener_turn.wrapping_add(1);
        for offset in 0..self.listeners.len() {
            let index = self.listener_turn.wrapping_add(offset) % self.listeners.len();
            let listener = &mut self.listeners[index];
            while listener.wants_accept() {
                if in_flight >= free && (free == 0 || listener.in_flight() > 0) {
                    self.accepts_held = true;
                    break;
                }
                listener.arm(&mut self.uring, index as u32);
                in_flight += 1;
            }
            if listener.wants_accept() && listener.in_flight() == 0 {
                self.pause_listener(index, libc::ENFILE);
            }
        }
    }

    fn pause_listener(&mut self, index: usize, errno: i32) {
        let listener = &mut self.listeners[index];
        self.accepts_held = true;
        if !mem::replace(&mut listener.paused, true) {
            self.counters.accept_pauses += 1;
            self.pending.push_back(Event::AcceptPaused { listener: listener.id, errno });
        }
    }

    /// To be called when the kernel has freed a slot.
    pub(crate) fn slot_freed(&mut self) {
        if self.accepts_held {
            self.resume_accepts();
        }
    }

    fn complete_accept(&mut self, token: Token, result: i32) -> Option<Event> {
        let index = token.generation() as usize;
        let listener = &mut self.listeners[index];
        let address = listener.completed(token.index());
        let id = listener.id;
        let mut event = None;
        match result {
            0.. => {
                let slot = Slot::new(result as u32);
                self.slots.open(slot);
                self.counters.accepts += 1;
                // Only a listener that is not an Internet socket has a peer without an address.
                let peer = address.unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into());
                event = Some(Event::Accepted { slot, peer, listener: id });
            }
            _ if listener.is_stopping() => {}
            _ => match -result {
                errno @ (libc::ENFILE
                | libc::EMFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EBADF
                | libc::EINVAL
                | libc::ENOTSOCK
                | libc::EOPNOTSUPP) => self.pause_listener(index, errno),
                // The peer went away before we took it, or a firewall said no: the next, please.
                _ => self.counters.accept_failures += 1,
            },
        }
        let listener = &mut self.listeners[index];
        if listener.is_stopping() {
            listener.close_when_drained();
        } else {
            self.arm_accepts();
        }
        event
    }

    /// Rings another ring's doorbell: it will report `Doorbell`, and wakes if it waits. Leaves with the next turn, and
    /// costs no system call of its own.
    pub fn ring_doorbell(&mut self, target: &RingHandle) {
        self.counters.doorbells += 1;
        self.remember(target);
        self.push_doorbell(target.descriptor(), target.id());
    }

    fn push_doorbell(&mut self, descriptor: i32, id: u32) {
        self.uring.ring_doorbell(
            descriptor,
            Token::new(Operation::Doorbell, 0, 0),
            Token::new(Operation::DoorbellFailed, 0, id),
        );
    }

    fn complete_doorbell(&mut self, token: Token, result: i32) -> Option<Event> {
        match (-result, self.targets.get(token.index() as usize)) {
            // The kernel was short of memory. Nobody else will wake that shard, so try until it works.
            (libc::ENOMEM | libc::EAGAIN | libc::EINTR, Some(Some(target))) => {
                let descriptor = target.descriptor();
                self.push_doorbell(descriptor, token.index());
            }
            _ => self.counters.doorbell_failures += 1,
        }
        None
    }

    /// Keeps the target's descriptor open for as long as we may have queued operations that name it.
    pub(crate) fn remember(&mut self, target: &RingHandle) {
        let index = target.id() as usize;
        if index >= self.targets.len() {
            self.targets.resize(index + 1, None);
        }
        let place = &mut self.targets[index];
        if place.is_none() {
            *place = Some(target.clone());
        }
    }

    pub(crate) fn ring_id(&self) -> u32 {
        self.id
    }

    /// This ring's address, for other rings.
    #[must_use]
    pub fn handle(&self) -> RingHandle {
        self.handle.clone()
    }

    /// A way for any thread to wake this ring.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.wake_source.waker()
    }

    /// A descriptor that becomes readable when the ring has something to do, while [`NetRing::notify`] is on. For a
    /// loop that parks elsewhere than in [`NetRing::turn`]; one per ring. Waiting for the ring's own descriptor instead
    /// does not work: work that the kernel defers to our next turn does not make it readable.
    ///
    /// To park without losing anything: `notify(true)`, then `turn(Wait::No)`, and if there is no event even now, wait
    /// for the descriptor. To go on: `notify(false)` and [`Notifier::drain`].
    ///
    /// # Errors
    ///
    /// `EBUSY` when there is one already; what the system says otherwise.
    pub fn notifier(&mut self) -> io::Result<Notifier> {
        let notifier = Notifier::new(&self.uring)?;
        self.uring.notify(false);
        Ok(notifier)
    }

    /// From now on a wait of this ring ends, too, when one of `others` has something to do, as far as its
    /// [`NetRing::notify`] is on: so that one thread sleeps for all of its rings in one system call. Off at first.
    ///
    /// To sleep without losing anything: `notify(true)` for each of the others, then, if none of them
    /// [has work](NetRing::has_work) even now, nor operations, a turn of this ring that waits. No event tells of the end of
    /// such a wait.
    ///
    /// # Errors
    ///
    /// When one of the others has a [`NetRing::notifier`] or a leader already, this one leads already, or the system has no
    /// descriptor left.
    pub fn lead<'a>(
        &mut self,
        others: impl Iterator<Item = &'a mut NetRing>,
    ) -> Result<(), NetRingError> {
        let failed = |error| NetRingError::system("having one ring wait for others", &error);
        if self.followers.is_some() {
            return Err(failed(io::Error::from_raw_os_error(libc::EBUSY)));
        }
        let mut followers = Followers::new().map_err(failed)?;
        for other in others {
            followers.register(&other.uring).map_err(failed)?;
            other.uring.notify(false);
        }
        followers.read.arm(&mut self.uring);
        self.followers = Some(followers);
        Ok(())
    }

    /// Switches the notifier's signals (or those to a leader) on or off. No system call; an awake loop keeps them off and spares the kernel
    /// the signalling.
    pub fn notify(&mut self, on: bool) {
        self.uring.notify(on);
    }

    /// Gives back memory that a burst took. To be called every few seconds; costs a few microseconds, more after a burst.
    pub fn trim(&mut self) {
        self.buffers.trim();
    }

    /// What the ring has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            enters: self.uring.enters,
            submissions_spilled: self.uring.spilled,
            ..self.counters
        }
    }

    /// Slots in use: accepted, connecting or adopted, and not yet `Closed`. The kernel needs one more turn to free the
    /// slot of a `Closed`.
    #[must_use]
    pub fn slots_in_use(&self) -> u32 {
        self.slots.in_use()
    }

    /// All slots of the table.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.capacity()
    }

    /// Receive buffers that nobody holds.
    #[must_use]
    pub fn receive_buffers_free(&self) -> u32 {
        self.buffers.free()
    }

    /// Our own memory for connections, in bytes, without outputs in flight.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes()
    }

    /// Takes back what the kernel holds of our memory, by closing everything. Whether it gave back all in time.
    fn drain(&mut self) -> bool {
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        self.stop_listening();
        self.wake_source.retire();
        if let Some(followers) = &mut self.followers {
            followers.retire();
        }
        for slot in self.slots.in_use_slots() {
            self.close(slot);
        }
        loop {
            if self.turn(Wait::For(DRAIN_TIME_MAX / 100)).is_err() {
                return false;
            }
            while self.next_event().is_some() {}
            let open = self.listeners.iter().any(|listener| !listener.is_closed());
            if !open
                && !self.wake_source.read.is_armed()
                && !self.followers.as_ref().is_some_and(|followers| followers.read.is_armed())
                && self.slots.in_use() == 0
                && self.outliving.is_empty()
                && self.files.is_empty()
            {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
        }
    }
}

impl Drop for NetRing {
    fn drop(&mut self) {
        let drained = self.drain();
        // Closes all connections even if handles keep the ring itself alive.
        let _ = self.uring.inner().submitter().unregister_files();
        let released = self.buffers.release(&self.uring).is_ok();
        if !(drained && released) {
            // Better to lose memory than to let the kernel write into what has become something else.
            let empty = SlotTable::new(0);
            mem::forget(mem::replace(&mut self.slots, empty));
            mem::forget(mem::take(&mut self.listeners));
            self.files.leak();
            self.wake_source.read.leak();
            if let Some(followers) = &mut self.followers {
                followers.read.leak();
            }
            self.buffers.leak();
        }
    }
}

impl fmt::Debug for NetRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NetRing")
            .field("id", &self.id)
            .field("slots_in_use", &self.slots.in_use())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SLOTS_MAX;

    #[test]
    fn a_table_beyond_the_descriptor_limit_is_refused() {
        let limit = sys::raise_descriptor_limit().unwrap();
        let result = NetRing::new(&RingConfig { slots: SLOTS_MAX, ..RingConfig::default() });
        match result {
            Ok(_) => assert!(limit >= u64::from(SLOTS_MAX)),
            Err(error) => {
                assert_eq!(error, NetRingError::TooFewDescriptors { slots: SLOTS_MAX, limit });
            }
        }
        let fitting = RingConfig::slots_within_limit(SLOTS_MAX);
        assert!(u64::from(fitting) <= limit);
        NetRing::new(&RingConfig { slots: fitting, ..RingConfig::default() }).unwrap();
    }

    #[test]
    #[should_panic(expected = "bytes of another ring")]
    fn a_buffer_belongs_to_its_ring() {
        let ring = NetRing::new(&RingConfig { slots: 1, ..RingConfig::default() }).unwrap();
        let foreign = Received { ring: ring.id + 1, size: 1, buffer: 0 };
        let _ = ring.bytes(&foreign);
    }

    #[test]
    fn many_rings_come_and_go_without_a_descriptor_left() {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let config = RingConfig { slots: 8, ..RingConfig::default() };
        drop(NetRing::new(&config).unwrap());
        let before = count();
        for _ in 0..100 {
            drop(NetRing::new(&config).unwrap());
        }
        // Other tests of this process run beside this one.
        assert!(count() < before + 100);
    }
}

//! One connection's life: receive, send, shut down, hand over, close.
//!
//! The owner's calls and the kernel's completions both only change a slot's flags; [`NetRing::settle`] then looks at the
//! flags and starts whatever should be with the kernel and is not. So each race (the peer closes while the hand-over is
//! on its way, the owner closes while a send fails) is one more combination of flags, not one more path.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    os::fd::AsRawFd,
};

use io_uring::opcode;
use midge_output::Output;

use crate::{
    Event, NetRing, Receive, Received, RingHandle, Slot, message,
    slot::SlotState,
    sys::{self, RawAddress},
    token::{Operation, Token},
    uring::Completion,
};

/// `IORING_FILE_INDEX_ALLOC`: the kernel chooses the place in the table.
const PLACE_OF_KERNELS_CHOICE: i32 = -1;

/// A hand-over that has not been answered.
#[derive(Clone, Copy, Debug)]
struct HandOver {
    token: u64,
    target_descriptor: i32,
}

/// Hand-overs under way. Filled by [`NetRing::hand_over`], emptied by the kernel's answers; bounded by the slots.
#[derive(Debug, Default)]
pub(crate) struct HandOvers {
    entries: Vec<HandOver>,
    free: Vec<NonZeroU32>,
}

impl HandOvers {
    fn insert(&mut self, entry: HandOver) -> NonZeroU32 {
        if let Some(key) = self.free.pop() {
            self.entries[key.get() as usize - 1] = entry;
            return key;
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len())
            .ok()
            .and_then(NonZeroU32::new)
            .expect("as many hand-overs as slots, a million at most")
    }

    fn get(&self, key: NonZeroU32) -> HandOver {
        self.entries[key.get() as usize - 1]
    }

    fn remove(&mut self, key: NonZeroU32) -> HandOver {
        self.free.push(key);
        self.get(key)
    }
}

impl NetRing {
    /// Starts receiving, once or until paused. May be called at any time; the last wish counts.
    pub fn receive(&mut self, slot: Slot, how: Receive) {
        let Some(state) = self.slots.get(slot) else { return not_open() };
        if state.has(SlotState::CLOSING | SlotState::FAILED) || state.hand_over.is_some() {
            return;
        }
        state.wish = Some(how);
        self.settle(slot);
    }

    /// Stops receiving. Bytes that have already left the socket may still be reported; nothing is lost.
    pub fn pause(&mut self, slot: Slot) {
        let Some(state) = self.slots.get(slot) else { return not_open() };
        state.wish = None;
        self.settle(slot);
    }

    /// Sends the output. One at a time per slot: `Sent` gives it back when the kernel has taken all of it; when the
    /// connection fails or is closed first, the output is dropped. Not to be called between `hand_over` and its answer.
    ///
    /// # Panics
    ///
    /// When an output is in flight on this slot already, or the output is larger than 4 GiB.
    #[inline]
    pub fn send(&mut self, slot: Slot, output: Box<Output>) {
        let Some(state) = self.slots.get(slot) else { return not_open() };
        assert!(state.output.is_none(), "one send at a time");
        if state.has(SlotState::CLOSING | SlotState::FAILED) {
            return;
        }
        assert!(u32::try_from(output.size()).is_ok(), "an output beyond 4 GiB");
        debug_assert!(state.hand_over.is_none(), "a send during a hand-over");
        if output.is_empty() {
            self.pending.push_back(Event::Sent { slot, output });
            return;
        }
        state.sent = 0;
        state.output = Some(output);
        message::send(&mut self.uring, &mut self.messages, slot, state);
    }

    /// Tells the peer that we send no more, after the output in flight. Receiving goes on.
    pub fn shutdown(&mut self, slot: Slot) {
        let Some(state) = self.slots.get(slot) else { return not_open() };
        state.set(SlotState::SHUTDOWN_WANTED);
        self.settle(slot);
    }

    /// Ends the connection: cancels what is in flight, closes the socket, and ends with `Closed`. An output in flight is
    /// cut off; wait for its `Sent` to end politely. Once is enough, twice does no harm.
    ///
    /// A hand-over that is already on its way is still answered before `Closed`: if it succeeded, the other ring has the
    /// connection.
    pub fn close(&mut self, slot: Slot) {
        let Some(state) = self.slots.get(slot) else { return not_open() };
        if state.has(SlotState::CLOSING) {
            return;
        }
        state.set(SlotState::CLOSING);
        state.wish = None;
        self.settle(slot);
    }

    /// Moves the connection to another ring: receiving stops, an output in flight is finished, then the descriptor goes.
    /// Answered by `HandedOver` and then `Closed`, or by `HandOverFailed`. Bytes received until the answer are
    /// reported here and are the owner's to pass on.
    ///
    /// # Panics
    ///
    /// When a hand-over of this slot is under way already.
    pub fn hand_over(&mut self, slot: Slot, target: &RingHandle, token: u64) {
        self.remember(target);
        let Some(state) = self.slots.get(slot) else { return not_open() };
        assert!(state.hand_over.is_none(), "one hand-over at a time");
        if state.has(SlotState::CLOSING | SlotState::FAILED) {
            // In front: the slot's last event may be waiting already.
            self.pending.push_front(Event::HandOverFailed { token, slot, errno: libc::ENOTCONN });
            return;
        }
        state.wish = None;
        let target_descriptor = target.descriptor();
        state.hand_over = Some(self.hand_overs.insert(HandOver { token, target_descriptor }));
        self.settle(slot);
    }

    /// Takes a connection that another ring has handed over to this one. It receives when told to.
    ///
    /// # Panics
    ///
    /// When the slot is in use or beyond the table: then it is not what the other ring's `HandedOver` said.
    pub fn adopt(&mut self, slot: Slot) {
        self.slots.open(slot);
    }

    /// Opens a connection, from `source` if given (its port is the kernel's choice). Answered by `Connected` or
    /// `ConnectFailed`. Costs a system call per connection, and no descriptor beyond the call.
    ///
    /// # Errors
    ///
    /// `ENFILE` when the table is full, or what the system says about the socket or the source address.
    pub fn connect(&mut self, remote: SocketAddr, source: Option<IpAddr>) -> io::Result<Slot> {
        let socket = sys::stream_socket(remote)?;
        sys::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        if let Some(source) = source {
            // The port is then chosen at connect, when the kernel knows the whole tuple: many more connections fit.
            sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            sys::bind(&socket, SocketAddr::new(source, 0))?;
        }
        let slot = self.install(socket.as_raw_fd())?;
        drop(socket);
        let state = self.slots.open(slot);
        self.counters.connects += 1;
        let address = RawAddress::new(remote);
        message::connect(&mut self.uring, &mut self.messages, slot, state, address);
        Ok(slot)
    }

    /// Puts a descriptor into the table, at a place of the kernel's choice.
    fn install(&mut self, descriptor: i32) -> io::Result<Slot> {
        let token = Token::new(Operation::Install, 0, 0);
        // Leaked rather than freed if the kernel should never answer.
        let place = Box::into_raw(Box::new(descriptor));
        let entry = opcode::FilesUpdate::new(place, 1).offset(PLACE_OF_KERNELS_CHOICE).build();
        // SAFETY: `place` is a heap allocation of one descriptor that is not touched until the completion is there.
        unsafe { self.uring.push(entry.user_data(token.bits())) };
        let result = self.uring.complete_now(token)?;
        // SAFETY: allocated above, and the kernel is done with it.
        let place = unsafe { Box::from_raw(place) };
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        Ok(Slot::new(*place as u32))
    }

    /// Starts what the slot's flags ask for and the kernel does not have yet.
    pub(crate) fn settle(&mut self, slot: Slot) {
        let Some(state) = self.slots.get(slot) else { return };
        let generation = state.generation;
        let token = |operation| Token::new(operation, generation, slot.index());

        if state.has(SlotState::CLOSING) {
            // What waits on the peer has to be told; what does not comes back by itself. A receive may outlive the slot:
            // `free` tells it.
            if state.has(SlotState::SENDING) && !state.has(SlotState::SEND_CANCELLED) {
                self.uring.cancel(token(Operation::Send), token(Operation::CancelSend));
                state.set(SlotState::SEND_CANCELLED);
            }
            if state.has(SlotState::CONNECTING) && !state.has(SlotState::CONNECT_CANCELLED) {
                self.uring.cancel(token(Operation::Connect), token(Operation::CancelConnect));
                state.set(SlotState::CONNECT_CANCELLED);
            }
            if !state.has(SlotState::HOLDS_SLOT | SlotState::CLOSED) {
                if let Some(key) = state.hand_over.take() {
                    // It never left.
                    let errno = libc::ECANCELED;
                    let token = self.hand_overs.remove(key).token;
                    self.pending.push_back(Event::HandOverFailed { token, slot, errno });
                }
                state.set(SlotState::CLOSED);
                self.ending.push_back(slot);
            }
            return;
        }

        if state.has(SlotState::SHUTDOWN_WANTED)
            && !state.has(SlotState::SENDING | SlotState::CONNECTING | SlotState::HANDING_OVER)
        {
            state.clear(SlotState::SHUTDOWN_WANTED);
            state.set(SlotState::SHUTTING_DOWN);
            self.uring.shutdown(slot, token(Operation::Shutdown));
        }

        let armed = state.has(SlotState::RECEIVING);
        let unwanted = match state.wish {
            None => armed,
            Some(Receive::Once) => state.has(SlotState::RECEIVING_ON),
            Some(Receive::Continuous) => false,
        };
        if unwanted && !state.has(SlotState::RECEIVE_CANCELLED) {
            state.set(SlotState::RECEIVE_CANCELLED);
            self.uring.cancel(token(Operation::Receive), token(Operation::CancelReceive));
        }
        if !armed && !state.has(SlotState::STARVING | SlotState::CONNECTING) {
            match state.wish {
                None => {}
                Some(Receive::Once) => {
                    state.set(SlotState::RECEIVING_ONCE);
                    let size = self.buffers.size();
                    self.uring.receive_once(slot, size, token(Operation::Receive));
                }
                Some(Receive::Continuous) => {
                    state.set(SlotState::RECEIVING_ON);
                    self.uring.receive_on(slot, token(Operation::Receive));
                }
            }
        }

        if let Some(key) = state.hand_over
            && !state.has(SlotState::IN_FLIGHT)
        {
            state.set(SlotState::HANDING_OVER);
            let target = self.hand_overs.get(key).target_descriptor;
            self.uring.hand_over(slot, target, token(Operation::HandOver));
        }
    }

    /// Reports that the connection is broken, once.
    fn fail(&mut self, slot: Slot, errno: i32) -> Option<Event> {
        let state = self.slots.get(slot)?;
        if state.has(SlotState::FAILED | SlotState::CLOSING) {
            self.settle(slot);
            return None;
        }
        state.wish = None;
        if let Some(key) = state.hand_over.take() {
            let token = self.hand_overs.remove(key).token;
            self.pending.push_back(Event::HandOverFailed { token, slot, errno });
        }
        state.set(SlotState::FAILED);
        self.settle(slot);
        Some(Event::Failed { slot, errno })
    }

    #[inline]
    pub(crate) fn complete_receive(&mut self, completion: Completion) -> Option<Event> {
        let token = completion.token;
        let (slot, result) = (token.slot(), completion.result);
        let buffer = completion.buffer();
        if let Some(id) = buffer {
            self.buffers.take(id);
        }
        let more = completion.more();
        let Some(state) = self.slots.current(slot, token.generation()) else {
            if let Some(id) = buffer {
                self.buffers.give(id);
            }
            if !more && !self.outliving.remove(&token) {
                self.counters.stale_completions += 1;
            }
            return None;
        };
        if !more {
            state.clear(SlotState::RECEIVING | SlotState::RECEIVE_CANCELLED);
        }
        if let (1.., Some(id)) = (result, buffer)
            && !state.has(SlotState::CLOSING)
        {
            self.counters.receives += 1;
            self.counters.bytes_received += result as u64;
            if state.wish == Some(Receive::Once) {
                state.wish = None;
            }
            if !more && state.wish == Some(Receive::Continuous) {
                self.counters.receive_rearms += 1;
            }
            if !more || state.wish.is_none() {
                self.settle(slot);
            }
            let ring = self.ring_id();
            let data = Received { ring, size: result as u32, buffer: id };
            return Some(Event::Received { slot, data });
        }
        if let Some(id) = buffer {
            self.buffers.give(id);
        }
        self.complete_receive_without_bytes(slot, result)
    }

    #[cold]
    fn complete_receive_without_bytes(&mut self, slot: Slot, result: i32) -> Option<Event> {
        let state = self.slots.get(slot)?;
        if state.has(SlotState::CLOSING) {
            self.settle(slot);
            return None;
        }
        match result {
            // A peer that closes while the connection is being handed over is news for the other ring: its first
            // receive will find the same.
            0 if state.hand_over.is_some() => self.settle(slot),
            0 => {
                let known = state.has(SlotState::FAILED);
                state.wish = None;
                self.settle(slot);
                return (!known).then_some(Event::PeerClosed { slot });
            }
            _ => match -result {
                libc::ENOBUFS => {
                    self.counters.buffers_exhausted += 1;
                    state.set(SlotState::STARVING);
                    self.starving.push_back(slot);
                    self.settle(slot);
                }
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {
                    if state.wish == Some(Receive::Continuous) {
                        self.counters.receive_rearms += 1;
                    }
                    self.settle(slot);
                }
                errno => return self.fail(slot, if errno > 0 { errno } else { libc::EIO }),
            },
        }
        None
    }

    #[inline]
    pub(crate) fn complete_send(&mut self, token: Token, result: i32) -> Option<Event> {
        let slot = token.slot();
        let Some(state) = self.slots.current(slot, token.generation()) else {
            self.counters.stale_completions += 1;
            return None;
        };
        state.clear(SlotState::SENDING | SlotState::SEND_CANCELLED);
        let size = state.output.as_ref().map_or(0, |output| output.size());
        if result > 0 {
            self.counters.sends += 1;
            self.counters.bytes_sent += result as u64;
            state.sent += result as u32;
        }
        let done = state.sent as usize == size;
        let again = result > 0 || matches!(-result, libc::EAGAIN | libc::EINTR);
        if !done && again && !state.has(SlotState::CLOSING) {
            self.counters.sends_continued += 1;
            message::send(&mut self.uring, &mut self.messages, slot, state);
            return None;
        }
        if let Some(message) = state.message.take() {
            self.messages.give(message);
        }
        let output = state.output.take();
        if state.has(SlotState::CLOSING) {
            self.settle(slot);
            return None;
        }
        if !done {
            return self.fail(slot, if result < 0 { -result } else { libc::EIO });
        }
        if state.has(SlotState::SHUTDOWN_WANTED) || state.hand_over.is_some() {
            self.settle(slot);
        }
        output.map(|output| Event::Sent { slot, output })
    }

    pub(crate) fn complete_connect(&mut self, token: Token, result: i32) -> Option<Event> {
        let slot = token.slot();
        let Some(state) = self.slots.current(slot, token.generation()) else {
            self.counters.stale_completions += 1;
            return None;
        };
        state.clear(SlotState::CONNECTING | SlotState::CONNECT_CANCELLED);
        if let Some(message) = state.message.take() {
            self.messages.give(message);
        }
        let closing = state.has(SlotState::CLOSING);
        if result < 0 {
            state.wish = None;
            state.set(SlotState::FAILED);
            if let Some(key) = state.hand_over.take() {
                let token = self.hand_overs.remove(key).token;
                self.pending.push_back(Event::HandOverFailed { token, slot, errno: -result });
            }
        }
        self.settle(slot);
        match result {
            _ if closing => None,
            0.. => Some(Event::Connected { slot }),
            _ => Some(Event::ConnectFailed { slot, errno: -result }),
        }
    }

    pub(crate) fn complete_shutdown(&mut self, token: Token) -> Option<Event> {
        // Its failure means that the connection is gone, and a receive or a send says so better.
        if let Some(state) = self.slots.current(token.slot(), token.generation()) {
            state.clear(SlotState::SHUTTING_DOWN);
            self.settle(token.slot());
        } else {
            self.counters.stale_completions += 1;
        }
        None
    }

    pub(crate) fn complete_hand_over(&mut self, token: Token, result: i32) -> Option<Event> {
        let slot = token.slot();
        let Some(state) = self.slots.current(slot, token.generation()) else {
            self.counters.stale_completions += 1;
            return None;
        };
        state.clear(SlotState::HANDING_OVER);
        let key = state.hand_over.take()?;
        let token = self.hand_overs.remove(key).token;
        let event = if result >= 0 {
            // Whether the owner has closed it meanwhile or not: ours is done with, theirs must be told of.
            state.set(SlotState::CLOSING);
            self.counters.hand_overs += 1;
            Event::HandedOver { token, slot, target_slot: Slot::new(result as u32) }
        } else {
            self.counters.hand_over_failures += 1;
            Event::HandOverFailed { token, slot, errno: -result }
        };
        self.settle(slot);
        Some(event)
    }

    /// The owner takes the slot's last event: now the kernel may have it back.
    ///
    /// A receive that is still out holds the socket, not the slot: it is cancelled here, and its last completion finds
    /// nobody. So the peer sees the end with the next system call, not two later; and a receive that has ended
    /// meanwhile, because the peer closed too, needs no cancelling.
    pub(crate) fn free(&mut self, slot: Slot) {
        if let Some(state) = self.slots.get(slot)
            && state.has(SlotState::RECEIVING)
        {
            let receive = Token::new(Operation::Receive, state.generation, slot.index());
            self.outliving.insert(receive);
            if !state.has(SlotState::RECEIVE_CANCELLED) {
                let cancel = Token::new(Operation::CancelReceive, state.generation, slot.index());
                self.uring.cancel(receive, cancel);
            }
        }
        self.slots.close(slot);
        self.counters.closes += 1;
        self.uring.close(slot, Token::new(Operation::Close, 0, slot.index()));
    }

    pub(crate) fn complete_close(&mut self, token: Token, result: i32) {
        if matches!(-result, libc::EINTR | libc::EAGAIN | libc::ENOMEM) {
            self.uring.close(token.slot(), token);
            return;
        }
        self.slots.freed();
        self.slot_freed();
    }
}

/// A call for a slot that is not open: the owner's mistake, and harmless, because it is ignored.
fn not_open() {
    debug_assert!(false, "a call for a slot that is not open");
}

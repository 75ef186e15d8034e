//! The two queues of one io_uring: operations in, completions out, and nothing lost on the way.
//!
//! # Invariants
//! - An operation that was pushed is submitted, in order, sooner or later: a full submission queue is flushed, and if the
//!   kernel does not take it just then, operations wait in `spill` for the next turn.
//! - A completion is seen once: from `backlog` (completions taken early to make room), then from the queue.
//! - The thread that made the ring is the only one that enters it. The kernel checks that (single issuer), and runs
//!   completion work only inside our own calls (deferred task-run), so nothing here changes between them.

use std::{
    collections::VecDeque,
    io,
    sync::atomic::{Ordering, fence},
    time::Duration,
};

use io_uring::{EnterFlags, IoUring, cqueue, squeue, types};

use crate::{NetRingError, Slot, Wait, sys, token::Token};

/// Least kernel version, major and minor: the first with deferred task-run.
pub const KERNEL_VERSION_MIN: (u32, u32) = (6, 1);

/// Least kernel version that can wait before it tries to accept.
const ACCEPT_POLL_FIRST_VERSION_MIN: (u32, u32) = (6, 10);

/// `IORING_ACCEPT_POLL_FIRST`.
const ACCEPT_POLL_FIRST: u16 = 1 << 2;

/// The one buffer group of each ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// What the kernel says when an operation is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) token: Token,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl Completion {
    #[inline]
    fn new(entry: &cqueue::Entry) -> Self {
        Self {
            token: Token::from_bits(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        }
    }

    /// The receive buffer that the kernel chose.
    #[inline]
    pub(crate) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether more completions of the same operation follow.
    #[inline]
    pub(crate) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }
}

pub(crate) struct Uring {
    ring: IoUring,
    spill: VecDeque<squeue::Entry>,
    backlog: VecDeque<Completion>,
    /// Flags of every waiting enter.
    wait_flags: EnterFlags,
    /// Whether the kernel knows [`ACCEPT_POLL_FIRST`].
    accept_polls_first: bool,
    pub(crate) enters: u64,
    pub(crate) spilled: u64,
}

impl Uring {
    pub(crate) fn new(entries: u32, completion_entries: u32) -> Result<Self, NetRingError> {
        let mut builder = IoUring::builder();
        builder
            .setup_cqsize(completion_entries)
            .setup_clamp()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .dontfork();
        let ring = match builder.clone().setup_no_sqarray().build(entries) {
            // Before 6.6 there is no such flag, and it is worth one memory read per operation, not a refusal.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(entries),
            other => other,
        }
        .map_err(|error| explain_setup(&error))?;
        let params = ring.params();
        if !params.is_feature_ext_arg() || !params.is_feature_skip_cqe_on_success() {
            return Err(too_old());
        }
        // A parked broker would otherwise count as a core waiting for a disk, in every tool that shows it.
        let wait_flags = if params.is_feature_no_iowait() {
            EnterFlags::GETEVENTS | EnterFlags::NO_IOWAIT
        } else {
            EnterFlags::GETEVENTS
        };
        Ok(Self {
            ring,
            spill: VecDeque::new(),
            backlog: VecDeque::new(),
            wait_flags,
            accept_polls_first: sys::kernel_version()
                .is_some_and(|found| found >= ACCEPT_POLL_FIRST_VERSION_MIN),
            enters: 0,
            spilled: 0,
        })
    }

    pub(crate) fn inner(&self) -> &IoUring {
        &self.ring
    }

    /// Queues an operation for the next enter.
    ///
    /// # Safety
    ///
    /// Memory that the entry points to must stay valid, and must not be written by us (nor read, if the kernel writes
    /// it), until the operation's last completion has been taken.
    #[inline]
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry) {
        if self.spill.is_empty() {
            // SAFETY: passed on to our caller.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.push_to_full(entry);
    }

    /// Queues two operations, the second to be started only when the first, which carries the flag that says so, has done
    /// all of its work.
    ///
    /// The kernel knows a link only within what one call submits. They go together unless it takes nothing just now; so
    /// whoever needs the order checks that the second did not complete before the first.
    ///
    /// # Safety
    ///
    /// As for [`Uring::push`], for both.
    pub(crate) unsafe fn push_linked(&mut self, first: squeue::Entry, second: squeue::Entry) {
        let queue = self.ring.submission();
        let room = queue.capacity() - queue.len();
        drop(queue);
        if room < 2 {
            // A failure here is met again, and reported, by the next turn.
            let _ = self.flush();
        }
        // SAFETY: passed on to our caller.
        unsafe {
            self.push(first);
            self.push(second);
        }
    }

    #[cold]
    fn push_to_full(&mut self, entry: squeue::Entry) {
        self.spill.push_back(entry);
        // A failure here is met again, and reported, by the next turn.
        let _ = self.flush();
        self.spilled += self.spill.len() as u64;
    }

    /// Submits everything that waits, without taking completions.
    fn flush(&mut self) -> io::Result<()> {
        loop {
            let count = self.ring.submission().len();
            match self.enter_raw(count, 0, EnterFlags::empty(), None) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
                Ok(0) => return Ok(()),
                Ok(_) => {}
            }
            self.unspill();
            if self.spill.is_empty() {
                return Ok(());
            }
        }
    }

    /// Moves what waits into the submission queue. Whether anything moved.
    fn unspill(&mut self) -> bool {
        let mut moved = false;
        let mut queue = self.ring.submission();
        while let Some(entry) = self.spill.front() {
            // SAFETY: whoever pushed the entry promised what `push` asks for.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.spill.pop_front();
            moved = true;
        }
        moved
    }

    /// Whether completions are ready to be taken.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.backlog.is_empty() || !self.ring.completion().is_empty()
    }

    /// Whether anything waits to be submitted.
    #[inline]
    pub(crate) fn has_operations(&mut self) -> bool {
        !self.ring.submission().is_empty() || !self.spill.is_empty()
    }

    /// Whether the kernel waits for an enter, to do what it has deferred or to tell what had no room.
    #[inline]
    pub(crate) fn has_deferred_work(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Switches the signals to a registered event counter on or off.
    pub(crate) fn notify(&mut self, on: bool) {
        let queue = self.ring.completion();
        if on {
            queue.enable_eventfd();
            // The kernel says that it has work for us and then looks whether to signal it; we ask for signals and then look
            // whether it has. One of us sees what the other has said.
            fence(Ordering::SeqCst);
        } else {
            queue.disable_eventfd();
        }
    }

    /// Submits what was pushed and runs the kernel's completion work: one system call, or none if there is
    /// nothing to submit, nothing to run and nothing to wait for.
    ///
    /// Since 6.13 the kernel does about 20 pieces of deferred work per enter and leaves the rest, with a flag, to the next.
    /// Entering again at once to gather larger batches was tried: it costs as much as it saves.
    pub(crate) fn enter(&mut self, mut wait: Wait) -> io::Result<()> {
        if !self.spill.is_empty() {
            self.unspill();
        }
        loop {
            if !self.spill.is_empty() {
                wait = Wait::No;
            }
            let queue = self.ring.submission();
            let (count, must_enter) = (queue.len(), queue.taskrun() || queue.cq_overflow());
            drop(queue);
            if count == 0 && !must_enter && wait == Wait::No {
                return Ok(());
            }
            let entered = match wait {
                Wait::No => self.enter_raw(count, 0, EnterFlags::GETEVENTS, None),
                Wait::Forever => self.enter_raw(count, 1, self.wait_flags, None),
                Wait::For(limit) => self.enter_raw(count, 1, self.wait_flags, Some(limit)),
            };
            match entered.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)) {
                Ok(_) => {}
                // A signal, or the time is over: the caller looks at what there is.
                Err(libc::EINTR | libc::ETIME) => return Ok(()),
                // The kernel wants its completions taken, or has no memory just now. What was not submitted stays
                // queued for the next turn.
                Err(libc::EBUSY | libc::EAGAIN) => return Ok(()),
                Err(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
            if !self.unspill() {
                return Ok(());
            }
        }
    }

    fn enter_raw(
        &mut self,
        submit: usize,
        complete: u32,
        flags: EnterFlags,
        limit: Option<Duration>,
    ) -> io::Result<usize> {
        self.enters += 1;
        let submitter = self.ring.submitter();
        let submit = submit as u32;
        match limit {
            // SAFETY: there is no argument to be invalid.
            None => unsafe {
                submitter.enter::<libc::sigset_t>(submit, complete, flags.bits(), None)
            },
            Some(limit) => {
                let limit = types::Timespec::from(limit);
                let arguments = types::SubmitArgs::new().timespec(&limit);
                let flags = flags | EnterFlags::EXT_ARG;
                // SAFETY: the flag says that the argument is of this type, and it lives through the call.
                unsafe { submitter.enter(submit, complete, flags.bits(), Some(&arguments)) }
            }
        }
    }

    /// Takes the next completion.
    #[inline]
    pub(crate) fn next_completion(&mut self) -> Option<Completion> {
        if !self.backlog.is_empty() {
            return self.backlog.pop_front();
        }
        self.ring.completion().next().as_ref().map(Completion::new)
    }

    /// Submits and takes completions early until the one with this token is there; the others keep their order.
    /// For operations that the kernel finishes while it submits them.
    pub(crate) fn complete_now(&mut self, token: Token) -> io::Result<i32> {
        let mut seen = 0;
        loop {
            self.enter(Wait::No)?;
            self.backlog.extend(self.ring.completion().map(|entry| Completion::new(&entry)));
            for index in seen..self.backlog.len() {
                if self.backlog[index].token == token {
                    return self
                        .backlog
                        .remove(index)
                        .map(|completion| completion.result)
                        .ok_or_else(|| io::ErrorKind::NotFound.into());
                }
            }
            seen = self.backlog.len();
        }
    }

    /// Queues an operation that points to no memory of ours.
    #[inline]
    fn push_plain(&mut self, entry: squeue::Entry) {
        // SAFETY: none of the entries that come here carries an address.
        unsafe { self.push(entry) }
    }

    /// One receive into a buffer that the kernel picks from the ring's buffers.
    #[inline]
    pub(crate) fn receive_once(&mut self, slot: Slot, buffer_size: u32, token: Token) {
        let entry = io_uring::opcode::Recv::new(fixed(slot), std::ptr::null_mut(), buffer_size)
            .buf_group(BUFFER_GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(token.bits());
        self.push_plain(entry);
    }

    /// Receives until cancelled, each into a buffer that the kernel picks.
    #[inline]
    pub(crate) fn receive_on(&mut self, slot: Slot, token: Token) {
        let entry = io_uring::opcode::RecvMulti::new(fixed(slot), BUFFER_GROUP)
            .build()
            .user_data(token.bits());
        self.push_plain(entry);
    }

    /// Accepts one connection into a slot of the kernel's choice, and writes its peer's address.
    ///
    /// The kernel makes the new socket and its file before it looks whether anybody is there, and throws them away if
    /// not. Most accepts find nobody when they are queued, so it is told to look first where it knows how.
    ///
    /// # Safety
    ///
    /// As for [`Uring::push`], for the address and its size.
    pub(crate) unsafe fn accept(
        &mut self,
        listener: types::Fd,
        address: *mut libc::sockaddr,
        size: *mut libc::socklen_t,
        token: Token,
    ) {
        let mut entry = io_uring::opcode::Accept::new(listener, address, size)
            .file_index(Some(types::DestinationSlot::auto_target()))
            .build()
            .user_data(token.bits());
        if self.accept_polls_first {
            set_io_priority(&mut entry, ACCEPT_POLL_FIRST);
        }
        // SAFETY: passed on to our caller.
        unsafe { self.push(entry) }
    }

    /// Frees a slot of the table, which closes the socket unless another table holds it too.
    pub(crate) fn close(&mut self, slot: Slot, token: Token) {
        self.push_plain(io_uring::opcode::Close::new(fixed(slot)).build().user_data(token.bits()));
    }

    /// Ends our direction of the connection.
    pub(crate) fn shutdown(&mut self, slot: Slot, token: Token) {
        let entry = io_uring::opcode::Shutdown::new(fixed(slot), libc::SHUT_WR).build();
        self.push_plain(entry.user_data(token.bits()));
    }

    /// Cancels the operation called `target`. Says nothing when that works: the operation itself completes.
    pub(crate) fn cancel(&mut self, target: Token, token: Token) {
        let entry = io_uring::opcode::AsyncCancel::new(target.bits())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(token.bits());
        self.push_plain(entry);
    }

    /// Puts the slot's socket into another ring's table, at a place of the kernel's choice, without a word to the other
    /// ring. The completion's result is the place.
    pub(crate) fn hand_over(&mut self, slot: Slot, target_ring: i32, token: Token) {
        /// `IORING_MSG_RING_CQE_SKIP`: the other side hears of it through the mesh.
        const SKIP_TARGET_COMPLETION: u32 = 1;
        let entry = io_uring::opcode::MsgRingSendFd::new(
            types::Fd(target_ring),
            types::Fixed(slot.index()),
            types::DestinationSlot::auto_target(),
            0,
        )
        .opcode_flags(SKIP_TARGET_COMPLETION)
        .build()
        .user_data(token.bits());
        self.push_plain(entry);
    }

    /// Posts a completion with the token `message` to another ring. Says nothing when that works.
    pub(crate) fn ring_doorbell(&mut self, target_ring: i32, message: Token, token: Token) {
        let entry =
            io_uring::opcode::MsgRingData::new(types::Fd(target_ring), 0, message.bits(), None)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(token.bits());
        self.push_plain(entry);
    }
}

/// Sets the field that operations on sockets take their own flags from. The crate has no way to do so for an accept.
fn set_io_priority(entry: &mut squeue::Entry, flags: u16) {
    /// `offsetof(struct io_uring_sqe, ioprio)`.
    const OFFSET: usize = 2;
    const _: () = assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= 2);
    // SAFETY: an entry is one `io_uring_sqe`, 64 bytes that any value may stand in; the field lies within, is aligned, and
    // the entry is borrowed for us alone.
    unsafe { std::ptr::from_mut(entry).cast::<u8>().add(OFFSET).cast::<u16>().write(flags) }
}

/// The slot as the kernel's operations name it.
#[inline]
pub(crate) fn fixed(slot: Slot) -> types::Fixed {
    types::Fixed(slot.index())
}

fn too_old() -> NetRingError {
    NetRingError::KernelTooOld { found: sys::kernel_version().unwrap_or_default() }
}

/// Why `io_uring_setup` failed.
fn explain_setup(error: &io::Error) -> NetRingError {
    match error.raw_os_error() {
        Some(libc::EINVAL) => too_old(),
        Some(libc::ENOSYS) => NetRingError::NotBuiltIn,
        Some(libc::EPERM | libc::EACCES) => {
            match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
                .ok()
                .and_then(|text| text.trim().parse().ok())
            {
                None | Some(0) => NetRingError::Forbidden,
                Some(value) => NetRingError::DisabledBySysctl { value },
            }
        }
        Some(libc::ENOMEM) => NetRingError::LockedMemory,
        Some(libc::EMFILE | libc::ENFILE) => NetRingError::NoDescriptorLeft,
        _ => NetRingError::system("io_uring_setup", error),
    }
}

/// Whether this kernel, as it is set up for this process, can run a [`NetRing`](crate::NetRing).
///
/// # Errors
///
/// Says what is missing and what to do about it.
pub fn check_kernel() -> Result<(), NetRingError> {
    if sys::kernel_version().is_some_and(|found| found < KERNEL_VERSION_MIN) {
        return Err(too_old());
    }
    let uring = Uring::new(2, 4)?;
    let mut probe = io_uring::Probe::new();
    uring
        .inner()
        .submitter()
        .register_probe(&mut probe)
        .map_err(|error| NetRingError::system("io_uring_register", &error))?;
    let needed = [
        io_uring::opcode::Accept::CODE,
        io_uring::opcode::Recv::CODE,
        io_uring::opcode::Send::CODE,
        io_uring::opcode::SendMsg::CODE,
        io_uring::opcode::Close::CODE,
        io_uring::opcode::Connect::CODE,
        io_uring::opcode::Shutdown::CODE,
        io_uring::opcode::AsyncCancel::CODE,
        io_uring::opcode::MsgRingData::CODE,
        io_uring::opcode::FilesUpdate::CODE,
        io_uring::opcode::Read::CODE,
    ];
    if needed.iter().all(|&code| probe.is_supported(code)) { Ok(()) } else { Err(too_old()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Operation;

    #[test]
    fn this_kernel_will_do() {
        check_kernel().unwrap();
    }

    #[test]
    fn each_refusal_of_the_kernel_has_its_own_sentence() {
        for (errno, expected) in [
            (libc::EINVAL, too_old()),
            (libc::ENOSYS, NetRingError::NotBuiltIn),
            (libc::ENOMEM, NetRingError::LockedMemory),
            (libc::EMFILE, NetRingError::NoDescriptorLeft),
            (libc::EIO, NetRingError::System { step: "io_uring_setup", errno: libc::EIO }),
        ] {
            assert_eq!(explain_setup(&io::Error::from_raw_os_error(errno)), expected);
        }
        // Which of the two depends on the sysctl of this machine.
        let error = explain_setup(&io::Error::from_raw_os_error(libc::EPERM));
        assert!(matches!(error, NetRingError::Forbidden | NetRingError::DisabledBySysctl { .. }));
    }

    #[test]
    fn operations_beyond_the_queue_are_not_lost() {
        let mut uring = Uring::new(4, 8).unwrap();
        for index in 0..1000 {
            let entry = io_uring::opcode::Nop::new().build();
            uring.push_plain(entry.user_data(Token::new(Operation::Send, 0, index).bits()));
        }
        let mut next = 0;
        while next < 1000 {
            uring.enter(Wait::No).unwrap();
            while let Some(completion) = uring.next_completion() {
                assert_eq!(completion.token.index(), next);
                next += 1;
            }
        }
        assert!(!uring.has_completions());
    }

    #[test]
    fn a_completion_can_be_fetched_out_of_turn() {
        let mut uring = Uring::new(4, 8).unwrap();
        let token = |index| Token::new(Operation::Send, 0, index);
        for index in 0..20 {
            let entry = io_uring::opcode::Nop::new().build();
            uring.push_plain(entry.user_data(token(index).bits()));
        }
        assert_eq!(uring.complete_now(token(13)).unwrap(), 0);
        let mut rest = Vec::new();
        while rest.len() < 19 {
            uring.enter(Wait::No).unwrap();
            while let Some(completion) = uring.next_completion() {
                rest.push(completion.token.index());
            }
        }
        assert_eq!(rest, (0..20).filter(|index| *index != 13).collect::<Vec<_>>());
    }

    #[test]
    fn waiting_ends_with_the_time() {
        let mut uring = Uring::new(4, 8).unwrap();
        uring.enter(Wait::For(Duration::from_millis(1))).unwrap();
        assert!(!uring.has_completions());
        let before = uring.enters;
        uring.enter(Wait::No).unwrap();
        assert_eq!(uring.enters, before, "nothing to do costs no system call");
    }
}

//! Sends: the kernel reads straight from the output's own memory.
//!
//! Without spliced payloads an output is one slice and a plain `SEND` names it. With them it is a list of slices, and a
//! `SENDMSG` needs that list in memory that stays where it is: a [`Message`], pooled, held by the slot while the send is
//! in flight.

use std::{mem, ptr};

use io_uring::opcode;

use crate::{
    slot::{Slot, SlotState},
    sys::RawAddress,
    token::{Operation, Token},
    uring::{Uring, fixed},
};

/// Slices of one vectored send, the kernel's own bound. The rest of a longer list goes with the next send.
const SLICES_MAX: usize = 1024;

/// Bytes of one send. The kernel moves less than 2 GiB at a time; the rest goes with the next send.
const SEND_SIZE_MAX: usize = 1 << 30;

/// Messages kept for reuse.
const POOLED_MAX: usize = 64;

/// Never a signal for a broken connection. And the kernel itself goes on after a partial send, which saves us a turn.
const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// Memory that the kernel reads while a vectored send or a connect is in flight.
#[derive(Debug)]
pub(crate) struct Message {
    header: libc::msghdr,
    slices: Vec<libc::iovec>,
    address: RawAddress,
}

/// Messages between uses.
#[derive(Debug, Default)]
pub(crate) struct MessagePool {
    // Boxed because the kernel knows the address of one in use.
    #[expect(clippy::vec_box, reason = "what is pooled is the allocation")]
    free: Vec<Box<Message>>,
}

impl MessagePool {
    fn take(&mut self) -> Box<Message> {
        self.free.pop().unwrap_or_else(|| {
            // SAFETY: all fields of the header are integers and pointers, for which zero is valid.
            let header = unsafe { mem::zeroed() };
            Box::new(Message { header, slices: Vec::new(), address: RawAddress::room() })
        })
    }

    pub(crate) fn give(&mut self, mut message: Box<Message>) {
        if self.free.len() < POOLED_MAX {
            message.slices.clear();
            message.slices.shrink_to(SLICES_MAX / 8);
            self.free.push(message);
        }
    }
}

/// Starts sending what is left of the slot's output.
#[inline]
pub(crate) fn send(uring: &mut Uring, pool: &mut MessagePool, slot: Slot, state: &mut SlotState) {
    let token = Token::new(Operation::Send, state.generation, slot.index());
    let output = state.output.as_deref().expect("a send has an output");
    let entry = if let Some(bytes) = output.as_single() {
        let rest = &bytes[state.sent as usize..];
        let size = rest.len().min(SEND_SIZE_MAX) as u32;
        opcode::Send::new(fixed(slot), rest.as_ptr(), size).flags(FLAGS).build()
    } else {
        let message = state.message.get_or_insert_with(|| pool.take());
        message.slices.clear();
        let (mut skip, mut size) = (state.sent as usize, 0);
        for segment in output.segments() {
            let rest = segment.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(segment.len());
            if rest.is_empty() {
                continue;
            }
            if message.slices.len() == SLICES_MAX || size >= SEND_SIZE_MAX {
                break;
            }
            let rest = &rest[..rest.len().min(SEND_SIZE_MAX - size)];
            size += rest.len();
            message.slices.push(libc::iovec {
                iov_base: rest.as_ptr().cast_mut().cast(),
                iov_len: rest.len(),
            });
        }
        message.header.msg_iov = message.slices.as_mut_ptr();
        message.header.msg_iovlen = message.slices.len();
        opcode::SendMsg::new(fixed(slot), ptr::from_ref(&message.header))
            .flags(FLAGS as u32)
            .build()
    };
    state.set(SlotState::SENDING);
    // SAFETY: the entry points into the heap blocks of `output` and `message`. Both belong to the slot, which neither
    // touches nor drops them until the completion of this send clears `SENDING`.
    unsafe { uring.push(entry.user_data(token.bits())) }
}

/// Starts connecting the slot's socket.
pub(crate) fn connect(
    uring: &mut Uring,
    pool: &mut MessagePool,
    slot: Slot,
    state: &mut SlotState,
    address: RawAddress,
) {
    let token = Token::new(Operation::Connect, state.generation, slot.index());
    let message = state.message.insert(pool.take());
    message.address = address;
    let entry = opcode::Connect::new(fixed(slot), message.address.as_ptr(), address.size).build();
    state.set(SlotState::CONNECTING);
    // SAFETY: the entry points into the boxed message, which the slot keeps as it is until the completion of this
    // connect clears `CONNECTING`.
    unsafe { uring.push(entry.user_data(token.bits())) }
}

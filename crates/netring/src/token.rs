//! What an operation is called while the kernel has it.
//!
//! 64 bits come back with each completion: 8 of operation, 24 of generation, 32 of index. For a connection the index is
//! its slot and the generation tells this life of the slot from earlier ones; other operations use both
//! fields as they need.

use crate::Slot;

/// Generations count modulo this.
pub(crate) const GENERATION_MASK: u32 = (1 << 24) - 1;

/// What a completion completes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Receive = 1,
    Send,
    Close,
    /// Index: cell. Generation: listener.
    Accept,
    Connect,
    Shutdown,
    HandOver,
    CancelReceive,
    CancelSend,
    CancelConnect,
    CancelAccept,
    /// A read of what the wakers wrote.
    Wake,
    /// A doorbell of ours that did not arrive. Index: the target ring.
    DoorbellFailed,
    /// A doorbell from another ring.
    Doorbell,
    /// A socket put into the table by hand, for `connect`.
    Install,
    /// A read, write or sync of a file. Index: its place in the table of those in flight.
    File,
    /// A read of what other rings of the thread signal.
    Followers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

impl Token {
    #[inline]
    pub(crate) fn new(operation: Operation, generation: u32, index: u32) -> Self {
        debug_assert!(generation <= GENERATION_MASK);
        Self((operation as u64) << 56 | u64::from(generation) << 32 | u64::from(index))
    }

    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// `None` for bits that no operation of ours carries.
    #[inline]
    pub(crate) fn operation(self) -> Option<Operation> {
        const ALL: [Operation; 17] = [
            Operation::Receive,
            Operation::Send,
            Operation::Close,
            Operation::Accept,
            Operation::Connect,
            Operation::Shutdown,
            Operation::HandOver,
            Operation::CancelReceive,
            Operation::CancelSend,
            Operation::CancelConnect,
            Operation::CancelAccept,
            Operation::Wake,
            Operation::DoorbellFailed,
            Operation::Doorbell,
            Operation::Install,
            Operation::File,
            Operation::Followers,
        ];
        ALL.get(((self.0 >> 56) as usize).wrapping_sub(1)).copied()
    }

    #[inline]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & GENERATION_MASK
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    pub(crate) fn slot(self) -> Slot {
        Slot::new(self.index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_fields_do_not_touch() {
        for operation in [Operation::Receive, Operation::Accept, Operation::Install] {
            for generation in [0, 1, GENERATION_MASK] {
                for index in [0, 1, u32::MAX] {
                    let token = Token::from_bits(Token::new(operation, generation, index).bits());
                    assert_eq!(token.operation(), Some(operation));
                    assert_eq!(token.generation(), generation);
                    assert_eq!(token.index(), index);
                }
            }
        }
    }

    #[test]
    fn every_operation_has_its_own_number() {
        for number in 1..=17_u64 {
            let operation = Token::from_bits(number << 56).operation().unwrap();
            assert_eq!(operation as u64, number);
        }
        assert_eq!(Token::from_bits(0).operation(), None);
        assert_eq!(Token::from_bits(18 << 56).operation(), None);
    }
}

//! The index of queued messages whose payload is in the log alone.
//!
//! One session's line of them, oldest first, by message id. It is what a backlog of millions costs while its client is away:
//! twenty bytes a message, in blocks that are given back one by one as the line moves up. A message is found by its id,
//! since the log moves records about, and may be put in or taken out anywhere, since recovery reads copies late; all
//! of it costs at most one block, never the length of the line.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use midge_codec::QoS;

use crate::outbound::Keep;

/// Messages in one block: what a message that comes or goes in the middle moves is 10 KiB at most.
const BLOCK_MAX: usize = 512;

/// The bits of [`Packed::size_and_qos`] that hold the size. A packet has less than 2^28 bytes.
const SIZE_BITS: u32 = 30;

/// A message that waits and of which the log alone has the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stub {
    /// Where.
    pub keep: Keep,
    /// Bytes as [`Publication::memory_size`](crate::Publication::memory_size) counts them; below 1 GiB.
    pub size: u32,
    /// At which QoS it will be sent.
    pub qos: QoS,
}

/// A line of [`Stub`]s in the order of their messages' ids, each id once.
#[derive(Debug, Default)]
pub struct Stubs {
    /// None is empty; each begins behind the end of the one before it.
    blocks: VecDeque<Block>,
    count: usize,
    bytes: usize,
    once: usize,
}

#[derive(Debug)]
struct Block {
    /// The ids in it are this much larger than those of its entries.
    base: u64,
    entries: VecDeque<Packed>,
}

/// A stub in a block.
#[derive(Debug, Clone, Copy)]
struct Packed {
    id: u32,
    segment: u32,
    offset: u32,
    share: u32,
    size_and_qos: u32,
}

/// What a message costs while it waits in the log. (The promise is 48 bytes, for all that there is of it in memory.)
const _: () = assert!(size_of::<Packed>() == 20);

impl Stubs {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The sum of their sizes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of them are of QoS 0.
    #[must_use]
    pub fn once_count(&self) -> usize {
        self.once
    }

    /// The oldest.
    #[must_use]
    pub fn front(&self) -> Option<Stub> {
        let block = self.blocks.front()?;
        block.entries.front().map(|packed| block.unpack(packed))
    }

    /// Takes the oldest.
    pub fn pop_front(&mut self) -> Option<Stub> {
        let block = self.blocks.front_mut()?;
        let packed = block.entries.pop_front()?;
        let stub = block.unpack(&packed);
        if block.entries.is_empty() {
            self.blocks.pop_front();
        }
        self.uncount(stub);
        Some(stub)
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Stub> + '_ {
        let blocks = self.blocks.iter();
        blocks.flat_map(|block| block.entries.iter().map(|packed| block.unpack(packed)))
    }

    /// The one of this message.
    #[must_use]
    pub fn get(&self, message: NonZeroU64) -> Option<Stub> {
        let (at, place) = self.find(message)?;
        let block = &self.blocks[at];
        Some(block.unpack(&block.entries[place]))
    }

    /// Notes that this message stands elsewhere now; whether it is here.
    pub fn move_to(&mut self, keep: Keep) -> bool {
        let Some((at, place)) = self.find(keep.message) else { return false };
        let packed = &mut self.blocks[at].entries[place];
        *packed =
            Packed { segment: keep.segment, offset: keep.offset, share: keep.share, ..*packed };
        true
    }

    /// Changes where each one stands for which `place` knows another place.
    pub fn move_all(&mut self, mut place: impl FnMut(&Keep) -> Option<Keep>) {
        for block in &mut self.blocks {
            for at in 0..block.entries.len() {
                let stub = block.unpack(&block.entries[at]);
                if let Some(keep) = place(&stub.keep) {
                    debug_assert_eq!(keep.message, stub.keep.message);
                    block.entries[at] = Packed {
                        segment: keep.segment,
                        offset: keep.offset,
                        share: keep.share,
                        ..block.entries[at]
                    };
                }
            }
        }
    }

    /// Takes the one of this message out.
    pub fn remove(&mut self, message: NonZeroU64) -> Option<Stub> {
        let (at, place) = self.find(message)?;
        let block = &mut self.blocks[at];
        let packed = block.entries.remove(place)?;
        let stub = block.unpack(&packed);
        if block.entries.is_empty() {
            self.blocks.remove(at);
        }
        self.uncount(stub);
        Some(stub)
    }

    /// Puts one in its place; returns the one that stood there for the same message.
    pub fn insert(&mut self, stub: Stub) -> Option<Stub> {
        let message = stub.keep.message.get();
        // What is new belongs to the last block: no search through thousands of them.
        let behind = match self.blocks.back() {
            Some(last) if last.base <= message => self.blocks.len(),
            _ => self.blocks.partition_point(|block| block.base <= message),
        };
        let earlier = 'placed: {
            let Some(at) = behind.checked_sub(1) else {
                self.blocks.push_front(Block::of(stub));
                break 'placed None;
            };
            let block = &mut self.blocks[at];
            let Ok(id) = u32::try_from(message - block.base) else {
                self.blocks.insert(behind, Block::of(stub));
                break 'placed None;
            };
            let packed = Packed::of(id, stub);
            let place = match block.entries.back() {
                Some(last) if last.id >= id => {
                    match block.entries.binary_search_by_key(&id, |entry| entry.id) {
                        Ok(place) => {
                            let earlier = std::mem::replace(&mut block.entries[place], packed);
                            break 'placed Some(block.unpack(&earlier));
                        }
                        Err(place) => place,
                    }
                }
                _ => block.entries.len(),
            };
            if block.entries.len() < BLOCK_MAX {
                block.entries.insert(place, packed);
            } else if place == block.entries.len() {
                self.blocks.insert(behind, Block::of(stub));
            } else {
                let upper = block.entries.split_off(BLOCK_MAX / 2);
                let half = block.entries.len();
                if place <= half {
                    block.entries.insert(place, packed);
                }
                let mut upper = Block { base: block.base, entries: upper };
                if place > half {
                    upper.entries.insert(place - half, packed);
                }
                upper.rebase();
                self.blocks.insert(behind, upper);
            }
            None
        };
        if let Some(earlier) = earlier {
            self.uncount(earlier);
        }
        self.count(stub);
        earlier
    }

    /// Puts older ones in front: `older` in order, all of them older than what is here.
    pub fn prepend(&mut self, older: impl IntoIterator<Item = Stub>) {
        let mut front = Self::default();
        for stub in older {
            front.insert(stub);
        }
        if let Some(block) = self.blocks.front_mut() {
            // Its first ones may have been taken, and be those that come back.
            block.rebase();
        }
        front.blocks.append(&mut self.blocks);
        front.count += self.count;
        front.bytes += self.bytes;
        front.once += self.once;
        *self = front;
    }

    /// What must always hold.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_integrity(&self) {
        let mut last = 0;
        for stub in self.iter() {
            assert!(stub.keep.message.get() > last, "message ids grow");
            last = stub.keep.message.get();
        }
        assert_eq!(self.iter().count(), self.count);
        assert_eq!(self.iter().map(|stub| stub.size as usize).sum::<usize>(), self.bytes);
        assert_eq!(self.iter().filter(|stub| stub.qos == QoS::AtMostOnce).count(), self.once);
        let mut end = 0;
        for block in &self.blocks {
            assert!(!block.entries.is_empty() && block.entries.len() <= BLOCK_MAX);
            assert!(block.base >= end, "a block begins behind the one before it");
            end = block.entries.back().map_or(0, |last| block.base + u64::from(last.id) + 1);
        }
    }

    fn find(&self, message: NonZeroU64) -> Option<(usize, usize)> {
        let message = message.get();
        let at = self.blocks.partition_point(|block| block.base <= message).checked_sub(1)?;
        let block = &self.blocks[at];
        let id = u32::try_from(message - block.base).ok()?;
        let place = block.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
        Some((at, place))
    }

    fn count(&mut self, stub: Stub) {
        self.count += 1;
        self.bytes += stub.size as usize;
        self.once += usize::from(stub.qos == QoS::AtMostOnce);
    }

    fn uncount(&mut self, stub: Stub) {
        self.count -= 1;
        self.bytes -= stub.size as usize;
        self.once -= usize::from(stub.qos == QoS::AtMostOnce);
    }
}

impl Block {
    fn of(stub: Stub) -> Self {
        let entries = VecDeque::from([Packed::of(0, stub)]);
        Self { base: stub.keep.message.get(), entries }
    }

    /// Begins with its first entry.
    fn rebase(&mut self) {
        let Some(first) = self.entries.front().map(|entry| entry.id) else { return };
        self.base += u64::from(first);
        self.entries.iter_mut().for_each(|entry| entry.id -= first);
    }

    fn unpack(&self, packed: &Packed) -> Stub {
        let message = self.base + u64::from(packed.id);
        let keep = Keep {
            message: NonZeroU64::new(message).unwrap_or(NonZeroU64::MIN),
            segment: packed.segment,
            offset: packed.offset,
            share: packed.share,
        };
        let qos = match packed.size_and_qos >> SIZE_BITS {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        Stub { keep, size: packed.size_and_qos & ((1 << SIZE_BITS) - 1), qos }
    }
}

impl Packed {
    fn of(id: u32, stub: Stub) -> Self {
        let Keep { segment, offset, share, .. } = stub.keep;
        debug_assert!(stub.size < 1 << SIZE_BITS, "a size below 1 GiB");
        let size = stub.size.min((1 << SIZE_BITS) - 1);
        Self { id, segment, offset, share, size_and_qos: size | (stub.qos as u32) << SIZE_BITS }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn stub(message: u64) -> Stub {
        let keep = Keep {
            message: NonZeroU64::new(message).unwrap(),
            segment: (message / 100) as u32,
            offset: (message as u32).wrapping_mul(8),
            share: 24,
        };
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][message as usize % 3];
        Stub { keep, size: message as u32 % 5000, qos }
    }

    /// Against a map that knows no blocks: put in anywhere, taken out anywhere, from the front, moved.
    #[test]
    fn it_is_a_map_in_order() {
        let mut random = 7u64;
        let mut next = move |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % bound
        };
        let mut stubs = Stubs::default();
        let mut model = BTreeMap::new();
        let mut newest = 1u64 << 40;
        for step in 0..40_000 {
            match next(11) {
                10 => {
                    let count = next(700);
                    let taken: Vec<Stub> = (0..count).map_while(|_| stubs.pop_front()).collect();
                    stubs.prepend(taken);
                }
                0..=4 => {
                    // Now and then a jump that no block spans.
                    newest += if next(2_000) == 0 { 1 << 33 } else { 1 + next(3) };
                    assert_eq!(stubs.insert(stub(newest)), model.insert(newest, stub(newest)));
                }
                5 | 6 => {
                    let message = (1 << 40) - 200 + next(newest + 200 - (1 << 40)).min(60_000);
                    assert_eq!(stubs.insert(stub(message)), model.insert(message, stub(message)));
                }
                7 => assert_eq!(stubs.pop_front(), model.pop_first().map(|(_, stub)| stub)),
                8 => {
                    let message = NonZeroU64::new((1 << 40) + next(60_000)).unwrap();
                    assert_eq!(stubs.remove(message), model.remove(&message.get()));
                }
                _ => {
                    let message = NonZeroU64::new((1 << 40) + next(60_000)).unwrap();
                    let keep = Keep { message, segment: 9, offset: step, share: 1 };
                    let known = model.get_mut(&message.get());
                    assert_eq!(stubs.move_to(keep), known.is_some());
                    if let Some(known) = known {
                        known.keep = keep;
                    }
                    assert_eq!(stubs.get(message), model.get(&message.get()).copied());
                }
            }
            if step % 500 == 0 {
                stubs.check_integrity();
                assert!(stubs.iter().eq(model.values().copied()));
                assert_eq!(stubs.front(), model.values().next().copied());
            }
        }
        assert!(model.len() > 4 * BLOCK_MAX, "there were blocks to split");
        let older: Vec<Stub> = (1..2_000).map(stub).collect();
        let lowest = model.keys().next().copied().unwrap();
        assert!(lowest > 2_000);
        stubs.prepend(older.iter().copied());
        stubs.check_integrity();
        assert!(stubs.iter().eq(older.into_iter().chain(model.into_values())));
        while stubs.pop_front().is_some() {}
        stubs.check_integrity();
        assert!(stubs.is_empty() && stubs.blocks.is_empty());
    }
}

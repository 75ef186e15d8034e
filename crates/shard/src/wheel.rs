//! Timers: a wheel of four rings.
//!
//! Ten million keep-alives make a heap of ten million entries if each packet moves its own. Here a packet only notes the time
//! in its connection; the one entry that a connection has in the wheel fires when the deadline that was known at
//! its insertion has come, and the owner then either acts or asks for a later one. Insertion and firing cost a push
//! and a pop of eight bytes.
//!
//! # Invariants
//! - An entry fires not before its deadline and at most one tick ([`TICK_MS`]) after it, if [`Wheel::advance`] is called
//!   in time.
//! - Entries are not cancelled one by one; the owner recognises a stale one by its serial. [`Wheel::sweep`] takes stale
//!   ones out a few at a time, because a session's timer may be a week away and its client may reconnect every second.

use midge_session::Time;

/// One tick, in milliseconds: the error of a keep-alive is below it.
pub(crate) const TICK_MS: u64 = 128;

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Spans of the rings at 128 ms: 8 s, 9 min, 9 h, 25 days. A later deadline waits in the last ring and is put in again.
const RINGS: usize = 4;
/// Entries that a sweep looks at for each insertion. Above its bound at least half of all are stale: it takes out two.
const SWEPT_PER_INSERTION: usize = 4;

/// Whose timer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Connection,
    Session,
}

/// What fires: the owner's number, and the low bits of its serial to tell it from an earlier owner of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    index: u32,
    /// Bit 31: the subject. Bits 0 to 30: the serial.
    tag: u32,
}

const SUBJECT_SESSION: u32 = 1 << 31;
const SERIAL_MASK: u32 = SUBJECT_SESSION - 1;

impl Entry {
    pub(crate) fn new(subject: Subject, index: u32, serial: u32) -> Self {
        let subject = match subject {
            Subject::Connection => 0,
            Subject::Session => SUBJECT_SESSION,
        };
        Self { index, tag: subject | (serial & SERIAL_MASK) }
    }

    pub(crate) fn subject(self) -> Subject {
        if self.tag & SUBJECT_SESSION == 0 { Subject::Connection } else { Subject::Session }
    }

    pub(crate) fn index(self) -> u32 {
        self.index
    }

    pub(crate) fn is_for(self, serial: u32) -> bool {
        self.tag & SERIAL_MASK == serial & SERIAL_MASK
    }
}

#[derive(Debug)]
pub(crate) struct Wheel {
    /// The tick up to which everything has fired.
    tick: u64,
    rings: [Vec<Vec<(u64, Entry)>>; RINGS],
    count: usize,
    /// Insertions since the last sweep.
    inserted: usize,
    /// Where the next sweep goes on: ring, slot, place in the slot.
    swept: (usize, usize, usize),
}

/// The first tick that is not before `time`.
fn tick_at_or_after(time: Time) -> u64 {
    time.as_nanos().div_ceil(TICK_MS * 1_000_000)
}

impl Wheel {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            tick: now.as_millis() / TICK_MS,
            rings: std::array::from_fn(|_| vec![Vec::new(); SLOTS]),
            count: 0,
            inserted: 0,
            swept: (0, 0, 0),
        }
    }

    pub(crate) fn insert(&mut self, deadline: Time, entry: Entry) {
        self.count += 1;
        self.inserted += 1;
        self.place(tick_at_or_after(deadline), entry);
    }

    /// Takes out stale entries, once there are more entries than `bound`. Looks at a few for each one that was inserted since
    /// the last call, so that it keeps up without ever taking long.
    pub(crate) fn sweep(&mut self, bound: usize, is_current: impl Fn(Entry) -> bool) {
        let inserted = std::mem::take(&mut self.inserted);
        if self.count <= bound {
            return;
        }
        let (mut ring, mut slot, mut place) = self.swept;
        for _ in 0..inserted * SWEPT_PER_INSERTION + SLOTS {
            let entries = &mut self.rings[ring][slot];
            match entries.get(place) {
                Some((_, entry)) if is_current(*entry) => place += 1,
                Some(_) => {
                    entries.swap_remove(place);
                    self.count -= 1;
                }
                None => {
                    place = 0;
                    slot = (slot + 1) % SLOTS;
                    ring = (ring + usize::from(slot == 0)) % RINGS;
                }
            }
        }
        self.swept = (ring, slot, place);
    }

    fn place(&mut self, due: u64, entry: Entry) {
        let due = due.max(self.tick + 1);
        // The highest bit in which the due tick differs from the present one says in which ring's span it lies; a slot
        // of ring r is emptied exactly when the ticks agree in all higher bits.
        let differing = u64::BITS - (due ^ self.tick).leading_zeros();
        let ring = ((differing.saturating_sub(1)) / SLOT_BITS) as usize;
        let (ring, slot) = if ring < RINGS {
            (ring, (due >> (ring as u32 * SLOT_BITS)) as usize % SLOTS)
        } else {
            // Beyond the last ring's span: its slot zero is looked at when the ticks next agree in a higher bit.
            (RINGS - 1, 0)
        };
        self.rings[ring][slot].push((due, entry));
    }

    /// Fires everything that is due at `now`, at most up to the present tick.
    pub(crate) fn advance(&mut self, now: Time, mut fire: impl FnMut(Entry)) {
        let target = now.as_millis() / TICK_MS;
        if self.count == 0 {
            self.tick = self.tick.max(target);
            return;
        }
        while self.tick < target {
            self.tick += 1;
            for ring in (1..RINGS).rev() {
                let shift = ring as u32 * SLOT_BITS;
                if self.tick.trailing_zeros() >= shift {
                    let slot = (self.tick >> shift) as usize % SLOTS;
                    for (due, entry) in std::mem::take(&mut self.rings[ring][slot]) {
                        if due <= self.tick {
                            self.count -= 1;
                            fire(entry);
                        } else {
                            self.place(due, entry);
                        }
                    }
                }
            }
            let slot = self.tick as usize % SLOTS;
            for (_, entry) in std::mem::take(&mut self.rings[0][slot]) {
                self.count -= 1;
                fire(entry);
            }
        }
    }

    /// When [`Wheel::advance`] should be called next; `None` when no timer is set. May be earlier than the first
    /// deadline (when a ring has to be spread out), never later.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        if self.count == 0 {
            return None;
        }
        let in_first = (1..=SLOTS as u64)
            .map(|ahead| self.tick + ahead)
            .find(|tick| {
                !self.rings[0][*tick as usize % SLOTS].is_empty() || tick % SLOTS as u64 == 0
            })
            .unwrap_or(self.tick + 1);
        Some(Time::from_nanos(in_first * TICK_MS * 1_000_000))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u32) -> Entry {
        Entry::new(Subject::Connection, index, 1)
    }

    /// Against a plain list: every entry fires in the first advance at or after its deadline's tick, never early.
    #[test]
    fn fires_in_time_and_never_early() {
        let mut state = 12345u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for round in 0..20 {
            let mut now_ms = random(1 << 40);
            let mut wheel = Wheel::new(Time::ZERO.plus_millis(now_ms));
            let mut waiting: Vec<(u64, u32)> = Vec::new();
            let mut next = 0;
            for step in 0..2000 {
                for _ in 0..random(4) {
                    let span = [300, 10_000, 600_000, 40_000_000, 4_000_000_000];
                    let span = span[random(5) as usize];
                    let deadline = now_ms + random(span);
                    wheel.insert(Time::ZERO.plus_millis(deadline), entry(next));
                    waiting.push((deadline, next));
                    next += 1;
                }
                let step_ms = [50, 500, 20_000, 900_000][random(4) as usize];
                now_ms += random(step_ms);
                let mut fired = Vec::new();
                wheel.advance(Time::ZERO.plus_millis(now_ms), |e| fired.push(e.index()));
                for index in fired {
                    let at = waiting.iter().position(|w| w.1 == index).expect("fired twice");
                    let (deadline, _) = waiting.swap_remove(at);
                    assert!(deadline <= now_ms, "round {round} step {step}: early");
                }
                for (deadline, _) in &waiting {
                    assert!(
                        deadline + TICK_MS > now_ms,
                        "round {round} step {step}: {deadline} late at {now_ms}"
                    );
                }
                assert_eq!(wheel.len(), waiting.len());
                if let Some(at) = wheel.next_deadline() {
                    let first = waiting.iter().map(|w| w.0).min().unwrap();
                    assert!(at <= Time::ZERO.plus_millis(first + TICK_MS));
                    assert!(at > Time::ZERO.plus_millis(now_ms - TICK_MS));
                }
            }
        }
    }

    /// Ten owners that set a far timer again and again: stale entries go, current ones stay and fire.
    #[test]
    fn a_sweep_takes_out_what_is_stale() {
        const BOUND: usize = 1000;
        let mut wheel = Wheel::new(Time::ZERO);
        let mut serials = [0; 10];
        for serial in 1..100_000u32 {
            let index = serial % 10;
            serials[index as usize] = serial;
            let far = Time::from_seconds(u64::from(serial % 7) * 90_000 + 10_000);
            wheel.insert(far, Entry::new(Subject::Session, index, serial));
            wheel.sweep(BOUND, |entry| entry.is_for(serials[entry.index() as usize]));
            assert!(wheel.len() <= 2 * BOUND, "{}", wheel.len());
        }
        let mut fired = Vec::new();
        wheel.advance(Time::from_seconds(700_000), |entry| {
            if entry.is_for(serials[entry.index() as usize]) {
                fired.push(entry.index());
            }
        });
        fired.sort_unstable();
        assert_eq!(fired, (0..10).collect::<Vec<_>>());
        assert_eq!(wheel.len(), 0);
    }

    #[test]
    fn an_entry_knows_whose_it_is() {
        let entry = Entry::new(Subject::Session, 9, 0x8000_0001);
        assert_eq!((entry.subject(), entry.index()), (Subject::Session, 9));
        assert!(entry.is_for(1) && !entry.is_for(2));
        assert_eq!(size_of::<Entry>(), 8);
    }
}

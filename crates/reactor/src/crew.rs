//! The loop of one thread: of the one shard that it has, or of its crew.
//!
//! Where there are more shards than cores, one thread runs several of them, each with a net ring, a log and a node of the
//! mesh of its own. Threads of their own would change places on the core at every few messages, ring each other's
//! doorbells, and find less to do at each turn; `docs/decisions/0010-one-thread-for-the-shards-of-a-core.md` has the figures.
//!
//! # A round
//! Each shard that has something to do has a turn, which does not wait. A shard that has nothing to do is asked for it, a
//! few reads of memory, and that is all it costs. One that has nothing but output is passed over once: more often than not
//! something comes in meanwhile, and one system call takes both. When nobody has had a turn, the thread sleeps in the system
//! call of the first shard's ring, the leader, which the other rings wake
//! ([`NetRing::lead`](midge_netring::NetRing::lead)).
//!
//! # Between mates
//! What a shard has for its mates takes no ring: after each event they take the QoS 0 messages that came with it, while
//! those lie in the core's nearest cache, and after the turn everything else. A mate cannot be behind, so that there is
//! nothing to bound but what one turn brings. What comes of it leaves with the mate's next turn.
//!
//! # Sleeping
//! A shard falls asleep when its thread does, and wakes at its own next turn: until then the mesh takes it for parked, and its
//! ring signals. So a shard that stays quiet while its thread wakes and sleeps has nothing to say or to take back. What
//! comes for it meanwhile rings a doorbell too many at worst. Its mates ring none: they wake it with what they have for it.

use std::rc::Rc;
use std::time::Duration;

use midge_mesh::ShardId;
use midge_netring::Wait;
use midge_session::Time;
use midge_shard::Shard;

use crate::clock::Clock;
use crate::hands::{Hands, Mates, NoMates, SLEEP_MS_MAX};
use crate::statistics::ThreadTime;

/// Turns, or rounds, between two visits of the executor's own housekeeping.
const TURNS_PER_YIELD: u32 = 1024;

/// Whether to look again at once although nothing happened: within the configured spin after the last event.
struct Spin {
    limit: Duration,
    quiet_since: Option<Time>,
}

impl Spin {
    fn new(limit: Duration) -> Self {
        Self { limit, quiet_since: None }
    }

    fn goes_on(&mut self, handled: bool, now: Time) -> bool {
        if self.limit.is_zero() {
            return false;
        }
        if handled {
            self.quiet_since = None;
            return true;
        }
        let since = *self.quiet_since.get_or_insert(now);
        u128::from(now.since(since)) < self.limit.as_nanos()
    }
}

/// Runs a shard that has its thread to itself, until it is drained.
pub(crate) async fn run_alone(mut hands: Hands, spin: Duration) {
    let mut spin = Spin::new(spin);
    let mut turns = 0_u32;
    let mut wait = Wait::No;
    loop {
        let now = hands.enter(wait);
        if wait != Wait::No {
            hands.node.unpark();
        }
        let turned = hands.work(now, &mut NoMates);
        if hands.is_over() {
            return;
        }
        let mut again = turned.again || spin.goes_on(turned.handled, now);
        if !again {
            // Nothing that is flushed later than this may be missed: from here on doorbells are rung.
            again = !hands.node.announce_park();
        }
        let ended = hands.end();
        wait = if again {
            Wait::No
        } else {
            Wait::For(Duration::from_nanos(hands.next_turn(ended).since(ended)))
        };
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(TURNS_PER_YIELD) {
            glommio::executor().yield_task_queue_now().await;
        }
    }
}

/// The shards of one thread.
pub(crate) struct Crew {
    /// The first one's ring is the leader.
    members: Vec<Member>,
    /// Of each shard of the process, its place among the members; of those elsewhere, none.
    places: Box<[usize]>,
    thread: Rc<ThreadTime>,
    clock: Clock,
}

struct Member {
    hands: Hands,
    /// Whether it has something to do at once.
    again: bool,
    /// Whether it has taken something in since its last turn.
    took_in: bool,
    /// Whether it had nothing but output a round ago.
    waits: bool,
    /// When it has something to do at the latest.
    due: Time,
    /// Whether its park is announced and its ring signals.
    asleep: bool,
}

impl Crew {
    /// Of shards whose first one's ring leads those of the others.
    pub(crate) fn new(mut hands: Vec<Hands>, clock: Clock) -> Self {
        let thread = Rc::new(ThreadTime::default());
        let shards = hands.len();
        for hands in &mut hands {
            hands.statistics.share(Rc::clone(&thread), shards);
        }
        let ids: Vec<usize> = hands.iter().map(|hands| hands.shard.id().index()).collect();
        let mut places = vec![usize::MAX; ids.iter().max().map_or(0, |id| id + 1)];
        for (place, id) in ids.into_iter().enumerate() {
            places[id] = place;
        }
        let members = hands.into_iter();
        let members: Vec<Member> = members
            .map(|hands| Member {
                hands,
                again: true,
                took_in: false,
                waits: false,
                due: Time::ZERO,
                asleep: false,
            })
            .collect();
        Self { members, places: places.into(), thread, clock }
    }

    /// Runs until all of them are drained.
    pub(crate) async fn run(mut self, spin: Duration) {
        let mut spin = Spin::new(spin);
        let mut rounds = 0_u32;
        let mut now = self.clock.now();
        loop {
            let (mut turned, mut handled, mut waiting) = (false, false, false);
            // The leader last: what its turn prepares goes to the kernel with the system call in which the thread sleeps.
            for index in (0..self.members.len()).rev() {
                let member = &mut self.members[index];
                let mut ready = member.has_work(now);
                if !ready && member.has_output(turned || index > 0) {
                    ready = std::mem::replace(&mut member.waits, true);
                    waiting |= !ready;
                }
                if ready {
                    turned = true;
                    handled |= self.turn(index, &mut now);
                }
            }
            if turned && self.members.iter().all(|member| member.hands.is_over()) {
                return;
            }
            if !turned && !waiting && !spin.goes_on(false, now) {
                self.sleep(&mut now);
            } else if handled {
                spin.goes_on(true, now);
            } else if !turned {
                now = self.clock.now();
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(TURNS_PER_YIELD) {
                glommio::executor().yield_task_queue_now().await;
            }
        }
    }

    /// A turn of one of them, in which its mates take in what it has for them. Returns whether anything came in.
    fn turn(&mut self, index: usize, now: &mut Time) -> bool {
        let (before, rest) = self.members.split_at_mut(index);
        let [member, after @ ..] = rest else { return false };
        let mut others = Others { before, after, places: &self.places };
        let handled = member.turn(now, index > 0, &mut others);
        others.take_envelopes(&mut member.hands, *now);
        handled
    }

    /// Sleeps until one of them has something to do, or does not when one has.
    fn sleep(&mut self, now: &mut Time) {
        let mut due = now.plus_millis(SLEEP_MS_MAX);
        for (index, member) in self.members.iter_mut().enumerate() {
            if !member.fall_asleep(index > 0) {
                return;
            }
            due = due.min(member.due);
        }
        let leader = &mut self.members[0].hands;
        let wait = Wait::For(Duration::from_nanos(due.since(*now)));
        if let Err(error) = leader.ring.turn(wait) {
            // The rings are the shards' only way to their clients.
            panic!("shard {}: the net ring failed: {error}", leader.shard.id());
        }
        let woke = self.clock.now();
        self.thread.parked(woke.since(*now));
        *now = woke;
    }
}

/// All but the one that has its turn.
struct Others<'a> {
    before: &'a mut [Member],
    after: &'a mut [Member],
    places: &'a [usize],
}

impl Others<'_> {
    #[inline]
    fn get(&mut self, shard: ShardId) -> Option<(usize, &mut Member)> {
        let place = *self.places.get(shard.index())?;
        let own = self.before.len();
        let member = if place < own {
            self.before.get_mut(place)
        } else {
            self.after.get_mut(place.wrapping_sub(own + 1))
        };
        member.map(|member| (place, member))
    }

    /// Has them take the envelopes that wait for them, all of them: a mate has no ring that could be full.
    fn take_envelopes(&mut self, hands: &mut Hands, now: Time) {
        self.take_crossing(&mut hands.shard, now);
        let from = hands.shard.id();
        while let Some(target) = hands.waiting_mates.pop() {
            while let Some(envelope) = hands.shard.poll_envelope(target) {
                if let Some((place, mate)) = self.get(target)
                    && mate.listens(place > 0)
                {
                    mate.hands.shard.handle_envelope(from, envelope, now);
                }
            }
        }
    }
}

impl Mates for Others<'_> {
    #[inline]
    fn take_crossing(&mut self, shard: &mut Shard, now: Time) {
        if shard.has_crossing() {
            shard.give_crossing(|target, crossed| {
                if let Some((place, mate)) = self.get(target)
                    && mate.listens(place > 0)
                {
                    mate.hands.shard.handle_crossed(crossed, now);
                }
            });
        }
    }
}

impl Member {
    #[inline]
    fn has_work(&mut self, now: Time) -> bool {
        self.again
            || self.hands.ring.has_work()
            || !self.hands.node.inboxes_empty()
            || now >= self.due
    }

    /// Whether it has something for the kernel: what came of what mates had for it, or, with `operations`, what its last turn
    /// has prepared.
    #[inline]
    fn has_output(&mut self, operations: bool) -> bool {
        self.took_in || (operations && self.hands.ring.has_operations())
    }

    /// One turn, beginning now. Returns whether anything came in.
    fn turn(&mut self, now: &mut Time, follows: bool, mates: &mut impl Mates) -> bool {
        self.wake(follows);
        self.waits = false;
        let hands = &mut self.hands;
        if std::mem::take(&mut self.took_in) {
            hands.give_out(*now);
        }
        let began = hands.enter(Wait::No);
        let turned = hands.work(began, mates);
        let ended = hands.end();
        hands.statistics.worked(ended.since(*now));
        *now = ended;
        self.again = turned.again;
        self.due = hands.next_turn(ended);
        turned.handled
    }

    /// Whether it serves, and hears what mates have for it: its next turn's system call takes along what comes of that.
    #[inline]
    fn listens(&mut self, follows: bool) -> bool {
        let serves = self.hands.is_serving();
        if serves {
            self.wake(follows);
            self.took_in = true;
        }
        serves
    }

    #[inline]
    fn wake(&mut self, follows: bool) {
        if std::mem::take(&mut self.asleep) {
            self.hands.node.unpark();
            if follows {
                self.hands.ring.notify(false);
            }
        }
    }

    /// Sees to it that whatever comes for it from here on ends the thread's sleep. False: something has come.
    #[inline]
    fn fall_asleep(&mut self, follows: bool) -> bool {
        if !self.asleep {
            // Nothing that is flushed later than this may be missed: from here on doorbells are rung.
            if !self.hands.node.announce_park() {
                return false;
            }
            self.asleep = true;
            if follows {
                self.hands.ring.notify(true);
                return !self.hands.ring.has_work();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_spins_looks_again_for_a_while_after_the_last_event() {
        let at = |nanoseconds: u64| Time::from_nanos(1_000_000 + nanoseconds);
        let mut never = Spin::new(Duration::ZERO);
        assert!(!never.goes_on(true, at(0)));
        let mut spin = Spin::new(Duration::from_nanos(100));
        assert!(spin.goes_on(true, at(0)));
        // It begins with the first look that finds nothing.
        assert!(spin.goes_on(false, at(50)));
        assert!(spin.goes_on(false, at(149)));
        assert!(!spin.goes_on(false, at(150)));
        assert!(spin.goes_on(true, at(160)));
        assert!(spin.goes_on(false, at(170)));
    }
}

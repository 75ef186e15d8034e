//! The loop of one thread: of the one shard that it has, or of its crew.
//!
//! Where there are more shards than cores, one thread runs several of them, each with a net ring, a log and a node of the
//! mesh of its own. Threads of their own would change places on the core at every few messages, ring each other's
//! doorbells, and find less to do at each turn; `docs/decisions/0010-one-thread-for-the-shards-of-a-core.md` has the figures.
//!
//! # A round
//! Each shard that has something to do has a turn, which does not wait. A shard that has nothing to do is asked for it, a
//! few reads of memory, and that is all it costs. After a turn, the others take in at once what it had for them. When
//! nobody has had a turn, the thread sleeps in the system call of the first shard's ring, the leader, which the other rings
//! wake ([`NetRing::lead`](midge_netring::NetRing::lead)).
//!
//! # Sleeping
//! A shard falls asleep when its thread does, and wakes at its own next turn: until then the mesh takes it for parked, and its
//! ring signals. So a shard that stays quiet while its thread wakes and sleeps has nothing to say or to take back. What
//! comes for it meanwhile rings a doorbell too many at worst. Its mates know better: they ring none, because the thread
//! asks it before it sleeps.

use std::rc::Rc;
use std::time::Duration;

use midge_netring::Wait;
use midge_session::Time;

use crate::clock::Clock;
use crate::hands::{Hands, SLEEP_MS_MAX};
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
        let turned = hands.work(now);
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
    thread: Rc<ThreadTime>,
    clock: Clock,
}

struct Member {
    hands: Hands,
    /// Whether it has something to do at once.
    again: bool,
    /// Whether it has taken something in since its last turn.
    took_in: bool,
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
        let members = hands.into_iter();
        let members = members
            .map(|hands| Member {
                hands,
                again: true,
                took_in: false,
                due: Time::ZERO,
                asleep: false,
            })
            .collect();
        Self { members, thread, clock }
    }

    /// Runs until all of them are drained.
    pub(crate) async fn run(mut self, spin: Duration) {
        let mut spin = Spin::new(spin);
        let mut rounds = 0_u32;
        let mut now = self.clock.now();
        loop {
            let (mut turned, mut handled) = (false, false);
            // The leader last: what its turn prepares goes to the kernel with the system call in which the thread sleeps.
            for index in (0..self.members.len()).rev() {
                let member = &mut self.members[index];
                if member.has_work(now) || (member.has_operations() && (turned || index > 0)) {
                    turned = true;
                    handled |= member.turn(&mut now, index > 0);
                    self.deliver(index, now);
                }
            }
            if turned && self.members.iter().all(|member| member.hands.is_over()) {
                return;
            }
            if !turned && !spin.goes_on(false, now) {
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

    /// Has the mates of who has just had a turn take in what it has for them, while that lies in the core's cache. Their
    /// next turn's system call takes along what comes of it.
    #[inline]
    fn deliver(&mut self, source: usize, now: Time) {
        for (index, member) in self.members.iter_mut().enumerate() {
            if index != source && !member.hands.node.inboxes_empty() {
                member.take_in(now, index > 0);
            }
        }
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

impl Member {
    #[inline]
    fn has_work(&mut self, now: Time) -> bool {
        self.again
            || self.hands.ring.has_work()
            || !self.hands.node.inboxes_empty()
            || now >= self.due
    }

    #[inline]
    fn has_operations(&mut self) -> bool {
        self.hands.ring.has_operations()
    }

    /// One turn, beginning now. Returns whether anything came in.
    fn turn(&mut self, now: &mut Time, follows: bool) -> bool {
        self.wake(follows);
        let hands = &mut self.hands;
        if std::mem::take(&mut self.took_in) {
            hands.give_out();
        }
        let began = hands.enter(Wait::No);
        let turned = hands.work(began);
        let ended = hands.end();
        hands.statistics.worked(ended.since(*now));
        *now = ended;
        self.again = turned.again;
        self.due = hands.next_turn(ended);
        turned.handled
    }

    #[inline]
    fn take_in(&mut self, now: Time, follows: bool) {
        if self.hands.is_serving() {
            self.wake(follows);
            self.hands.take_in(now);
            self.took_in = true;
            self.again = true;
        }
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

//! The shard's statistics page, and what the loop counts about itself.
//!
//! # When the page is written
//! At most once a millisecond, before the system call of a turn; the shards of one thread as often together, but each at
//! least every 10 ms. A shard that wants to sleep sooner after that sleeps for
//! 20 ms at most, unless something happens first, and writes then: the page is never older than that, a busy shard writes
//! it as often as it may, an idle one not at all.
//!
//! Not for a millisecond only: a timer that is due before the processor's own tick has to be put into its timer register, at
//! each sleep anew, and where the processor is a virtual one each time costs an exit to its host. Measured, at 20,000 messages a
//! second: 24 µs of CPU for a message instead of 16.
//!
//! # What is measured
//! The clock is read three times a turn, whatever number of messages it moves: when the turn begins (all that it finds
//! counts as received then), when the first output is handed to the net ring (all outputs of the turn count as sent
//! then; the kernel gets them with the system call that follows), and before that system call. What came of a mate's turn
//! counts as sent when the shard's own begins. So a latency does not
//! hold the time for which bytes lay in the kernel while the turn before was at work; how long that can have been, the
//! histogram of turns says. The thread's CPU time, which includes the kernel's work on its sockets, is asked for once
//! per publication.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use midge_mesh::Node;
use midge_metrics::{Counters, Identity, MemoryKind, PageWriter, Series};
use midge_netring::NetRing;
use midge_output::Output;
use midge_session::Time;
use midge_shard::{Envelope, Shard};
use rustix::time::{ClockId, clock_gettime};

use crate::layers::LayerCounters;

/// Between two publications of a thread's shards, at least.
const PERIOD_NS: u64 = 1_000_000;

/// Between two publications of one shard, at least, however many shards its thread has.
const SHARD_PERIOD_NS_MAX: u64 = 10_000_000;

/// How long a sleeping shard may have something to publish, in milliseconds: several ticks of any kernel's clock.
const STALE_MS_MAX: u64 = 20;

/// One shard's page and its loop's counters.
#[derive(Debug)]
pub(crate) struct Statistics {
    page: PageWriter,
    published_at: Time,
    /// Something may have changed since.
    stale: bool,
    /// Between two publications, at least.
    period_ns: u64,
    turn_began: Time,
    entering: Time,
    turns: u64,
    parks: u64,
    parked_ns: u64,
    completions: u64,
    receive_buffer_bytes: u64,
    /// `None`: the shard has its thread to itself.
    share: Option<Share>,
}

/// What the shards of one thread have in common.
#[derive(Debug, Default)]
pub(crate) struct ThreadTime {
    worked_ns: Cell<u64>,
    parks: Cell<u64>,
    parked_ns: Cell<u64>,
}

/// What of a thread's time is this shard's.
#[derive(Debug)]
struct Share {
    thread: Rc<ThreadTime>,
    /// In its own turns.
    worked_ns: u64,
    busy_ns: u64,
    /// At the last publication: the thread's CPU time, and for how long the thread and this shard had been at work.
    seen: [u64; 3],
}

impl ThreadTime {
    /// The thread has slept for so long.
    pub(crate) fn parked(&self, nanoseconds: u64) {
        self.parks.set(self.parks.get() + 1);
        self.parked_ns.set(self.parked_ns.get() + nanoseconds);
    }
}

impl Share {
    /// The part of the thread's CPU time that its turns were of all turns. What the kernel did for other sockets meanwhile,
    /// and what the thread was kept from its core, is spread over all who were at work.
    fn busy_ns(&mut self, thread_busy_ns: u64) -> u64 {
        let now = [thread_busy_ns, self.thread.worked_ns.get(), self.worked_ns];
        let [busy, all, own] = [0, 1, 2].map(|index| u128::from(now[index] - self.seen[index]));
        if let Some(part) = (busy * own).checked_div(all) {
            self.busy_ns += part as u64;
            self.seen = now;
        }
        self.busy_ns
    }
}

impl Statistics {
    /// The page is a file in `directory`; without one, or when it cannot be made there, nobody sees it.
    ///
    /// # Errors
    /// When there is no memory for a page.
    pub(crate) fn new(
        directory: Option<&Path>,
        identity: Identity,
        receive_buffer_bytes: u64,
        now: Time,
    ) -> io::Result<Self> {
        let page = match directory.map(|directory| PageWriter::create(directory, identity)) {
            Some(Ok(page)) => page,
            Some(Err(error)) => {
                tracing::warn!(shard = identity.shard, %error, "cannot show statistics");
                PageWriter::unseen(identity)?
            }
            None => PageWriter::unseen(identity)?,
        };
        Ok(Self {
            page,
            published_at: Time::ZERO,
            stale: true,
            period_ns: PERIOD_NS,
            turn_began: now,
            entering: now,
            turns: 0,
            parks: 0,
            parked_ns: 0,
            completions: 0,
            receive_buffer_bytes,
            share: None,
        })
    }

    /// The shard is one of so many that share a thread: they publish in turn.
    pub(crate) fn share(&mut self, thread: Rc<ThreadTime>, shards: usize) {
        self.period_ns = (PERIOD_NS * shards as u64).min(SHARD_PERIOD_NS_MAX);
        self.share = Some(Share { thread, worked_ns: 0, busy_ns: 0, seen: [0; 3] });
    }

    /// A turn of a shard that shares its thread took so long, system call included.
    #[inline]
    pub(crate) fn worked(&mut self, nanoseconds: u64) {
        if let Some(share) = &mut self.share {
            share.worked_ns += nanoseconds;
            share.thread.worked_ns.set(share.thread.worked_ns.get() + nanoseconds);
        }
    }

    /// The turn's work is done. Whether it is time to publish.
    #[inline]
    pub(crate) fn turn_ends(&mut self, now: Time, ring: &NetRing) -> bool {
        self.entering = now;
        self.turns += 1;
        self.stale = true;
        self.page.record(Series::Turn, now.since(self.turn_began), 1);
        let completions = ring.completions();
        self.page.record(Series::TurnCompletions, completions - self.completions, 1);
        self.completions = completions;
        now.since(self.published_at) >= self.period_ns
    }

    /// When the next turn has to be, `latest` or sooner, to publish in time what has not been published.
    #[inline]
    pub(crate) fn latest_turn(&self, latest: Time) -> Time {
        if self.stale { latest.min(self.published_at.plus_millis(STALE_MS_MAX)) } else { latest }
    }

    /// The system call has returned, and the next turn begins.
    #[inline]
    pub(crate) fn turn_begins(&mut self, now: Time, slept: bool) {
        self.turn_began = now;
        if slept {
            self.parks += 1;
            self.parked_ns += now.since(self.entering);
        }
    }

    /// An output is handed to the net ring.
    #[inline]
    pub(crate) fn sends(&self, output: &Output, now: Time) {
        for note in output.notes() {
            let waited_ns = now.as_nanos().saturating_sub(note.received_ns);
            for (series, count) in Series::ALL.iter().zip(note.counts) {
                if count > 0 {
                    self.page.record(*series, waited_ns, count.into());
                }
            }
        }
    }

    /// Shows readers the present numbers.
    pub(crate) fn publish(
        &mut self,
        shard: &mut Shard,
        ring: &NetRing,
        node: &Node<Envelope>,
        layers: &LayerCounters,
        now: Time,
    ) {
        let (sent, received, sockets) =
            (node.outbox_statistics(), node.inbox_statistics(), ring.counters());
        let busy = clock_gettime(ClockId::ThreadCPUTime);
        let mut busy_ns = (busy.tv_sec * 1_000_000_000 + busy.tv_nsec).unsigned_abs();
        let (mut parks, mut parked_ns) = (self.parks, self.parked_ns);
        if let Some(share) = &mut self.share {
            busy_ns = share.busy_ns(busy_ns);
            (parks, parked_ns) = (share.thread.parks.get(), share.thread.parked_ns.get());
        }
        let mut counters = Counters {
            bytes_received: sockets.bytes_received,
            bytes_sent: sockets.bytes_sent,
            envelopes_sent: sent.pushed,
            envelopes_received: received.drained,
            ring_full: sent.refused,
            doorbells: sent.doorbells,
            loop_turns: self.turns,
            loop_busy_ns: busy_ns,
            loop_idle_ns: now.as_nanos().saturating_sub(busy_ns),
            loop_parks: parks,
            loop_parked_ns: parked_ns,
            ring_enters: sockets.enters,
            ring_completions: sockets.completions,
            receives: sockets.receives,
            receive_buffers_exhausted: sockets.buffers_exhausted,
            sends: sockets.sends,
            sends_continued: sockets.sends_continued,
            submissions_spilled: sockets.submissions_spilled,
            accept_pauses: sockets.accept_pauses,
            transport_refusals: layers.refusals,
            tls_handshakes: layers.handshakes,
            ..shard.counters()
        };
        counters.memory_bytes_now[MemoryKind::ReceiveBuffers as usize] = self.receive_buffer_bytes;
        self.page.publish(&counters, shard.busiest_mut(), now.as_nanos());
        self.published_at = now;
        self.stale = false;
    }
}

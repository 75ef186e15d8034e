//! What crosses a ring between two shards: one closed enum, so that one screen shows everything that can happen.
//!
//! Publications travel in batches: what one loop turn has for one shard is one envelope, whose frames lie one behind the
//! other in one block. Everything else is rare and boxed, to keep the envelope at two words.

use std::any::Any;
use std::sync::Arc;

use midge_mesh::ShardId;
use midge_session::{Keep, Publication, SubscriptionOptions, Time};

use crate::connection::Answer;
use crate::identity::Identity;
use crate::ids::{ConnectionId, ListenerId, PeerAddress, SessionRef};
use crate::tally::Origin;

/// One crossing from one shard to another.
#[derive(Debug)]
pub enum Envelope {
    /// Publications that the receiving shard may have subscribers (or a place to retain) for.
    Publications(Box<Batch>),
    /// The receiver of publications has taken what came under some tickets.
    Accepted(Box<Accepted>),
    /// A connection moves to its client's home.
    HandOver(Box<Arrival>),
    /// A session joins a shared subscription; the chooser answers with [`Envelope::ShareJoined`].
    ShareJoin(Box<ShareJoin>),
    /// The chooser has noted a member; its SUBACK may leave.
    ShareJoined(Box<ShareJoined>),
    /// After a restart: all members that the log of a shard knows have joined again.
    ShareRejoined,
    /// A session leaves a shared subscription.
    ShareLeave(Box<ShareMember>),
    /// A member went offline, came back, is full or has room again.
    ShareState(Box<ShareState>),
    /// The chooser gives a message to a member.
    ShareDeliver(Box<ShareDeliver>),
    /// A member could not keep a message: choose again.
    ShareReturn(Box<ShareReturn>),
    /// A new subscription asks for retained messages.
    RetainedQuery(Box<RetainedQuery>),
    /// Some of them.
    RetainedAnswer(Box<RetainedAnswer>),
    /// A cut through all logs, by its number: behind this comes what does not belong to it.
    Cut(u64),
}

/// Publications of one turn for one shard, in the order in which they were routed.
#[derive(Debug, Default)]
pub struct Batch {
    /// The messages.
    pub(crate) items: Vec<Item>,
    /// The frames of all runs, one behind the other.
    pub(crate) frames: Vec<u8>,
    /// When the first of them was received.
    pub(crate) received: Time,
    /// Bytes that the batch holds, for the outbox's bound.
    pub(crate) size: usize,
}

/// Runs for shards on the same thread, which take them before anything else happens: no batch for each of them, and a run's
/// frames once, for whoever wants it.
#[derive(Debug, Default)]
pub(crate) struct Crossing {
    pub(crate) runs: Vec<(ShardId, RunPlace)>,
    /// The frames of all runs, one behind the other.
    pub(crate) frames: Vec<u8>,
}

/// One run of a crossing, for the shard that takes it.
#[derive(Debug, Clone, Copy)]
pub struct Crossed<'a> {
    pub(crate) from: ShardId,
    pub(crate) received: Time,
    /// Of all runs; `place` says which are this one's.
    pub(crate) frames: &'a [u8],
    pub(crate) place: RunPlace,
}

impl Crossing {
    /// A run for `target`, whose frames are behind the others, or at `at` already. Returns where they are.
    #[inline]
    pub(crate) fn push(
        &mut self,
        target: ShardId,
        frames: &[u8],
        mut place: RunPlace,
        at: Option<u32>,
    ) -> u32 {
        place.at = at.unwrap_or_else(|| {
            let at = u32::try_from(self.frames.len()).expect("taken long before 4 GiB");
            self.frames.extend_from_slice(frames);
            at
        });
        self.runs.push((target, place));
        place.at
    }
}

/// One message, or several to one topic.
#[derive(Debug)]
pub(crate) enum Item {
    /// QoS 0 PUBLISH packets to one topic, as they were received, in `Batch::frames`.
    Run(RunPlace),
    /// Anything else; `ticket` is answered with [`Envelope::Accepted`] when it is not zero.
    /// When `number` is not zero it is kept by the shard that hands it on, under that number, until the ticket is answered.
    Publication { publication: Arc<Publication>, ticket: u64, number: u64 },
}

/// Where a run's frames lie, and what is known about them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunPlace {
    pub(crate) at: u32,
    pub(crate) size: u32,
    /// Packets in it.
    pub(crate) count: u32,
    /// The largest of them, in bytes.
    pub(crate) frame_size_max: u32,
    /// The Topic Name in the first frame.
    pub(crate) topic_at: u8,
    pub(crate) topic_size: u16,
    /// Whether the frames have a (empty) property block.
    pub(crate) v5: bool,
}

/// Tickets are done: without logs all up to one, with logs single ones, since each waits for something else.
#[derive(Debug)]
pub struct Accepted {
    /// All up to this one; zero none.
    pub(crate) ticket: u64,
    /// Those among them that could not be kept (a quota was reached).
    pub(crate) refused: Vec<u64>,
    /// Single ones, in any order.
    pub(crate) done: Vec<(u64, Answer)>,
}

/// A connection that arrives at its client's home.
#[derive(Debug)]
pub struct Arrival {
    /// Its number in the receiving shard's table.
    pub connection: ConnectionId,
    /// What moves with it.
    pub luggage: Box<Luggage>,
}

/// What a connection takes along.
#[derive(Debug)]
pub struct Luggage {
    pub(crate) peer: PeerAddress,
    pub(crate) listener: ListenerId,
    /// The CONNECT packet and whatever came behind it.
    pub(crate) received: Vec<u8>,
    pub(crate) identity: Option<Box<Identity>>,
    /// What the hands keep of a connection, such as the state of its TLS: they put it in when the descriptor has moved,
    /// and get it back at the other end with [`crate::Action::Adopt`].
    pub carried: Option<Carried>,
}

/// Something of the hands' own that moves with a connection. The shard only passes it on.
pub type Carried = Box<dyn Any + Send>;

/// A member of a shared subscription, as the chooser knows it.
#[derive(Debug, Clone)]
pub struct ShareMember {
    /// The whole filter, `$share/NAME/FILTER`.
    pub(crate) group: Arc<str>,
    pub(crate) session: SessionRef,
}

/// See [`Envelope::ShareJoin`].
#[derive(Debug)]
pub struct ShareJoin {
    pub(crate) member: ShareMember,
    pub(crate) options: SubscriptionOptions,
    /// Whether the session outlives its connection.
    pub(crate) persistent: bool,
    /// Comes back in [`ShareJoined`].
    pub(crate) token: u64,
    pub(crate) connection: ConnectionId,
}

/// See [`Envelope::ShareJoined`].
#[derive(Debug)]
pub struct ShareJoined {
    pub(crate) token: u64,
    pub(crate) connection: ConnectionId,
}

/// See [`Envelope::ShareState`].
#[derive(Debug)]
pub struct ShareState {
    pub(crate) member: ShareMember,
    pub(crate) online: bool,
    pub(crate) room: bool,
}

/// See [`Envelope::ShareDeliver`].
#[derive(Debug)]
pub struct ShareDeliver {
    pub(crate) member: ShareMember,
    /// When and where it came into the broker, or was taken from the group's backlog.
    pub(crate) origin: Origin,
    /// Answered with [`Envelope::Accepted`] when it is not zero.
    pub(crate) ticket: u64,
    pub(crate) publication: Arc<Publication>,
    /// Members that may not receive it, and have given it back.
    pub(crate) denied: Vec<(ShardId, SessionRef)>,
}

/// See [`Envelope::ShareReturn`].
#[derive(Debug)]
pub struct ShareReturn {
    /// Who could not keep it: skipped until it says that it has room, unless it is among `denied`.
    pub(crate) member: ShareMember,
    pub(crate) publication: Arc<Publication>,
    /// Members that may not receive it: not asked again about this one.
    pub(crate) denied: Vec<(ShardId, SessionRef)>,
    /// The ticket under which it was given to the member; zero none. It is answered behind this.
    pub(crate) ticket: u64,
    /// Where the group's backlog, on the same shard, keeps it still.
    pub(crate) kept: Option<Keep>,
}

/// See [`Envelope::RetainedQuery`].
#[derive(Debug)]
pub struct RetainedQuery {
    pub(crate) connection: ConnectionId,
    pub(crate) token: u64,
    pub(crate) filter: Arc<str>,
    /// Resume after this topic.
    pub(crate) after: Option<Box<str>>,
}

/// See [`Envelope::RetainedAnswer`].
#[derive(Debug)]
pub struct RetainedAnswer {
    pub(crate) connection: ConnectionId,
    pub(crate) token: u64,
    pub(crate) publications: Vec<crate::retained::Found>,
    /// Where to resume; `None` when this shard has no more.
    pub(crate) resume_after: Option<Box<str>>,
}

/// An envelope is two words, so that a ring of a thousand is 16 KiB.
const _: () = assert!(size_of::<Envelope>() <= 16);

/// Used by the chooser and by tests: where an envelope of a group goes.
pub(crate) fn chooser(group: &str, shards: u16) -> ShardId {
    crate::ids::keeper_shard(group, shards)
}

//! Situations: what a run is supposed to reach, and how often it did.
//!
//! A fault that never happens tests nothing. Each place that makes or observes a situation counts it here; the long mode
//! prints the table and fails when a situation was never reached.

/// Declares the situations: an enum, its names, its count.
macro_rules! situations {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Something that a run should meet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Situation { $($(#[doc = $doc])+ $name,)+ }

        impl Situation {
            /// All, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name in the table.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

situations! {
    /// A connection was accepted by another shard than its client's home, and moved.
    HandOver,
    /// A hand-over failed: the target's table was full.
    HandOverFailed,
    /// The client closed or was cut while its connection moved.
    CutDuringHandOver,
    /// A second connection with the same client id while the first was alive.
    TakeOver,
    /// A connection was cut.
    Cut,
    /// A connection was cut in the middle of a packet.
    CutInPacket,
    /// A client vanished without a word.
    HalfOpen,
    /// The Keep Alive closed a connection.
    KeepAliveTimeout,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// A push into a full ring between two shards.
    RingFull,
    /// A shard took from another one of its thread what that had just received.
    Crossed,
    /// A publisher was parked.
    PublisherParked,
    /// A send was taken in parts.
    PartialSend,
    /// A send had to wait for a slow reader.
    SendBlocked,
    /// A client did not read for a while.
    Deaf,
    /// Bytes came after a pause.
    LateReceive,
    /// A shard stalled.
    Stall,
    /// The clock jumped.
    ClockJump,
    /// A shard slept and was woken by a doorbell.
    Doorbell,
    /// A session was resumed.
    SessionResumed,
    /// A session expired.
    SessionExpired,
    /// A will was published.
    WillPublished,
    /// A will with a delay was forgotten because the client came back.
    WillForgotten,
    /// A message expired.
    MessageExpired,
    /// A publisher sent a QoS 1 or 2 message again.
    PublishAgain,
    /// The broker sent a message again.
    DeliveredAgain,
    /// The broker's window to a client was full.
    WindowFull,
    /// The broker refused a QoS 2 duplicate.
    DuplicateRefused,
    /// A shared message went to a second member because the first left.
    SharedAgain,
    /// A retained message was delivered to a new subscription.
    RetainedDelivered,
    /// A Topic Alias came from the broker.
    AliasFromBroker,
    /// A Topic Alias went to the broker.
    AliasToBroker,
    /// A QoS 0 message was dropped because an output was full.
    OutputFull,
    /// A QoS 1 or 2 message was dropped because a queue was full.
    QueueFull,
    /// A retained message was not kept because there were too many.
    RetainedRefused,
    /// A message was too large for its receiver.
    TooLarge,
    /// A CONNECT was refused.
    Refused,
    /// A client broke the protocol and was thrown out.
    ProtocolError,
    /// The broker was killed, and started again from its logs.
    Killed,
    /// The power went, and the broker was started again from what its disks had kept.
    PowerCut,
    /// An operation of a disk failed.
    DiskFailed,
    /// A disk was full.
    DiskFull,
    /// A queued message was left to the log alone.
    BacklogSpilled,
    /// A message was read back from the log for its client.
    BacklogLoaded,
    /// A client was closed because the disk did not take what it would have been told is kept.
    NotKept,
    /// The broker was shut down.
    Shutdown,
}

/// How often each situation was met.
#[derive(Debug, Clone)]
pub struct Coverage([u64; Situation::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Situation::ALL.len()])
    }
}

impl Coverage {
    /// Once more.
    pub fn hit(&mut self, situation: Situation) {
        self.add(situation, 1);
    }

    /// Some times more.
    pub fn add(&mut self, situation: Situation, count: u64) {
        self.0[situation as usize] += count;
    }

    /// How often.
    #[must_use]
    pub fn count(&self, situation: Situation) -> u64 {
        self.0[situation as usize]
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

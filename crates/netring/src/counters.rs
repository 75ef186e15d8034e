//! What a ring has done since it was made.

/// Plain counters of one ring, all since its creation. Only the ring's own thread writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Completions taken from the completion queue.
    pub completions: u64,
    /// Connections accepted.
    pub accepts: u64,
    /// Times a listener stopped accepting because the table of connections (or the system's) was full.
    pub accept_pauses: u64,
    /// Accepts that failed for another reason and were tried again.
    pub accept_failures: u64,
    /// Receives that brought bytes.
    pub receives: u64,
    /// Sends that moved bytes.
    pub sends: u64,
    /// Sends that moved only a part and were continued.
    pub sends_continued: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Receives that found no buffer free.
    pub buffers_exhausted: u64,
    /// Continuous receives that the kernel ended and that were armed again.
    pub receive_rearms: u64,
    /// Completions of an operation whose connection is gone. Zero, unless there is a mistake in here.
    pub stale_completions: u64,
    /// Cancellations that missed their operation and were tried again.
    pub cancels_retried: u64,
    /// Operations that found the submission queue full after flushing it and waited for the next turn.
    pub submissions_spilled: u64,
    /// Connections put into another ring's table.
    pub hand_overs: u64,
    /// Connections that another ring's table did not take.
    pub hand_over_failures: u64,
    /// Doorbells sent to other rings.
    pub doorbells: u64,
    /// Doorbells that the kernel could not deliver because the other ring is gone.
    pub doorbell_failures: u64,
    /// Connections opened by us.
    pub connects: u64,
    /// Connections closed.
    pub closes: u64,
}

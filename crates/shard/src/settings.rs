//! What a shard is told at its start.

use midge_session::{Limits, QueueLimits};
use midge_topic::TopicLimits;

use crate::levels::Levels;
use crate::outbox::OutboxLimits;
use crate::protection::Protection;
use crate::security::Security;

/// Settings of a shard; the same for all shards of a process.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is offered to clients and announced to them.
    pub limits: Limits,
    /// Levels and size of Topic Names and Topic Filters.
    pub topic_limits: TopicLimits,
    /// Bounds of a session's queue of QoS 1 and 2 messages.
    pub queue: QueueLimits,
    /// Bytes of what waits in the queues of all sessions of this shard. A message counts in each of them. Beyond it a message
    /// is treated as if the one queue was full.
    pub queued_bytes_max: usize,
    /// Bytes of these that may be in memory, with or without a log. Beyond it, too, one more is treated as if the queue was full.
    pub queued_in_memory_max: usize,
    /// Bytes of these in memory beyond which what a log keeps is left to the log alone. What no log keeps counts, and stays.
    pub queued_memory_max: usize,
    /// Whether QoS 0 messages are queued for sessions that are away, within the same bounds. Default `false`.
    pub queue_qos0: bool,
    /// Bytes that may wait for one connection's socket. Beyond it QoS 0 messages are dropped and counted, QoS 1 and 2
    /// messages go to the session's queue, and a client that causes answers without reading them is not read from.
    pub output_bytes_max: usize,
    /// Subscriptions of one session, at most; more are refused with 0x97.
    pub subscriptions_per_client_max: usize,
    /// From accept to CONNECT, in milliseconds, at most.
    pub connect_timeout_ms: u64,
    /// Connections of this shard, at most; more are closed at once and counted.
    pub connections_max: usize,
    /// Sessions of this shard, connected or not, at most; a CONNECT that needs one more is refused with 0x97.
    pub sessions_max: usize,
    /// Retained messages that this shard keeps, at most; more are refused with 0x97.
    pub retained_messages_max: usize,
    /// Bytes of retained messages that this shard keeps, at most.
    pub retained_bytes_max: usize,
    /// Messages that a shared subscription keeps while none of its members can take one.
    pub share_backlog_messages_max: usize,
    /// Bounds of what waits for another shard.
    pub outbox: OutboxLimits,
    /// What acknowledgements of publications wait for, when something outlives the process.
    pub levels: Levels,
    /// Who is let in, and what they may do, at the start.
    pub security: Security,
    /// Whether a retained message is delivered only while who wrote it might still publish it, by the rules that all have.
    pub recheck_retained: bool,
    /// Whether somebody wants to know who comes, goes and is denied what.
    pub audit: bool,
    /// What keeps one client, address or listener from taking what belongs to all.
    pub protection: Protection,
    /// Makes assigned client ids of this process differ from those of others; chosen by the caller.
    pub client_id_seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            topic_limits: TopicLimits::default(),
            queue: QueueLimits { messages_max: 1000, bytes_max: 1 << 20 },
            queued_bytes_max: usize::MAX,
            queued_in_memory_max: usize::MAX,
            queued_memory_max: 64 << 20,
            queue_qos0: false,
            output_bytes_max: 2 << 20,
            subscriptions_per_client_max: 100_000,
            connect_timeout_ms: 8_000,
            connections_max: usize::MAX,
            sessions_max: usize::MAX,
            retained_messages_max: 1_000_000,
            retained_bytes_max: 1 << 30,
            share_backlog_messages_max: 1000,
            outbox: OutboxLimits::default(),
            levels: Levels::default(),
            security: Security::default(),
            recheck_retained: false,
            audit: false,
            protection: Protection::default(),
            client_id_seed: 0,
        }
    }
}

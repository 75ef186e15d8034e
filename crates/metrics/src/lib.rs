//! Counters of one shard.
//!
//! Plain numbers, written by the shard that owns them and by nobody else, so that counting costs an add on a line that is
//! already in that core's cache. Whoever wants a total merges copies ([`Counters::merge`]).
//!
//! # Deliberately absent
//! No atomics, no registry, no strings on the hot path. Names exist once, in the list below, and are what `stats`,
//! `$SYS` and Prometheus build theirs from.
#![forbid(unsafe_code)]

/// Declares [`Counters`]: one field, one name, one sentence each.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What one shard has counted since it started. All only grow, except those that say "now".
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Every counter with its name, in the order of the declaration.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }

            /// Adds another shard's numbers to these.
            pub fn merge(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counters! {
    /// Connections that exist now, handshaking ones included.
    connections_now,
    /// Sessions that exist now, connected or not.
    sessions_now,
    /// Subscriptions that exist now.
    subscriptions_now,
    /// Retained messages kept now.
    retained_now,
    /// Bytes of retained messages kept now.
    retained_bytes_now,
    /// Connections accepted from the network.
    connections_accepted,
    /// Connections refused because a limit on connections was reached.
    connections_refused,
    /// Connections handed over to their home shard.
    connections_handed_over,
    /// Connections received from the shard that accepted them.
    connections_adopted,
    /// CONNECT packets accepted.
    connects_accepted,
    /// CONNECT packets refused.
    connects_refused,
    /// Connections closed because no CONNECT came in time.
    connect_timeouts,
    /// Connections closed because the Keep Alive ran out.
    keep_alive_timeouts,
    /// Connections taken over by a new one with the same client id.
    take_overs,
    /// Connections closed because of a malformed packet.
    malformed_packets,
    /// Connections closed because of a protocol error.
    protocol_errors,
    /// Packets received.
    packets_received,
    /// Bytes received.
    bytes_received,
    /// Bytes handed to the socket.
    bytes_sent,
    /// PUBLISH packets received.
    publishes_received,
    /// PUBLISH packets sent.
    publishes_sent,
    /// QoS 2 PUBLISH packets received again before their PUBREL.
    duplicates_received,
    /// QoS 0 messages dropped because the subscriber's output was full.
    dropped_output_full,
    /// QoS 1 and 2 messages dropped because the session's queue was full.
    dropped_queue_full,
    /// Messages dropped because their Message Expiry Interval had passed.
    dropped_expired,
    /// Messages not sent because they exceed the client's Maximum Packet Size.
    dropped_too_large,
    /// Shared messages dropped because no member could take them.
    dropped_no_member,
    /// Retained messages refused because a limit was reached.
    retained_refused,
    /// Messages sent to other shards (a run of frames counts each).
    hops_sent,
    /// Messages received from other shards.
    hops_received,
    /// Messages received from other shards that nobody here wanted (interest map false positives).
    hops_unwanted,
    /// Times a publisher was parked because another shard's ring was full.
    publishers_parked,
    /// Wills published.
    wills_published,
    /// Sessions that ended by expiry.
    sessions_expired,
    /// Stale envelopes: their connection or session was gone when they came.
    envelopes_stale,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_every_counter() {
        let ones = Counters { connections_now: 1, envelopes_stale: 2, ..Counters::default() };
        let mut total = ones;
        total.merge(&ones);
        assert_eq!((total.connections_now, total.envelopes_stale), (2, 4));
        assert_eq!(total.iter().map(|(_, value)| value).sum::<u64>(), 6);
    }
}

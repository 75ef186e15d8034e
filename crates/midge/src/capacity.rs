//! What connections and messages cost, as measured, and the arithmetic that `plan`, `doctor` and the settings share.
//!
//! Every constant was measured by `bench/capacity`, which prints them by these names; the comment at each says what
//! exactly. The machine: Intel Xeon, 2 cores, 24 GiB, Linux 6.18, broker and generator on one core each, over
//! loopback. Values are rounded up. Measure again with that one command when one of them could have changed.

/// The broker's own memory before a shard exists. `bench/capacity`: VmRSS of a fresh broker with 4 shards, less 4 times
/// the next (3.4 MB).
pub(crate) const PROCESS_USER_BYTES: u64 = 3_500_000;

/// One more shard, before anybody connects. `bench/capacity`: VmRSS of a fresh broker with 64 shards less that of one
/// with 4, over 60.
pub(crate) const SHARD_USER_BYTES: u64 = 1_000_000;

/// The broker's own memory of one idle connection without a subscription. `bench/capacity`: growth of VmRSS
/// between 25,000 and 100,000 connections on 16 shards (`midge-flood connect --subscriptions 0`).
pub(crate) const CONNECTION_USER_BYTES: u64 = 330;

/// One subscription to a filter that nobody else has. `bench/capacity`: the same with `--subscriptions 1`, less
/// [`CONNECTION_USER_BYTES`].
pub(crate) const SUBSCRIPTION_USER_BYTES: u64 = 50;

/// What TLS adds to an idle connection. `bench/tls --rows idle-tcp,idle`: growth of VmRSS for each of 19,900 idle TLS
/// connections (4,194 B) less that for plain ones (371 B).
pub(crate) const TLS_USER_BYTES: u64 = 3_900;

/// A core's time for one full handshake, TLS 1.3, ECDSA P-256, nanoseconds (`bench/tls --rows connect,full-13`). A resumed one
/// takes four fifths of it: its certificate is spared, its key exchange is not.
pub(crate) const TLS_HANDSHAKE_CPU_NS: u64 = 162_000;

/// The kernel's memory of one end of an idle TCP connection. `bench/capacity`: half of what the machine's slabs grew by
/// for both ends over loopback, in the same runs.
pub(crate) const CONNECTION_KERNEL_BYTES: u64 = 4_500;

/// A slot of a ring's table of connections, in the kernel: one pointer, used or not. Not measured: the kernel's source.
pub(crate) const SLOT_KERNEL_BYTES: u64 = 8;

/// Memory of one shard that counts against the limit of locked memory (`ulimit -l`), for a user without `CAP_IPC_LOCK`:
/// the rings, with the default number of entries, and what the executor registers. `bench/capacity`: the smallest limit
/// under which 8 shards start, over 8. Linux 6.18; older kernels count less of it.
pub(crate) const SHARD_LOCKED_BYTES: u64 = 580_000;

/// A core's time for one message at QoS 0 on its way in and out, nanoseconds: 200 pairs, one message under way in each, so
/// that nothing is sent or received together (`midge-flood pairs -c 200 -q 0 --inflight 1`). In larger batches it is
/// as little as 300. An idle core that wakes up for each message spends more on it (14 µs at 20,000 a second), but
/// then it is idle.
pub(crate) const MESSAGE_CPU_NS: u64 = 5_400;

/// The same at QoS 1, all four packets (`midge-flood pairs -c 200 -q 1 --inflight 1`).
pub(crate) const MESSAGE_QOS1_CPU_NS: u64 = 8_800;

/// A keep-alive ping and its answer, on a core that wakes up for each: 15,000 connections that do nothing else, 2,500
/// pings a second (`midge-flood connect -c 15000 -k 8`). On a busy core it is about what a message costs.
pub(crate) const PING_CPU_NS: u64 = 17_000;

/// A connect, a subscription and a disconnect (`midge-flood cycle -c 50`).
pub(crate) const CYCLE_CPU_NS: u64 = 24_000;

/// The kernel's bound of one ring's registered files (`IORING_MAX_FIXED_FILES`). Not measured: the kernel's source.
pub(crate) const SLOTS_MAX: u64 = 1 << 20;

/// Slots of one ring, if `connections` are to be held by `shards` of them.
///
/// Clients spread over shards by hash, so some shards get more than their part; and a connection has a slot where it was
/// accepted before it moves to its home shard.
pub(crate) fn slots_per_ring(connections: u64, shards: u16) -> u64 {
    let part = connections.div_ceil(shards.max(1).into());
    (part + part / 4 + 256).min(connections.max(1))
}

/// The fewest shards whose rings hold `connections` when one ring holds `slots`; `None`: not even the most shards do.
pub(crate) fn shards_needed(connections: u64, slots: u64) -> Option<u16> {
    let slots = slots.min(SLOTS_MAX);
    (1..=midge_config::SHARDS_MAX).find(|shards| slots_per_ring(connections, *shards) <= slots)
}

/// How many connections `shards` rings of `slots` slots are good for, spread as [`slots_per_ring`] expects them.
pub(crate) fn connections_held(shards: u16, slots: u64) -> u64 {
    let slots = slots.min(SLOTS_MAX);
    let by_part = slots.saturating_sub(256).saturating_mul(4) / 5 * u64::from(shards);
    // A single ring has no uneven spread.
    by_part.max(slots)
}

/// The broker's own memory with this many idle connections and subscriptions.
pub(crate) fn user_bytes(connections: u64, subscriptions: u64, shards: u16) -> u64 {
    PROCESS_USER_BYTES
        + SHARD_USER_BYTES * u64::from(shards)
        + connections.saturating_mul(CONNECTION_USER_BYTES)
        + subscriptions.saturating_mul(SUBSCRIPTION_USER_BYTES)
}

/// The kernel's memory for one end of this many idle connections.
pub(crate) fn kernel_bytes(connections: u64, shards: u16) -> u64 {
    let slots = slots_per_ring(connections, shards).min(SLOTS_MAX) * u64::from(shards);
    connections.saturating_mul(CONNECTION_KERNEL_BYTES) + slots * SLOT_KERNEL_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_allow_for_uneven_spread() {
        for (connections, shards, slots) in [
            (1_000_000, 2, 625_256),
            (1_000_000, 64, 19_787),
            (10_000_000, 64, 195_568),
            (10_000_000, 8, 1_562_756),
            (1, 64, 1),
            (1_000, 1, 1_000),
        ] {
            assert_eq!(slots_per_ring(connections, shards), slots, "{connections} {shards}");
        }
    }

    #[test]
    fn what_is_said_to_be_held_is_held() {
        for (connections, slots) in [
            (1_000_000, 20_000),
            (1_000_000, 1 << 20),
            (10_000_000, u64::MAX),
            (100, 1_024),
            (5_000, 1_024),
        ] {
            let shards = shards_needed(connections, slots).expect("enough shards");
            assert!(connections_held(shards, slots) >= connections, "{connections} {slots}");
            assert!(
                shards == 1 || connections_held(shards - 1, slots) < connections + 5,
                "{connections} {slots}: one shard less would do as well"
            );
        }
        assert_eq!(shards_needed(1_000_000, 20_000), Some(64));
        assert_eq!(shards_needed(10_000_000, 1_024), None);
    }

    /// The tuning scripts compute with memory too.
    #[test]
    fn the_scripts_have_the_same_figures() {
        let text = include_str!("../../../kernel-tuning/memory.sh");
        let value = |name: &str| -> u64 {
            let line =
                text.lines().find_map(|line| line.strip_prefix(&format!("readonly {name}=")));
            line.expect(name).parse().expect(name)
        };
        assert_eq!(value("CONNECTION_KERNEL_BYTES"), CONNECTION_KERNEL_BYTES);
        let user = CONNECTION_USER_BYTES + SUBSCRIPTION_USER_BYTES;
        assert!(
            include_str!("../../../kernel-tuning/descriptors.sh")
                .contains(&format!("\nreadonly SHARD_LOCKED_BYTES={SHARD_LOCKED_BYTES}\n"))
        );
        assert_eq!(value("CONNECTION_USER_BYTES"), user);
    }
}

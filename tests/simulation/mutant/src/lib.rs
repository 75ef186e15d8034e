//! Which deliberate bug is switched on.
//!
//! A simulator that finds nothing proves nothing until it is seen to find what is there. The rooms of the broker hold
//! deliberate bugs behind `mutant!("name")`, which is the constant `false` unless the feature `mutants` is on; then it
//! asks here. One thread has at most one.
#![forbid(unsafe_code)]

use std::cell::Cell;

thread_local! {
    static ACTIVE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Switches one on for this thread, or all off.
pub fn activate(mutant: Option<&'static str>) {
    ACTIVE.set(mutant);
}

/// The one that is switched on in this thread.
#[must_use]
pub fn active() -> Option<&'static str> {
    ACTIVE.get()
}

/// Whether this one is.
#[must_use]
pub fn is_active(name: &'static str) -> bool {
    debug_assert!(MUTANTS.iter().any(|mutant| mutant.0 == name), "{name} is not in the list");
    ACTIVE.get() == Some(name)
}

/// All of them: name, and what is wrong then.
pub const MUTANTS: &[(&str, &str)] = &[
    ("drop-pubrel", "a PUBREC is not answered"),
    ("forget-interest", "a new filter does not set the shard's interest bit"),
    ("keep-interest", "the last subscription leaves the interest bit behind"),
    ("unsubscribe-keeps", "UNSUBSCRIBE is acknowledged and does nothing"),
    ("window-off-by-one", "one message more than the Receive Maximum is in flight"),
    ("order-on-ring-full", "an envelope for which the ring was full goes to the end of the line"),
    (
        "crossing-overtakes",
        "what a shard of the same thread takes at once overtakes what waits for it",
    ),
    ("clear-keeps-retained", "an empty retained message removes nothing"),
    ("first-retained-stays", "a retained message does not replace the one before"),
    ("no-local-ignored", "No Local is ignored"),
    ("goodbye-keeps-will", "a normal DISCONNECT publishes the will"),
    ("will-twice", "a will stays after it was published"),
    ("will-at-once", "the Will Delay is ignored"),
    ("will-forgotten", "a lost connection publishes no will"),
    ("sessions-stay", "a session's expiry timer is not set"),
    ("clean-start-resumes", "Clean Start keeps the old session"),
    ("session-not-told", "CONNACK never says session present"),
    ("dup-not-set", "what is sent again has no DUP"),
    ("packet-id-twice", "a packet id in use is given out again"),
    ("qos2-not-remembered", "a QoS 2 PUBLISH that comes again is delivered again"),
    ("pubrel-keeps-id", "PUBREL does not free the packet id"),
    ("queue-backwards", "a session's queue is filled from the front"),
    ("expired-delivered", "expired messages are delivered"),
    ("ack-early", "PUBACK does not wait for the other shards"),
    ("ack-out-of-order", "an acknowledgement that waits for nobody overtakes those that do"),
    ("share-two-members", "a shared message goes to two members"),
    ("share-not-returned", "an ended member's messages do not go to another"),
    ("share-leave-lost", "an ended session stays a member of its group"),
    ("share-state-lost", "the chooser is not told who is away or full"),
    ("parked-for-ever", "a parked publisher is not released"),
    ("alias-not-announced", "the first use of a Topic Alias has no topic"),
    ("identifier-lost", "Subscription Identifiers are not sent"),
    ("retain-flag-kept", "RETAIN is passed on although nobody asked for it"),
    ("qos-raised", "a message is delivered at the subscription's QoS"),
    ("silence-allowed", "the Keep Alive timer is not set"),
    ("luggage-lost", "bytes behind the CONNECT are lost in a hand-over"),
    ("old-connection-stays", "a take-over does not close the older connection"),
    ("resume-sends-nothing", "a resumed session does not send what was in flight"),
    ("translation-wrong", "a run is copied to clients of the other protocol family as it is"),
    ("too-large-sent", "the Maximum Packet Size is ignored"),
    ("no-doorbell", "a shard that sleeps is not woken"),
    ("no-room-notice", "a shard that waits for room in a ring is not told"),
    ("commit-not-awaited", "answers leave before the log has what they say"),
    ("packet-id-not-written", "the packet id of a message that waited is not written"),
    ("handed-on-again", "what another shard hands on again after a crash is taken again"),
    ("release-not-read", "a restart forgets that QoS 2 packet ids were released"),
    ("session-end-not-read", "a restart forgets that sessions have ended"),
    ("retained-gone-not-read", "a restart forgets that retained messages were removed"),
    ("cleaning-copies-nothing", "cleaning does not copy what counts"),
    ("failure-not-rewritten", "what a failed disk took is not written again"),
    ("prefix-not-asked", "the interest map is not asked for the filters `#` and `+/…`"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        assert!(!is_active("drop-pubrel"));
        activate(Some("drop-pubrel"));
        assert!(is_active("drop-pubrel") && !is_active("will-twice"));
        activate(None);
        assert_eq!(active(), None);
    }
}

//! The one list of what a shard counts: name, sentence, kind, unit, labels.

use crate::field::{Field, Kind, Unit};
use crate::labels::{
    ConnectRefusal, ConnectionRefusal, ConnectionState, LogCondition, MemoryKind, PacketType, Qos,
    TlsHandshake, TransportRefusal,
};

/// One number, or one for each value of a label.
trait Slot {
    const WORDS: usize;
    fn save(&self, words: &mut [u64]);
    fn load(&mut self, words: &[u64]);
}

impl Slot for u64 {
    const WORDS: usize = 1;

    #[inline]
    fn save(&self, words: &mut [u64]) {
        words[0] = *self;
    }

    fn load(&mut self, words: &[u64]) {
        *self = words[0];
    }
}

impl<const N: usize> Slot for [u64; N] {
    const WORDS: usize = N;

    #[inline]
    fn save(&self, words: &mut [u64]) {
        words.copy_from_slice(self);
    }

    fn load(&mut self, words: &[u64]) {
        self.copy_from_slice(words);
    }
}

/// Declares [`Counters`]. One entry is
///
/// ```text
/// /// One sentence.
/// name: counter|gauge UNIT;                            one number
/// name: counter|gauge UNIT by LABEL;                   one number for each value of a label
/// name: counter|gauge UNIT in FAMILY(key = "value");   one number, shown as FAMILY{key="value"}
/// ```
///
/// Entries of one family stand together.
macro_rules! counters {
    (@type) => { u64 };
    (@type $label:ident) => { [u64; $label::COUNT] };
    (@kind counter) => { Kind::Counter };
    (@kind gauge) => { Kind::Gauge };
    (@names $name:ident) => { (stringify!($name), "", &[""]) };
    (@names $name:ident by $label:ident) => {
        (stringify!($name), $label::KEY, &$label::NAMES)
    };
    (@names $name:ident in $family:ident($key:ident = $value:literal)) => {
        (stringify!($family), stringify!($key), &[$value])
    };
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $kind:ident $unit:ident
            $(by $label:ident)? $(in $family:ident($key:ident = $value:literal))?;
    )+) => {
        /// What one shard has counted since it started, and how much there is now. Which is which, and in what unit,
        /// says [`Counters::FIELDS`].
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: counters!(@type $($label)?),)+
        }

        impl Counters {
            /// How many numbers there are, each value of a label for itself.
            pub const WORDS: usize = 0 $(+ <counters!(@type $($label)?) as Slot>::WORDS)+;

            /// What each number means, in the order of [`Counters::words`].
            pub const FIELDS: &'static [Field; Self::WORDS] = &{
                let fields = [Field::EMPTY; Self::WORDS];
                let at = 0;
                $(
                    let (name, key, values): (&'static str, &'static str, &[&'static str]) =
                        counters!(@names $name $(by $label)? $(in $family($key = $value))?);
                    let field = Field {
                        name,
                        sentence: concat!($($doc),+),
                        kind: counters!(@kind $kind),
                        unit: Unit::$unit,
                        labels: [None; 2],
                    };
                    let (fields, at) = described(fields, at, field, key, values);
                )+
                assert!(at == Self::WORDS);
                fields
            };

            /// All numbers in the order of the list.
            #[must_use]
            #[inline]
            pub fn words(&self) -> [u64; Self::WORDS] {
                let mut words = [0; Self::WORDS];
                let mut at = 0;
                $(
                    let end = at + <counters!(@type $($label)?) as Slot>::WORDS;
                    self.$name.save(&mut words[at..end]);
                    at = end;
                )+
                debug_assert_eq!(at, Self::WORDS);
                words
            }

            /// The reverse of [`Counters::words`].
            #[must_use]
            pub fn from_words(words: &[u64; Self::WORDS]) -> Self {
                let mut counters = Self::default();
                let mut at = 0;
                $(
                    let end = at + <counters!(@type $($label)?) as Slot>::WORDS;
                    counters.$name.load(&words[at..end]);
                    at = end;
                )+
                debug_assert_eq!(at, Self::WORDS);
                counters
            }
        }
    };
}

/// Writes the description of one entry into the table.
const fn described<const N: usize>(
    mut fields: [Field; N],
    mut at: usize,
    field: Field,
    key: &'static str,
    values: &[&'static str],
) -> ([Field; N], usize) {
    let mut value = 0;
    while value < values.len() {
        fields[at] = field;
        if !key.is_empty() {
            fields[at].labels[0] = Some((key, values[value]));
        }
        value += 1;
        at += 1;
    }
    (fields, at)
}

counters! {
    /// Connections that exist now, handshaking and ending ones included.
    connections_now: gauge Count;
    /// Connections that exist now, by what they are doing.
    connections_by_state_now: gauge Count by ConnectionState;
    /// Sessions that exist now, connected or not.
    sessions_now: gauge Count;
    /// Subscriptions that exist now. A shared subscription counts where its group's chooser lives, once for each filter.
    subscriptions_now: gauge Count;
    /// Shared subscriptions that exist now, by their choosers.
    shared_subscriptions_now: gauge Count;
    /// Retained messages kept now.
    retained_now: gauge Count;
    /// Bytes of retained messages kept now.
    retained_bytes_now: gauge Bytes;
    /// Messages that wait now in sessions' queues.
    messages_queued_now: gauge Count;
    /// Bytes of the messages that wait now in sessions' queues; one counts in each of them.
    queued_bytes_now: gauge Bytes;
    /// Messages of these that the log alone has; the others are in memory.
    messages_queued_in_log_now: gauge Count;
    /// Bytes of the messages that the log alone has.
    queued_bytes_in_log_now: gauge Bytes;
    /// QoS 1 and 2 messages sent to clients, or about to be sent again, that wait for the client's acknowledgement now.
    messages_in_flight_now: gauge Count;

    /// Connections accepted from the network.
    connections_accepted: counter Count;
    /// Connections that were closed before anybody looked at what they sent, by why.
    connections_refused: counter Count by ConnectionRefusal;
    /// Connections that their transport closed, by why.
    transport_refusals: counter Count by TransportRefusal;
    /// TLS handshakes that were completed, by kind.
    tls_handshakes: counter Count by TlsHandshake;
    /// Connections handed over to their home shard.
    connections_handed_over: counter Count;
    /// Connections received from the shard that accepted them.
    connections_adopted: counter Count;
    /// CONNECT packets accepted.
    connects_accepted: counter Count;
    /// CONNECT packets refused, by why.
    connects_refused: counter Count by ConnectRefusal;

    /// Connections that ended, by what ended them.
    closed_by_client: counter Count in connections_closed(reason = "client");
    /// Connections that ended without a word from the client.
    closed_lost: counter Count in connections_closed(reason = "lost");
    /// Connections closed because no CONNECT came in time.
    connect_timeouts: counter Count in connections_closed(reason = "connect_timeout");
    /// Connections closed because the Keep Alive ran out.
    keep_alive_timeouts: counter Count in connections_closed(reason = "keep_alive_timeout");
    /// Connections taken over by a new one with the same client id.
    take_overs: counter Count in connections_closed(reason = "taken_over");
    /// Connections closed because of a malformed packet.
    malformed_packets: counter Count in connections_closed(reason = "malformed_packet");
    /// Connections closed because of a protocol error.
    protocol_errors: counter Count in connections_closed(reason = "protocol_error");
    /// Connections closed because their CONNECT was refused.
    closed_refused: counter Count in connections_closed(reason = "refused");
    /// Connections closed because the broker shuts down.
    closed_shutdown: counter Count in connections_closed(reason = "shutdown");
    /// Connections closed because an operator asked for it.
    closed_by_operator: counter Count in connections_closed(reason = "operator");

    /// Packets received, by type.
    packets_received: counter Count by PacketType;
    /// Bytes of the packets received, by type.
    packet_bytes_received: counter Bytes by PacketType;
    /// Packets sent, by type.
    packets_sent: counter Count by PacketType;
    /// Bytes of the packets sent, by type.
    packet_bytes_sent: counter Bytes by PacketType;
    /// Bytes received from sockets.
    bytes_received: counter Bytes;
    /// Bytes that sockets have taken.
    bytes_sent: counter Bytes;
    /// PUBLISH packets received, by QoS.
    publishes_received: counter Count by Qos;
    /// PUBLISH packets sent, by QoS.
    publishes_sent: counter Count by Qos;
    /// QoS 2 PUBLISH packets received again before their PUBREL.
    duplicates_received: counter Count;
    /// Messages that had to wait in a session's queue.
    messages_queued: counter Count;
    /// Queued messages that were left to the log, to spare memory.
    backlog_spilled: counter Count;
    /// Queued messages, and such in flight, that were read back from the log.
    backlog_loaded: counter Count;
    /// Reads of the log for them; one brings many.
    backlog_reads: counter Count;

    /// QoS 0 messages dropped because the subscriber's output was full.
    dropped_output_full: counter Count in messages_dropped(reason = "output_full");
    /// Messages dropped because the session's queue was full.
    dropped_queue_full: counter Count in messages_dropped(reason = "queue_full");
    /// Messages not taken because the log of the session that must get them takes nothing.
    dropped_log_full: counter Count in messages_dropped(reason = "log_full");
    /// Messages dropped because their Message Expiry Interval had passed.
    dropped_expired: counter Count in messages_dropped(reason = "expired");
    /// Messages not sent because they exceed the client's Maximum Packet Size.
    dropped_too_large: counter Count in messages_dropped(reason = "too_large");
    /// Shared messages dropped because no member could take them.
    dropped_no_member: counter Count in messages_dropped(reason = "no_member");
    /// Messages not delivered because the subscriber must not receive them.
    dropped_denied: counter Count in messages_dropped(reason = "denied");
    /// Queued messages lost because what the log had of them is damaged or cannot be read.
    dropped_damaged: counter Count in messages_dropped(reason = "damaged");

    /// Publications (and wills) refused because their client must not publish there.
    publishes_denied: counter Count;
    /// Subscriptions refused because nothing that they ask for may be received.
    subscriptions_denied: counter Count;
    /// Retained messages refused because a limit was reached.
    retained_refused: counter Count;
    /// Wills published.
    wills_published: counter Count;
    /// Sessions that ended by expiry.
    sessions_expired: counter Count;

    /// Durable logs there are now, by what the disk lets them do.
    logs_by_condition_now: gauge Count by LogCondition;
    /// Places of the durable logs that were damaged when they were read at the start.
    log_damage_now: gauge Count;
    /// Records that are known to be lost with them.
    log_records_lost_now: gauge Count;
    /// Segments of the durable logs that hold records now.
    log_segments_now: gauge Count;
    /// Bytes of those segments now, as far as they are used.
    log_bytes_now: gauge Bytes;
    /// Bytes of records that count, in those segments now.
    log_live_bytes_now: gauge Bytes;
    /// Bytes of segments that are prepared now, beside those.
    log_prepared_bytes_now: gauge Bytes;
    /// Records appended to the durable logs.
    log_records: counter Count;
    /// Writes of the durable logs.
    log_writes: counter Count;
    /// Syncs (`fdatasync`) of the durable logs.
    log_syncs: counter Count;
    /// Bytes written to the durable logs, with headers and padding.
    log_bytes_written: counter Bytes;
    /// Reads from the durable logs, after the start.
    log_reads: counter Count;
    /// Bytes read from the durable logs, after the start.
    log_bytes_read: counter Bytes;
    /// Writes and syncs of the durable logs that failed.
    log_failures: counter Count;
    /// Times that not even the smallest segment of a durable log could be made.
    log_refusals: counter Count;
    /// Segments of the durable logs that were given back.
    log_segments_retired: counter Count;

    /// Messages sent to other shards (a run of frames counts each).
    hops_sent: counter Count;
    /// Messages received from other shards.
    hops_received: counter Count;
    /// Messages received from other shards that nobody here wanted (interest map false positives).
    hops_unwanted: counter Count;
    /// Envelopes pushed into rings to shards of other threads.
    envelopes_sent: counter Count;
    /// Envelopes taken from rings of shards of other threads.
    envelopes_received: counter Count;
    /// Stale envelopes: their connection or session was gone when they came.
    envelopes_stale: counter Count;
    /// Pushes that found another shard's ring full. One envelope may count many times, once for each try.
    ring_full: counter Count;
    /// Doorbells rung to wake other shards.
    doorbells: counter Count;
    /// Times a publisher was parked because another shard's ring was full.
    publishers_parked: counter Count;
    /// Times a publisher was not read from because it had published more than it may in a second.
    publishers_paced: counter Count;
    /// Times a publisher was not read from because all clients of its listener together had published more than they may.
    publishers_paced_together: counter Count;
    /// Clients and addresses banned for connecting, or failing to log in, too often.
    bans: counter Count;

    /// Turns of the shard's loop.
    loop_turns: counter Count;
    /// CPU time of the shard's thread, the kernel's work on its sockets included; where shards share a thread, the part of
    /// it that this shard's turns were of all turns.
    loop_busy_ns: counter Nanoseconds;
    /// Time since the start that is not busy: the shard's thread slept, worked for other shards, or was kept from its core.
    loop_idle_ns: counter Nanoseconds;
    /// Turns that were allowed to sleep until something happens; of the thread, where shards share one.
    loop_parks: counter Count;
    /// Time in system calls that were allowed to sleep, the work that they did before included; of the thread, where shards
    /// share one.
    loop_parked_ns: counter Nanoseconds;
    /// System calls of the net ring.
    ring_enters: counter Count;
    /// Completions taken from the net ring.
    ring_completions: counter Count;
    /// Receives that brought bytes.
    receives: counter Count;
    /// Receives that found no buffer free.
    receive_buffers_exhausted: counter Count;
    /// Sends that moved bytes.
    sends: counter Count;
    /// Sends that moved only a part and were continued.
    sends_continued: counter Count;
    /// Packets that left in one send together with an earlier one.
    sends_coalesced: counter Count;
    /// Operations that found the submission queue full and waited for the next turn.
    submissions_spilled: counter Count;
    /// Times a listener stopped accepting because a table of connections was full.
    accept_pauses: counter Count;

    /// Memory that the shard's own structures hold now, by kind. The allocator's overhead is not in it.
    memory_bytes_now: gauge Bytes by MemoryKind;
}

impl Counters {
    /// Every number with its description, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Field, u64)> {
        Self::FIELDS.iter().zip(self.words())
    }

    /// Adds another shard's numbers to these.
    pub fn merge(&mut self, other: &Self) {
        let mut words = self.words();
        for (word, other) in words.iter_mut().zip(other.words()) {
            *word = word.saturating_add(other);
        }
        *self = Self::from_words(&words);
    }

    /// What was counted after `earlier`, a reading of the same shards: counters become differences, gauges stay.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut words = self.words();
        for ((word, earlier), field) in words.iter_mut().zip(earlier.words()).zip(Self::FIELDS) {
            if field.kind == Kind::Counter {
                *word = word.saturating_sub(earlier);
            }
        }
        Self::from_words(&words)
    }

    /// All messages dropped, whatever the reason.
    #[must_use]
    pub fn messages_dropped(&self) -> u64 {
        self.dropped_output_full
            + self.dropped_queue_full
            + self.dropped_log_full
            + self.dropped_expired
            + self.dropped_too_large
            + self.dropped_no_member
            + self.dropped_denied
            + self.dropped_damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_every_counter() {
        let ones = Counters {
            connections_now: 1,
            envelopes_stale: 2,
            publishes_sent: [3, 4, 5],
            ..Counters::default()
        };
        let mut total = ones;
        total.merge(&ones);
        assert_eq!((total.connections_now, total.envelopes_stale), (2, 4));
        assert_eq!(total.publishes_sent, [6, 8, 10]);
        assert_eq!(total.iter().map(|(_, value)| value).sum::<u64>(), 30);
    }

    #[test]
    fn words_come_back() {
        let mut words = [0; Counters::WORDS];
        for (number, word) in (1..).zip(&mut words) {
            *word = number;
        }
        assert_eq!(Counters::from_words(&words).words(), words);
    }

    #[test]
    fn a_difference_keeps_what_is_now() {
        let earlier = Counters { connections_now: 5, connects_accepted: 10, ..Counters::default() };
        let later = Counters { connections_now: 3, connects_accepted: 14, ..Counters::default() };
        let since = later.since(&earlier);
        assert_eq!((since.connections_now, since.connects_accepted), (3, 4));
    }

    /// Prometheus wants a family in one piece; and one name cannot mean two things.
    #[test]
    fn families_stand_together_and_series_are_told_apart() {
        let mut seen: Vec<&str> = Vec::new();
        let mut series = std::collections::HashSet::new();
        for field in Counters::FIELDS {
            if seen.last() != Some(&field.name) {
                assert!(!seen.contains(&field.name), "{} stands in two places", field.name);
                seen.push(field.name);
            }
            let first = Counters::FIELDS.iter().find(|f| f.name == field.name).unwrap();
            assert_eq!((first.kind, first.unit), (field.kind, field.unit), "{}", field.name);
            assert!(series.insert((field.name, field.labels)), "{} twice", field.name);
        }
    }

    /// An operator who looks a number up finds it.
    #[test]
    fn every_number_is_explained() {
        let page = include_str!("../../../docs/statistics.md");
        let series = crate::Series::ALL.iter().map(|series| series.field());
        for field in Counters::FIELDS.iter().chain(series) {
            let name = field.name;
            let alone = format!("`{name}`");
            let by_label = format!("`{name}{{");
            assert!(page.contains(&alone) || page.contains(&by_label), "{name}");
            for (key, value) in field.labels() {
                let listed = page.contains(&format!("{key}=\"{value}\""))
                    || page.lines().any(|line| {
                        line.starts_with(&format!("| `{key}` |")) && line.contains(value)
                    })
                    || name == "latency_ns";
                assert!(listed, "{name}: {key}={value}");
            }
        }
    }

    /// "Names carry units", and what is now says so.
    #[test]
    fn names_say_unit_and_kind() {
        for field in Counters::FIELDS {
            let name = field.name;
            assert_eq!(name.contains("bytes"), field.unit == Unit::Bytes, "{name}");
            assert_eq!(name.ends_with("_ns"), field.unit == Unit::Nanoseconds, "{name}");
            assert_eq!(name.ends_with("_now"), field.kind == Kind::Gauge, "{name}");
            assert!(field.sentence().ends_with('.'), "{name}");
            assert!(field.sentence().starts_with(char::is_uppercase), "{name}");
        }
    }
}

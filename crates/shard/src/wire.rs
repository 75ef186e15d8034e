//! Outputs of connections: who has something to send, and the empty buffers to put it in.

use midge_codec::{OutgoingPublish, PacketId, ProtocolVersion, QoS};
use midge_metrics::PacketType;
use midge_output::Output;
use midge_session::alias::OutboundAlias;
use midge_session::{Publication, Time};

use crate::connection::{Connection, Flags};
use crate::ids::ConnectionId;
use crate::tally::Origin;

/// Empty outputs kept for the next use; more are given back to the allocator.
const POOL_MAX: usize = 1024;

/// Connections with output, and the pool of buffers.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    dirty: Vec<ConnectionId>,
    #[expect(clippy::vec_box, reason = "the boxes travel to the net ring and back")]
    pool: Vec<Box<Output>>,
    pub(crate) sent: Sent,
}

/// What was given to outputs so far.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// By type.
    pub(crate) packets: [u64; PacketType::COUNT],
    /// By type.
    pub(crate) bytes: [u64; PacketType::COUNT],
    /// Packets that left together with an earlier one.
    pub(crate) coalesced: u64,
}

impl Sent {
    #[inline]
    fn count(&mut self, kind: usize, packets: u32, bytes: usize) {
        self.packets[kind] += u64::from(packets);
        self.bytes[kind] += bytes as u64;
    }
}

impl Wire {
    /// The connection's output to append to; the connection will be flushed at the end of the turn.
    #[inline]
    pub(crate) fn output<'c>(
        &mut self,
        id: ConnectionId,
        connection: &'c mut Connection,
    ) -> &'c mut Output {
        if !connection.flags.has(Flags::DIRTY) {
            connection.flags.set(Flags::DIRTY, true);
            self.dirty.push(id);
        }
        connection.output.get_or_insert_with(|| self.pool.pop().unwrap_or_default())
    }

    /// Appends an answer to the client, unless it is larger than the client takes: then it counts as sent
    /// [MQTT-3.1.2-24] [MQTT-3.1.2-25]. Returns whether it was appended.
    #[inline]
    pub(crate) fn answer(
        &mut self,
        id: ConnectionId,
        connection: &mut Connection,
        encode: impl FnOnce(ProtocolVersion, &mut Vec<u8>),
    ) -> bool {
        let (version, maximum) = (connection.version, connection.maximum_packet_size as usize);
        let output = self.output(id, connection);
        let buffer = output.buffer();
        let start = buffer.len();
        encode(version, buffer);
        let size = buffer.len() - start;
        let fits = size <= maximum;
        if fits && size > 0 {
            let kind = usize::from(buffer[start] >> 4);
            output.count_packets(1);
            self.sent.count(kind, 1, size);
        } else {
            buffer.truncate(start);
        }
        fits
    }

    /// Appends an answer whatever the client's maximum is: one that nothing else can take the place of.
    pub(crate) fn answer_always(
        &mut self,
        id: ConnectionId,
        connection: &mut Connection,
        encode: impl FnOnce(ProtocolVersion, &mut Vec<u8>),
    ) {
        let maximum = std::mem::replace(&mut connection.maximum_packet_size, u32::MAX);
        self.answer(id, connection, encode);
        connection.maximum_packet_size = maximum;
    }

    /// Appends `count` whole QoS 0 PUBLISH packets.
    #[inline]
    pub(crate) fn run(
        &mut self,
        id: ConnectionId,
        connection: &mut Connection,
        frames: &[u8],
        count: u32,
        origin: Origin,
    ) {
        let output = self.output(id, connection);
        output.extend(frames);
        output.count_packets(count);
        output.note(origin.received.as_nanos(), origin.kind(0), count);
        self.sent.count(PacketType::Publish as usize, count, frames.len());
    }

    /// An output leaves.
    #[inline]
    pub(crate) fn flushed(&mut self, output: &Output) {
        self.sent.coalesced += u64::from(output.packets().saturating_sub(1));
    }

    /// Lists a connection whose output waited for an earlier send.
    pub(crate) fn mark(&mut self, id: ConnectionId, connection: &mut Connection) {
        if !connection.flags.has(Flags::DIRTY) {
            connection.flags.set(Flags::DIRTY, true);
            self.dirty.push(id);
        }
    }

    pub(crate) fn next_dirty(&mut self) -> Option<ConnectionId> {
        self.dirty.pop()
    }

    pub(crate) fn recycle(&mut self, mut output: Box<Output>) {
        if self.pool.len() < POOL_MAX {
            output.recycle();
            self.pool.push(output);
        }
    }
}

/// How one PUBLISH to one client looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) duplicate: bool,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) identifiers: &'a [u32],
    /// Whose time is noted; `None` for what waited in a queue: how long it did is the client's doing.
    pub(crate) origin: Option<Origin>,
}

/// What came of [`append_publish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    Yes,
    /// Larger than the client's Maximum Packet Size: it must not be sent [MQTT-3.1.2-24].
    TooLarge,
}

/// The encoded header of one publication for each version, QoS and RETAIN flag, made when first needed: a fan-out to a
/// thousand subscribers encodes once and copies a thousand times.
#[derive(Debug, Default)]
pub(crate) struct HeaderCache {
    headers: [CachedHeader; 12],
}

#[derive(Debug, Default)]
struct CachedHeader {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    filled: bool,
}

impl HeaderCache {
    /// For the next publication. Keeps the memory.
    pub(crate) fn clear(&mut self) {
        for header in &mut self.headers {
            header.filled = false;
        }
    }
}

/// Appends one PUBLISH to a connection's output.
pub(crate) fn append_publish(
    wire: &mut Wire,
    cache: Option<&mut HeaderCache>,
    id: ConnectionId,
    connection: &mut Connection,
    publication: &Publication,
    shape: Shape<'_>,
    now: Time,
) -> Appended {
    let version = connection.version;
    let mut outgoing = OutgoingPublish {
        dup: shape.duplicate,
        qos: shape.qos,
        retain: shape.retain,
        topic: publication.topic(),
        packet_id: shape.packet_id,
        forwarded_properties: publication.properties(),
        message_expiry_interval_seconds: publication.expiry_interval_seconds(now),
        topic_alias: None,
        subscription_identifiers: shape.identifiers,
        payload_size: publication.payload().len(),
    };
    if connection.maximum_packet_size != u32::MAX
        && !mutant!("too-large-sent")
        && outgoing.size(version) > connection.maximum_packet_size as usize
    {
        return Appended::TooLarge;
    }
    // An alias that was chosen has to be announced, so none is chosen where the announcement (three bytes, and one for each
    // of the two lengths that it may push up) could exceed the client's maximum.
    let aliases = connection.extra.as_mut().and_then(|extra| extra.outbound_aliases.as_mut());
    let aliased = aliases.is_some();
    let room = connection.maximum_packet_size == u32::MAX
        || outgoing.size(version) + 5 <= connection.maximum_packet_size as usize;
    if let Some(aliases) = aliases.filter(|_| room) {
        match aliases.choose(publication.topic()) {
            OutboundAlias::None => {}
            OutboundAlias::Announce(alias) => outgoing.topic_alias = Some(alias),
            OutboundAlias::Known(alias) => {
                outgoing.topic_alias = Some(alias);
                outgoing.topic = "";
            }
        }
    }
    let output = wire.output(id, connection);
    let size_before = output.size();
    match cache {
        Some(cache) if !aliased && shape.identifiers.is_empty() && !shape.duplicate => {
            let index = usize::from(version.is_v5()) * 6
                + shape.qos as usize * 2
                + usize::from(shape.retain);
            let header = &mut cache.headers[index];
            if !header.filled {
                header.bytes.clear();
                header.packet_id_at = outgoing.encode_header(version, &mut header.bytes);
                header.filled = true;
            }
            let start = output.buffer().len();
            output.extend(&header.bytes);
            if let (Some(at), Some(packet_id)) = (header.packet_id_at, shape.packet_id) {
                let at = start + at;
                output.buffer()[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
            }
        }
        _ => {
            outgoing.encode_header(version, output.buffer());
        }
    }
    if publication.payload().len() < midge_output::SPLICE_SIZE_MIN {
        output.extend(publication.payload());
    } else {
        output.payload(&publication.payload_bytes());
    }
    output.count_packets(1);
    if let Some(origin) = shape.origin {
        output.note(origin.received.as_nanos(), origin.kind(shape.qos as usize), 1);
    }
    let size = output.size() - size_before;
    wire.sent.count(PacketType::Publish as usize, 1, size);
    Appended::Yes
}

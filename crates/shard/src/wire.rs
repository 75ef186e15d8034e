//! Outputs of connections: who has something to send, and the empty buffers to put it in.

use midge_codec::{OutgoingPublish, PacketId, ProtocolVersion, QoS};
use midge_output::Output;
use midge_session::alias::OutboundAlias;
use midge_session::{Publication, Time};

use crate::connection::{Connection, Flags};
use crate::ids::ConnectionId;

/// Empty outputs kept for the next use; more are given back to the allocator.
const POOL_MAX: usize = 1024;

/// Connections with output, and the pool of buffers.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    dirty: Vec<ConnectionId>,
    #[expect(clippy::vec_box, reason = "the boxes travel to the net ring and back")]
    pool: Vec<Box<Output>>,
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
        let buffer = self.output(id, connection).buffer();
        let start = buffer.len();
        encode(version, buffer);
        let fits = buffer.len() - start <= maximum;
        if !fits {
            buffer.truncate(start);
        }
        fits
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
    Appended::Yes
}

//! `midge store export`: what a data directory holds as JSON lines. All of it but most payloads is in this process's memory
//! meanwhile.

use std::{
    collections::HashMap,
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use midge_reactor::disk::{DataDirectory, LogDirectory};
use midge_session::{SubscriptionOptions, Time};
use midge_shard::{Image, WallTime, record::Record, split};
use midge_store::{Cause, Item, LogId, RecordReader, Recovery};

use super::lines::{self, Delivery, Line, Will};
use crate::{commands::list::unwritten, failure::Failure};

/// Options of `midge store export`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct ExportArguments {
    /// The data directory. One on which a broker runs moves while it is read: make a backup, and export that.
    #[arg(value_name = "DIR", default_value = "midge-data")]
    directory: PathBuf,
}

/// # Errors
/// When it cannot be read, or nobody takes the lines. Exit code 1 also when something in it is damaged: told on standard
/// error, with the lines of all that is not.
pub(crate) fn run(arguments: &ExportArguments) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Other(error.to_string());
    let directory = &arguments.directory;
    let layout = DataDirectory::view_layout(directory).map_err(|error| failed(&error))?;
    // Times stay what they are: milliseconds since 1970.
    let wall = WallTime::new(0, Time::ZERO);
    let (mut images, mut readers, mut sound) = (Vec::new(), Vec::new(), true);
    for number in layout.logs() {
        let log = DataDirectory::view_one(directory, number);
        let path = log.path().display().to_string();
        let failed = |error: &dyn std::fmt::Display| Failure::Other(format!("{path}: {error}"));
        let mut image = Image::new(wall);
        let mut recovery =
            Recovery::open(log, number, LogId([0; 16])).map_err(|error| failed(&error))?;
        while let Some(item) = recovery.next_item().map_err(|error| failed(&error))? {
            match item {
                Item::Record(position, record) => image
                    .apply(position, record.kind, record.payload)
                    .map_err(|error| failed(&error))?,
                Item::Damage(damage) if damage.cause == Cause::Torn => {}
                Item::Damage(damage) => {
                    sound = false;
                    _ = writeln!(io::stderr(), "{path}: {damage}");
                }
            }
        }
        let (recovered, log) = recovery.finish().map_err(|error| failed(&error))?;
        images.push(image);
        readers.push(RecordReader::new(log, recovered.id));
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    for image in split(images, 1, wall) {
        let lost = write(&image, &mut readers, &mut out).map_err(|error| unwritten(&error))?;
        if lost > 0 {
            sound = false;
            _ = writeln!(io::stderr(), "{lost} messages are damaged and left out");
        }
    }
    out.flush().map_err(|error| unwritten(&error))?;
    if sound { Ok(()) } else { Err(Failure::Told) }
}

/// Writes the lines of one image; how many messages could not be read. `readers` read the logs that it came from.
fn write(
    image: &Image,
    readers: &mut [RecordReader<LogDirectory>],
    out: &mut impl Write,
) -> io::Result<u64> {
    let mut clients = HashMap::new();
    let fetch = |log: u16, position, bytes: &mut Vec<u8>| {
        let Some(reader) = readers.get_mut(usize::from(log)) else { return Ok(None) };
        let record = reader.record(position)?;
        Ok(record.map(|record| {
            bytes.extend_from_slice(record.payload);
            record.kind
        }))
    };
    image.records(fetch, |record| {
        if let Record::Session(session) = record {
            clients.insert(session.session, session.client_id.to_owned());
        }
        let Some(line) = line(record, &clients) else { return Ok(()) };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    })
}

/// The line for a record; `None` when it says nothing to others.
fn line(record: &Record<'_>, clients: &HashMap<u64, String>) -> Option<Line> {
    let client = |key: &u64| clients.get(key).cloned();
    Some(match record {
        Record::Session(session) => Line::Session {
            client_id: session.client_id.to_owned(),
            user: session.user.map(str::to_owned),
            expiry_interval_seconds: session.expiry_interval_seconds,
            away_since_ms: session.away_since_ms,
            will: session.will.as_ref().map(|will| {
                let (payload, payload_base64) = lines::payload(will.payload);
                Will {
                    topic: will.topic.to_owned(),
                    payload,
                    payload_base64,
                    properties_base64: lines::properties(will.properties),
                    qos: will.qos as u8,
                    retain: will.retain,
                    delay_interval_seconds: will.delay_interval_seconds,
                    message_expiry_interval_seconds: will.message_expiry_interval_seconds,
                }
            }),
        },
        Record::Subscribe { session, options, filter } => {
            let options = SubscriptionOptions::from_bits(*options)?;
            Line::Subscription {
                client_id: client(session)?,
                filter: (*filter).to_owned(),
                qos: options.qos() as u8,
                no_local: options.no_local(),
                retain_as_published: options.retain_as_published(),
                identifier: options.identifier(),
            }
        }
        Record::Message(message) => {
            let (payload, payload_base64) = lines::payload(message.payload);
            let deliveries = message.deliveries.iter().filter_map(|delivery| {
                Some(Delivery {
                    client_id: client(&delivery.session)?,
                    qos: delivery.qos as u8,
                    retain: delivery.retain,
                    packet_id: delivery.packet_id,
                    identifiers: delivery.identifiers.to_vec(),
                    share: delivery.share.map(str::to_owned),
                })
            });
            Line::Message {
                topic: message.topic.to_owned(),
                payload,
                payload_base64,
                properties_base64: lines::properties(message.properties),
                qos: message.qos as u8,
                retain: message.retain,
                retained: message.retained,
                expires_at_ms: message.expires_at_ms,
                deliveries: deliveries.collect(),
                groups: message.groups.iter().map(|group| (*group).to_owned()).collect(),
                hand_on: message.hand_on.is_some(),
                author: message.author.map(|author| lines::Author {
                    user: author.writer.and_then(|writer| writer.user).map(str::to_owned),
                    client_id: author.writer.map(|writer| writer.client_id.to_owned()),
                    listener: author.listener.map(str::to_owned),
                }),
            }
        }
        Record::Received { session, packet_id, .. } => {
            Line::Received { client_id: client(session)?, packet_id: *packet_id }
        }
        Record::Inbound { session, packet_id } => {
            Line::Inbound { client_id: client(session)?, packet_id: *packet_id }
        }
        // What has ended is not among the records of an image, and what shards told each other means nothing elsewhere.
        Record::SessionEnd { .. }
        | Record::Unsubscribe { .. }
        | Record::Assigned { .. }
        | Record::Done { .. }
        | Record::InboundReleased { .. }
        | Record::HandedOn { .. }
        | Record::Mark { .. }
        | Record::Came { .. }
        | Record::RetainedGone { .. }
        | Record::Taken { .. } => return None,
    })
}

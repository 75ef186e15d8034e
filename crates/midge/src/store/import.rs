//! `midge store import`: a new data directory from the JSON lines of `export`, or of another program.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
};

use clap::Args;
use midge_reactor::disk::{Layout, LogWriter};
use midge_session::{SUBSCRIPTION_IDENTIFIER_MAX, SubscriptionOptions};
use midge_shard::record::{
    AuthorRecord, DeliveryRecord, HandOn, MessageRecord, Record, SessionRecord, WillRecord,
    WriterRecord,
};
use midge_topic::{SharedFilter, TopicFilter, TopicLimits, TopicName};

use super::{
    backup::Target,
    lines::{self, Delivery, Line, Will},
};
use crate::{commands::list::unwritten, failure::Failure};

/// Options of `midge store import`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct ImportArguments {
    /// The new data directory; missing or empty.
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// The lines; without it, from standard input.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// # Errors
/// When a line is none, with its number (exit code 2), or the directory cannot be written. It is there only when all is well.
pub(crate) fn run(arguments: &ImportArguments) -> Result<(), Failure> {
    let name = arguments.file.as_ref().map_or("standard input".into(), |f| f.display().to_string());
    let lines: Box<dyn BufRead> = match &arguments.file {
        None => Box::new(BufReader::new(io::stdin())),
        Some(path) => Box::new(BufReader::new(File::open(path).map_err(|error| {
            Failure::Other(format!("cannot read {}: {error}", path.display()))
        })?)),
    };
    let target = Target::new(&arguments.directory)?;
    let partial = target.partial.clone();
    let outcome = fill(&target, lines, &name);
    let count = match outcome {
        Ok(count) => count,
        Err(failure) => {
            // Nothing of it is worth keeping; what cannot be removed is named so.
            drop(target);
            _ = std::fs::remove_dir_all(partial);
            return Err(failure);
        }
    };
    target.finish(Layout { first: 0, count: 1 })?;
    let directory = arguments.directory.display();
    writeln!(io::stdout(), "{count} lines are imported to {directory}")
        .map_err(|error| unwritten(&error))
}

fn fill(target: &Target, lines: impl BufRead, name: &str) -> Result<u64, Failure> {
    let written = |error: io::Error| {
        Failure::Other(format!("cannot write to {}: {error}", target.partial.display()))
    };
    let mut importer = Importer::new(target.log(0).map_err(written)?);
    let mut count = 0;
    for (number, line) in lines.lines().enumerate() {
        let at =
            |problem: String| Failure::configuration(format!("{name}:{}: {problem}", number + 1));
        let line = line.map_err(|error| Failure::Other(format!("cannot read {name}: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&line).map_err(|error| at(error.to_string()))?;
        match importer.take(&line) {
            Ok(()) => count += 1,
            Err(Problem::Line(problem)) => return Err(at(problem)),
            Err(Problem::Disk(error)) => return Err(written(error)),
        }
    }
    if let Some((client_id, _)) = importer.sessions.iter().find(|(_, (_, known))| !known) {
        let problem = format!("{name}: there is no session line for {client_id:?}");
        return Err(Failure::configuration(problem));
    }
    importer.writer.finish().map_err(written)?;
    Ok(count)
}

/// Why a line was not taken.
enum Problem {
    Line(String),
    Disk(io::Error),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Line(problem)
    }
}

/// Turns lines into records.
struct Importer {
    writer: LogWriter,
    /// Keys by client id, and whether the session itself has been seen.
    sessions: HashMap<String, (u64, bool)>,
    messages: u64,
    handed_on: u64,
    topic_limits: TopicLimits,
    payload: Vec<u8>,
}

impl Importer {
    fn new(writer: LogWriter) -> Self {
        // As deep as a broker may be told to allow.
        let topic_limits = TopicLimits { levels_max: u16::MAX, ..TopicLimits::default() };
        let (sessions, payload) = (HashMap::new(), Vec::new());
        Self { writer, sessions, messages: 0, handed_on: 0, topic_limits, payload }
    }

    fn key(&mut self, client_id: &str) -> Result<u64, String> {
        if client_id.is_empty() || client_id.len() > usize::from(u16::MAX) {
            return Err("a client id has 1 to 65535 bytes".into());
        }
        let next = self.sessions.len() as u64 + 1;
        Ok(self.sessions.entry(client_id.to_owned()).or_insert((next, false)).0)
    }

    fn next_message(&mut self) -> u64 {
        self.messages += 1;
        self.messages
    }

    fn write(&mut self, record: &Record<'_>) -> Result<(), Problem> {
        self.payload.clear();
        let kind = record.encode(&mut self.payload);
        self.writer.append(kind, &self.payload).map_err(Problem::Disk)
    }

    fn take(&mut self, line: &Line) -> Result<(), Problem> {
        match line {
            Line::Session { client_id, user, expiry_interval_seconds, away_since_ms, will } => {
                let session = self.key(client_id)?;
                let seen = self.sessions.insert(client_id.clone(), (session, true));
                if matches!(seen, Some((_, true))) {
                    return Err(format!("{client_id:?} has a session already").into());
                }
                let bytes = will.as_ref().map(|will| self.will_bytes(will)).transpose()?;
                let will = will.as_ref().zip(bytes.as_ref());
                self.write(&Record::Session(SessionRecord {
                    session,
                    client_id,
                    user: user.as_deref(),
                    expiry_interval_seconds: *expiry_interval_seconds,
                    away_since_ms: *away_since_ms,
                    will: will
                        .map(|(will, [payload, properties])| will_record(will, payload, properties))
                        .transpose()?,
                }))
            }
            Line::Subscription {
                client_id,
                filter,
                qos,
                no_local,
                retain_as_published,
                identifier,
            } => {
                self.check_filter(filter)?;
                if identifier.is_some_and(|id| id == 0 || id > SUBSCRIPTION_IDENTIFIER_MAX) {
                    let most = SUBSCRIPTION_IDENTIFIER_MAX;
                    return Err(format!("a Subscription Identifier is 1 to {most}").into());
                }
                let qos = lines::qos(*qos)?;
                let options =
                    SubscriptionOptions::new(qos, *no_local, *retain_as_published, *identifier);
                let session = self.key(client_id)?;
                self.write(&Record::Subscribe { session, options: options.to_bits(), filter })
            }
            Line::Message { .. } => self.take_message(line),
            Line::Received { client_id, packet_id } => {
                let (session, message) = (self.key(client_id)?, self.next_message());
                let packet_id = packet(*packet_id)?;
                self.write(&Record::Received { session, message, packet_id })
            }
            Line::Inbound { client_id, packet_id } => {
                let session = self.key(client_id)?;
                let packet_id = packet(*packet_id)?;
                self.write(&Record::Inbound { session, packet_id })
            }
        }
    }

    fn take_message(&mut self, line: &Line) -> Result<(), Problem> {
        let Line::Message {
            topic,
            payload,
            payload_base64,
            properties_base64,
            qos,
            retain,
            retained,
            expires_at_ms,
            deliveries,
            groups,
            hand_on,
            author,
        } = line
        else {
            return Ok(());
        };
        self.check_topic(topic)?;
        let payload = lines::bytes(payload.as_deref(), payload_base64.as_deref())?;
        let properties = lines::bytes(None, properties_base64.as_deref())?;
        if deliveries.is_empty() && groups.is_empty() && !retained && !hand_on {
            return Err(Problem::Line("nobody gets this message".into()));
        }
        for group in groups {
            self.check_filter(group)?;
        }
        let hand_on = hand_on.then(|| {
            self.handed_on += 1;
            HandOn { number: self.handed_on, targets: vec![0] }
        });
        let deliveries: Vec<DeliveryRecord<'_>> =
            deliveries.iter().map(|one| self.delivery(one)).collect::<Result<_, _>>()?;
        let message = self.next_message();
        self.write(&Record::Message(MessageRecord {
            message,
            topic,
            properties: &properties,
            payload: &payload,
            qos: lines::qos(*qos)?,
            retain: *retain,
            expires_at_ms: *expires_at_ms,
            retained: *retained,
            origin: None,
            hand_on,
            came_from: None,
            deliveries,
            groups: groups.iter().map(String::as_str).collect(),
            author: author.as_ref().map(|author| AuthorRecord {
                writer: author
                    .client_id
                    .as_deref()
                    .map(|client_id| WriterRecord { user: author.user.as_deref(), client_id }),
                listener: author.listener.as_deref(),
            }),
        }))
    }

    fn delivery<'a>(&mut self, delivery: &'a Delivery) -> Result<DeliveryRecord<'a>, String> {
        Ok(DeliveryRecord {
            session: self.key(&delivery.client_id)?,
            qos: lines::qos(delivery.qos)?,
            retain: delivery.retain,
            packet_id: delivery.packet_id.map(packet).transpose()?,
            identifiers: Cow::Borrowed(&delivery.identifiers),
            share: delivery.share.as_deref(),
        })
    }

    fn check_topic(&self, topic: &str) -> Result<(), String> {
        TopicName::parse(topic, &self.topic_limits)
            .map(drop)
            .map_err(|error| format!("{topic:?} is no Topic Name: {error}"))
    }

    fn check_filter(&self, filter: &str) -> Result<(), String> {
        let said =
            |error: &dyn std::fmt::Display| format!("{filter:?} is no Topic Filter: {error}");
        match SharedFilter::parse(filter, &self.topic_limits).map_err(|error| said(&error))? {
            Some(_) => Ok(()),
            None => TopicFilter::parse(filter, &self.topic_limits)
                .map(drop)
                .map_err(|error| said(&error)),
        }
    }

    /// A will's payload and properties.
    fn will_bytes<'a>(&self, will: &'a Will) -> Result<[Cow<'a, [u8]>; 2], String> {
        self.check_topic(&will.topic)?;
        let payload = lines::bytes(will.payload.as_deref(), will.payload_base64.as_deref())?;
        Ok([payload, lines::bytes(None, will.properties_base64.as_deref())?])
    }
}

fn will_record<'a>(
    will: &'a Will,
    payload: &'a [u8],
    properties: &'a [u8],
) -> Result<WillRecord<'a>, String> {
    Ok(WillRecord {
        topic: &will.topic,
        properties,
        payload,
        qos: lines::qos(will.qos)?,
        retain: will.retain,
        delay_interval_seconds: will.delay_interval_seconds,
        message_expiry_interval_seconds: will.message_expiry_interval_seconds,
    })
}

fn packet(packet_id: u16) -> Result<u16, String> {
    if packet_id == 0 { Err("no packet id is 0".into()) } else { Ok(packet_id) }
}

//! What a request asks of which shards, and the lines that come of it.
//!
//! A list goes through the shards one after the other, a part at a time, and each part is written before the next one is asked
//! for: so a list of ten million needs no memory, and whoever reads slowly waits for himself.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use midge_auth::Source;
use midge_codec::{ProtocolVersion, QoS};
use midge_reactor::{AskError, Asker};
use midge_shard::{
    BanSubject, Explanation, home_shard,
    survey::{
        Answer, CUT_HOLD_MS, ClientFilter, ClientRow, GroupRow, Holder, Part, Place, Question,
        RetainedRow, SubscriptionFilter, SubscriptionRow,
    },
};
use midge_topic::{SharedFilter, TopicFilter, TopicLimits, TopicName};
use serde_json::json;

use crate::audit::Audit;
use crate::bans::BanList;
use crate::reload::{self, Directory, Reload};

use super::{
    cursor::Cursor,
    protocol::{
        self, BanRequest, Banned, Client, ClientsRequest, Decision, Denied, End, ErrorCode,
        ErrorLine, ExplainRequest, Explained, Group, Interest, KickRequest, Kicked, Line, Outcome,
        PublisherRights, ReloadRequest, Request, Retained, RetainedRequest, Subscription,
        SubscriptionsRequest, UnbanRequest,
    },
};

/// How often whoever waits is told that somebody still looks.
const LOOKING_PERIOD: Duration = Duration::from_secs(5);

/// How long the disk may take to have what belongs to a cut.
const SYNC_MAX: Duration = Duration::from_secs(5);

/// Between two looks whether it has.
const SYNC_LOOK: Duration = Duration::from_millis(5);

/// What answers are made from.
#[derive(Clone, Debug)]
pub(crate) struct Answering {
    pub(crate) asker: Asker,
    /// The name of each listener, by number.
    pub(crate) listeners: Directory,
    pub(crate) topic_limits: TopicLimits,
    pub(crate) reload: Arc<Reload>,
    /// The data directory; `None`: nothing is kept.
    pub(crate) data: Option<PathBuf>,
    pub(crate) bans: BanList,
    pub(crate) audit: Audit,
}

/// Where lines go.
pub(crate) trait Sink {
    /// # Errors
    /// When nobody reads any more.
    fn line(&mut self, line: &Line) -> io::Result<()>;

    /// What was written so far shall be read now.
    ///
    /// # Errors
    /// When nobody reads any more.
    fn flush(&mut self) -> io::Result<()>;
}

/// Why an answer ended early.
enum Cut {
    /// The one who asked is told this.
    Told(ErrorLine),
    /// He is not there any more.
    Gone(io::Error),
}

impl From<io::Error> for Cut {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

impl From<AskError> for Cut {
    fn from(error: AskError) -> Self {
        let code = match error {
            AskError::Busy { .. } => ErrorCode::Busy,
            AskError::Ended { .. } => ErrorCode::Stopping,
        };
        Self::Told(ErrorLine { code, message: error.to_string() })
    }
}

fn usage(message: impl Into<String>) -> Cut {
    Cut::Told(ErrorLine { code: ErrorCode::Usage, message: message.into() })
}

/// A shard has given the answer to another question, which is our mistake.
fn mismatch() -> Cut {
    usage("the answer does not fit the question; please report this")
}

impl Answering {
    /// Answers one request, to its last line.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn answer(&self, request: &Request, sink: &mut dyn Sink) -> io::Result<()> {
        let outcome = match request {
            Request::Clients(request) => self.clients(request, sink),
            Request::Subscriptions(request) => self.subscriptions(request, sink),
            Request::Retained(request) => self.retained(request, sink),
            Request::Kick(request) => self.kick(request, sink),
            Request::Explain(request) => self.explain(request, sink),
            Request::Reload(request) => self.reload(request, sink),
            Request::Backup(_) => self.backup(sink),
            Request::Bans(_) => self.bans(sink),
            Request::Ban(request) => self.ban(request, sink),
            Request::Unban(request) => self.unban(request, sink),
        };
        let last = match outcome {
            Ok(end) => Line::End(end),
            Err(Cut::Told(error)) => Line::Error(error),
            Err(Cut::Gone(error)) => return Err(error),
        };
        sink.line(&last)?;
        sink.flush()
    }

    fn clients(&self, request: &ClientsRequest, sink: &mut dyn Sink) -> Result<End, Cut> {
        let filter = ClientFilter {
            client_id: request.client_id.as_deref().map(Into::into),
            prefix: request.prefix.as_deref().map(Into::into),
            connected: request.connected,
            address: request.address,
        };
        let list =
            self.list(request.limit, request.after.as_deref(), filter.client_id.as_deref())?;
        self.run(
            list,
            sink,
            |from, rows_max| Question::Clients { from, filter: filter.clone(), rows_max },
            |answer| match answer {
                Answer::Clients(part) => Some(part),
                _ => None,
            },
            |shard, row| Line::Client(self.client(shard, row)),
        )
    }

    fn subscriptions(
        &self,
        request: &SubscriptionsRequest,
        sink: &mut dyn Sink,
    ) -> Result<End, Cut> {
        if let Some(filter) = &request.filter {
            self.check_filter(filter)?;
        }
        let filter = SubscriptionFilter {
            client_id: request.client_id.as_deref().map(Into::into),
            filter: request.filter.as_deref().map(Into::into),
        };
        let list =
            self.list(request.limit, request.after.as_deref(), filter.client_id.as_deref())?;
        self.run(
            list,
            sink,
            |from, rows_max| Question::Subscriptions { from, filter: filter.clone(), rows_max },
            |answer| match answer {
                Answer::Subscriptions(part) => Some(part),
                _ => None,
            },
            |shard, row| Line::Subscription(subscription(shard, row)),
        )
    }

    fn retained(&self, request: &RetainedRequest, sink: &mut dyn Sink) -> Result<End, Cut> {
        let mut of_shard = None;
        if let Some(filter) = &request.filter {
            match TopicFilter::parse(filter, &self.topic_limits) {
                Ok(filter) if filter.has_wildcard() => {}
                // One topic, so one keeper.
                Ok(filter) => of_shard = Some(filter.as_str().to_owned()),
                Err(error) => return Err(usage(format!("`{filter}` is no Topic Filter: {error}"))),
            }
        }
        let list = self.list(request.limit, request.after.as_deref(), of_shard.as_deref())?;
        let filter: Option<Box<str>> = request.filter.as_deref().map(Into::into);
        self.run(
            list,
            sink,
            |from, rows_max| Question::Retained { from, filter: filter.clone(), rows_max },
            |answer| match answer {
                Answer::Retained(part) => Some(part),
                _ => None,
            },
            |shard, row| Line::Retained(retained(shard, row)),
        )
    }

    fn kick(&self, request: &KickRequest, sink: &mut dyn Sink) -> Result<End, Cut> {
        let client_id = request.client_id.as_str();
        let shard = home_shard(client_id, self.asker.shards()).get();
        let question = Question::Kick { client_id: client_id.into() };
        let Answer::Kicked(kicked) = self.asker.ask(shard, question)? else {
            return Err(mismatch());
        };
        let outcome = match kicked {
            midge_shard::survey::Kicked::Closed => Outcome::Closed,
            midge_shard::survey::Kicked::NotConnected => Outcome::NotConnected,
            midge_shard::survey::Kicked::Unknown => Outcome::Unknown,
        };
        self.audit.admin("kick", json!({"client_id": client_id, "outcome": outcome}));
        sink.line(&Line::Kicked(Kicked { client_id: client_id.into(), outcome }))?;
        Ok(End { rows: 1, next: None })
    }

    /// A cut through all logs, once what belongs to it is on the disk.
    fn backup(&self, sink: &mut dyn Sink) -> Result<End, Cut> {
        let not_kept = || {
            let message = "nothing is kept: this broker has no data directory".into();
            Cut::Told(ErrorLine { code: ErrorCode::NotKept, message })
        };
        let directory = self.data.clone().ok_or_else(not_kept)?;
        // Numbers of cuts only need to differ from one another.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let id = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let end = Instant::now() + SYNC_MAX;
        let mut last = Vec::new();
        for shard in 0..self.asker.shards() {
            loop {
                let Answer::Cut(place) = self.asker.ask(shard, Question::Cut { id })? else {
                    return Err(mismatch());
                };
                let place = place.ok_or_else(not_kept)?;
                if place.synced {
                    last.push(place.sequence);
                    break;
                }
                if Instant::now() >= end {
                    let message =
                        format!("the disk of shard {shard} does not keep up; try again later");
                    return Err(Cut::Told(ErrorLine { code: ErrorCode::Busy, message }));
                }
                thread::sleep(SYNC_LOOK);
            }
        }
        let hold_ms = CUT_HOLD_MS;
        sink.line(&Line::Cut(protocol::Cut { directory, last, hold_ms }))?;
        Ok(End { rows: 1, next: None })
    }

    fn explain(&self, request: &ExplainRequest, sink: &mut dyn Sink) -> Result<End, Cut> {
        let topic = request.topic.as_str();
        TopicName::parse(topic, &self.topic_limits)
            .map_err(|error| usage(format!("`{topic}` is no Topic Name: {error}")))?;
        let shards = self.asker.shards();
        let keeper = home_shard(topic, shards).get();
        let from = request.from.as_deref().map(|client_id| home_shard(client_id, shards).get());
        let mut explained = Explained {
            topic: topic.into(),
            subscriptions: 0,
            receivers: Vec::new(),
            groups: Vec::new(),
            complete: true,
            retained: None,
            keeper,
            shards: Vec::new(),
            hops_min: 0,
            hops_max: 0,
            from,
            rights: self.rights(request)?,
            denied: Vec::new(),
        };
        for shard in 0..shards {
            let question = Question::Explain { topic: topic.into() };
            let Answer::Explained(found) = self.asker.ask(shard, question)? else {
                return Err(mismatch());
            };
            explained.subscriptions += found.subscriptions;
            explained.complete &= found.complete;
            explained.shards.push(Interest {
                shard,
                named: found.interested.contains(&shard),
                filters: found.filters,
                subscriptions: found.subscriptions,
            });
            let receivers = found.receivers.into_iter();
            explained.receivers.extend(receivers.map(|row| subscription(shard, row)));
            let denied = found.denied.into_iter().map(|(client_id, why)| Denied {
                client_id: client_id.into(),
                why: self.why(&why),
            });
            explained.denied.extend(denied);
            if let Some(row) = found.retained {
                explained.retained = Some(retained(shard, row));
            }
            for row in found.groups {
                explained.groups.push(self.group(shard, row)?);
            }
        }
        let named: Vec<u16> =
            explained.shards.iter().filter(|one| one.named).map(|one| one.shard).collect();
        let hops = |home: u16| named.iter().filter(|shard| **shard != home).count();
        let homes = from.map_or(0..=shards - 1, |home| home..=home);
        explained.hops_min = homes.clone().map(hops).min().unwrap_or(0);
        explained.hops_max = homes.map(hops).max().unwrap_or(0);
        sink.line(&Line::Explained(Box::new(explained)))?;
        Ok(End { rows: 1, next: None })
    }

    fn reload(&self, request: &ReloadRequest, sink: &mut dyn Sink) -> Result<End, Cut> {
        match self.reload.run(request) {
            Ok(outcome) => {
                if !request.dry_run {
                    reload::tell(&outcome);
                }
                sink.line(&Line::Reloaded(Box::new(outcome)))?;
                Ok(End { rows: 1, next: None })
            }
            Err(problems) => {
                if !request.dry_run {
                    reload::tell_refusal(&problems);
                }
                let message = problems.join("\n");
                Err(Cut::Told(ErrorLine { code: ErrorCode::Refused, message }))
            }
        }
    }

    fn bans(&self, sink: &mut dyn Sink) -> Result<End, Cut> {
        let mut rows = 0;
        for entry in self.bans.entries() {
            let seconds = entry.seconds_left;
            sink.line(&Line::Banned(banned(entry.subject, seconds, entry.cause)))?;
            rows += 1;
        }
        Ok(End { rows, next: None })
    }

    /// The connections that a ban is about are closed, with a row for each.
    fn ban(&self, request: &BanRequest, sink: &mut dyn Sink) -> Result<End, Cut> {
        let BanRequest { client_id, address, seconds } = request;
        let cause = "an operator has asked for it";
        let subject = subject(client_id.as_deref(), *address)?;
        let about = json!({"client_id": client_id, "address": address, "seconds": seconds});
        self.audit.admin("ban", about);
        self.bans.ban(subject.clone(), seconds.map(Duration::from_secs), cause);
        sink.line(&Line::Banned(banned(subject, *seconds, cause.into())))?;
        sink.flush()?;
        let request = ClientsRequest {
            client_id: client_id.clone(),
            address: *address,
            connected: Some(true),
            ..ClientsRequest::default()
        };
        let mut found = Found::default();
        self.clients(&request, &mut found)?;
        for client_id in &found.0 {
            self.kick(&KickRequest { client_id: client_id.clone() }, sink)?;
        }
        Ok(End { rows: 1 + found.0.len() as u64, next: None })
    }

    fn unban(&self, request: &UnbanRequest, sink: &mut dyn Sink) -> Result<End, Cut> {
        let subject = subject(request.client_id.as_deref(), request.address)?;
        if !self.bans.unban(subject.clone()) {
            return Ok(End::default());
        }
        let about = json!({"client_id": request.client_id, "address": request.address});
        self.audit.admin("unban", about);
        sink.line(&Line::Unbanned(banned(subject, None, String::new())))?;
        Ok(End { rows: 1, next: None })
    }

    /// What the publisher of an explained message may do.
    fn rights(&self, request: &ExplainRequest) -> Result<Option<PublisherRights>, Cut> {
        let Some(client_id) = request.from.as_deref() else { return Ok(None) };
        let question = Question::Rights {
            client_id: client_id.into(),
            user: request.user.as_deref().map(Into::into),
            topic: request.topic.as_str().into(),
        };
        let home = home_shard(client_id, self.asker.shards()).get();
        let Answer::Rights(found) = self.asker.ask(home, question)? else { return Err(mismatch()) };
        let decision = |explanation: &Explanation| Decision {
            allowed: explanation.allowed,
            why: self.why(explanation),
        };
        Ok(Some(PublisherRights {
            client_id: client_id.into(),
            user: found.user.as_deref().map(String::from),
            absent: !found.known,
            publish: decision(&found.publish),
            subscribe: decision(&found.subscribe),
            receive: decision(&found.receive),
        }))
    }

    fn why(&self, explanation: &Explanation) -> String {
        let rule = explanation.rule.as_deref().unwrap_or_default();
        match explanation.source {
            None => "no rules are for this client".into(),
            Some(Source::NoRule) => "no rule grants it".into(),
            Some(Source::Superuser) => "a superuser, as its login said".into(),
            Some(Source::Login(number)) => format!("rule {number} of its login: {rule}"),
            Some(Source::File(line)) => {
                format!("{}:{line}: {rule}", explanation.file.as_deref().unwrap_or("the ACL file"))
            }
        }
    }

    fn group(&self, shard: u16, row: GroupRow) -> Result<Group, Cut> {
        let mut next_client_id = None;
        if let Some(member) = row.next {
            let question = Question::Identify { members: vec![member] };
            let Answer::Identified(names) = self.asker.ask(member.shard, question)? else {
                return Err(mismatch());
            };
            next_client_id = names.into_iter().next().flatten().map(String::from);
        }
        Ok(Group {
            filter: row.filter.into(),
            members: row.members,
            online: row.online,
            backlog: row.backlog,
            shard,
            next_shard: row.next.map(|member| member.shard),
            next_client_id,
        })
    }

    fn check_filter(&self, filter: &str) -> Result<(), Cut> {
        let shared = SharedFilter::parse(filter, &self.topic_limits);
        match shared.and_then(|shared| match shared {
            Some(_) => Ok(()),
            None => TopicFilter::parse(filter, &self.topic_limits).map(|_| ()),
        }) {
            Ok(()) => Ok(()),
            Err(error) => Err(usage(format!("`{filter}` is no Topic Filter: {error}"))),
        }
    }

    /// Where a list begins and ends. With `hashed`, it is all on the home shard of this text.
    fn list(&self, limit: u64, after: Option<&str>, hashed: Option<&str>) -> Result<List, Cut> {
        let shards = self.asker.shards();
        let (first, end) = match hashed {
            Some(text) => {
                let home = home_shard(text, shards).get();
                (home, home + 1)
            }
            None => (0, shards),
        };
        let at = match after {
            None => Cursor { shard: first, place: None },
            Some(text) => text
                .parse()
                .ok()
                .filter(|cursor: &Cursor| (first..end).contains(&cursor.shard))
                .ok_or_else(|| usage(format!("`{text}` is no cursor of this list")))?,
        };
        Ok(List { at, end, limit: if limit == 0 { u64::MAX } else { limit } })
    }

    fn run<T>(
        &self,
        list: List,
        sink: &mut dyn Sink,
        question: impl Fn(Option<Place>, usize) -> Question,
        part_of: impl Fn(Answer) -> Option<Part<T>>,
        line_of: impl Fn(u16, T) -> Line,
    ) -> Result<End, Cut> {
        let List { mut at, end, limit } = list;
        let mut rows = 0;
        let mut said = Instant::now();
        while at.shard < end {
            if rows == limit {
                return Ok(End { rows, next: Some(at.to_string()) });
            }
            let shard = at.shard;
            let rows_max = usize::try_from(limit - rows).unwrap_or(usize::MAX);
            let answer = self.asker.ask(shard, question(at.place.take(), rows_max))?;
            let part = part_of(answer).ok_or_else(mismatch)?;
            let found = part.rows.len() as u64;
            rows += found;
            for row in part.rows {
                sink.line(&line_of(shard, row))?;
            }
            if found > 0 || said.elapsed() >= LOOKING_PERIOD {
                if found == 0 {
                    sink.line(&Line::Looking { shard })?;
                }
                sink.flush()?;
                said = Instant::now();
            }
            at = match part.next {
                Some(place) => Cursor { shard, place: Some(place) },
                None => Cursor { shard: shard + 1, place: None },
            };
        }
        Ok(End { rows, next: None })
    }

    fn client(&self, shard: u16, row: ClientRow) -> Client {
        let connection = row.connection.as_ref();
        Client {
            client_id: row.client_id.into(),
            connected: connection.is_some(),
            address: connection.map(|connection| connection.peer),
            listener: connection.map(|connection| self.listeners.name(connection.listener.0)),
            version: connection.map(|connection| {
                match connection.version {
                    ProtocolVersion::V31 => "3.1",
                    ProtocolVersion::V311 => "3.1.1",
                    ProtocolVersion::V5 => "5.0",
                }
                .into()
            }),
            keep_alive_seconds: connection.map(|connection| connection.keep_alive_seconds),
            output_bytes: connection.map(|connection| connection.output_bytes),
            session_expiry_interval_seconds: Some(row.expiry_interval_seconds)
                .filter(|seconds| *seconds != u32::MAX),
            subscriptions: row.subscriptions,
            queued: row.queued,
            in_flight: row.in_flight,
            will: row.will,
            since_seconds: row.since_seconds,
            shard,
        }
    }
}

/// Clients of a list that is not for whoever asked.
#[derive(Default)]
struct Found(Vec<String>);

impl Sink for Found {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        if let Line::Client(client) = line {
            self.0.push(client.client_id.clone());
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn subject(client_id: Option<&str>, address: Option<std::net::IpAddr>) -> Result<BanSubject, Cut> {
    match (client_id, address) {
        (Some(client_id), None) => Ok(BanSubject::Client(client_id.into())),
        (None, Some(address)) => Ok(BanSubject::Address(address)),
        _ => Err(usage("name a client_id or an address")),
    }
}

fn banned(subject: BanSubject, seconds: Option<u64>, cause: String) -> Banned {
    let (client_id, address) = match subject {
        BanSubject::Client(client_id) => (Some(client_id.into()), None),
        BanSubject::Address(address) => (None, Some(address)),
    };
    Banned { client_id, address, seconds, cause }
}

/// What is left of a list: from a place up to a shard, so many rows.
struct List {
    at: Cursor,
    end: u16,
    limit: u64,
}

fn subscription(shard: u16, row: SubscriptionRow) -> Subscription {
    let mut subscription = Subscription {
        filter: row.filter.into(),
        client_id: None,
        connected: None,
        qos: None,
        no_local: None,
        retain_as_published: None,
        subscription_identifier: None,
        members: None,
        online: None,
        backlog: None,
        shard,
    };
    match row.holder {
        Holder::Client(client) => {
            subscription.client_id = Some(client.client_id.into());
            subscription.connected = Some(client.connected);
            subscription.qos = Some(number(client.qos));
            subscription.no_local = Some(client.no_local);
            subscription.retain_as_published = Some(client.retain_as_published);
            subscription.subscription_identifier = client.identifier;
        }
        Holder::Group(group) => {
            subscription.members = Some(group.members);
            subscription.online = Some(group.online);
            subscription.backlog = Some(group.backlog);
        }
    }
    subscription
}

fn retained(shard: u16, row: RetainedRow) -> Retained {
    Retained {
        topic: row.topic.into(),
        payload_bytes: row.payload_bytes,
        qos: number(row.qos),
        age_seconds: row.age_seconds,
        expiry_interval_seconds: row.expiry_interval_seconds,
        shard,
    }
}

fn number(qos: QoS) -> u8 {
    qos as u8
}

//! One session's outgoing line, incoming ids and aliases beside naive models of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use midge_codec::{PacketId, QoS};
use midge_session::alias::{InboundAliases, OutboundAlias, OutboundAliases};
use midge_session::inbound::{Inbound, Received};
use midge_session::outbound::Resend;
use midge_session::{Acknowledged, Delivery, Offer, Outbound, Publication, QueueLimits, Time};

use crate::choices::Choices;

const LIMITS: QueueLimits = QueueLimits { messages_max: 5, bytes_max: 2000 };
const TOPICS: [&str; 4] = ["a", "b/c", "", "d"];

/// A message as the model knows it. Its number is its payload.
#[derive(Debug, Clone, Copy)]
struct Message {
    number: u32,
    qos: QoS,
    expires_at: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Published,
    Released,
}

#[derive(Debug)]
struct InFlight {
    id: PacketId,
    message: Message,
    stage: Stage,
    /// It left on this connection, or on one before.
    sent: bool,
    sent_before: bool,
}

/// What the line is, without any cleverness.
#[derive(Debug, Default)]
struct Model {
    in_flight: Vec<InFlight>,
    queue: VecDeque<Message>,
    bytes: usize,
    expired: u64,
}

impl Model {
    fn sent(&self) -> usize {
        self.in_flight.iter().filter(|one| one.sent).count()
    }

    /// A message leaves under an id that nobody else has.
    fn assign(&mut self, id: PacketId, message: Message) {
        assert!(self.in_flight.iter().all(|one| one.id != id), "[MQTT-2.2.1-3] {id:?}");
        let stage = Stage::Published;
        self.in_flight.push(InFlight { id, message, stage, sent: true, sent_before: false });
    }

    fn find(&self, id: PacketId) -> Option<usize> {
        self.in_flight.iter().position(|one| one.id == id)
    }

    fn dequeue(&mut self, size: usize) -> Message {
        self.bytes -= size;
        self.queue.pop_front().expect("the model has what is sent")
    }
}

fn publication(message: Message) -> Arc<Publication> {
    // Sizes that differ, so that the bound in bytes is met, too.
    let mut payload = message.number.to_be_bytes().to_vec();
    payload.resize(4 + message.number as usize % 5 * 200, 0);
    let topic = TOPICS[message.number as usize % 2];
    Arc::new(Publication::new(topic, b"", &payload, message.qos, false, message.expires_at))
}

fn number(delivery: &Delivery) -> u32 {
    let payload = delivery.publication.payload();
    u32::from_be_bytes(payload[..4].try_into().expect("made above"))
}

/// Any row of calls: the line does what its model does, and nothing is lost, doubled or out of order.
pub fn session(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut line = Line::default();
    let mut others = Others::new();
    while let Some(act) = choices.byte() {
        if line.act(act, &mut choices).or_else(|| others.act(act, &mut choices)).is_none() {
            break;
        }
        line.outbound.check_integrity();
        line.compare();
    }
    line.drain();
}

#[derive(Debug)]
struct Line {
    outbound: Outbound,
    model: Model,
    next_number: u32,
    window: u16,
    now: Time,
}

impl Default for Line {
    fn default() -> Self {
        let now = Time::from_seconds(1000);
        let (outbound, model) = (Outbound::default(), Model::default());
        Self { outbound, model, next_number: 0, window: 2, now }
    }
}

impl Line {
    /// One call; `None` when the choices are used up or this is nothing that a line can do.
    fn act(&mut self, act: u8, choices: &mut Choices<'_>) -> Option<()> {
        match act % 12 {
            0 | 1 => self.offer(choices.byte()?, self.window),
            2 => self.offer(choices.byte()?, 0),
            3 | 4 => {
                self.next();
            }
            5 => self.acknowledge(choices.byte()?, choices.byte()?),
            6 => {
                // The client is gone, and back with another Receive Maximum.
                self.outbound.disconnected();
                for one in &mut self.model.in_flight {
                    one.sent_before |= one.sent;
                    one.sent = false;
                }
                self.window = u16::from(choices.byte()? % 4) + 1;
            }
            7 => self.now = self.now.plus_millis(u64::from(choices.byte()?) * 20),
            8 => self.discard(choices.byte()?),
            _ => return None,
        }
        Some(())
    }

    fn offer(&mut self, kind: u8, window: u16) {
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce][usize::from(kind % 3)];
        let expires_at = (kind & 0x80 != 0).then(|| self.now.plus_seconds(1));
        let message = Message { number: self.next_number, qos, expires_at };
        self.next_number += 1;
        let publication = publication(message);
        let size = publication.memory_size();
        let delivery = Delivery { publication, qos, retain: false, extra: None, keep: None };
        let model = &mut self.model;
        let line_is_free = model.queue.is_empty() && model.sent() == model.in_flight.len();
        let leaves = qos > QoS::AtMostOnce && line_is_free && model.sent() < usize::from(window);
        let fits =
            model.queue.len() < LIMITS.messages_max && model.bytes + size <= LIMITS.bytes_max;
        let offered = if qos == QoS::AtMostOnce {
            self.outbound.enqueue(delivery, &LIMITS)
        } else {
            self.outbound.offer(delivery, window, &LIMITS)
        };
        match offered {
            Offer::Send(id, sent) => {
                assert!(leaves && number(sent) == message.number);
                model.assign(id, message);
            }
            Offer::Queued => {
                assert!(!leaves && fits);
                model.queue.push_back(message);
                model.bytes += size;
            }
            Offer::Full(back) => {
                assert!(!leaves && !fits && number(&back) == message.number);
            }
        }
    }

    /// What leaves next; whether anything did.
    fn next(&mut self) -> bool {
        let Self { model, now, window, .. } = self;
        let mut expired = 0;
        let next = self.outbound.next(*window, *now, &mut expired);
        let room = model.sent() < usize::from(*window);
        let again = model.in_flight.iter().position(|one| !one.sent);
        if again.is_none() {
            // Whatever has expired at the head of the queue goes, whether or not there is room.
            while let Some(front) = model.queue.front()
                && front.expires_at.is_some_and(|at| at <= *now)
            {
                model.dequeue(publication(*model.queue.front().expect("just seen")).memory_size());
                model.expired += 1;
                expired -= 1;
            }
        }
        assert_eq!(expired, 0, "counted, but not expired");
        match next {
            None => {
                let once = model.queue.front().is_some_and(|one| one.qos == QoS::AtMostOnce);
                assert!(!room || again.is_none() && model.queue.is_empty());
                assert!(!once || again.is_some(), "QoS 0 needs no room");
                false
            }
            Some(Resend::PublishOnce(delivery)) => {
                let message = model.dequeue(delivery.publication.memory_size());
                assert!(again.is_none() && message.qos == QoS::AtMostOnce);
                assert_eq!(message.number, number(&delivery));
                true
            }
            Some(Resend::Release(id)) => {
                let one = &mut model.in_flight[again.expect("something to send again")];
                assert!(room && one.id == id && one.stage == Stage::Released);
                one.sent = true;
                true
            }
            Some(Resend::Publish(id, delivery, duplicate)) => {
                assert!(room, "[MQTT-3.3.4-9]");
                let sent = number(delivery);
                if let Some(at) = again {
                    // [MQTT-4.4.0-1] [MQTT-4.6.0-1]: again, in the order in which they were.
                    let one = &mut model.in_flight[at];
                    assert_eq!((one.id, one.message.number), (id, sent));
                    assert_eq!((one.stage, one.sent_before), (Stage::Published, duplicate));
                    one.sent = true;
                } else {
                    assert!(!duplicate, "[MQTT-3.3.1-1]");
                    let message = model.dequeue(delivery.publication.memory_size());
                    assert_eq!(message.number, sent);
                    model.assign(id, message);
                }
                true
            }
        }
    }

    fn acknowledge(&mut self, kind: u8, id: u8) {
        let id = PacketId::new(u16::from(id % 16) + 1).expect("is above zero");
        let model = &mut self.model;
        let known = model.find(id);
        let of = known.map(|at| (model.in_flight[at].message.qos, model.in_flight[at].stage));
        let (said, wants) = match kind % 4 {
            0 => (self.outbound.puback(id), of == Some((QoS::AtLeastOnce, Stage::Published))),
            1 => (self.outbound.pubcomp(id), of == Some((QoS::ExactlyOnce, Stage::Released))),
            refused => {
                let refused = refused == 3;
                let said = self.outbound.pubrec(id, refused);
                let wants = of.is_some_and(|(qos, _)| qos == QoS::ExactlyOnce);
                if wants && !refused {
                    assert!(matches!(said, Acknowledged::Release));
                    model.in_flight[known.expect("is wanted")].stage = Stage::Released;
                    return;
                }
                (said, wants)
            }
        };
        match said {
            Acknowledged::Unknown => assert!(known.is_none()),
            Acknowledged::Mismatch => assert!(known.is_some() && !wants),
            Acknowledged::Done => {
                assert!(wants);
                model.in_flight.remove(known.expect("is wanted"));
            }
            Acknowledged::Release => panic!("a release that nobody asked for"),
        }
    }

    fn discard(&mut self, id: u8) {
        let id = PacketId::new(u16::from(id % 16) + 1).expect("is above zero");
        let known = self.model.find(id);
        let had = known.is_some_and(|at| self.model.in_flight[at].stage == Stage::Published);
        assert_eq!(self.outbound.discard(id).is_some(), had);
        if let Some(at) = known {
            self.model.in_flight.remove(at);
        }
    }

    fn compare(&self) {
        let (outbound, model) = (&self.outbound, &self.model);
        assert_eq!(outbound.in_flight_count(), model.in_flight.len());
        assert_eq!(outbound.queued_count(), model.queue.len());
        assert_eq!(outbound.queued_bytes(), model.bytes);
        let once = model.queue.iter().any(|one| one.qos == QoS::AtMostOnce);
        assert_eq!(outbound.has_queued_once(), once);
        let waiting = model.sent() < model.in_flight.len() || !model.queue.is_empty();
        assert_eq!(outbound.has_waiting(), waiting);
        assert_eq!(outbound.is_empty(), model.in_flight.is_empty() && model.queue.is_empty());
    }

    /// A client that acknowledges everything gets everything.
    fn drain(mut self) {
        for _ in 0..10_000 {
            while self.next() {}
            let Some(one) = self.model.in_flight.first() else {
                self.compare();
                assert!(self.outbound.is_empty(), "the client took all that there was");
                return;
            };
            let kind = match (one.message.qos, one.stage) {
                (QoS::ExactlyOnce, Stage::Published) => 2,
                (QoS::ExactlyOnce, Stage::Released) => 1,
                _ => 0,
            };
            let id = one.id.get();
            if id > 16 {
                // Ids beyond what the choices name.
                self.discard_any(one.id);
            } else {
                self.acknowledge(kind, (id - 1) as u8);
            }
        }
        panic!("the line never ends");
    }

    fn discard_any(&mut self, id: PacketId) {
        let had = self.outbound.discard(id).is_some();
        let at = self.model.find(id).expect("is in flight");
        let one = self.model.in_flight.remove(at);
        assert_eq!(had, one.stage == Stage::Published);
    }
}

/// Ids received, and aliases of both directions.
#[derive(Debug)]
struct Others {
    inbound: Inbound,
    unreleased: BTreeSet<u16>,
    aliases_in: InboundAliases,
    meaning_in: BTreeMap<u16, &'static str>,
    aliases_out: OutboundAliases,
    /// What the client has been told.
    meaning_out: BTreeMap<u16, &'static str>,
}

/// Aliases that the client allows.
const ALIASES_MAX: u16 = 2;

impl Others {
    fn new() -> Self {
        Self {
            inbound: Inbound::default(),
            unreleased: BTreeSet::new(),
            aliases_in: InboundAliases::default(),
            meaning_in: BTreeMap::new(),
            aliases_out: OutboundAliases::new(ALIASES_MAX),
            meaning_out: BTreeMap::new(),
        }
    }

    fn act(&mut self, act: u8, choices: &mut Choices<'_>) -> Option<()> {
        let choice = choices.byte()?;
        match act % 12 {
            9 => {
                let id = PacketId::new(u16::from(choice % 8) + 1)?;
                if choice & 0x80 == 0 {
                    let new = self.inbound.receive(id) == Received::New;
                    assert_eq!(new, self.unreleased.insert(id.get()), "[MQTT-4.3.3-10]");
                } else {
                    let known = self.inbound.release(id);
                    assert_eq!(known, self.unreleased.remove(&id.get()));
                }
                assert_eq!(self.inbound.count(), self.unreleased.len());
            }
            10 => {
                let alias = u16::from(choice % 5) + 1;
                if choice & 0x80 == 0 {
                    let topic = TOPICS[usize::from(choice >> 4) % 4];
                    self.aliases_in.set(alias, topic);
                    self.meaning_in.insert(alias, topic);
                }
                assert_eq!(self.aliases_in.topic(alias), self.meaning_in.get(&alias).copied());
            }
            _ => {
                let topic = TOPICS[usize::from(choice) % 4];
                match self.aliases_out.choose(topic) {
                    OutboundAlias::None => assert_eq!(self.meaning_out.len(), 2),
                    OutboundAlias::Known(alias) => {
                        assert_eq!(self.meaning_out.get(&alias), Some(&topic));
                    }
                    OutboundAlias::Announce(alias) => {
                        assert!((1..=ALIASES_MAX).contains(&alias));
                        assert_eq!(self.meaning_out.insert(alias, topic), None);
                    }
                }
            }
        }
        Some(())
    }
}

//! Clients that behave: what they do with what they receive, and every promise that can be checked at once.

use midge_codec::{
    ConnAck, Framed, Packet, PacketId, ProtocolVersion, PubAck, PubComp, PubRec, PubRel, Publish,
    QoS, ReasonCode, SubAck, UnsubAck, decode, frame,
};

use crate::client::{
    Belief, Client, Kind, Request, Subscription, has_properties, lasting, payload,
};
use crate::coverage::Situation;
use crate::net::{End, NEVER, Net, PipeId, SECOND};
use crate::oracle::{Oracle, PubId, SLACK, covers};

type Checked = Result<(), String>;

/// How a copy came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    Live,
    Retained,
    /// Its flags do not tell.
    Either,
}

/// After its SUBACK, a SUBSCRIBE may be answered with what was retained a little later.
const RETAINED_SLACK: u64 = 10 * SECOND;

impl Client {
    /// Something arrived on a pipe of this client.
    pub fn arrive(&mut self, net: &mut Net, oracle: &mut Oracle, pipe: PipeId) {
        if !net.pipes[pipe].reading {
            return;
        }
        let bytes = net.read(pipe);
        let ended = net.pipes[pipe].down_ended;
        if self.link.as_ref().is_none_or(|link| link.pipe != pipe) {
            // An earlier connection: what comes there is lost, and its end is answered.
            if ended.is_some() {
                net.end(pipe, End::Fin);
            }
            return;
        }
        if let Err(broken) = self.receive(net, oracle, &bytes) {
            net.fail(format!("{} on pipe {pipe}: {broken}", self.id));
            return;
        }
        if ended.is_some() {
            self.log(net, "is closed by the broker");
            self.drop_link(net, oracle, Some(End::Fin));
        }
    }

    fn receive(&mut self, net: &mut Net, oracle: &mut Oracle, bytes: &[u8]) -> Checked {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        let mut input = std::mem::take(&mut link.input);
        let limit = link.maximum_packet_size;
        input.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            // [MQTT-3.1.2-24]
            let raw = match frame(&input[at..], limit) {
                Ok(Framed::Packet(raw)) => raw,
                Ok(Framed::Incomplete { .. }) => break,
                Err(error) => return Err(format!("the broker's bytes: {error}")),
            };
            let packet = decode(raw, self.version)
                .map_err(|error| format!("the broker's packet: {error}"))?;
            at += raw.size;
            self.handle(net, oracle, packet)?;
            if self.link.is_none() {
                return Ok(());
            }
        }
        input.drain(..at);
        if let Some(link) = self.link.as_mut() {
            link.input = input;
        }
        Ok(())
    }

    fn handle(&mut self, net: &mut Net, oracle: &mut Oracle, packet: Packet<'_>) -> Checked {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        match packet {
            Packet::ConnAck(connack) => return self.on_connack(net, oracle, &connack),
            Packet::Disconnect(disconnect) if self.version.is_v5() => {
                net.trace.line(
                    net.now,
                    format_args!("{} is told {:?}", self.id, disconnect.reason_code),
                );
                let expected = [
                    ReasonCode::KeepAliveTimeout,
                    ReasonCode::SessionTakenOver,
                    ReasonCode::ServerShuttingDown,
                ];
                if !expected.contains(&disconnect.reason_code) {
                    return Err(format!("it behaved and was told {:?}", disconnect.reason_code));
                }
                self.drop_link(net, oracle, Some(End::Fin));
                return Ok(());
            }
            _ if link.answered.is_none() => {
                return Err(format!("[MQTT-3.2.0-1] {:?} before CONNACK", packet.packet_type()));
            }
            Packet::Publish(publish) => return self.on_publish(net, oracle, &publish),
            Packet::PubAck(ack) => {
                return self.on_published(
                    net,
                    oracle,
                    ack.packet_id,
                    ack.reason_code,
                    QoS::AtLeastOnce,
                );
            }
            Packet::PubRec(ack) => {
                return self.on_published(
                    net,
                    oracle,
                    ack.packet_id,
                    ack.reason_code,
                    QoS::ExactlyOnce,
                );
            }
            Packet::PubComp(ack) => self.on_pubcomp(ack.packet_id)?,
            Packet::PubRel(release) => self.on_pubrel(net, release.packet_id)?,
            Packet::SubAck(suback) => self.on_suback(net, oracle, &suback)?,
            Packet::UnsubAck(unsuback) => self.on_unsuback(net, oracle, &unsuback)?,
            Packet::PingResp => {
                let Some(count) = link.pings.pop_front() else {
                    return Err("a PINGRESP without a PINGREQ".to_owned());
                };
                for id in &link.plain[..count] {
                    oracle.pubs[*id as usize].processed = true;
                }
            }
            Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq
            | Packet::Disconnect(_)
            | Packet::Auth(_) => {
                return Err(format!("{:?} from a broker", packet.packet_type()));
            }
        }
        Ok(())
    }

    fn on_connack(&mut self, net: &mut Net, oracle: &mut Oracle, connack: &ConnAck<'_>) -> Checked {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        let pipe = link.pipe;
        if link.answered.is_some() {
            return Err("a second CONNACK".to_owned());
        }
        net.trace.line(
            net.now,
            format_args!(
                "{} is connected: {:?}, session {}",
                self.id, connack.reason_code, connack.session_present
            ),
        );
        if connack.reason_code != ReasonCode::Success {
            let may_be_refused = net.knobs.may_refuse() || net.knobs.shutdown;
            if !may_be_refused {
                return Err(format!("it was refused: {:?}", connack.reason_code));
            }
            self.drop_link(net, oracle, Some(End::Fin));
            // Refused because there is no room for one session more: so there was none.
            self.belief = Belief::None;
            self.forget_session(net, oracle, None);
            return Ok(());
        }
        let properties = &connack.properties;
        link.answered = Some(net.now);
        link.alias_maximum = properties.topic_alias_maximum.unwrap_or(0);
        link.receive_maximum = properties.receive_maximum.map_or(u16::MAX, Into::into);
        if let Some(seconds) = properties.server_keep_alive_seconds {
            link.keep_alive = u64::from(seconds);
        }
        let (since, clean_start) = (link.since, link.clean_start);
        self.must_clean = false;
        if let Some(earlier) = self.last_pipe {
            oracle.judge_will(net, earlier, since, net.now, clean_start);
        }
        if let Some(will) = oracle.will_of(pipe) {
            will.registered = true;
        }
        self.check_session_present(net, connack.session_present, since, clean_start)?;
        let present = if self.version == ProtocolVersion::V31 {
            !clean_start && self.belief != Belief::None
        } else {
            connack.session_present
        };
        let end_asked = self.end_asked.take().unwrap_or(NEVER);
        let expires_at = std::mem::replace(&mut self.expires_at, NEVER);
        let ended_at = if net.knobs.may_refuse() { end_asked.min(expires_at) } else { end_asked };
        if present && net.crashes.last().is_some_and(|crash| *crash > ended_at) {
            self.came_back(net.now);
        }
        if present {
            net.hit(Situation::SessionResumed);
            self.send_again(net, oracle);
        } else {
            // Publications of this very connection stay: they were written behind the CONNECT.
            self.forget_session(net, oracle, None);
        }
        Ok(())
    }

    /// A crash took the end of the session: nobody waits for its record, which is written within a tenth of a second of a goodbye
    /// that asks for it, and not before the disk takes it. What was published while the session had ended is not there.
    fn came_back(&mut self, now: u64) {
        for one in &mut self.subscriptions {
            one.active = one.active.map(|_| now);
            one.chain = one.chain.map(|(_, qos, no_local)| (now, qos, no_local));
        }
    }

    /// [MQTT-3.2.2-2] [MQTT-3.2.2-3], with the times between which the session may have expired.
    fn check_session_present(
        &self,
        net: &Net,
        present: bool,
        connect_sent: u64,
        clean_start: bool,
    ) -> Checked {
        if self.version == ProtocolVersion::V31 {
            return Ok(());
        }
        if clean_start && present {
            return Err("[MQTT-3.2.2-2] session present after a clean start".to_owned());
        }
        let ended = self.last_pipe.and_then(|pipe| net.pipes[pipe].server_end);
        match self.belief {
            Belief::None if present => Err("[MQTT-3.2.2-3] a session that never was".to_owned()),
            Belief::Exists(expiry) if !clean_start => {
                let expiry = lasting(expiry);
                let first = self.ended_at.min(ended.unwrap_or(NEVER)).saturating_add(expiry);
                // After a crash nobody knows when a session lost its connection; the end is counted from the restart then.
                let ended = ended.map(|at| at.max(net.crashes.last().copied().unwrap_or(0)));
                let last = ended.unwrap_or(NEVER).saturating_add(expiry).saturating_add(SLACK);
                if !present && net.now < first {
                    return Err("[MQTT-3.1.2-5] its session is gone".to_owned());
                }
                if present && connect_sent > last {
                    return Err("[MQTT-3.1.2-23] its session should have expired".to_owned());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    // Requests and their answers.

    fn on_suback(&mut self, net: &mut Net, oracle: &mut Oracle, suback: &SubAck<'_>) -> Checked {
        let number = suback.packet_id.get();
        let Some(Request::Subscribe(places)) = self.requests.remove(&number) else {
            return Err(format!("[MQTT-3.8.4-2] SUBACK {number} without a SUBSCRIBE"));
        };
        let codes: Vec<ReasonCode> = suback.reason_codes.iter().collect();
        net.trace.line(net.now, format_args!("{}: SUBACK {number} {codes:?}", self.id));
        // [MQTT-3.8.4-6]
        if suback.reason_codes.len() != places.len() {
            return Err(format!("SUBACK {number} has {} codes", suback.reason_codes.len()));
        }
        for (code, (place, replaced)) in suback.reason_codes.iter().zip(places) {
            let chain = replaced.and_then(|at| self.subscriptions[at].chain);
            let asked = self.subscriptions[place].qos;
            // MQTT 3.1 cannot say no.
            let refused = self.version == ProtocolVersion::V31
                && net.knobs.may_refuse()
                && QoS::from_u8(code as u8) != Some(asked);
            if code.is_error() || refused {
                if !net.knobs.may_refuse() {
                    return Err(format!("SUBACK {number} refuses: {code:?}"));
                }
                // Refused: what was there before stays.
                self.subscriptions[place].ending = Some(net.now);
                self.subscriptions[place].ended = Some(net.now);
                if let Some(at) = replaced {
                    self.subscriptions[at].ending = None;
                }
                continue;
            }
            let granted = QoS::from_u8(code as u8).unwrap_or(QoS::AtMostOnce);
            // [MQTT-3.8.4-7]: this broker has no reason to grant less.
            if granted != asked {
                return Err(format!("SUBACK {number} grants {granted:?} for {asked:?}"));
            }
            // A refusal reads like a granted QoS 0 to MQTT 3.1; what was there before then stays.
            let uncertain = self.version == ProtocolVersion::V31 && net.knobs.may_refuse();
            if let Some(at) = replaced
                && !(uncertain && granted == QoS::AtMostOnce)
            {
                self.subscriptions[at].ended = Some(net.now);
            }
            let one = &mut self.subscriptions[place];
            one.active = Some(net.now);
            one.chain = (!uncertain).then_some(match chain {
                Some((since, qos, no_local)) => (since, qos.min(granted), no_local || one.no_local),
                None => (net.now, granted, one.no_local),
            });
            if self.kind == Kind::Sharer {
                let filter = one.filter.clone();
                let group = oracle.groups.entry(filter).or_default();
                group.members.entry(self.index).or_insert(net.now);
                if group.empty_until == NEVER {
                    group.empty_until = net.now;
                }
            }
        }
        Ok(())
    }

    fn on_unsuback(
        &mut self,
        net: &mut Net,
        oracle: &mut Oracle,
        unsuback: &UnsubAck<'_>,
    ) -> Checked {
        let number = unsuback.packet_id.get();
        let Some(Request::Unsubscribe(places)) = self.requests.remove(&number) else {
            return Err(format!("[MQTT-3.10.4-4] UNSUBACK {number} without an UNSUBSCRIBE"));
        };
        net.trace.line(net.now, format_args!("{}: UNSUBACK {number}", self.id));
        if self.version.is_v5() {
            let codes: Vec<ReasonCode> = unsuback.reason_codes.iter().collect();
            let expected: Vec<ReasonCode> = places
                .iter()
                .map(|place| match place {
                    Some(_) => ReasonCode::Success,
                    None => ReasonCode::NoSubscriptionExisted,
                })
                .collect();
            if codes != expected {
                return Err(format!("UNSUBACK {number} says {codes:?}, not {expected:?}"));
            }
        }
        for place in places.into_iter().flatten() {
            self.subscriptions[place].ended = Some(net.now);
            if self.kind == Kind::Sharer {
                let filter = self.subscriptions[place].filter.clone();
                let group = oracle.groups.entry(filter).or_default();
                let open = group.departures.iter_mut().find(|d| **d == (None, NEVER));
                if let Some(open) = open {
                    open.1 = net.now;
                }
            }
        }
        Ok(())
    }

    // Publications to the broker.

    fn on_published(
        &mut self,
        net: &mut Net,
        oracle: &mut Oracle,
        packet_id: PacketId,
        reason_code: ReasonCode,
        qos: QoS,
    ) -> Checked {
        let number = packet_id.get();
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        // [MQTT-4.6.0-2] [MQTT-4.6.0-3]
        let expected = link.expected[qos as usize - 1].pop_front();
        if expected != Some(number) {
            return Err(format!("[MQTT-4.6.0-2] {qos:?} acknowledges {number}, not {expected:?}"));
        }
        let Some(at) = self.outgoing.iter().position(|o| o.packet_id == number && o.qos == qos)
        else {
            return Err(format!("an acknowledgement of {number}, which is not under way"));
        };
        let id = self.outgoing[at].publication;
        let publication = &mut oracle.pubs[id as usize];
        net.trace.line(net.now, format_args!("{}: {id} is acknowledged {reason_code:?}", self.id));
        if reason_code.is_error() {
            let refusable = reason_code == ReasonCode::QuotaExceeded && net.knobs.may_refuse();
            if !refusable {
                return Err(format!("publication {id} is refused: {reason_code:?}"));
            }
            self.outgoing.remove(at);
            return Ok(());
        }
        publication.accepted.get_or_insert(net.now);
        publication.unmatched = reason_code == ReasonCode::NoMatchingSubscribers;
        if qos == QoS::AtLeastOnce {
            self.outgoing.remove(at);
            return Ok(());
        }
        self.outgoing[at].released = true;
        let mut bytes = Vec::new();
        PubRel::new(packet_id, ReasonCode::Success).encode(self.version, &mut bytes);
        self.write(net, bytes);
        Ok(())
    }

    fn on_pubcomp(&mut self, packet_id: PacketId) -> Checked {
        let number = packet_id.get();
        let at = self.outgoing.iter().position(|o| o.packet_id == number && o.released);
        let Some(at) = at else {
            return Err(format!("[MQTT-4.3.3-12] PUBCOMP {number} without a PUBREL"));
        };
        self.outgoing.remove(at);
        Ok(())
    }

    // Publications from the broker.

    fn acknowledge(&mut self, net: &mut Net, packet_id: u16, last: bool, bytes: Vec<u8>) {
        let hold = !self.calm && self.prng.permille(300);
        let Some(link) = self.link.as_mut() else { return };
        link.held.push_back((packet_id, last, bytes));
        if !hold {
            self.flush_held(net, usize::MAX);
        }
    }

    fn on_pubrel(&mut self, net: &mut Net, packet_id: PacketId) -> Checked {
        let number = packet_id.get();
        self.unreleased.remove(&number);
        let mut bytes = Vec::new();
        PubComp::new(packet_id, ReasonCode::Success).encode(self.version, &mut bytes);
        self.acknowledge(net, number, true, bytes);
        Ok(())
    }

    fn on_publish(&mut self, net: &mut Net, oracle: &mut Oracle, publish: &Publish<'_>) -> Checked {
        let topic = self.resolve_alias(net, publish)?;
        let id = number(publish.payload);
        oracle.received += 1;
        net.trace.line(
            net.now,
            format_args!(
                "{} receives {id:?} {:?} of {topic} id {:?}{}{}",
                self.id,
                publish.qos,
                publish.packet_id,
                if publish.retain { " retain" } else { "" },
                if publish.dup { " dup" } else { "" }
            ),
        );
        let Some(packet_id) = publish.packet_id else {
            return self.check_copy(net, oracle, publish, &topic, id);
        };
        let number = packet_id.get();
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        // [MQTT-3.3.4-9]; a QoS 2 message that comes again takes no second place.
        link.unacknowledged.insert(number);
        if link.unacknowledged.len() > usize::from(link.own_receive_maximum) {
            return Err(format!(
                "[MQTT-3.3.4-9] {} unacknowledged, allowed are {}",
                link.unacknowledged.len(),
                link.own_receive_maximum
            ));
        }
        if link.unacknowledged.len() >= usize::from(net.knobs.in_flight_max) {
            net.coverage.hit(Situation::WindowFull);
        }
        let mark = id.unwrap_or(NEVER);
        let carried = self.carried.insert(number, mark);
        let again = publish.dup && carried == Some(mark);
        if publish.dup {
            net.hit(Situation::DeliveredAgain);
        }
        let mut bytes = Vec::new();
        match publish.qos {
            QoS::ExactlyOnce => {
                let known = self.unreleased.insert(number, mark);
                if let Some(other) = known
                    && (other != mark || !publish.dup)
                {
                    return Err(format!(
                        "[MQTT-2.2.1-4] packet id {number} is in use for {other}, now for {mark}"
                    ));
                }
                if known.is_none() {
                    self.check_copy(net, oracle, publish, &topic, id)?;
                }
                PubRec::new(packet_id, ReasonCode::Success).encode(self.version, &mut bytes);
                self.acknowledge(net, number, false, bytes);
            }
            QoS::AtLeastOnce | QoS::AtMostOnce => {
                if self.unreleased.contains_key(&number) {
                    return Err(format!("[MQTT-2.2.1-4] packet id {number} is in use for QoS 2"));
                }
                if !again {
                    self.check_copy(net, oracle, publish, &topic, id)?;
                }
                PubAck::new(packet_id, ReasonCode::Success).encode(self.version, &mut bytes);
                self.acknowledge(net, number, true, bytes);
            }
        }
        Ok(())
    }

    fn resolve_alias(&mut self, net: &mut Net, publish: &Publish<'_>) -> Result<String, String> {
        let Some(alias) = publish.properties.topic_alias else {
            return Ok(publish.topic.to_owned());
        };
        let Some(link) = self.link.as_mut() else { return Ok(String::new()) };
        net.coverage.hit(Situation::AliasFromBroker);
        // [MQTT-3.3.2-9]
        if alias.get() > link.own_alias_maximum {
            return Err(format!("alias {alias} above {}", link.own_alias_maximum));
        }
        if publish.topic.is_empty() {
            let known = link.aliases_in.get(&alias.get()).cloned();
            return known.ok_or_else(|| format!("alias {alias} was never set"));
        }
        link.aliases_in.insert(alias.get(), publish.topic.to_owned());
        Ok(publish.topic.to_owned())
    }

    /// One more copy of a publication: whether it may have come, and so.
    fn check_copy(
        &mut self,
        net: &mut Net,
        oracle: &mut Oracle,
        publish: &Publish<'_>,
        topic: &str,
        id: Option<PubId>,
    ) -> Checked {
        let Some(id) = id else {
            let known = self.subscriptions.iter().any(|one| covers(&one.filter, topic));
            let fits = publish.payload.is_empty() || publish.payload == b"bad" || topic == "t";
            return if known && fits {
                Ok(())
            } else {
                Err(format!("a message of nobody's on {topic}: {:?}", publish.payload))
            };
        };
        let Some(publication) = oracle.pubs.get(id as usize).cloned() else {
            return Err(format!("publication {id} does not exist"));
        };
        if publication.sends == 0 {
            return Err(format!("publication {id} was never sent"));
        }
        if publication.topic != topic {
            return Err(format!("publication {id} went to {}, came on {topic}", publication.topic));
        }
        if publish.payload != payload(id, publication.size) {
            return Err(format!("publication {id} has another payload"));
        }
        let possible: Vec<Subscription> = self
            .subscriptions
            .iter()
            .filter(|one| {
                one.ended.is_none_or(|ended| ended >= publication.first_sent)
                    && covers(&one.filter, topic)
            })
            .cloned()
            .collect();
        if possible.is_empty() {
            return Err(format!("[MQTT-3.3.5-1] {topic} is outside all filters of the session"));
        }
        // [MQTT-3.3.1-8] [MQTT-3.3.1-9]
        let as_published = possible.iter().any(|one| one.retain_as_published);
        let copy = match (publish.retain, publication.retain, as_published) {
            (false, ..) => Copy::Live,
            (true, false, _) => return Err(format!("publication {id} was not retained")),
            (true, true, true) => Copy::Either,
            (true, true, false) => Copy::Retained,
        };
        if publish.qos > publication.qos
            || !possible.iter().any(|one| one.qos.min(publication.qos) == publish.qos)
        {
            return Err(format!("publication {id} came with {:?}", publish.qos));
        }
        self.check_expiry(net, &publication, id, publish)?;
        if self.version.is_v5() && publication.version.is_v5() && !publication.will {
            let number = id.to_string();
            let expected = has_properties(id).then_some("text/x-number");
            let pairs: Vec<(&str, &str)> = publish.properties.user_properties.iter().collect();
            let fits = match expected {
                Some(_) => pairs == [("n", number.as_str())],
                None => pairs.is_empty(),
            };
            if publish.properties.content_type != expected || !fits {
                return Err(format!("[MQTT-3.3.2-17] publication {id} has other properties"));
            }
        }
        let stable: Vec<&Subscription> = possible
            .iter()
            .filter(|one| {
                one.ending.is_none() && one.active.is_some_and(|at| at < publication.first_sent)
            })
            .collect();
        if copy == Copy::Live && stable.len() == possible.len() && self.kind != Kind::Sharer {
            self.check_exactly(&publication, id, publish, &stable)?;
        }
        if copy == Copy::Retained {
            net.hit(Situation::RetainedDelivered);
            let asked = possible.iter().map(|one| one.asked).min().unwrap_or(0);
            if !oracle.may_be_retained(id, asked) {
                return Err(format!("[MQTT-3.3.1-5] {id} is not what {topic} keeps"));
            }
            // What is kept is asked for by a SUBSCRIBE, and the answer may take its time.
            let long_there = |one: &&Subscription| {
                one.active.is_some_and(|at| at + RETAINED_SLACK < publication.first_sent)
            };
            if !publication.will && stable.len() == possible.len() && stable.iter().all(long_there)
            {
                return Err(format!(
                    "[MQTT-3.3.1-12] publication {id} came with RETAIN to who had subscribed before"
                ));
            }
        }
        self.count_copy(net, oracle, (id, publish.qos), copy, &possible)?;
        if copy == Copy::Live && self.kind != Kind::Sharer {
            // A full queue or a full disk refuses a publication, and its publisher, who may not have heard so, sends it again.
            self.check_order(id, &publication, publish.qos, net)?;
        }
        Ok(())
    }

    /// With nothing changing, QoS, flags and identifiers are known.
    fn check_exactly(
        &self,
        publication: &crate::oracle::Pub,
        id: PubId,
        publish: &Publish<'_>,
        stable: &[&Subscription],
    ) -> Checked {
        let own = publication.publisher == self.index;
        let wanting: Vec<&&Subscription> =
            stable.iter().filter(|one| !(one.no_local && own)).collect();
        if wanting.is_empty() {
            return Err(format!(
                "[MQTT-3.8.3-3] its own publication {id} came in spite of No Local"
            ));
        }
        let highest = wanting.iter().map(|one| one.qos).max().unwrap_or_default();
        // [MQTT-3.3.4-2]
        if publish.qos != publication.qos.min(highest) {
            return Err(format!("publication {id} came with {:?}, not {highest:?}", publish.qos));
        }
        if publication.retain && wanting.iter().all(|one| one.retain_as_published) {
            return Err(format!("[MQTT-3.3.1-13] publication {id} lost its RETAIN"));
        }
        if self.version.is_v5() {
            // [MQTT-3.3.4-3] [MQTT-3.3.4-4]
            let mut expected: Vec<u32> = wanting.iter().filter_map(|one| one.identifier).collect();
            let mut came: Vec<u32> = publish.properties.subscription_identifiers.iter().collect();
            expected.sort_unstable();
            came.sort_unstable();
            if expected != came {
                return Err(format!("publication {id} has identifiers {came:?}, not {expected:?}"));
            }
        }
        Ok(())
    }

    fn check_expiry(
        &self,
        net: &Net,
        publication: &crate::oracle::Pub,
        id: PubId,
        publish: &Publish<'_>,
    ) -> Checked {
        let left = publish.properties.message_expiry_interval_seconds;
        let Some(expiry) = publication.expiry else {
            return match left {
                Some(_) => Err(format!("publication {id} has got an expiry")),
                None => Ok(()),
            };
        };
        let Some(link) = &self.link else { return Ok(()) };
        let expiry_ns = u64::from(expiry) * SECOND;
        // [MQTT-3.3.2-5]: it had expired before this connection began. (A message that was under way before is repeated.)
        let latest = publication.accepted.map(|accepted| accepted + expiry_ns);
        if !publish.dup && latest.is_some_and(|latest| latest < link.since) {
            return Err(format!("[MQTT-3.3.2-5] publication {id} had expired"));
        }
        if !self.version.is_v5() {
            return Ok(());
        }
        let Some(left) = left else {
            return Err(format!("[MQTT-3.3.2-6] publication {id} has lost its expiry"));
        };
        let left_ns = u64::from(left) * SECOND;
        let passed = net.now - publication.first_sent;
        // The broker takes up to a second from it, for clocks that are read once per turn.
        let too_little = !publication.will && left_ns + passed + SECOND < expiry_ns;
        let too_much = left > expiry
            || latest.is_some_and(|latest| left_ns > latest.saturating_sub(link.since) + SECOND);
        if too_little || too_much || (left == 0 && !publish.dup) {
            return Err(format!("[MQTT-3.3.2-6] publication {id} has {left} of {expiry} s left"));
        }
        Ok(())
    }

    /// QoS 0 and 2 at most once, QoS 1 as often as it was sent; and once more for each SUBSCRIBE when it is retained.
    fn count_copy(
        &mut self,
        net: &mut Net,
        oracle: &mut Oracle,
        (id, qos): (PubId, QoS),
        copy: Copy,
        possible: &[Subscription],
    ) -> Checked {
        let publication = &oracle.pubs[id as usize];
        if self.kind == Kind::Sharer {
            if let Some(one) = possible.first() {
                let group = oracle.groups.entry(one.filter.clone()).or_default();
                let count = group.tally.entry(id).or_default();
                *count += 1;
                if *count > 1 {
                    net.hit(Situation::SharedAgain);
                }
                if qos == QoS::AtLeastOnce {
                    group.at_least_once.insert(id);
                }
            }
            return Ok(());
        }
        let receipt = self.receipts.entry(id).or_default();
        match copy {
            Copy::Live => receipt.live += 1,
            Copy::Retained | Copy::Either => receipt.retained += 1,
        }
        if (copy, qos) == (Copy::Live, QoS::AtLeastOnce) {
            receipt.at_least_once.get_or_insert(net.now);
        }
        // What was on its way at least once in a crash may come again, each copy of it.
        let crashes = net.crashes.len() as u32;
        let sends = match (publication.qos, qos) {
            (QoS::AtLeastOnce, _) => publication.sends * (1 + crashes),
            (QoS::ExactlyOnce, QoS::AtLeastOnce) => 1 + crashes,
            // That a will was published is written within a tenth of a second (`docs/durability.md`).
            _ if publication.will => 1 + crashes,
            (QoS::ExactlyOnce, QoS::ExactlyOnce) => 1 + receipt.times_begun_anew(net, publication),
            (QoS::AtMostOnce | QoS::ExactlyOnce, _) => 1,
        };
        // Other copies may have come at another QoS, while other subscriptions stood.
        receipt.sends = receipt.sends.max(sends);
        let sends = receipt.sends;
        let asks = if publication.retain { possible.len() as u32 } else { 0 };
        if receipt.live > sends || receipt.live + receipt.retained > sends + asks {
            return Err(format!(
                "[MQTT-4.3.3-2] publication {id} ({:?}) came {} + {} times, was sent {sends} times",
                publication.qos, receipt.live, receipt.retained
            ));
        }
        Ok(())
    }

    /// [MQTT-4.6.0-5] [MQTT-4.6.0-6]: per publisher, topic and QoS, what comes for the first time comes in order.
    fn check_order(
        &mut self,
        id: PubId,
        publication: &crate::oracle::Pub,
        qos: QoS,
        net: &Net,
    ) -> Checked {
        if publication.will || self.received_count(id) > 1 {
            return Ok(());
        }
        // What was discarded for a connection that takes no packet so large may come on the next one, when a crash has forgotten that.
        let crashed = net.crashes.last().is_some_and(|at| *at > publication.first_sent);
        if crashed && self.too_large(publication) {
            return Ok(());
        }
        // The first arrival of what was sent twice may have been before the subscription, or the first copy was dropped.
        let certain = self.certain(publication);
        let may_have_gone = certain.is_none_or(|qos| qos == QoS::AtMostOnce)
            || publication.expiry.is_some()
            || self.too_large(publication)
            || qos == QoS::AtMostOnce
            || net.knobs.may_refuse();
        // What was not acknowledged may be there or not (`docs/durability.md`): of two that were being written when the power
        // went, the earlier one may have been torn, to be sent again by the publisher or by the shard that had handed it on.
        let torn = net.power_cuts.iter().any(|at| {
            publication.first_sent <= *at && publication.accepted.is_none_or(|told| told > *at)
        });
        if torn || (publication.sends > 1 && may_have_gone) {
            return Ok(());
        }
        // The order is that of arrival: what was sent again comes later than a message of another QoS that was not.
        let line = publication.qos as u8 * 3 + qos as u8;
        let key = (publication.publisher, publication.topic.clone(), line);
        let last = self.orders.entry(key).or_insert(id);
        if *last > id {
            return Err(format!(
                "[MQTT-4.6.0-6] publication {id} to {} came after {last}",
                publication.topic
            ));
        }
        *last = id;
        Ok(())
    }
}

/// The number that a payload begins with.
#[must_use]
pub fn number(payload: &[u8]) -> Option<PubId> {
    let dot = payload.iter().position(|byte| *byte == b'.')?;
    std::str::from_utf8(&payload[..dot]).ok()?.parse().ok()
}

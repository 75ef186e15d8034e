//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;

use midge_codec::{
    PacketId, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFilter, UnsubAck,
    Unsubscribe,
};
use midge_session::SubscriptionOptions;
use midge_topic::{FilterId, SharedFilter, SubscriberId, TopicFilter};

use crate::action::Violation;
use crate::connection::{Connection, Flags, PendingSubAck};
use crate::envelope::{Envelope, ShareJoin, ShareJoined, ShareMember, chooser};
use crate::explain;
use crate::ids::{ConnectionId, SessionId};
use crate::receive::Handled;
use crate::sessions::Shares;
use crate::shard::Shard;
use crate::wire::Wire;

/// What one filter of a SUBSCRIBE came to.
enum Granted {
    /// The code for the SUBACK.
    Now(ReasonCode),
    /// The same, once the chooser of the shared subscription has answered.
    WhenJoined(ReasonCode),
}

impl Shard {
    pub(crate) fn handle_subscribe(
        &mut self,
        id: ConnectionId,
        subscribe: &Subscribe<'_>,
    ) -> Handled {
        let Some(connection) = self.connections.get(id.0) else { return Ok(()) };
        let Some(session) = connection.session else { return Ok(()) };
        let version = connection.version;
        if subscribe.subscription_identifier.is_some()
            && !self.settings.limits.subscription_identifiers_available
        {
            return Err(Violation::SubscriptionIdentifiersNotSupported.into());
        }
        let topic_limits = self.topic_limits(id);
        self.tokens += 1;
        let token = self.tokens;
        let mut reason_codes = Vec::with_capacity(subscribe.filters.len());
        let mut waiting_for = 0;
        let mut retained = Vec::new();
        for filter in subscribe.filters.iter() {
            let identifier = subscribe.subscription_identifier;
            let granted = match SharedFilter::parse(filter.filter, &topic_limits) {
                // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
                Err(_) => Granted::Now(ReasonCode::TopicFilterInvalid),
                Ok(Some(shared)) => {
                    self.join(id, session, filter, shared.filter, identifier, token)
                }
                Ok(None) => match TopicFilter::parse(filter.filter, &topic_limits) {
                    Err(_) => Granted::Now(ReasonCode::TopicFilterInvalid),
                    Ok(parsed) => {
                        self.subscribe(session, filter, parsed, identifier, &mut retained)
                    }
                },
            };
            reason_codes.push(match granted {
                Granted::Now(reason_code) => reason_code,
                Granted::WhenJoined(reason_code) => {
                    waiting_for += 1;
                    reason_code
                }
            });
        }
        // A filter that is none is malformed to 3.1 clients, whose SUBACK cannot say so, and a reason code to others.
        let invalid = reason_codes.contains(&ReasonCode::TopicFilterInvalid);
        if invalid && version == midge_codec::ProtocolVersion::V31 {
            return Err(Violation::TopicFilterInvalid.into());
        }
        let Some(connection) = self.connections.get_mut(id.0) else { return Ok(()) };
        if let Some(durable) = &mut self.durable
            && self.sessions.get(session).is_some_and(|entry| entry.kept.is_some())
        {
            connection.close_gate(durable.said());
        }
        if waiting_for == 0 {
            // [MQTT-3.8.4-1] [MQTT-3.8.4-6]
            answer_subscribe(&mut self.wire, id, connection, subscribe.packet_id, &reason_codes);
        } else {
            connection.extra().subacks.push(PendingSubAck {
                token,
                packet_id: subscribe.packet_id,
                reason_codes,
                waiting_for,
            });
        }
        for (filter, options) in retained {
            self.send_retained(id, &filter, options);
        }
        Ok(())
    }

    fn subscribe(
        &mut self,
        session: SessionId,
        asked: SubscribeFilter<'_>,
        filter: TopicFilter<'_>,
        identifier: Option<u32>,
        retained: &mut Vec<(Arc<str>, SubscriptionOptions)>,
    ) -> Granted {
        let limits = &self.settings.limits;
        if filter.has_wildcard() && !limits.wildcard_subscription_available {
            return Granted::Now(ReasonCode::WildcardSubscriptionsNotSupported);
        }
        let qos = asked.qos.min(limits.maximum_qos);
        if !self.may_subscribe(session, filter.as_str()) {
            return Granted::Now(ReasonCode::NotAuthorized);
        }
        let options =
            SubscriptionOptions::new(qos, asked.no_local, asked.retain_as_published, identifier);
        let Some(entry) = self.sessions.get_mut(session) else {
            return Granted::Now(ReasonCode::UnspecifiedError);
        };
        if entry.kept.is_some()
            && let Some(reason_code) = self.log_refusal()
        {
            return Granted::Now(reason_code);
        }
        let Some(entry) = self.sessions.get_mut(session) else {
            return Granted::Now(ReasonCode::UnspecifiedError);
        };
        let (count, connection) = (entry.subscriptions.len(), entry.connection);
        let full = count >= self.subscriptions_max(connection);
        if full && !self.is_subscribed(session, filter.as_str()) {
            return Granted::Now(ReasonCode::QuotaExceeded);
        }
        // [MQTT-3.8.4-3]: an identical filter replaces the subscription.
        let subscribed = self.table.subscribe(filter, SubscriberId(session.0), options);
        if let Some(interest) = self.interest.as_mut().filter(|_| subscribed.first)
            && !mutant!("forget-interest")
        {
            // Before the SUBACK leaves: from then on every shard that publishes sees the bit.
            interest.add(filter.as_str());
        }
        let new = subscribed.previous.is_none();
        if new {
            let hasher = self.sessions.hasher().clone();
            if let Some(entry) = self.sessions.get_mut(session) {
                entry.subscriptions.insert(subscribed.filter_id, &hasher);
            }
        }
        if !self.keep_subscription(session, subscribed.filter_id, options) {
            // What a session that outlives its connection was granted earlier stays as it was.
            match subscribed.previous {
                Some(earlier) => {
                    self.table.subscribe(filter, SubscriberId(session.0), earlier);
                }
                None => {
                    self.unsubscribe(session, filter.as_str());
                }
            }
            return Granted::Now(ReasonCode::QuotaExceeded);
        }
        // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
        let wanted = match asked.retain_handling {
            RetainHandling::SendAlways => true,
            RetainHandling::SendIfNew => new,
            RetainHandling::DoNotSend => false,
        };
        let serving = self.sessions.get(session).and_then(|entry| entry.connection);
        if let Some(connection) = serving.filter(|_| !new) {
            self.change_pumps(connection, filter.as_str(), options, wanted);
        }
        if wanted && self.settings.limits.retain_available {
            retained.push((filter.as_str().into(), options));
        }
        Granted::Now(granted(qos))
    }

    fn is_subscribed(&self, session: SessionId, filter: &str) -> bool {
        self.table
            .find(filter)
            .is_some_and(|found| self.table.value(found, SubscriberId(session.0)).is_some())
    }

    /// A shared subscription: the chooser is asked; retained messages are not sent [MQTT-3.3.1-9, 4.8.2].
    fn join(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        asked: SubscribeFilter<'_>,
        filter: TopicFilter<'_>,
        identifier: Option<u32>,
        token: u64,
    ) -> Granted {
        let limits = &self.settings.limits;
        if !limits.shared_subscription_available {
            return Granted::Now(ReasonCode::SharedSubscriptionsNotSupported);
        }
        if filter.has_wildcard() && !limits.wildcard_subscription_available {
            return Granted::Now(ReasonCode::WildcardSubscriptionsNotSupported);
        }
        let qos = asked.qos.min(limits.maximum_qos);
        // What is judged is the filter itself, whatever the group is called.
        if !self.may_subscribe(session, filter.as_str()) {
            return Granted::Now(ReasonCode::NotAuthorized);
        }
        let options = SubscriptionOptions::new(qos, false, asked.retain_as_published, identifier);
        let Some(reference) = self.sessions.reference(session) else {
            return Granted::Now(ReasonCode::UnspecifiedError);
        };
        let maximum = self.subscriptions_max(Some(id));
        let hasher = self.sessions.hasher().clone();
        let Some(entry) = self.sessions.get_mut(session) else {
            return Granted::Now(ReasonCode::UnspecifiedError);
        };
        let shares = entry.shares.get_or_insert_with(|| Box::new(Shares::new(&hasher)));
        let known = shares.groups.get_key_value(asked.filter).map(|(group, _)| Arc::clone(group));
        if known.is_none() && entry.subscriptions.len() + shares.groups.len() >= maximum {
            return Granted::Now(ReasonCode::QuotaExceeded);
        }
        let group = known.unwrap_or_else(|| asked.filter.into());
        let earlier = shares.groups.insert(Arc::clone(&group), options);
        if !self.keep_share(session, &group, options) {
            // A member that asked for something else stays the member that it was, and keeps what the group gave it.
            match earlier {
                Some(earlier) => self.set_share(session, group, earlier),
                None => {
                    self.unsubscribe_shared(session, &group);
                }
            }
            return Granted::Now(ReasonCode::QuotaExceeded);
        }
        let Some(entry) = self.sessions.get_mut(session) else {
            return Granted::Now(ReasonCode::UnspecifiedError);
        };
        let persistent = entry.session.expiry_interval_seconds > 0;
        let target = chooser(&group, self.shards);
        let member = ShareMember { group, session: reference };
        let join = ShareJoin { member, options, persistent, token, connection: id };
        self.send(target, Envelope::ShareJoin(Box::new(join)));
        Granted::WhenJoined(granted(qos))
    }

    fn set_share(&mut self, session: SessionId, group: Arc<str>, options: SubscriptionOptions) {
        if let Some(shares) = self.sessions.get_mut(session).and_then(|one| one.shares.as_mut()) {
            shares.groups.insert(group, options);
        }
    }

    /// A chooser has noted a member: its SUBACK leaves when all of its choosers have.
    pub(crate) fn handle_share_joined(&mut self, joined: &ShareJoined) {
        let id = joined.connection;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let Some(extra) = connection.extra.as_mut() else { return };
        // Tokens are never used twice, so an answer for an earlier connection in this slot finds nothing.
        let Some(at) = extra.subacks.iter().position(|one| one.token == joined.token) else {
            return;
        };
        extra.subacks[at].waiting_for -= 1;
        if extra.subacks[at].waiting_for > 0 {
            return;
        }
        let done = extra.subacks.remove(at);
        let wire = &mut self.wire;
        answer_subscribe(wire, id, connection, done.packet_id, &done.reason_codes);
    }

    pub(crate) fn handle_unsubscribe(&mut self, id: ConnectionId, unsubscribe: &Unsubscribe<'_>) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let Some(session) = connection.session else { return };
        let mut reason_codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in unsubscribe.filters.iter() {
            let gone = if filter.starts_with("$share/") {
                self.unsubscribe_shared(session, filter)
            } else {
                self.unsubscribe(session, filter)
            };
            // [MQTT-3.11.3-1] [MQTT-3.11.3-2]
            reason_codes.push(if gone {
                ReasonCode::Success
            } else {
                ReasonCode::NoSubscriptionExisted
            });
        }
        // Retained messages still on their way to a subscription that is gone are not sent.
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if let Some(extra) = connection.extra.as_mut() {
            let gone = |pump: &crate::retained::RetainedPump| {
                unsubscribe.filters.iter().any(|filter| filter == pump.filter())
            };
            extra.pumps.retain(|pump| !gone(pump));
        }
        if let Some(durable) = &mut self.durable
            && self.sessions.get(session).is_some_and(|entry| entry.kept.is_some())
        {
            connection.close_gate(durable.said());
        }
        let unsuback = UnsubAck::new(unsubscribe.packet_id, &reason_codes[..]);
        self.wire.answer(id, connection, |version, out| unsuback.encode(version, out));
        self.advance_pumps(id);
    }

    fn unsubscribe(&mut self, session: SessionId, filter: &str) -> bool {
        let Some(filter) = self.table.find(filter) else { return false };
        if mutant!("unsubscribe-keeps") {
            return self.table.value(filter, SubscriberId(session.0)).is_some();
        }
        self.forget_subscription(session, filter);
        let gone = self.unsubscribe_table(filter, SubscriberId(session.0));
        if gone && let Some(entry) = self.sessions.get_mut(session) {
            entry.subscriptions.remove(filter);
        }
        gone
    }

    /// Takes a subscriber from the table, and the shard's bit from the interest map with the last one of a filter.
    pub(crate) fn unsubscribe_table(&mut self, filter: FilterId, subscriber: SubscriberId) -> bool {
        let text = self.interest.is_some().then(|| self.table.filter(filter).to_owned());
        let Some(unsubscribed) = self.table.unsubscribe(filter, subscriber) else { return false };
        if let (true, Some(text), Some(interest)) = (unsubscribed.last, text, &mut self.interest)
            && !mutant!("keep-interest")
        {
            interest.remove(&text);
        }
        true
    }

    fn unsubscribe_shared(&mut self, session: SessionId, text: &str) -> bool {
        let Some(reference) = self.sessions.reference(session) else { return false };
        let Some(entry) = self.sessions.get_mut(session) else { return false };
        let Some(shares) = entry.shares.as_mut() else { return false };
        let Some((group, _)) = shares.groups.remove_entry(text) else { return false };
        if shares.groups.is_empty() {
            entry.shares = None;
        }
        self.forget_share(session, text);
        let target = chooser(&group, self.shards);
        let member = ShareMember { group, session: reference };
        self.send(target, Envelope::ShareLeave(Box::new(member)));
        true
    }
}

/// SUBACK, with the reason of the first refusal when the client asked for such things and it fits [MQTT-3.9.2-1].
fn answer_subscribe(
    wire: &mut Wire,
    id: ConnectionId,
    connection: &mut Connection,
    packet_id: PacketId,
    reason_codes: &[ReasonCode],
) {
    let mut suback = SubAck::new(packet_id, reason_codes);
    if connection.flags.has(Flags::PROBLEM_INFORMATION) {
        suback.reason_string =
            reason_codes.iter().find_map(|reason_code| explain::of_reason_code(*reason_code));
    }
    loop {
        let fits = wire.answer(id, connection, |version, out| suback.encode(version, out));
        if fits || suback.reason_string.take().is_none() {
            return;
        }
    }
}

fn granted(qos: QoS) -> ReasonCode {
    ReasonCode::granted(qos)
}

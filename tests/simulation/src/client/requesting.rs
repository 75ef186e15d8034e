//! What a client asks for beside publishing: pings, subscriptions, and their end.

use midge_codec::{
    PacketId, PingReq, QoS, RetainHandling, Subscribe, SubscribeFilter, Unsubscribe,
};

use super::{Client, Kind, RELIABLE_GROUP, Request, Subscription};
use crate::net::{NEVER, Net, SECOND};
use crate::oracle::Oracle;

impl Client {
    pub(super) fn packet_id(&mut self) -> Option<u16> {
        for _ in 0..100 {
            self.next_packet_id = self.next_packet_id % u16::MAX + 1;
            let id = self.next_packet_id;
            if !self.requests.contains_key(&id) && self.outgoing.iter().all(|o| o.packet_id != id) {
                return Some(id);
            }
        }
        None
    }

    /// Sends PINGREQ when it is time, or at once.
    pub(super) fn keep_alive(&mut self, net: &mut Net, always: bool) {
        let Some(link) = &self.link else { return };
        let due = link.keep_alive > 0 && net.now - link.written_at > link.keep_alive * SECOND / 2;
        if due || (always && link.pings.is_empty() && net.now - link.written_at > SECOND) {
            self.ping(net);
        }
    }

    pub(super) fn ping(&mut self, net: &mut Net) {
        let Some(link) = self.link.as_mut() else { return };
        link.pings.push_back(link.plain.len());
        let mut bytes = Vec::new();
        PingReq.encode(&mut bytes);
        self.write(net, bytes);
    }

    /// Writes acknowledgements that were held back.
    pub fn flush_held(&mut self, net: &mut Net, most: usize) {
        for _ in 0..most {
            let Some(link) = self.link.as_mut() else { return };
            let Some((packet_id, last, bytes)) = link.held.pop_front() else { return };
            if last {
                link.unacknowledged.remove(&packet_id);
            }
            self.write(net, bytes);
        }
    }

    /// The watcher's, and a test's, subscription to one filter.
    pub fn subscribe_to(&mut self, net: &mut Net, oracle: &mut Oracle, filter: &str, qos: QoS) {
        let one = SubscribeFilter { filter, qos, ..SubscribeFilter::default() };
        self.send_subscribe(net, oracle, &[one], None);
    }

    pub(super) fn subscribe(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let v5 = self.version.is_v5();
        let mut texts = Vec::new();
        if self.kind == Kind::Sharer {
            texts.push(self.share.clone());
        } else {
            for _ in 0..self.prng.pick(&[1, 1, 1, 2, 3]) {
                let text = self.filter();
                if !texts.contains(&text) {
                    texts.push(text);
                }
            }
        }
        let filters: Vec<SubscribeFilter<'_>> = texts
            .iter()
            .map(|filter| {
                let mut qos =
                    self.prng.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
                let shared = filter.starts_with("$share/");
                if filter.starts_with(RELIABLE_GROUP) {
                    qos = qos.max(QoS::AtLeastOnce);
                }
                SubscribeFilter {
                    filter,
                    qos,
                    no_local: v5 && !shared && self.prng.permille(200),
                    retain_as_published: v5 && self.prng.permille(300),
                    retain_handling: if v5 {
                        self.prng.pick(&[
                            RetainHandling::SendAlways,
                            RetainHandling::SendIfNew,
                            RetainHandling::DoNotSend,
                        ])
                    } else {
                        RetainHandling::SendAlways
                    },
                }
            })
            .collect();
        let identifier = (v5 && self.prng.permille(500))
            .then(|| self.prng.pick(&[1, 2, 127, 128, 268_435_455]) as u32);
        self.send_subscribe(net, oracle, &filters, identifier);
    }

    pub(super) fn send_subscribe(
        &mut self,
        net: &mut Net,
        oracle: &mut Oracle,
        filters: &[SubscribeFilter<'_>],
        identifier: Option<u32>,
    ) {
        let Some(number) = self.packet_id() else { return };
        let Some(packet_id) = PacketId::new(number) else { return };
        // One question about a filter at a time: the answers would be hard to tell apart.
        let busy = self
            .requests
            .values()
            .any(|request| matches!(request, Request::Subscribe(_) | Request::Unsubscribe(_)));
        if busy {
            return;
        }
        let mut places = Vec::new();
        for filter in filters {
            let replaced = self.subscriptions.iter().position(|s| {
                s.filter == filter.filter && s.ending.is_none() && s.active.is_some()
            });
            if let Some(replaced) = replaced {
                self.subscriptions[replaced].ending = Some(net.now);
            }
            if self.kind == Kind::Sharer {
                oracle.groups.entry(filter.filter.to_owned()).or_insert_with(|| {
                    crate::oracle::GroupLog { empty_until: NEVER, ..Default::default() }
                });
            }
            places.push((self.subscriptions.len(), replaced));
            self.subscriptions.push(Subscription {
                filter: filter.filter.to_owned(),
                qos: filter.qos,
                no_local: filter.no_local,
                retain_as_published: filter.retain_as_published,
                identifier,
                asked: net.now,
                active: None,
                ending: None,
                ended: None,
                chain: None,
            });
        }
        let subscribe =
            Subscribe { subscription_identifier: identifier, ..Subscribe::new(packet_id, filters) };
        net.trace.line(net.now, format_args!("{} subscribes {number} {filters:?}", self.id));
        let mut bytes = Vec::new();
        subscribe.encode(self.version, &mut bytes);
        self.requests.insert(number, Request::Subscribe(places));
        self.write(net, bytes);
    }

    pub(super) fn unsubscribe(&mut self, net: &mut Net, oracle: &mut Oracle) {
        if !self.requests.is_empty() {
            return;
        }
        let Some(number) = self.packet_id() else { return };
        let Some(packet_id) = PacketId::new(number) else { return };
        let mut places = Vec::new();
        let mut texts = Vec::new();
        let active: Vec<usize> = (0..self.subscriptions.len())
            .filter(|at| {
                let one = &self.subscriptions[*at];
                one.active.is_some() && one.ending.is_none()
            })
            .collect();
        if let Some(&place) = active.get(self.prng.below(active.len().max(1) as u64) as usize) {
            self.subscriptions[place].ending = Some(net.now);
            texts.push(self.subscriptions[place].filter.clone());
            places.push(Some(place));
            if self.kind == Kind::Sharer {
                let group = oracle.groups.entry(texts[0].clone()).or_default();
                // It may stay a member until the UNSUBACK.
                group.departures.push((None, NEVER));
                group.members.remove(&self.index);
                if group.members.is_empty() {
                    group.empty_until = NEVER;
                }
            }
        } else {
            texts.push("never/subscribed".to_owned());
            places.push(None);
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        net.trace.line(net.now, format_args!("{} unsubscribes {number} {texts:?}", self.id));
        let mut bytes = Vec::new();
        Unsubscribe::new(packet_id, &texts).encode(self.version, &mut bytes);
        self.requests.insert(number, Request::Unsubscribe(places));
        self.write(net, bytes);
    }
}

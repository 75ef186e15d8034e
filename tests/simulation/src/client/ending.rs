//! How a client goes: on purpose, cut off, or for another connection of its own.

use midge_codec::{Disconnect, ProtocolVersion, Publish, QoS, ReasonCode};

use super::{Belief, Client, EXPIRY_NEVER, Kind, Link, lasting, payload};
use crate::coverage::Situation;
use crate::net::{End, NEVER, Net, PipeId};
use crate::oracle::Oracle;

impl Client {
    /// The broker's process is gone: a connection that it knew is reset.
    pub fn lose_broker(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let known = |link: &Link| net.pipes[link.pipe].server_end.is_some();
        if self.link.as_ref().is_some_and(known) {
            self.drop_link(net, oracle, Some(End::Reset));
        }
    }

    /// The present connection is over. `None`: without a word.
    pub fn drop_link(&mut self, net: &mut Net, oracle: &mut Oracle, how: Option<End>) {
        let Some(link) = self.link.take() else { return };
        match how {
            Some(how) => net.end(link.pipe, how),
            None => net.vanish(link.pipe),
        }
        self.ended(net, oracle, &link);
    }

    /// What the end of a connection means for the session.
    pub fn ended(&mut self, net: &mut Net, oracle: &mut Oracle, link: &Link) {
        let pipe = &mut net.pipes[link.pipe];
        pipe.client_end.get_or_insert(net.now);
        let earlier_end = self.ended_at;
        // A goodbye ends the session's connection when it is read, however late the socket is closed.
        self.ended_at = if link.goodbye { link.written_at } else { net.now };
        let server_end = pipe.server_end.unwrap_or(NEVER);
        let expires_at = self.ended_at.min(server_end).saturating_add(lasting(link.expiry));
        self.expires_at = match link.answered {
            Some(_) => expires_at,
            // If its CONNECT was not read, what was before it counts on.
            None => self.expires_at.min(expires_at),
        };
        self.requests.clear();
        self.log(net, "has no connection");
        if link.answered.is_none() {
            // CONNECT may have been accepted, or not.
            if let Some(earlier) = self.last_pipe {
                oracle.judge_will(net, earlier, link.since, NEVER, link.clean_start);
            }
            let expired = match self.belief {
                Belief::None => false,
                Belief::Maybe => true,
                Belief::Exists(expiry) => net.now >= earlier_end.saturating_add(lasting(expiry)),
            };
            self.must_clean |=
                (expired || link.clean_start) && self.version != ProtocolVersion::V31;
            self.belief = match self.belief {
                Belief::None if link.expiry == 0 => Belief::None,
                Belief::None | Belief::Maybe | Belief::Exists(_) => Belief::Maybe,
            };
        } else {
            self.last_pipe = Some(link.pipe);
            self.belief = if link.expiry == 0 { Belief::None } else { Belief::Exists(link.expiry) };
        }
        if link.expiry == 0 && link.answered.is_some() {
            self.forget_session(net, oracle, Some(link.pipe));
        }
    }

    /// The broker has no session of ours any more.
    pub fn forget_session(&mut self, net: &mut Net, oracle: &mut Oracle, pipe: Option<PipeId>) {
        self.leave_groups(net, oracle, pipe);
        self.packet_size_min = self.link.as_ref().map_or(u32::MAX, |link| link.maximum_packet_size);
        self.subscriptions.clear();
        self.outgoing.clear();
        self.unreleased.clear();
        self.carried.clear();
        self.receipts.clear();
        self.orders.clear();
    }

    /// From now on it is no certain member of a group.
    pub(super) fn leave_groups(&mut self, net: &Net, oracle: &mut Oracle, pipe: Option<PipeId>) {
        if self.kind == Kind::Sharer && !self.subscriptions.is_empty() {
            let group = oracle.groups.entry(self.share.clone()).or_default();
            group.departures.push((pipe, net.now));
            group.members.remove(&self.index);
            if group.members.is_empty() {
                group.empty_until = NEVER;
            }
        }
    }

    pub(super) fn cut(&mut self, net: &mut Net, oracle: &mut Oracle) {
        net.hit(Situation::Cut);
        if self.prng.permille(500) {
            // In the middle of a packet: this publication must never appear.
            net.hit(Situation::CutInPacket);
            let topic = self.topic();
            let id = oracle.publish(self.publication(topic.clone(), QoS::AtMostOnce, false, 200));
            let publish =
                Publish { topic: &topic, payload: &payload(id, 200), ..Publish::default() };
            let mut bytes = Vec::new();
            publish.encode(self.version, &mut bytes);
            bytes.truncate(self.prng.between(1, bytes.len() as u64 - 1) as usize);
            // Nothing follows a DISCONNECT [MQTT-3.14.4-2].
            if let Some(link) = self.link.as_ref().filter(|link| !link.goodbye) {
                net.write_part(link.pipe, bytes);
            }
        }
        self.log(net, "is cut");
        let how = if self.prng.permille(700) { End::Reset } else { End::Fin };
        self.drop_link(net, oracle, Some(how));
    }

    pub(super) fn take_over(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let Some(link) = self.link.take() else { return };
        self.log(net, "connects a second time");
        match self.prng.below(3) {
            0 => net.end(link.pipe, End::Fin),
            1 => net.end(link.pipe, End::Reset),
            _ => {}
        }
        self.ended(net, oracle, &link);
        self.connect(net, oracle);
    }

    pub(super) fn say_goodbye(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let Some(link) = self.link.as_mut() else { return };
        let mut disconnect = Disconnect::default();
        if self.version.is_v5() {
            if self.prng.permille(200) {
                disconnect.reason_code = ReasonCode::DisconnectWithWill;
            }
            if !link.no_expiry && self.prng.permille(300) {
                let expiry = self.prng.pick(&[0, 5, EXPIRY_NEVER]);
                disconnect.session_expiry_interval_seconds = Some(expiry);
                self.end_asked = (expiry == 0).then_some(net.now);
                // Whether it is read before the connection ends is not certain.
                if let Some(will) = oracle.will_of(link.pipe)
                    && will.delay != 0
                {
                    will.verdict = crate::oracle::Verdict::May;
                }
            }
        }
        let changed = disconnect.session_expiry_interval_seconds;
        let mut bytes = Vec::new();
        disconnect.encode(self.version, &mut bytes);
        let pipe = link.pipe;
        if let Some(will) = oracle.will_of(pipe) {
            will.left_at = Some(net.now);
        }
        if disconnect.reason_code == ReasonCode::Success
            && let Some(will) = oracle.will_of(pipe)
        {
            will.goodbye = Some(net.pipes[pipe].written + bytes.len() as u64);
        }
        net.trace.line(net.now, format_args!("{} says goodbye {disconnect:?}", self.id));
        self.write(net, bytes);
        if let Some(link) = self.link.as_mut() {
            link.goodbye = true;
        }
        // Most close at once, some wait for the broker to do it.
        if self.prng.permille(600) || changed.is_some() {
            self.drop_link(net, oracle, Some(End::Fin));
        }
        if let Some(expiry) = changed {
            // Perhaps it was read, perhaps not.
            self.belief = Belief::Maybe;
            self.expires_at = self.expires_at.min(net.now.saturating_add(lasting(expiry)));
            self.leave_groups(net, oracle, Some(pipe));
        }
    }

    /// At the end of the run: leaves nothing behind.
    pub(super) fn leave(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let Some(link) = self.link.as_ref() else { return };
        if link.clean_start && link.expiry == 0 {
            self.left = true;
        }
        // Otherwise it comes back with a clean start, which ends the session.
        let pipe = link.pipe;
        let mut bytes = Vec::new();
        Disconnect::default().encode(self.version, &mut bytes);
        if let Some(will) = oracle.will_of(pipe) {
            will.goodbye = Some(net.pipes[pipe].written + bytes.len() as u64);
        }
        self.log(net, "leaves");
        self.write(net, bytes);
        self.drop_link(net, oracle, Some(End::Fin));
    }
}

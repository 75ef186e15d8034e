//! The loop's way for connections with layers; see `layers`.

use std::net::SocketAddr;

use midge_netring::{ListenerId, Received, Slot};
use midge_output::Output;
use midge_session::Time;

use crate::hands::{Hands, connection};
use crate::layers::Step;

impl Hands {
    /// Handshakes that had to wait, as many as a turn has time for.
    pub(crate) fn resume_layers(&mut self, now: Time) {
        self.layers.begin_turn();
        while let Some((slot, peer, reason)) = self.layers.next_broken() {
            self.journal.write_transport(peer, reason, now);
            self.lose(slot, now);
            self.act();
        }
        while let Some((slot, bytes)) = self.layers.next_deferred() {
            if let Some(step) = self.layers.receive(slot, &bytes) {
                self.follow(slot, step, now);
            }
            self.act();
        }
    }

    /// Puts layers on a connection that the shard has just been told of.
    pub(crate) fn accept_layered(
        &mut self,
        slot: Slot,
        peer: SocketAddr,
        listener: ListenerId,
        now: Time,
    ) {
        if let Err(reason) = self.layers.accept(slot, listener.0, peer) {
            self.journal.write_transport(peer, reason, now);
            self.shard.handle_lost(connection(slot), now);
        }
    }

    pub(crate) fn receive_layered(&mut self, slot: Slot, data: Received, now: Time) {
        let step = self.layers.receive(slot, self.ring.bytes(&data));
        self.ring.recycle(data);
        if let Some(step) = step {
            self.follow(slot, step, now);
        }
    }

    fn follow(&mut self, slot: Slot, step: Step, now: Time) {
        let id = connection(slot);
        if let Some((peer, identity)) = step.identity {
            self.shard.handle_identified(id, peer, identity, now);
        }
        let delivered = !self.layers.plain.is_empty();
        self.layers.kick(slot, &mut self.ring);
        if step.end.is_none() {
            // Before the shard asks for the next one.
            self.layers.go_on(slot, delivered, &mut self.ring);
        }
        if delivered {
            self.shard.handle_received(id, &self.layers.plain, now);
        }
        match step.end {
            None => {}
            Some(Ok(())) => self.shard.handle_lost(id, now),
            Some(Err((peer, reason))) => {
                self.journal.write_transport(peer, reason, now);
                self.shard.handle_lost(id, now);
            }
        }
    }

    pub(crate) fn sent_layered(&mut self, slot: Slot, output: Box<Output>, now: Time) {
        if let Some(output) = self.layers.sent(slot, output, &mut self.ring) {
            self.shard.handle_sent(connection(slot), output, now);
        }
    }

    /// Nobody is there any more.
    pub(crate) fn lose(&mut self, slot: Slot, now: Time) {
        self.layers.lose(slot);
        self.shard.handle_lost(connection(slot), now);
    }
}

//! Connections that have sent much and are not clients yet.
//!
//! A CONNECT may be as large as the largest packet, and before it a peer has proved nothing. So what all unfinished
//! ones keep together has a bound ([`KEPT_MAX`]), and they are read from at a bounded pace ([`RECEIVES`] in [`PERIOD_MS`]): five
//! hundred peers that push as fast as they can would otherwise fill every turn, and clients would wait for it.
//!
//! Most CONNECTs arrive whole with the first receive, and never come here.
//!
//! # The line
//! Filled by receives that leave a CONNECT unfinished, drained by [`Shard::run_unproven`] in turns; one entry for each connection,
//! so the number of connections is its bound. Nothing is received for a connection in it.

use std::collections::VecDeque;

use midge_metrics::ConnectionRefusal;
use midge_session::Time;

use crate::action::Action;
use crate::connection::{Flags, State};
use crate::ids::ConnectionId;
use crate::shard::Shard;

/// What a connection may have sent of its CONNECT without being counted: most CONNECTs are shorter.
const FREE: usize = 1024;

/// Bytes of unfinished CONNECT packets that one shard keeps, at most: beyond it whoever sends more than [`FREE`] is closed.
const KEPT_MAX: usize = 8 << 20;

/// Receives for connections in the line in one period: a buffer each, 32 MB a second with the usual 4 KiB, for which a core
/// needs a twentieth of its time. A CONNECT of a mebibyte that is alone takes 32 ms.
const RECEIVES: usize = 32;

/// The period, in milliseconds.
const PERIOD_MS: u64 = 4;

/// One shard's unfinished CONNECTs.
#[derive(Debug, Default)]
pub(crate) struct Unproven {
    /// Kept input of connections before their CONNECT.
    pub(crate) bytes: usize,
    line: VecDeque<(ConnectionId, u32)>,
    /// When the next period begins.
    next: Time,
}

impl Unproven {
    /// When [`Shard::run_unproven`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        (!self.line.is_empty()).then_some(self.next)
    }
}

impl Shard {
    /// Counts what is kept of a CONNECT, and closes whoever goes beyond the bound.
    pub(crate) fn bound_unproven(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id.0) else { return };
        if !connection.is_unproven() || connection.input_size() == 0 {
            return;
        }
        self.unproven.bytes += connection.input_size();
        if connection.unproven_size() > FREE && self.unproven.bytes > KEPT_MAX {
            self.note_refused_connection(id, ConnectionRefusal::Unproven);
            self.close(id);
        }
    }

    /// More is wanted of a CONNECT: now, or when it is this connection's turn.
    pub(crate) fn receive_unproven(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if connection.state != State::Handshaking {
            return;
        }
        if connection.input_size() > FREE {
            // With one shard everything is received until told otherwise, and more may come after that.
            if connection.flags.has(Flags::RUNNABLE) {
                return;
            }
            connection.flags.set(Flags::RUNNABLE, true);
            self.unproven.line.push_back((id, connection.serial));
            if self.shards == 1 {
                self.actions.push_back(Action::Pause(id));
            }
        } else if self.shards > 1 {
            self.actions.push_back(Action::ReceiveOnce(id));
        }
    }

    /// Goes on with connections in the line.
    pub(crate) fn run_unproven(&mut self) {
        if self.unproven.line.is_empty() || self.now < self.unproven.next {
            return;
        }
        self.unproven.next = self.now.plus_millis(PERIOD_MS);
        for _ in 0..RECEIVES {
            let Some((id, serial)) = self.unproven.line.pop_front() else { return };
            let connection = self.connections.get_mut(id.0);
            if let Some(connection) = connection.filter(|one| one.serial == serial)
                && connection.state == State::Handshaking
            {
                connection.flags.set(Flags::RUNNABLE, false);
                self.actions.push_back(Action::ReceiveOnce(id));
            }
        }
    }
}

//! The clients of one shard, and closing one.

use std::net::SocketAddr;

use midge_codec::ReasonCode;

use crate::action::Event;
use crate::ending::WillCase;
use crate::ids::SessionId;
use crate::sessions::SessionEntry;
use crate::shard::Shard;

use super::{Budget, ClientFilter, ClientRow, ConnectionRow, Kicked, Part, Place, SLICE};

impl Shard {
    pub(super) fn survey_clients(
        &self,
        from: Option<&Place>,
        filter: &ClientFilter,
        rows_max: usize,
    ) -> Part<ClientRow> {
        if let Some(client_id) = &filter.client_id {
            let entry = self.sessions.find(client_id).and_then(|id| self.sessions.get(id));
            let rows = entry.and_then(|entry| self.client_row(entry, filter)).into_iter().collect();
            return Part { rows, next: None };
        }
        let first = match from {
            Some(Place::Session(number)) => *number,
            _ => 0,
        };
        let mut budget = Budget::new(SLICE);
        let mut rows = Vec::new();
        for number in first..self.sessions.end() {
            if !budget.number() || rows.len() >= rows_max {
                return Part { rows, next: Some(Place::Session(number)) };
            }
            let Some(entry) = self.sessions.get(SessionId(number)) else { continue };
            budget.entry();
            rows.extend(self.client_row(entry, filter));
        }
        Part { rows, next: None }
    }

    /// The row of a client, if the filter wants it.
    fn client_row(&self, entry: &SessionEntry, filter: &ClientFilter) -> Option<ClientRow> {
        let session = &entry.session;
        if filter.connected.is_some_and(|wanted| wanted != entry.connection.is_some())
            || filter
                .prefix
                .as_ref()
                .is_some_and(|prefix| !session.client_id.starts_with(&**prefix))
        {
            return None;
        }
        let connection = entry.connection.and_then(|id| self.connections.get(id.0));
        let connection = connection.map(|connection| ConnectionRow {
            peer: connection.peer.into(),
            listener: connection.listener,
            version: connection.version,
            keep_alive_seconds: connection.keep_alive_seconds,
            output_bytes: connection.output_size(),
        });
        if let Some(address) = filter.address
            && connection.map(|connection| SocketAddr::ip(&connection.peer)) != Some(address)
        {
            return None;
        }
        let outbound = session.outbound.as_ref();
        Some(ClientRow {
            client_id: session.client_id.clone(),
            connection,
            since_seconds: (self.now.as_seconds() as u32).saturating_sub(entry.since_seconds),
            expiry_interval_seconds: session.expiry_interval_seconds,
            subscriptions: entry.subscriptions.len()
                + entry.shares.as_ref().map_or(0, |shares| shares.groups.len()),
            queued: outbound.map_or(0, |outbound| outbound.queued_count()),
            in_flight: outbound.map_or(0, |outbound| outbound.in_flight_count()),
            will: session.will.is_some(),
        })
    }

    /// The will is published: the client has not said goodbye [MQTT-3.1.2-8] [MQTT-3.14.4-3].
    pub(super) fn kick(&mut self, client_id: &str) -> Kicked {
        let Some(session) = self.sessions.find(client_id) else { return Kicked::Unknown };
        let connection = self.sessions.get(session).and_then(|entry| entry.connection);
        let Some(connection) = connection else { return Kicked::NotConnected };
        self.counters.closed_by_operator += 1;
        self.note(connection, Event::Kicked);
        let reason_code = ReasonCode::AdministrativeAction;
        self.disconnect(connection, reason_code, "an operator closed the connection");
        self.leave(connection, WillCase::Published);
        Kicked::Closed
    }
}

//! What an auditor wants to know of clients: who came, who went, who was denied what.
//!
//! Said only where it is asked for ([`crate::Settings::audit`]); a broker without an audit log pays one comparison for each
//! connect, disconnect and denial.

use midge_codec::ProtocolVersion;
use midge_session::Refusal;

use crate::action::Action;
use crate::ids::{ConnectionId, ListenerId, PeerAddress, SessionId};
use crate::shard::Shard;

/// Something for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditNote {
    /// From where; `None`: the client's connection is gone (its will is meant).
    pub peer: Option<PeerAddress>,
    /// By which listener; as `peer`.
    pub listener: Option<ListenerId>,
    /// The client's identifier, as far as it is known.
    pub client_id: Option<Box<str>>,
    /// Whose session it is; `None`: nobody's in particular.
    pub user: Option<Box<str>>,
    /// What.
    pub event: AuditEvent,
}

/// See [`AuditNote`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditEvent {
    /// A client was let in.
    Connected {
        /// What it speaks.
        version: ProtocolVersion,
    },
    /// A client's connection has ended.
    Disconnected {
        /// It has said so before.
        said_goodbye: bool,
    },
    /// A CONNECT was refused.
    Refused(Refusal),
    /// It must not publish to this topic.
    PublishDenied(Box<str>),
    /// It must not subscribe to this filter.
    SubscribeDenied(Box<str>),
}

impl Shard {
    /// About a connection that serves no session (yet).
    pub(crate) fn audit_connection(
        &mut self,
        id: ConnectionId,
        client_id: Option<&str>,
        user: Option<&str>,
        event: AuditEvent,
    ) {
        if !self.settings.audit {
            return;
        }
        let Some(connection) = self.connections.get(id.0) else { return };
        let note = AuditNote {
            peer: Some(connection.peer),
            listener: Some(connection.listener),
            client_id: client_id.map(Into::into),
            user: user.map(Into::into),
            event,
        };
        self.actions.push_back(Action::Audit(Box::new(note)));
    }

    /// About a session's client.
    pub(crate) fn audit_session(&mut self, session: SessionId, event: impl FnOnce() -> AuditEvent) {
        if !self.settings.audit {
            return;
        }
        let Some(entry) = self.sessions.get(session) else { return };
        let connection = entry.connection.and_then(|id| self.connections.get(id.0));
        let note = AuditNote {
            peer: connection.map(|connection| connection.peer),
            listener: connection.map(|connection| connection.listener),
            client_id: Some(entry.session.client_id.clone()),
            user: self.guards.user(session).map(Into::into),
            event: event(),
        };
        self.actions.push_back(Action::Audit(Box::new(note)));
    }
}

//! The state that can outlive a connection.
//!
//! A session is the client's: its id, how long it may sleep, what is in flight in both directions, its will. Which
//! filters it subscribes to is kept by the shard, next to the table that matches them.
//!
//! Parts that most clients never use hang on one pointer each, so that an idle client costs its id and little more.

use midge_codec::QoS;

use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::publication::Publication;
use crate::time::Time;

/// A session that never expires [MQTT-3.1.2-11: 0xFFFFFFFF].
pub const NEVER: u32 = u32::MAX;

/// The Will Message, as the client gave it.
#[derive(Debug, Clone)]
pub struct Will {
    /// Where it goes.
    pub topic: Box<str>,
    /// The properties to pass on, encoded, without a length prefix.
    pub properties: Box<[u8]>,
    /// What it says.
    pub payload: Box<[u8]>,
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// Will Delay Interval in seconds; zero publishes it at once.
    pub delay_interval_seconds: u32,
    /// Message Expiry Interval in seconds, counted from its publication.
    pub message_expiry_interval_seconds: Option<u32>,
}

impl Will {
    /// The message to publish, now.
    #[must_use]
    pub fn publication(&self, now: Time) -> Publication {
        let expires_at = self.message_expiry_interval_seconds.map(|s| now.plus_seconds(s.into()));
        Publication::new(
            &self.topic,
            &self.properties,
            &self.payload,
            self.qos,
            self.retain,
            expires_at,
        )
    }
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    /// The client's id, or the one we assigned. Never empty.
    pub client_id: Box<str>,
    /// Seconds that the session outlives its connection; 0 ends with it, [`NEVER`] has no end.
    pub expiry_interval_seconds: u32,
    /// In flight and queued towards the client; `None` when there is nothing.
    pub outbound: Option<Box<Outbound>>,
    /// In flight from the client; `None` when there is nothing.
    pub inbound: Option<Box<Inbound>>,
    /// The will that would be published if the connection was lost now, or that waits for its delay.
    pub will: Option<Box<Will>>,
}

impl Session {
    /// A new, empty session.
    #[must_use]
    pub fn new(client_id: &str, expiry_interval_seconds: u32) -> Self {
        debug_assert!(!client_id.is_empty());
        Self {
            client_id: client_id.into(),
            expiry_interval_seconds,
            outbound: None,
            inbound: None,
            will: None,
        }
    }

    /// Frees the boxes of directions in which nothing is in flight. Call it when a connection goes idle or ends.
    pub fn release_idle(&mut self) {
        if self.outbound.as_ref().is_some_and(|outbound| outbound.is_empty()) {
            self.outbound = None;
        }
        if self.inbound.as_ref().is_some_and(|inbound| inbound.is_empty()) {
            self.inbound = None;
        }
    }

    /// When a will waits at most this long after the connection is lost: until its delay or the end of the session,
    /// whichever comes first [MQTT-3.1.3-9].
    #[must_use]
    pub fn will_delay_seconds(&self) -> Option<u32> {
        let will = self.will.as_ref()?;
        Some(will.delay_interval_seconds.min(self.expiry_interval_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn will(delay_interval_seconds: u32) -> Box<Will> {
        Box::new(Will {
            topic: "w".into(),
            properties: Box::default(),
            payload: (*b"gone").into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            delay_interval_seconds,
            message_expiry_interval_seconds: Some(5),
        })
    }

    /// The will goes out at the end of its delay or of the session, whichever is first [MQTT-3.1.2-8].
    #[test]
    fn a_will_waits_for_the_shorter_of_delay_and_session() {
        let mut session = Session::new("c", 10);
        assert_eq!(session.will_delay_seconds(), None);
        for (delay, expiry, expected) in [(0, 10, 0), (5, 10, 5), (20, 10, 10), (20, NEVER, 20)] {
            session.expiry_interval_seconds = expiry;
            session.will = Some(will(delay));
            assert_eq!(session.will_delay_seconds(), Some(expected));
        }
    }

    #[test]
    fn a_wills_expiry_counts_from_its_publication() {
        let now = Time::from_seconds(50);
        let publication = will(0).publication(now);
        assert_eq!(publication.expiry_interval_seconds(now), Some(5));
        assert!(publication.retain());
    }

    /// What ten million sleeping clients cost, beside their ids.
    #[test]
    fn a_session_is_small() {
        assert!(size_of::<Session>() <= 48);
    }
}

//! What a data directory holds as JSON lines, for people and for other programs: one object a line, sessions by their client
//! ids, bytes as text where they are UTF-8.
//!
//! | `type` | says |
//! |---|---|
//! | `session` | a session, its terms, and its will if one waits |
//! | `subscription` | of a client to a filter |
//! | `message` | a publication, whether it is its topic's retained message, and who must get it |
//! | `received` | a client has a QoS 2 message and has not released it |
//! | `inbound` | a client has sent under this QoS 2 packet id and not released it |
//!
//! Messages stand in the order in which sessions get them.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use midge_codec::QoS;
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    Session {
        client_id: String,
        /// Whose it is; `null` an anonymous client's.
        #[serde(default)]
        user: Option<String>,
        /// 4294967295: never.
        expiry_interval_seconds: u32,
        /// When it lost its connection, in milliseconds since 1970; `null` while it has one.
        #[serde(default)]
        away_since_ms: Option<u64>,
        #[serde(default)]
        will: Option<Will>,
    },
    Subscription {
        client_id: String,
        /// `$share/…` whole.
        filter: String,
        qos: u8,
        #[serde(default)]
        no_local: bool,
        #[serde(default)]
        retain_as_published: bool,
        #[serde(default)]
        identifier: Option<u32>,
    },
    Message {
        topic: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload_base64: Option<String>,
        /// MQTT 5.0 properties that are passed on, as they are encoded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        properties_base64: Option<String>,
        qos: u8,
        /// The publisher's flag.
        #[serde(default)]
        retain: bool,
        /// It is the retained message of its topic.
        #[serde(default)]
        retained: bool,
        #[serde(default)]
        expires_at_ms: Option<u64>,
        #[serde(default, rename = "for")]
        deliveries: Vec<Delivery>,
        /// Shared subscriptions that keep it until a member can take it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        groups: Vec<String>,
        /// It has not been given to all who want it: that is done at the next start.
        #[serde(default, skip_serializing_if = "is_false")]
        hand_on: bool,
        /// Where it comes from, where that is kept (security.recheck_retained, limits of retained messages of a listener).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        author: Option<Author>,
    },
    Received {
        client_id: String,
        packet_id: u16,
    },
    Inbound {
        client_id: String,
        packet_id: u16,
    },
}

/// Where a message comes from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Author {
    /// `null`: an anonymous client.
    #[serde(default)]
    pub(super) user: Option<String>,
    /// `null`: nobody asks who it was.
    #[serde(default)]
    pub(super) client_id: Option<String>,
    /// The listener for which it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) listener: Option<String>,
}

/// A will.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Will {
    pub(super) topic: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) payload_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) properties_base64: Option<String>,
    pub(super) qos: u8,
    #[serde(default)]
    pub(super) retain: bool,
    #[serde(default)]
    pub(super) delay_interval_seconds: u32,
    #[serde(default)]
    pub(super) message_expiry_interval_seconds: Option<u32>,
}

/// How one client must get a message.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delivery {
    pub(super) client_id: String,
    pub(super) qos: u8,
    #[serde(default)]
    pub(super) retain: bool,
    /// It is in flight under this id.
    #[serde(default)]
    pub(super) packet_id: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) identifiers: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) share: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A payload as text or, where it is none, in base64.
pub(super) fn payload(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// Properties in base64; nothing when there are none.
pub(super) fn properties(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| STANDARD.encode(bytes))
}

/// The bytes that either of the two says; empty when neither does.
pub(super) fn bytes<'a>(
    text: Option<&'a str>,
    base64: Option<&str>,
) -> Result<Cow<'a, [u8]>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("it has both a text and base64".into()),
        (Some(text), None) => Ok(text.as_bytes().into()),
        (None, Some(base64)) => match STANDARD.decode(base64) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(format!("that is no base64: {error}")),
        },
        (None, None) => Ok(Cow::Borrowed(b"")),
    }
}

/// A QoS that is one.
pub(super) fn qos(number: u8) -> Result<QoS, String> {
    QoS::from_u8(number).ok_or_else(|| format!("{number} is no QoS"))
}

//! CONNECT in, agreed terms or a refusal out.
//!
//! The client says what it can take and what it wants; the configuration says what there is. Neither side may
//! be exceeded later, so the outcome is computed once, here, and both directions are held to it.

use midge_codec::{Connect, ProtocolVersion, QoS, ReasonCode};

use crate::session::NEVER;

/// What the broker offers. From the configuration; the same for all shards.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest packet accepted, in bytes, fixed header included; announced to 5.0 clients.
    pub maximum_packet_size: u32,
    /// Highest QoS of publications; announced.
    pub maximum_qos: QoS,
    /// Whether retained messages are kept; announced.
    pub retain_available: bool,
    /// Whether filters may have wildcards; announced.
    pub wildcard_subscription_available: bool,
    /// Whether Subscription Identifiers are kept; announced.
    pub subscription_identifiers_available: bool,
    /// Whether `$share/…` works; announced.
    pub shared_subscription_available: bool,
    /// QoS 1 and 2 publications that a client may have unacknowledged towards us, 1 to 65,535; announced.
    pub receive_maximum: u16,
    /// Topic Aliases that a client may use towards us; announced. Zero: none.
    pub topic_alias_maximum: u16,
    /// Topic Aliases that we use towards a client, at most, whatever it allows.
    pub topic_alias_maximum_outbound: u16,
    /// Longest Keep Alive in seconds; a 5.0 client that asks for more, or for none, is told this one. Zero: no cap.
    pub keep_alive_seconds_max: u16,
    /// Longest Session Expiry Interval in seconds; more is cut to this and announced. [`NEVER`]: no cap.
    pub session_expiry_interval_seconds_max: u32,
    /// How long a 3.1 or 3.1.1 session with clean session 0 outlives its connection, in seconds.
    pub session_expiry_interval_seconds_v3: u32,
    /// QoS 1 and 2 publications in flight to one client, whatever it allows, 1 to 65,535.
    pub in_flight_max: u16,
    /// Longest client id in bytes.
    pub client_id_size_max: usize,
}

/// What was agreed with one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Keep Alive in force, in seconds; zero switches it off.
    pub keep_alive_seconds: u16,
    /// What to announce as Server Keep Alive, when it differs from what the client asked for [MQTT-3.2.2-21].
    pub server_keep_alive_seconds: Option<u16>,
    /// Session Expiry Interval in force, in seconds.
    pub session_expiry_interval_seconds: u32,
    /// What to announce as Session Expiry Interval, when it differs from what the client asked for.
    pub announced_session_expiry_seconds: Option<u32>,
    /// Publications in flight to the client, at most.
    pub window: u16,
    /// Largest packet that the client takes, in bytes [MQTT-3.1.2-24].
    pub maximum_packet_size: u32,
    /// Topic Aliases that we may use towards the client [MQTT-3.1.2-26].
    pub topic_alias_maximum: u16,
    /// Whether reason strings and user properties may be sent with other packets than PUBLISH, CONNACK and DISCONNECT
    /// [MQTT-3.1.2-29].
    pub request_problem_information: bool,
}

/// Why a CONNECT is refused; the CONNACK says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The reason code; 3.1 and 3.1.1 clients get the nearest return code.
    pub reason_code: ReasonCode,
    /// One sentence for the log and the 5.0 reason string.
    pub reason: &'static str,
}

impl Terms {
    /// Compares what the client wants with what there is.
    ///
    /// # Errors
    /// The refusal to answer with. Nothing has changed then.
    pub fn negotiate(connect: &Connect<'_>, limits: &Limits) -> Result<Self, Refusal> {
        check(connect, limits)?;
        let v5 = connect.version.is_v5();
        let properties = &connect.properties;

        let keep_alive_seconds = capped_keep_alive(connect, limits);
        let wanted_expiry = match (v5, connect.clean_start) {
            (true, _) => properties.session_expiry_interval_seconds.unwrap_or(0),
            (false, true) => 0,
            (false, false) => limits.session_expiry_interval_seconds_v3,
        };
        let session_expiry_interval_seconds =
            wanted_expiry.min(limits.session_expiry_interval_seconds_max);
        let receive_maximum = properties.receive_maximum.map_or(u16::MAX, Into::into);
        let topic_alias_maximum = properties.topic_alias_maximum.unwrap_or(0);
        Ok(Self {
            keep_alive_seconds,
            server_keep_alive_seconds: (keep_alive_seconds != connect.keep_alive_seconds)
                .then_some(keep_alive_seconds),
            session_expiry_interval_seconds,
            announced_session_expiry_seconds: (v5
                && session_expiry_interval_seconds != wanted_expiry)
                .then_some(session_expiry_interval_seconds),
            window: limits.in_flight_max.min(receive_maximum),
            maximum_packet_size: properties.maximum_packet_size.map_or(u32::MAX, Into::into),
            topic_alias_maximum: topic_alias_maximum.min(limits.topic_alias_maximum_outbound),
            request_problem_information: properties.request_problem_information.unwrap_or(true),
        })
    }
}

/// A 3.1 or 3.1.1 client cannot be told another Keep Alive, so it keeps its own.
fn capped_keep_alive(connect: &Connect<'_>, limits: &Limits) -> u16 {
    let (asked, cap) = (connect.keep_alive_seconds, limits.keep_alive_seconds_max);
    if cap == 0 || !connect.version.is_v5() {
        asked
    } else if asked == 0 {
        cap
    } else {
        asked.min(cap)
    }
}

fn check(connect: &Connect<'_>, limits: &Limits) -> Result<(), Refusal> {
    let refuse = |reason_code, reason| Err(Refusal { reason_code, reason });
    if connect.client_id.len() > limits.client_id_size_max {
        return refuse(ReasonCode::ClientIdentifierNotValid, "the client id is too long");
    }
    if connect.client_id.is_empty() {
        match connect.version {
            // 3.1 §3.1: the id has 1 to 23 characters. Longer ones are common in the field and accepted.
            ProtocolVersion::V31 => {
                return refuse(
                    ReasonCode::ClientIdentifierNotValid,
                    "MQTT 3.1 knows no empty client id",
                );
            }
            // [MQTT-3.1.3-8 @3.1.1]
            ProtocolVersion::V311 if !connect.clean_start => {
                return refuse(
                    ReasonCode::ClientIdentifierNotValid,
                    "an empty client id needs clean session 1",
                );
            }
            ProtocolVersion::V311 | ProtocolVersion::V5 => {}
        }
    }
    if let Some(will) = &connect.will {
        // [MQTT-3.2.2-12]
        if will.qos > limits.maximum_qos {
            return refuse(ReasonCode::QoSNotSupported, "the will's QoS is not supported");
        }
        // [MQTT-3.2.2-13]
        if will.retain && !limits.retain_available {
            return refuse(ReasonCode::RetainNotSupported, "retained messages are switched off");
        }
    }
    Ok(())
}

impl Default for Limits {
    /// Everything on, nothing capped but what the protocol caps. The program's own defaults are in the configuration.
    fn default() -> Self {
        Self {
            maximum_packet_size: 1 << 20,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            wildcard_subscription_available: true,
            subscription_identifiers_available: true,
            shared_subscription_available: true,
            receive_maximum: 1024,
            topic_alias_maximum: 32,
            topic_alias_maximum_outbound: 32,
            keep_alive_seconds_max: 0,
            session_expiry_interval_seconds_max: NEVER,
            session_expiry_interval_seconds_v3: NEVER,
            in_flight_max: 128,
            client_id_size_max: 65_535,
        }
    }
}

//! Settings of what keeps one client, address or listener from taking what belongs to all.

use serde::{Deserialize, Serialize};

use crate::model::Limits;
use crate::units::{ByteSize, Period};
use crate::validate::Problems;

/// Limits of one listener, over those of all. Zero: no limit of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerLimits {
    /// Connections by this listener, up to 1,000,000,000. More are closed at once. Default 0.
    pub connections_max: u32,

    /// Connects by this listener in a second, up to 1,000,000, after a burst of as many. More are closed at once. Default 0.
    pub connects_per_second_max: u32,

    /// Instead of [`crate::Limits::publishes_per_second_max`]. Default 0.
    pub publishes_per_second_max: u32,

    /// Instead of [`crate::Limits::publish_bytes_per_second_max`]. Default 0.
    pub publish_bytes_per_second_max: ByteSize,

    /// Publications of all clients of this listener together in a second, up to 1,000,000,000, after a burst of as many. Beyond
    /// it they are read from one after the other. Default 0.
    pub publishes_per_second_total_max: u32,

    /// The same in bytes of whole packets: at least the largest packet of this listener, up to 1 TiB. Default 0.
    pub publish_bytes_per_second_total_max: ByteSize,

    /// The largest packet from a client of this listener: 1 KiB to [`crate::Limits::maximum_packet_size_bytes`], which it is
    /// told instead. Default 0.
    pub maximum_packet_size_bytes: ByteSize,

    /// Subscriptions of a session that is served by this listener, up to [`crate::Limits::subscriptions_per_client_max`].
    /// Default 0.
    pub subscriptions_per_client_max: u32,

    /// Levels of a topic or filter of a client of this listener, up to [`crate::Limits::topic_levels_max`]. Default 0.
    pub topic_levels_max: u16,

    /// Retained messages that came by this listener, up to [`crate::Limits::retained_messages_max`]. What takes the place of
    /// another counts for its own listener. Default 0.
    pub retained_messages_max: u32,

    /// Their bytes, up to [`crate::Limits::retained_bytes_max`]. Default 0.
    pub retained_bytes_max: ByteSize,
}

/// How often something may happen before whoever does it is banned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BanRule {
    /// How often, within [`BanRule::within`], up to 1,000,000. Default 0: nobody is banned.
    pub count: u32,

    /// 1 s to 1 d, default 1 m.
    pub within: Period,

    /// How long the ban lasts, 1 s to 365 d. Default 5 m.
    pub ban_for: Period,
}

impl Default for BanRule {
    fn default() -> Self {
        Self { count: 0, within: Period::from_seconds(60), ban_for: Period::from_seconds(300) }
    }
}

/// The largest number of connects or publications in a second that can be set.
pub(crate) const RATE_MAX: u32 = 1_000_000;

/// Patterns of names at most: each name is held to all of them.
const PATTERNS_MAX: usize = 64;

impl ListenerLimits {
    pub(crate) fn check(&self, key: &str, all: &Limits, problems: &mut Problems) {
        let packet_size_max = all.maximum_packet_size_bytes;
        let field = |name: &str| format!("{key}.{name}");
        problems.range(&field("connections_max"), self.connections_max, 0, 1_000_000_000);
        let rates = [
            ("connects_per_second_max", self.connects_per_second_max),
            ("publishes_per_second_max", self.publishes_per_second_max),
        ];
        for (name, rate) in rates {
            problems.range(&field(name), rate, 0, RATE_MAX);
        }
        let total = self.publishes_per_second_total_max;
        problems.range(&field("publishes_per_second_total_max"), total, 0, 1_000_000_000);
        let size = self.maximum_packet_size_bytes;
        if self.publish_bytes_per_second_total_max != ByteSize::default() {
            // Else one packet would hold up everybody for many seconds.
            let min = if size == ByteSize::default() { packet_size_max } else { size };
            let (total, max) = (self.publish_bytes_per_second_total_max, ByteSize::new(1 << 40));
            problems.range(&field("publish_bytes_per_second_total_max"), total, min, max);
        }
        if size != ByteSize::default() {
            let min = ByteSize::from_kibibytes(1);
            problems.range(&field("maximum_packet_size_bytes"), size, min, packet_size_max);
        }
        let subscriptions = self.subscriptions_per_client_max;
        let most = all.subscriptions_per_client_max;
        problems.range(&field("subscriptions_per_client_max"), subscriptions, 0, most);
        problems.range(&field("topic_levels_max"), self.topic_levels_max, 0, all.topic_levels_max);
        let (messages, most) = (self.retained_messages_max, all.retained_messages_max);
        problems.range(&field("retained_messages_max"), messages, 0, most);
        problems.at_most(
            &field("retained_bytes_max"),
            self.retained_bytes_max,
            all.retained_bytes_max,
        );
    }
}

impl BanRule {
    pub(crate) fn check(&self, key: &str, problems: &mut Problems) {
        let seconds = Period::from_seconds;
        problems.range(&format!("{key}.count"), self.count, 0, 1_000_000);
        problems.range(&format!("{key}.within"), self.within, seconds(1), Period::from_days(1));
        problems.range(&format!("{key}.ban_for"), self.ban_for, seconds(1), Period::from_days(365));
    }
}

/// Checks patterns of names.
pub(crate) fn check_patterns(key: &str, patterns: &[String], problems: &mut Problems) {
    if patterns.len() > PATTERNS_MAX {
        problems.add(key, format!("more than {PATTERNS_MAX} patterns; put some together with *"));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        if pattern.len() > 256 {
            problems.add(format!("{key}[{index}]"), "longer than 256 bytes; shorten it");
        }
    }
}

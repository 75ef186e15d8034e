//! Topic Aliases of both directions.
//!
//! An alias lives as long as the Network Connection [MQTT-3.3.2-7]. Both tables are made when the first alias is
//! used, since most connections never use one.

use std::collections::HashMap;

/// What the client's aliases mean.
#[derive(Debug, Default)]
pub struct InboundAliases {
    /// Index `alias - 1`; `None` for an alias that was not set yet.
    topics: Vec<Option<Box<str>>>,
}

impl InboundAliases {
    /// Sets or replaces an alias [MQTT-3.3.2-12]. The caller has checked `alias` against the announced maximum.
    ///
    /// # Panics
    /// When `alias` is zero: the codec refuses it.
    pub fn set(&mut self, alias: u16, topic: &str) {
        let index = usize::from(alias).checked_sub(1).expect("the codec refuses alias zero");
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        self.topics[index] = Some(topic.into());
    }

    /// The topic that an alias stands for; `None` when it was never set (a protocol error of the client).
    #[must_use]
    pub fn topic(&self, alias: u16) -> Option<&str> {
        self.topics.get(usize::from(alias).checked_sub(1)?)?.as_deref()
    }
}

/// What to put into a PUBLISH to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundAlias {
    /// Send the topic, no alias.
    None,
    /// Send the topic and this alias: the client learns it.
    Announce(u16),
    /// Send an empty topic and this alias.
    Known(u16),
}

/// The aliases that we gave to topics towards the client: first come, first served, never reassigned.
///
/// A client that receives more topics than it allows aliases keeps aliases for the first ones; that costs a lookup
/// per message and saves nothing for the rest, and needs no order of use.
#[derive(Debug)]
pub struct OutboundAliases {
    aliases: HashMap<Box<str>, u16>,
    maximum: u16,
}

impl OutboundAliases {
    /// At most `maximum` aliases: the smaller of the client's Topic Alias Maximum [MQTT-3.1.2-26] and our own setting.
    #[must_use]
    pub fn new(maximum: u16) -> Self {
        Self { aliases: HashMap::new(), maximum }
    }

    /// The alias for a topic, chosen now when there is room. Call it only for a packet that will be sent: a client that
    /// never sees the announcement would not know the alias.
    pub fn choose(&mut self, topic: &str) -> OutboundAlias {
        if let Some(&alias) = self.aliases.get(topic) {
            return OutboundAlias::Known(alias);
        }
        let taken = u16::try_from(self.aliases.len()).unwrap_or(u16::MAX);
        if taken >= self.maximum {
            return OutboundAlias::None;
        }
        self.aliases.insert(topic.into(), taken + 1);
        if mutant!("alias-not-announced") {
            return OutboundAlias::Known(taken + 1);
        }
        OutboundAlias::Announce(taken + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [MQTT-3.3.2-12]
    #[test]
    fn an_inbound_alias_means_what_was_set_last() {
        let mut aliases = InboundAliases::default();
        assert_eq!(aliases.topic(1), None);
        assert_eq!(aliases.topic(0), None);
        aliases.set(3, "a");
        aliases.set(1, "b");
        aliases.set(3, "c");
        assert_eq!(aliases.topic(3), Some("c"));
        assert_eq!(aliases.topic(1), Some("b"));
        assert_eq!(aliases.topic(2), None);
    }

    /// [MQTT-3.1.2-26]: never more aliases than the client allows.
    #[test]
    fn outbound_aliases_stop_at_the_maximum() {
        let mut aliases = OutboundAliases::new(2);
        assert_eq!(aliases.choose("a"), OutboundAlias::Announce(1));
        assert_eq!(aliases.choose("b"), OutboundAlias::Announce(2));
        assert_eq!(aliases.choose("c"), OutboundAlias::None);
        assert_eq!(aliases.choose("a"), OutboundAlias::Known(1));
    }
}

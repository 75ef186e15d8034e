//! What an acknowledgement waits for: by the listener of the client that publishes, and by the topic.

use midge_session::Keeping;

use crate::ids::ListenerId;

/// Who is acknowledged when. A rule for the topic goes over that of the listener, and the longest prefix over shorter ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Levels {
    /// Where nothing else is said.
    default: Keeping,
    /// By the listener's number; those beyond the end have the default.
    listeners: Vec<Keeping>,
    /// The longest prefix first.
    topics: Vec<(Box<str>, Keeping)>,
}

impl Levels {
    /// `listeners` in the order of their numbers; topics by their prefixes, in any order.
    #[must_use]
    pub fn new(
        default: Keeping,
        listeners: Vec<Keeping>,
        mut topics: Vec<(Box<str>, Keeping)>,
    ) -> Self {
        topics.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { default, listeners, topics }
    }

    /// Of publications from this listener, as far as their topics have no rule of their own.
    #[must_use]
    pub fn of_listener(&self, listener: ListenerId) -> Keeping {
        self.listeners.get(usize::from(listener.0)).copied().unwrap_or(self.default)
    }

    /// Of one publication.
    #[inline]
    #[must_use]
    pub fn of(&self, listener: ListenerId, topic: &str) -> Keeping {
        let rule = self.topics.iter().find(|(prefix, _)| topic.starts_with(&**prefix));
        rule.map_or_else(|| self.of_listener(listener), |(_, keeping)| *keeping)
    }

    /// The most that any of them waits for: what holds for everything but publications.
    #[must_use]
    pub fn strictest(&self) -> Keeping {
        let topics = self.topics.iter().map(|(_, keeping)| *keeping);
        self.listeners.iter().copied().chain(topics).fold(self.default, Keeping::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_goes_over_the_listener() {
        let topics = vec![
            ("site/".into(), Keeping::Written),
            ("site/alarm/".into(), Keeping::Fsync),
            ("site/noise/".into(), Keeping::Memory),
        ];
        let levels = Levels::new(Keeping::Written, vec![Keeping::Fsync, Keeping::Memory], topics);
        for (listener, topic, expected) in [
            (0, "a", Keeping::Fsync),
            (1, "a", Keeping::Memory),
            (2, "a", Keeping::Written),
            (0, "site/a", Keeping::Written),
            (1, "site/alarm/a", Keeping::Fsync),
            (0, "site/noise/a", Keeping::Memory),
            (1, "site", Keeping::Memory),
        ] {
            assert_eq!(levels.of(ListenerId(listener), topic), expected, "{listener} {topic}");
        }
        assert_eq!(levels.strictest(), Keeping::Fsync);
        let weak = Levels::new(Keeping::Memory, Vec::new(), vec![("a".into(), Keeping::Written)]);
        assert_eq!(weak.strictest(), Keeping::Written);
        assert_eq!(Levels::default().strictest(), Keeping::Fsync);
    }
}

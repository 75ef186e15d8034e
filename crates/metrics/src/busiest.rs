//! The busiest clients and topics, in constant memory.
//!
//! Two *space-saving* sketches (Metwally, Agrawal, El Abbadi 2005) of [`ENTRIES`] texts each, over windows of
//! [`WINDOW_NS`]: whoever sent more than one message in 32 of a window is certainly in it. A count is never too low by
//! more than what sampling misses, and too high by `error` at most.
//!
//! # Sampling
//! Looking at every message would cost more than the rest of the counting together. So one message in `interval` is
//! looked at, and stands for those since the last. A window begins with a short interval, which doubles whenever
//! [`SAMPLES_PER_DOUBLING`] were taken: a quiet shard counts every message, a busy one a few thousand a window. The
//! distance to the next sample is drawn around the interval, so that a publisher's rhythm cannot hide it.
//!
//! # What it does not say
//! Texts are cut at [`TEXT_SIZE_MAX`] bytes (and told apart by the hash of all of them). They are a client's own
//! words: whoever prints them takes out what a terminal would obey.

use std::hash::Hasher;

/// Texts that one sketch keeps.
pub const ENTRIES: usize = 32;

/// Bytes of a text that are kept.
pub const TEXT_SIZE_MAX: usize = 64;

/// How long one window lasts: five seconds.
pub const WINDOW_NS: u64 = 5_000_000_000;

/// Samples in a window before the interval doubles.
pub const SAMPLES_PER_DOUBLING: u32 = 512;

/// Longest distance between two samples, in messages.
const INTERVAL_MAX: u32 = 1 << 16;

/// One text and its count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    hash: u64,
    pub(crate) count: u64,
    pub(crate) error: u64,
    pub(crate) size: u8,
    pub(crate) text: [u8; TEXT_SIZE_MAX],
}

const NOBODY: Entry = Entry { hash: 0, count: 0, error: 0, size: 0, text: [0; TEXT_SIZE_MAX] };

/// The texts that came most often, about.
#[derive(Debug, Clone)]
pub(crate) struct Sketch {
    entries: [Entry; ENTRIES],
}

impl Sketch {
    const fn new() -> Self {
        Self { entries: [NOBODY; ENTRIES] }
    }

    /// Counts a text `weight` times: in its own place, or in that of the rarest, which is then forgotten.
    fn record(&mut self, text: &str, weight: u64) {
        let hash = hash(text);
        let (mut rarest, mut rarest_count) = (0, u64::MAX);
        for (index, entry) in self.entries.iter_mut().enumerate() {
            if entry.hash == hash {
                entry.count += weight;
                return;
            }
            if entry.count < rarest_count {
                (rarest, rarest_count) = (index, entry.count);
            }
        }
        let entry = &mut self.entries[rarest];
        let kept = text.floor_char_boundary(TEXT_SIZE_MAX);
        entry.hash = hash;
        entry.error = entry.count;
        entry.count += weight;
        entry.size = kept as u8;
        entry.text[..kept].copy_from_slice(&text.as_bytes()[..kept]);
    }

    /// All places, also empty ones, whose count is zero.
    pub(crate) fn entries(&self) -> &[Entry; ENTRIES] {
        &self.entries
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(text.as_bytes());
    // Zero stands for an empty place.
    hasher.finish() | 1
}

/// Who is busiest on one shard in the present window.
#[derive(Debug, Clone)]
pub struct Busiest {
    /// Messages until the next sample.
    left: u32,
    /// Messages since the last one.
    since: u32,
    interval: u32,
    /// Samples since the interval was last changed.
    samples: u32,
    /// Where the distances between samples come from; only its spread matters.
    state: u32,
    started_ns: u64,
    pub(crate) clients: Sketch,
    pub(crate) topics: Sketch,
}

impl Default for Busiest {
    fn default() -> Self {
        Self {
            left: 1,
            since: 0,
            interval: 1,
            samples: 0,
            state: 0x9E37_79B9,
            started_ns: 0,
            clients: Sketch::new(),
            topics: Sketch::new(),
        }
    }
}

impl Busiest {
    /// `count` messages came that are alike. Returns for how many messages they should be recorded, if at all; see
    /// [`Busiest::record`].
    #[inline]
    #[must_use]
    pub fn sample(&mut self, count: u32) -> Option<u64> {
        self.since = self.since.saturating_add(count);
        if self.since < self.left {
            return None;
        }
        Some(self.take_sample())
    }

    #[cold]
    fn take_sample(&mut self) -> u64 {
        let weight = std::mem::take(&mut self.since);
        self.samples += 1;
        if self.samples >= SAMPLES_PER_DOUBLING && self.interval < INTERVAL_MAX {
            self.samples = 0;
            self.interval *= 2;
        }
        // A linear congruential step; its upper half is well spread.
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // 1 to 2 × interval − 1, the interval on average.
        self.left = 1 + (self.state >> 15) % (2 * self.interval - 1);
        weight.into()
    }

    /// Counts a sampled message for its client and its topic.
    pub fn record(&mut self, client_id: &str, topic: &str, weight: u64) {
        self.clients.record(client_id, weight);
        self.topics.record(topic, weight);
    }

    /// When the present window is over.
    #[must_use]
    pub fn ends_at_ns(&self) -> u64 {
        self.started_ns + WINDOW_NS
    }

    /// Starts the next window, empty.
    pub(crate) fn restart(&mut self, now_ns: u64) {
        self.started_ns = now_ns;
        self.clients = Sketch::new();
        self.topics = Sketch::new();
        // A calmer window finds its way back in a few steps; one as busy as the last begins near where that ended.
        self.interval = (self.interval / 4).max(1);
        self.samples = 0;
        self.left = self.left.min(self.interval);
    }

    pub(crate) fn started_ns(&self) -> u64 {
        self.started_ns
    }
}

/// One line of a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusyText {
    /// The client id or the topic, at most [`TEXT_SIZE_MAX`] bytes of it, exactly as the client sent it.
    pub text: String,
    /// Messages received from it, or published to it, in the window.
    pub count: u64,
    /// By how much the count may be too high.
    pub error: u64,
}

/// The busiest clients and topics of the last whole window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusiestReading {
    /// When the window began, in nanoseconds after the start of the shards; see
    /// [`ShardReading::published_at_ns`](crate::ShardReading::published_at_ns).
    pub from_ns: u64,
    /// When it ended. Zero: no window has ended yet.
    pub to_ns: u64,
    /// Clients by messages that they published, most first.
    pub clients: Vec<BusyText>,
    /// Topics by messages published to them, most first.
    pub topics: Vec<BusyText>,
}

impl BusiestReading {
    /// Adds another shard's. The window becomes the one that holds both.
    pub fn merge(&mut self, other: &Self) {
        if other.to_ns == 0 {
            return;
        }
        if self.to_ns == 0 {
            *self = other.clone();
            return;
        }
        self.from_ns = self.from_ns.min(other.from_ns);
        self.to_ns = self.to_ns.max(other.to_ns);
        add(&mut self.clients, &other.clients);
        add(&mut self.topics, &other.topics);
    }
}

fn add(into: &mut Vec<BusyText>, from: &[BusyText]) {
    for line in from {
        match into.iter_mut().find(|known| known.text == line.text) {
            Some(known) => {
                known.count += line.count;
                known.error += line.error;
            }
            None => into.push(line.clone()),
        }
    }
    sort(into);
}

pub(crate) fn sort(lines: &mut [BusyText]) {
    lines.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.text.cmp(&b.text)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(sketch: &Sketch) -> Vec<(String, u64, u64)> {
        let mut lines: Vec<_> = sketch
            .entries()
            .iter()
            .filter(|entry| entry.count > 0)
            .map(|e| {
                let text = std::str::from_utf8(&e.text[..usize::from(e.size)]).unwrap();
                (text.to_owned(), e.count, e.error)
            })
            .collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.1));
        lines
    }

    /// The guarantee: a text with more than 1/32 of all messages is kept, and its count is between the truth and the truth
    /// plus its error.
    #[test]
    fn heavy_hitters_survive_a_flood_of_others() {
        let mut busiest = Busiest::default();
        let (mut heavy, mut all) = (0, 0u64);
        for number in 0..100_000u64 {
            let text =
                if number % 10 == 3 { "heavy".to_owned() } else { format!("light-{number}") };
            heavy += u64::from(number % 10 == 3);
            all += 1;
            busiest.record(&text, &text, 1);
        }
        let lines = top(&busiest.topics);
        let found = lines.iter().find(|line| line.0 == "heavy").unwrap();
        assert!(found.1 >= heavy && found.1 - found.2 <= heavy, "{found:?}");
        assert!(lines.iter().all(|line| line.2 <= all / ENTRIES as u64));
        assert_eq!(lines.iter().map(|line| line.1).sum::<u64>(), all);
    }

    /// A round of publishers as long as the interval would, with equal steps, always show the same one.
    #[test]
    fn samples_do_not_fall_into_step_with_publishers() {
        let mut busiest = Busiest::default();
        let mut all = 0;
        for _ in 0..200_000 {
            for client in 0..16u64 {
                all += 1;
                if let Some(weight) = busiest.sample(1) {
                    busiest.record(&client.to_string(), "t", weight);
                }
            }
        }
        assert!(busiest.interval > 64, "{}", busiest.interval);
        let lines = top(&busiest.clients);
        let equal = all / 16;
        assert_eq!(lines.len(), 16);
        for (text, count, _) in lines {
            assert!(count > equal / 2 && count < equal * 2, "{text}: {count} of {equal}");
        }
        let (_, counted, _) = top(&busiest.topics)[0].clone();
        assert!(all - counted <= u64::from(2 * INTERVAL_MAX), "samples stand for all messages");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let mut busiest = Busiest::default();
        let long = "ä".repeat(40);
        busiest.record(&long, "", 1);
        busiest.record(&format!("{long}b"), "", 1);
        let lines = top(&busiest.clients);
        assert_eq!(lines.len(), 2, "told apart by what is not kept");
        assert_eq!(lines[0].0, "ä".repeat(32));
        let odd = format!("x{}", "ä".repeat(40));
        busiest.record(&odd, "", 9);
        assert_eq!(top(&busiest.clients)[0].0.len(), 63);
    }

    #[test]
    fn shards_add_up() {
        let line = |text: &str, count| BusyText { text: text.to_owned(), count, error: 1 };
        let one = BusiestReading {
            from_ns: 5,
            to_ns: 10,
            clients: vec![],
            topics: vec![line("a", 5), line("b", 4)],
        };
        let other =
            BusiestReading { from_ns: 6, to_ns: 11, topics: vec![line("b", 3)], ..one.clone() };
        let mut total = BusiestReading::default();
        total.merge(&one);
        total.merge(&other);
        total.merge(&BusiestReading::default());
        assert_eq!((total.from_ns, total.to_ns), (5, 11));
        assert_eq!(total.topics[0], BusyText { text: "b".to_owned(), count: 7, error: 2 });
    }
}

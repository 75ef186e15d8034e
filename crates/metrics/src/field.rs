//! What a number means.

/// How a number moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It only grows, from zero at the start of the process.
    Counter,
    /// How much there is now.
    Gauge,
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Things, as the name says.
    Count,
    /// Bytes.
    Bytes,
    /// Nanoseconds.
    Nanoseconds,
}

/// One series: what `stats`, `$SYS` and Prometheus build theirs from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The family: the same for all values of a label, which stand one behind the other.
    pub name: &'static str,
    pub(crate) sentence: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// What it counts. The name carries it too: `bytes`, `_ns`.
    pub unit: Unit,
    /// Which values of which labels it stands for, from closed sets.
    pub labels: [Option<(&'static str, &'static str)>; 2],
}

impl Field {
    pub(crate) const EMPTY: Self =
        Self { name: "", sentence: "", kind: Kind::Counter, unit: Unit::Count, labels: [None; 2] };

    /// What it is, in one sentence. Of a family, the first one's.
    #[must_use]
    pub fn sentence(&self) -> &'static str {
        self.sentence.trim_start()
    }

    /// The labels: key and value.
    pub fn labels(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.labels.into_iter().flatten()
    }
}

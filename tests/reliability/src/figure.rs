//! What was promised, what was measured, and whether the promise was held.

use std::fmt;

/// How large a row is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// For the test command: seconds in all, on a busy machine.
    Modest,
    /// As the promise says.
    Full,
}

impl Size {
    /// One number for each size.
    #[must_use]
    pub fn pick<T>(self, modest: T, full: T) -> T {
        match self {
            Self::Modest => modest,
            Self::Full => full,
        }
    }
}

/// What kind of promise it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Holds exactly, always: nothing lost, nothing doubled, everybody answered.
    Exact,
    /// A bound in bytes.
    Memory,
    /// A time or a share of a core: true of a quiet machine.
    Speed,
}

/// Whether a promise was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Measured within the promise.
    Yes,
    /// Measured beyond it.
    No,
}

/// One measured promise.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The row of the table of promises.
    pub row: u8,
    /// What was measured.
    pub what: &'static str,
    /// The measured value, in `unit`.
    pub measured: f64,
    /// At least this.
    pub at_least: f64,
    /// At most this.
    pub at_most: f64,
    /// The unit of all three.
    pub unit: &'static str,
    /// Its kind.
    pub kind: Kind,
}

impl Figure {
    /// A value that must not exceed `at_most`.
    #[must_use]
    pub fn at_most(
        row: u8,
        kind: Kind,
        what: &'static str,
        measured: f64,
        at_most: f64,
        unit: &'static str,
    ) -> Self {
        Self { row, what, measured, at_least: f64::NEG_INFINITY, at_most, unit, kind }
    }

    /// A count that must be exactly `expected`.
    #[must_use]
    pub fn exactly(row: u8, what: &'static str, measured: usize, expected: usize) -> Self {
        let expected = expected as f64;
        let measured = measured as f64;
        Self {
            row,
            what,
            measured,
            at_least: expected,
            at_most: expected,
            unit: "",
            kind: Kind::Exact,
        }
    }

    /// A value that must not be below `at_least`.
    #[must_use]
    pub fn at_least(
        row: u8,
        kind: Kind,
        what: &'static str,
        measured: f64,
        at_least: f64,
        unit: &'static str,
    ) -> Self {
        Self { row, what, measured, at_least, at_most: f64::INFINITY, unit, kind }
    }

    /// Whether it was held.
    #[must_use]
    pub fn held(&self) -> Held {
        if self.measured >= self.at_least && self.measured <= self.at_most {
            Held::Yes
        } else {
            Held::No
        }
    }

    /// Whether it was held as far as a busy machine and an unoptimised broker can tell: what is exact exactly, a speed
    /// within fifty times its promise. Bounds of memory are for full sizes only.
    #[must_use]
    pub fn held_roughly(&self) -> Held {
        match self.kind {
            Kind::Exact => self.held(),
            Kind::Memory => Held::Yes,
            Kind::Speed if self.measured <= self.at_most * 50.0 => Held::Yes,
            Kind::Speed => Held::No,
        }
    }

    fn promise(&self) -> String {
        if self.at_least == self.at_most {
            format!("= {}", number(self.at_most))
        } else if self.at_most.is_infinite() {
            format!(">= {} {}", number(self.at_least), self.unit)
        } else {
            format!("<= {} {}", number(self.at_most), self.unit)
        }
    }
}

impl fmt::Display for Figure {
    /// One line of a table in Markdown, without the number of shards.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = match self.held() {
            Held::Yes => "held",
            Held::No => "**not held**",
        };
        let (measured, promise) = (number(self.measured), self.promise());
        let Self { row, what, unit, .. } = self;
        write!(formatter, "| {row} | {what} | {} | {measured} {unit} | {held} |", promise.trim())
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_held_up_to_its_bound() {
        let bound = |measured| Figure::at_most(8, Kind::Speed, "p99", measured, 10.0, "ms");
        assert_eq!(bound(10.0).held(), Held::Yes);
        assert_eq!(bound(10.1).held(), Held::No);
        assert_eq!(bound(499.0).held_roughly(), Held::Yes);
        assert_eq!(bound(501.0).held_roughly(), Held::No);
        assert_eq!(Figure::exactly(5, "doubled", 1, 0).held_roughly(), Held::No);
        assert_eq!(Figure::at_least(10, Kind::Exact, "first", 1.4, 1.5, "s").held(), Held::No);
    }

    #[test]
    fn a_line_says_promise_and_measurement() {
        let figure = Figure::at_most(8, Kind::Memory, "growth", 3.24159, 16.0, "MiB");
        assert_eq!(figure.to_string(), "| 8 | growth | <= 16 MiB | 3.24 MiB | held |");
    }
}

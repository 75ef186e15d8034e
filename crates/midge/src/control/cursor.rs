//! Where a list goes on, across shards: a shard's number and a place in its part of the list.
//!
//! The text is opaque to everybody else. It stays good for as long as the broker runs; `midge_shard::survey` says what that
//! promises. The broker remembers nothing about a list.

use std::{fmt, str::FromStr};

use midge_shard::survey::Place;

/// Shards are listed in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) shard: u16,
    /// `None`: from the start of this shard's part.
    pub(crate) place: Option<Place>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shard)?;
        match &self.place {
            Some(place) => write!(f, ".{place}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (shard, place) = match text.split_once('.') {
            Some((shard, place)) => (shard, Some(place.parse().map_err(|_| ())?)),
            None => (text, None),
        };
        Ok(Self { shard: shard.parse().map_err(|_| ())?, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        for place in [None, Some(Place::Session(3)), Some(Place::Topic("a.b/ü".into()))] {
            let cursor = Cursor { shard: 7, place };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in ["", "x", "1.", "70000", "-1", "1.q"] {
            assert_eq!(text.parse::<Cursor>(), Err(()), "{text}");
        }
    }
}

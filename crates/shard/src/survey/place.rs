//! Where a list of one shard goes on, as a value and as a text.

use std::fmt;
use std::str::FromStr;

/// Where the next part of a list begins. Its text ([`fmt::Display`], [`FromStr`]) is for carrying it about, not for reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At the session with this number.
    Session(u32),
    /// At the filter with this number; of its subscribers those below this position are left.
    Filter {
        /// The filter's number.
        number: u32,
        /// Subscribers that are left; `u32::MAX`: all.
        below: u32,
    },
    /// At this position among one client's subscriptions.
    OfClient(u32),
    /// Behind this topic.
    Topic(Box<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(number) => write!(f, "s{number}"),
            Self::Filter { number, below } => write!(f, "f{number}-{below}"),
            Self::OfClient(position) => write!(f, "c{position}"),
            Self::Topic(topic) => write!(f, "t{topic}"),
        }
    }
}

/// A text that is no [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u32>().map_err(|_| NoPlace),
            false => Err(NoPlace),
        };
        let mut characters = text.chars();
        let kind = characters.next().ok_or(NoPlace)?;
        let rest = characters.as_str();
        match kind {
            's' => Ok(Self::Session(number(rest)?)),
            'f' => {
                let (filter, below) = rest.split_once('-').ok_or(NoPlace)?;
                Ok(Self::Filter { number: number(filter)?, below: number(below)? })
            }
            'c' => Ok(Self::OfClient(number(rest)?)),
            't' => Ok(Self::Topic(rest.into())),
            _ => Err(NoPlace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        for place in [
            Place::Session(0),
            Place::Session(u32::MAX),
            Place::Filter { number: 7, below: u32::MAX },
            Place::OfClient(12),
            Place::Topic("".into()),
            Place::Topic("a/ü -7\n".into()),
        ] {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for text in ["", "s", "s-1", "s+1", "s4294967296", "f1", "f1-", "f-1", "x1", "ü1"] {
            assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text}");
        }
    }
}

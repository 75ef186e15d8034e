//! Where what outlives the process is kept.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// A directory, or none, or one that the program chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// A directory that the program chooses: `auto`.
    #[default]
    Auto,
    /// Nowhere: all of it lives in memory and ends with the process. Written `memory`, or `null`.
    Memory,
    /// In this directory, which is made when it is missing.
    At(PathBuf),
}

impl serde::Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Memory => serializer.serialize_str("memory"),
            Self::At(directory) => directory.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PlaceVisitor;

        impl Visitor<'_> for PlaceVisitor {
            type Value = Place;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto, memory or a directory")
            }

            fn visit_unit<E: Error>(self) -> Result<Place, E> {
                Ok(Place::Memory)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Place, E> {
                match text {
                    "auto" => Ok(Place::Auto),
                    "memory" => Ok(Place::Memory),
                    "" => Err(E::invalid_value(Unexpected::Str(text), &self)),
                    directory => Ok(Place::At(directory.into())),
                }
            }
        }

        deserializer.deserialize_any(PlaceVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for (text, place, written) in [
            ("auto", Place::Auto, "\"auto\""),
            ("memory", Place::Memory, "\"memory\""),
            ("null", Place::Memory, "\"memory\""),
            ("~", Place::Memory, "\"memory\""),
            ("/var/lib/midge", Place::At("/var/lib/midge".into()), "\"/var/lib/midge\""),
            ("./memory", Place::At("./memory".into()), "\"./memory\""),
        ] {
            let found: Place = serde_saphyr::from_str(text).expect(text);
            assert_eq!(found, place, "{text}");
            assert_eq!(serde_json::to_string(&found).expect(text), written);
        }
        for text in ["''", "7", "[a]", "{a: b}", "true"] {
            assert!(serde_saphyr::from_str::<Place>(text).is_err(), "{text}");
        }
    }
}

//! Why a configuration could not be read, in one sentence that names the place and the way out.

use std::{borrow::Cow, fmt};

use serde_saphyr::{
    Error as YamlError, Localizer, Location, MessageFormatter, UserMessageFormatter,
};

use crate::{
    load::DEFAULT_FILE,
    positions::{Position, Positions},
};

/// A file that cannot be read, is not YAML, or holds a key or value that is no setting.
///
/// Displayed as `midge.yaml:3:5: limits.foo: unknown key; …`: the place first, the way editors
/// and terminals understand it, then the key, then what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the caller named it.
    pub source_name: String,
    /// The line of the mistake, counted from 1. `None` when the file could not be read at all.
    pub line: Option<u64>,
    /// The column, in characters, counted from 1.
    pub column: Option<u64>,
    /// The key, dotted, when the mistake is at one: `listeners[0].address`.
    pub key: Option<String>,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl ConfigError {
    /// An error about the whole file.
    pub(crate) fn of_file(source_name: &str, message: String) -> Self {
        Self { source_name: source_name.into(), line: None, column: None, key: None, message }
    }

    /// Puts the reader's error into our words, with the key that stands at its location.
    pub(crate) fn from_yaml(error: &YamlError, source_name: &str, text: &str) -> Self {
        let position = error
            .location()
            .filter(|location| *location != Location::UNKNOWN)
            .map(|location| Position { line: location.line(), column: location.column() });
        Self {
            source_name: source_name.into(),
            line: position.map(|position| position.line),
            column: position.map(|position| position.column),
            key: position.and_then(|position| key(error, &Positions::of(text), position)),
            message: message(error),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.source_name)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "{line}:{column}:")?;
        }
        if let Some(key) = &self.key {
            write!(f, " {key}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The key that an error is about.
fn key(error: &YamlError, positions: &Positions, position: Position) -> Option<String> {
    match error {
        // Where YAML itself is broken, the last key before the break may be innocent.
        YamlError::ExternalMessage { .. } | YamlError::MultipleDocuments { .. } => None,
        YamlError::SerdeMissingField { field, .. } => {
            let parent = positions.collection_at(position)?;
            Some(format!("{parent}.{field}"))
        }
        _ => positions.at(position).map(str::to_owned),
    }
}

/// What is wrong and what to do, without the place.
fn message(error: &YamlError) -> String {
    match error {
        YamlError::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key; {}", way_to_known_key(field, expected))
        }
        YamlError::SerdeUnknownVariant { variant, expected, .. } => {
            format!("expected one of {}, found `{}`", expected.join(", "), shortened(variant))
        }
        YamlError::SerdeMissingField { .. } => "missing; this key has no default".into(),
        YamlError::SerdeInvalidType { unexpected, expected, .. }
        | YamlError::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("expected {expected}, found {}", found(unexpected))
        }
        YamlError::Unexpected { expected: "sequence start", .. } => "expected a list".into(),
        YamlError::Unexpected { expected: "mapping start", .. } => {
            "expected keys with values (`key: value`)".into()
        }
        YamlError::DuplicateMappingKey { .. } => "the key stands here twice; keep one".into(),
        YamlError::InvalidScalar { ty, .. } => format!("expected {}", number_range(ty)),
        YamlError::InvalidBooleanStrict { .. } => "expected true or false".into(),
        YamlError::MergeKeyNotAllowed { .. } => {
            "merge keys (`<<`) are not read; write the keys out".into()
        }
        YamlError::Budget { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. } => {
            "larger, deeper or with more aliases than any configuration; write the values out"
                .into()
        }
        YamlError::MultipleDocuments { .. } => {
            "a second document starts here; a configuration is one document".into()
        }
        YamlError::ExternalMessage { msg, .. } => format!("not YAML: {msg}"),
        other => UserMessageFormatter.with_localizer(&WithoutLocation).format_message(other).into(),
    }
}

/// The reader adds the location to each message; ours stands in front already.
struct WithoutLocation;

impl Localizer for WithoutLocation {
    fn attach_location<'a>(&self, base: Cow<'a, str>, _: Location) -> Cow<'a, str> {
        base
    }
}

/// What a whole number of the Rust type `ty` may be, in words for an operator.
fn number_range(ty: &str) -> Cow<'static, str> {
    match ty {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        other => format!("a value of type {other}").into(),
    }
}

/// What stood there instead, from serde's words into an operator's.
fn found(unexpected: &str) -> Cow<'_, str> {
    match unexpected {
        "unit value" => "nothing".into(),
        "map" => "keys with values".into(),
        "sequence" => "a list".into(),
        other => {
            let value = ["string ", "integer ", "floating point ", "boolean "]
                .iter()
                .find_map(|kind| other.strip_prefix(kind))
                .unwrap_or(other);
            format!("`{}`", shortened(value.trim_matches(['"', '`']))).into()
        }
    }
}

/// Text from the file, short enough to repeat in one sentence.
fn shortened(text: &str) -> Cow<'_, str> {
    const SHOWN_MAX: usize = 60;
    if text.chars().count() <= SHOWN_MAX {
        return text.into();
    }
    text.chars().take(SHOWN_MAX).chain(['…']).collect::<String>().into()
}

/// More keys than this are a page to read, not a hint.
const KEYS_LISTED_MAX: usize = 16;

/// Where somebody who wrote the unknown key `field` finds the one meant: among the keys `expected`
/// at this place, or anywhere in the tree.
fn way_to_known_key(field: &str, expected: &[&str]) -> String {
    if let Some(near) = nearest(field, expected) {
        return format!("did you mean `{near}`?");
    }
    let tree = Positions::of(DEFAULT_FILE);
    if let Some(path) = tree.paths().find(|path| path.rsplit('.').next() == Some(field)) {
        let path = path.replace("[0]", "[…]");
        return format!("did you mean `{path}`?");
    }
    if let Some(similar) = similar(field, expected) {
        return format!("did you mean `{similar}`?");
    }
    if expected.len() <= KEYS_LISTED_MAX {
        format!("the keys here are {}", expected.join(", "))
    } else {
        "configs/default.yaml shows all keys".into()
    }
}

/// The known key that the fewest edits lead to, if those are few for its length: 2 in 5 letters.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let key = canonical(key)?;
    known
        .iter()
        .map(|known| (edits(&key, known), *known))
        .min()
        .filter(|(edits, known)| *edits * 3 <= known.len() + 1)
        .map(|(_, known)| known)
}

/// A known key that contains `key` or is contained in it.
fn similar<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let key = canonical(key)?;
    known.iter().copied().find(|known| known.contains(&key) || key.contains(known))
}

/// `key` as we would write it; `None` when it is too short or too long to be compared.
fn canonical(key: &str) -> Option<String> {
    (3..=64).contains(&key.len()).then(|| key.to_lowercase().replace('-', "_"))
}

/// How many letters must be added, removed or replaced to make `b` of `a` (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_leads_to_the_one_meant() {
        let known = ["listeners", "shards", "pin_cores", "maximum_packet_size_bytes"];
        for (key, way) in [
            ("shard", "did you mean `shards`?"),
            ("pin-cores", "did you mean `pin_cores`?"),
            ("Listeners", "did you mean `listeners`?"),
            ("listner", "did you mean `listeners`?"),
            ("packet_size", "did you mean `maximum_packet_size_bytes`?"),
            ("backlog", "did you mean `listeners[…].backlog`?"),
            ("level", "did you mean `log.level`?"),
            ("zebra", "the keys here are listeners, shards, pin_cores, maximum_packet_size_bytes"),
            ("x", "the keys here are listeners, shards, pin_cores, maximum_packet_size_bytes"),
            ("", "the keys here are listeners, shards, pin_cores, maximum_packet_size_bytes"),
        ] {
            assert_eq!(way_to_known_key(key, &known), way, "{key}");
        }
        assert_eq!(
            way_to_known_key("zebra", &["key"; KEYS_LISTED_MAX + 1]),
            "configs/default.yaml shows all keys"
        );
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, expected) in
            [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)]
        {
            assert_eq!(edits(a, b), expected, "{a} {b}");
        }
    }
}

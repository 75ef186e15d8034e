//! Where each key of a YAML text stands, so that an error about a value can name its line.
//!
//! Serde sees values, not places. A second, flat walk over the text's events keeps one
//! [`Entry`] for each key and each list item. It does not recurse and never expands an alias; it
//! stops at [`ENTRIES_MAX`] entries and cuts keys at [`KEY_SIZE_MAX`], so that a hostile text
//! costs it a few megabytes at most. What it does not know only makes an error less precise.

use serde_saphyr::granit_parser::{Event, Parser};

/// A place in a text, both counted from 1. Columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// One key or list item.
#[derive(Debug)]
struct Entry {
    /// Dotted, lists by index from 0: `listeners[1].address`.
    path: String,
    /// Of the key; of the item itself in a list.
    key: Position,
    /// Of the value; the key's own when there is none.
    value: Position,
}

/// All keys of one text in the order they stand there.
#[derive(Debug, Default)]
pub(crate) struct Positions(Vec<Entry>);

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File {
        /// Counted from 1.
        line: u64,
        /// In characters, counted from 1.
        column: u64,
    },
    /// This option of the command line.
    Flag(&'static str),
    /// Nobody: it is the default.
    Default,
}

enum Frame {
    /// In a mapping. `key` is the index of the entry whose value comes next.
    Mapping {
        path: String,
        key: Option<usize>,
    },
    Sequence {
        path: String,
        index: usize,
    },
}

impl Positions {
    /// Walks `text`. Of a text that breaks off as YAML, keeps what stands before the break.
    pub(crate) fn of(text: &str) -> Self {
        let mut entries = Vec::new();
        let mut frames: Vec<Frame> = Vec::new();
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else { break };
            if frames.len() > DEPTH_MAX || entries.len() >= ENTRIES_MAX {
                break;
            }
            let here =
                Position { line: span.start.line() as u64, column: span.start.col() as u64 + 1 };
            match event {
                Event::MappingStart(..) | Event::SequenceStart(..) => {
                    let path = child(&mut frames, &mut entries, here, None);
                    frames.push(match event {
                        Event::MappingStart(..) => Frame::Mapping { path, key: None },
                        _ => Frame::Sequence { path, index: 0 },
                    });
                }
                Event::MappingEnd | Event::SequenceEnd => {
                    frames.pop();
                }
                Event::Scalar(text, ..) => {
                    child(&mut frames, &mut entries, here, Some(&text));
                }
                Event::Alias(_) => {
                    child(&mut frames, &mut entries, here, Some("*"));
                }
                _ => {}
            }
        }
        Self(entries)
    }

    /// Where the key `path` stands, or the nearest key above it.
    pub(crate) fn key(&self, path: &str) -> Option<Position> {
        let mut path = path;
        loop {
            if let Some(entry) = self.0.iter().find(|entry| entry.path == path) {
                return Some(entry.key);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// The key that stands at `position`; else the one whose value does; else the last before.
    pub(crate) fn at(&self, position: Position) -> Option<&str> {
        let last = |is: fn(&Entry, Position) -> bool| {
            self.0.iter().rev().find(|entry| is(entry, position)).map(|entry| entry.path.as_str())
        };
        last(|entry, position| entry.key == position)
            .or_else(|| last(|entry, position| entry.value == position))
            .or_else(|| last(|entry, position| entry.key <= position))
    }

    /// The key whose value is the collection that starts at `position`.
    pub(crate) fn collection_at(&self, position: Position) -> Option<&str> {
        self.0.iter().find(|entry| entry.value == position).map(|entry| entry.path.as_str())
    }

    /// The path of every key.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| entry.path.as_str())
    }
}

/// Notes the node that starts at `here` as the next child of the innermost collection and gives
/// its path. `text` is the node's own when it is a scalar: in a mapping that may be a key.
fn child(
    frames: &mut [Frame],
    entries: &mut Vec<Entry>,
    here: Position,
    text: Option<&str>,
) -> String {
    match frames.last_mut() {
        None => String::new(),
        Some(Frame::Sequence { path, index }) => {
            let path = format!("{path}[{index}]");
            *index += 1;
            entries.push(Entry { path: path.clone(), key: here, value: here });
            path
        }
        Some(Frame::Mapping { path, key }) => match key.take() {
            Some(index) => {
                entries[index].value = here;
                entries[index].path.clone()
            }
            None => {
                // A collection as a key has no name; the typed read refuses it anyway.
                let name = text.unwrap_or("?");
                let name = &name[..name.floor_char_boundary(KEY_SIZE_MAX)];
                let path = if path.is_empty() { name.into() } else { format!("{path}.{name}") };
                *key = Some(entries.len());
                entries.push(Entry { path: path.clone(), key: here, value: here });
                path
            }
        },
    }
}

/// More than 64 listeners with all their keys and every other key of the tree.
const ENTRIES_MAX: usize = 4096;

/// Collections in one another. The tree of settings needs 3.
const DEPTH_MAX: usize = 8;

/// Bytes of one key. The longest known one has 40.
const KEY_SIZE_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# A comment.
shards: 2
listeners:
  - address: 127.0.0.1:1883
    name: one
  - {address: '[::1]:1883', name: two}
limits:
  connect_timeout: 10s
";

    #[test]
    fn keys_are_found_by_path() {
        let positions = Positions::of(TEXT);
        for (path, line, column) in [
            ("shards", 2, 1),
            ("listeners", 3, 1),
            ("listeners[0]", 4, 5),
            ("listeners[0].address", 4, 5),
            ("listeners[0].name", 5, 5),
            ("listeners[1]", 6, 5),
            ("listeners[1].name", 6, 29),
            ("limits.connect_timeout", 8, 3),
            // Not in the text: the nearest key above.
            ("limits.receive_maximum", 7, 1),
            ("listeners[1].backlog", 6, 5),
        ] {
            assert_eq!(positions.key(path), Some(Position { line, column }), "{path}");
        }
        assert_eq!(positions.key("log.level"), None);
    }

    #[test]
    fn paths_are_found_by_position() {
        let positions = Positions::of(TEXT);
        for (line, column, path) in [
            (2, 1, "shards"),
            (2, 9, "shards"),
            (3, 1, "listeners"),
            (4, 5, "listeners[0].address"),
            (5, 11, "listeners[0].name"),
            (6, 15, "listeners[1].address"),
            (8, 20, "limits.connect_timeout"),
        ] {
            assert_eq!(positions.at(Position { line, column }), Some(path), "{line}:{column}");
        }
        assert_eq!(positions.at(Position { line: 1, column: 1 }), None);
        let collection = Position { line: 4, column: 5 };
        assert_eq!(positions.collection_at(collection), Some("listeners[0]"));
    }

    #[test]
    fn a_broken_text_keeps_what_stands_before_the_break() {
        let positions = Positions::of("shards: 2\nlimits: [\n");
        assert_eq!(positions.key("shards"), Some(Position { line: 1, column: 1 }));
    }

    #[test]
    fn hostile_texts_are_cut_off() {
        let wide = "a: 1\n".repeat(100_000);
        assert_eq!(Positions::of(&wide).0.len(), ENTRIES_MAX);

        let deep = "[".repeat(100_000);
        assert!(Positions::of(&deep).0.len() <= DEPTH_MAX);

        let long = format!("{}: 1", "ä".repeat(500));
        assert!(Positions::of(&long).0.iter().all(|entry| entry.path.len() <= KEY_SIZE_MAX));
    }
}

//! Where a scan goes from one topic.
//!
//! # The order of bytes
//! Topics are ordered by their bytes, where `/` (0x2F) has smaller neighbours: `a`, `a!`, `a!/x`,
//! `a/b`, `a0`. So a topic and the topics below it are not next to each other, but the topics
//! *below* it, those that begin with `a/`, are: they lie between `a/` and `a0`, since `0` is the
//! byte after `/`. All skips are built on that:
//!
//! - "nothing below `a` can match any more": go to `a0`;
//! - "only what is below `a` can match": go to `a/`;
//! - "the level has to be `b`, and is less": go to `…/b`.

/// The byte after `/`.
const AFTER_SEPARATOR: char = '0';
const _: () = assert!(AFTER_SEPARATOR as u32 == '/' as u32 + 1);

/// What a scan does after it has seen a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The topic matches; the next one may, too.
    Match,
    /// The topic does not match; the next one may.
    Next,
    /// The topic does not match, and none before `target` does.
    Seek,
    /// Neither this topic nor any behind it matches.
    Done,
}

/// Compares a filter with a topic that a scan is at, level by level. Sets `target` when the answer
/// is [`Step::Seek`]: it is greater than `topic`, and no topic between the two matches.
pub(super) fn step(filter: &str, topic: &str, target: &mut String) -> Step {
    let mut seek = |parts: [&str; 3]| {
        target.clear();
        target.extend(parts);
        Step::Seek
    };
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        // [MQTT-4.7.2-1]. `%` is the byte after `$`.
        return seek(["%", "", ""]);
    }
    let mut after_separator = [0; 4];
    let after_separator = &*AFTER_SEPARATOR.encode_utf8(&mut after_separator);
    // End of the topic's level at the last `+` so far: when nothing below this level can match, the
    // next value of that level may.
    let mut single_end = None;
    let mut filter_rest = filter;
    let mut at = 0;
    loop {
        let (wanted, filter_more) = cut(filter_rest);
        if wanted == "#" {
            return Step::Match;
        }
        let rest = &topic[at..];
        let (level, topic_more) = cut(rest);
        let end = at + level.len();
        if wanted == "+" {
            single_end = Some(end);
        } else if wanted != level {
            if rest < wanted {
                return seek([&topic[..at], wanted, ""]);
            }
            let between = rest.strip_prefix(wanted).is_some_and(|after| after < "/");
            if between && filter_more.is_some() {
                return seek([&topic[..at], wanted, "/"]);
            }
            break;
        }
        match (filter_more, topic_more) {
            (None, None) | (Some("#"), None) => return Step::Match,
            // The topic is deeper than the filter.
            (None, Some(_)) => break,
            // The topic ends early. What matches is below it, or has another value for this `+`.
            (Some(_), None) if wanted == "+" => return Step::Next,
            (Some(_), None) => return seek([topic, "/", ""]),
            (Some(more), Some(_)) => {
                filter_rest = more;
                at = end + 1;
            }
        }
    }
    // The topic is behind all that could match below the last `+`, and it is below it itself.
    match single_end {
        Some(end) => seek([&topic[..end], after_separator, ""]),
        None => Step::Done,
    }
}

/// The first level and what follows its separator, if there is one.
fn cut(text: &str) -> (&str, Option<&str>) {
    // Levels are short: looking at bytes one by one beats setting up a search.
    match text.bytes().position(|byte| byte == b'/') {
        Some(end) => (&text[..end], Some(&text[end + 1..])),
        None => (text, None),
    }
}

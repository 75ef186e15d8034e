//! Whom a damaged record concerned, as far as it can still be read: words for reports.
//!
//! Nothing here has been checked against the log's sums, so nothing of it goes into a shard.

use std::fmt::Write;

use super::record::Record;
use super::restore::Image;

/// Sessions that one sentence names.
const NAMES_MAX: usize = 4;

/// Characters of a name or topic that a sentence shows.
const TEXT_MAX: usize = 80;

impl Image {
    /// What a record that is not as it was written seems to have said. Once everything has been read, so that sessions have
    /// their names. `None`: nothing that can be read.
    #[must_use]
    pub fn affected(&self, kind: u8, payload: &[u8]) -> Option<String> {
        Some(match Record::decode(kind, payload).ok()? {
            Record::Session(session) => {
                format!("the session of {} may be lost", shown(session.client_id))
            }
            Record::Subscribe { session, filter, .. } => {
                format!("the subscription of {} to {}", self.client(session), shown(filter))
            }
            Record::Message(message) => {
                let mut text = format!("a message to {}", shown(message.topic));
                let mut owners: Vec<String> =
                    message.deliveries.iter().map(|one| self.client(one.session)).collect();
                owners.extend(message.groups.iter().map(|group| shown(group)));
                if message.retained {
                    owners.push("new subscribers (retained)".into());
                }
                for (index, owner) in owners.iter().take(NAMES_MAX).enumerate() {
                    let before = if index == 0 { " for" } else { "," };
                    _ = write!(text, "{before} {owner}");
                }
                if let more @ 1.. = owners.len().saturating_sub(NAMES_MAX) {
                    _ = write!(text, " and {more} more");
                }
                text
            }
            Record::Received { session, .. } | Record::Inbound { session, .. } => {
                format!("a QoS 2 packet id of {}", self.client(session))
            }
            Record::SessionEnd { session }
            | Record::Unsubscribe { session, .. }
            | Record::Assigned { session, .. }
            | Record::Done { session, .. }
            | Record::InboundReleased { session, .. } => {
                format!("the end of something of {}, which may come again", self.client(session))
            }
            Record::RetainedGone { topic } => {
                format!("that {} has no retained message", shown(topic))
            }
            Record::Taken { group, .. } => {
                format!("that {} has passed on a message, which may come again", shown(group))
            }
            Record::HandedOn { .. } | Record::Mark { .. } | Record::Came { .. } => {
                "what shards have told each other".to_owned()
            }
        })
    }

    fn client(&self, key: u64) -> String {
        match self.client_id(key) {
            Some(client_id) => format!("client {}", shown(client_id)),
            None => "a client that is not known any more".to_owned(),
        }
    }
}

/// In quotes, without control characters, and not endless.
fn shown(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use midge_session::Time;
    use midge_store::{Position, SegmentId};

    use super::super::WallTime;
    use super::super::record::SessionRecord;
    use super::*;

    #[test]
    fn what_can_be_read_has_names() {
        let mut image = Image::new(WallTime::new(0, Time::ZERO));
        let say = |record: &Record<'_>| {
            let mut payload = Vec::new();
            let kind = record.encode(&mut payload);
            (kind, payload)
        };
        let session = Record::Session(SessionRecord {
            session: 7,
            client_id: "pump-\u{1b}1",
            user: None,
            expiry_interval_seconds: 60,
            away_since_ms: None,
            will: None,
        });
        let (kind, payload) = say(&session);
        let position = Position { segment: SegmentId(1), offset: 64 };
        image.apply(position, kind, &payload).expect("a record");
        let filter = "x".repeat(200);
        let (kind, payload) = say(&Record::Subscribe { session: 7, options: 1, filter: &filter });
        let text = image.affected(kind, &payload).expect("it can be read");
        assert!(
            text.starts_with("the subscription of client \"pump-\\u{1b}1\" to \"xxx"),
            "{text}"
        );
        assert!(text.len() < 200, "{text}");
        let (kind, payload) = say(&Record::Done { session: 8, message: 1 });
        let text = image.affected(kind, &payload).expect("it can be read");
        assert!(text.contains("not known any more"), "{text}");
        assert_eq!(image.affected(kind, b"\xFF"), None);
        assert_eq!(image.affected(200, &payload), None);
    }
}

//! The retained messages that one shard keeps: those of clients, or with a filter below `$SYS` the broker's own.

use midge_topic::{Scan, TopicFilter};

use crate::own;
use crate::retained::RetainedMessage;
use crate::shard::Shard;

use super::{Part, Place, RetainedRow, SLICE};

impl Shard {
    pub(super) fn survey_retained(
        &self,
        from: Option<&Place>,
        filter: Option<&str>,
        rows_max: usize,
    ) -> Part<RetainedRow> {
        let mut part = Part { rows: Vec::new(), next: None };
        let after = match from {
            Some(Place::Topic(topic)) => Some(&**topic),
            _ => None,
        };
        let Some(filter) = filter else {
            let mut messages = self.retained.index.iter_after(after);
            for message in messages.by_ref().take(rows_max.min(SLICE)) {
                part.next = Some(Place::Topic(message.publication.topic().into()));
                part.rows.extend(self.retained_row(message));
            }
            if messages.next().is_none() {
                part.next = None;
            }
            return part;
        };
        let Ok(filter) = TopicFilter::parse(filter, &self.settings.topic_limits) else {
            return part;
        };
        let own = own::is_own(filter.as_str());
        let index = if own { &self.own_retained } else { &self.retained.index };
        let rows = &mut part.rows;
        let scan = index.scan(filter, after, SLICE, &mut |message| {
            rows.extend(self.retained_row(message));
        });
        if let Scan::More { after } = scan {
            part.next = Some(Place::Topic(after.into()));
        }
        if part.rows.len() > rows_max {
            part.rows.truncate(rows_max);
            part.next = part.rows.last().map(|row| Place::Topic(row.topic.clone()));
        }
        part
    }

    /// `None` for a message that has expired and is still there: nobody gets it any more.
    pub(super) fn retained_row(&self, message: &RetainedMessage) -> Option<RetainedRow> {
        let publication = &message.publication;
        (!publication.expired(self.now)).then(|| RetainedRow {
            topic: publication.topic().into(),
            payload_bytes: publication.payload().len(),
            qos: publication.qos(),
            age_seconds: self.now.since(message.stored_at) / 1_000_000_000,
            expiry_interval_seconds: publication.expiry_interval_seconds(self.now),
        })
    }
}

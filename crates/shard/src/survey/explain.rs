//! Who would get a message to a topic: the same look-ups as a publish, without a message.

use midge_mesh::ShardSet;
use midge_topic::TopicName;

use crate::groups;
use crate::ids::SessionId;
use crate::own;
use crate::shard::Shard;

use super::subscriptions::group_row;
use super::{Explained, SLICE};

/// Matching subscriptions that are looked at for rows; the others are only counted.
const LOOKED_AT_MAX: usize = 1024;

impl Shard {
    /// Costs what matching one message costs, and [`SLICE`] rows.
    pub(super) fn explain_topic(&self, topic: &str) -> Explained {
        let mut explained = Explained::default();
        let Ok(name) = TopicName::parse(topic, &self.settings.topic_limits) else {
            return explained;
        };
        if let Some(interest) = &self.interest {
            let mut interested = ShardSet::new();
            interest.map().interested(topic, &mut interested);
            explained.interested = interested.iter().map(|shard| shard.get()).collect();
        }
        let mut left = LOOKED_AT_MAX;
        self.table.visit(name, |filter| {
            let count = self.table.subscriber_count(filter);
            explained.filters += 1;
            explained.subscriptions += count;
            for (subscriber, options) in self.table.subscribers(filter).take(left) {
                if let Some(group) = groups::group_of(subscriber) {
                    explained.subscriptions -= 1;
                    if explained.groups.len() < SLICE {
                        explained.groups.extend(self.groups.outline(group).as_ref().map(group_row));
                    }
                } else if explained.receivers.len() < SLICE {
                    let row = self.subscription_row(filter, subscriber, options);
                    explained.receivers.extend(row);
                    let session = SessionId(subscriber.0);
                    if let Some(entry) = self.sessions.get(session)
                        && let client_id = &entry.session.client_id
                        && let Some(why) = self.guards.why_not(session, client_id, topic)
                        && explained.denied.iter().all(|(denied, _)| denied != client_id)
                    {
                        explained.denied.push((client_id.clone(), why));
                    }
                }
            }
            left = left.saturating_sub(count);
        });
        explained.complete = left > 0 && explained.receivers.len() == explained.subscriptions;
        if self.interest.is_none() && explained.filters > 0 {
            explained.interested.push(self.id.get());
        }
        let index = if own::is_own(topic) { &self.own_retained } else { &self.retained.index };
        let retained = index.find(topic);
        explained.retained = retained.and_then(|message| self.retained_row(message));
        explained
    }
}

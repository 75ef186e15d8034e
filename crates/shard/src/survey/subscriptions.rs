//! The subscriptions of one shard: all, those of a client, those to a filter.
//!
//! All subscriptions come by filter, in the order of the filters' numbers; the subscribers of one filter from the back,
//! so that none is missed when another one goes (see [`midge_topic::SubscriptionTable::subscribers`]).

use midge_session::SubscriptionOptions;
use midge_topic::{FilterId, SubscriberId};

use crate::groups::{self, GroupOutline};
use crate::ids::SessionId;
use crate::shard::Shard;

use super::{
    Budget, GroupRow, Holder, Member, Part, Place, SLICE, SubscriptionFilter, SubscriptionRow,
};

impl Shard {
    pub(super) fn survey_subscriptions(
        &self,
        from: Option<&Place>,
        filter: &SubscriptionFilter,
        rows_max: usize,
    ) -> Part<SubscriptionRow> {
        // A row for each entry looked at, so that the one bounds the other.
        let slice = rows_max.min(SLICE);
        if let Some(client_id) = &filter.client_id {
            return self.survey_client(client_id, from, filter.filter.as_deref(), slice);
        }
        let (first, below) = match from {
            Some(Place::Filter { number, below }) => (*number, *below),
            _ => (0, u32::MAX),
        };
        let mut budget = Budget::new(slice);
        let mut rows = Vec::new();
        if let Some(text) = &filter.filter {
            if from.is_none()
                && let Some(outline) = self.groups.outline_of(text)
            {
                rows.push(group_row(&outline).into());
            }
            let found = self.table.find(text);
            let next = found.and_then(|id| self.filter_rows(id, below, &mut budget, &mut rows));
            return Part { rows, next };
        }
        let mut below = below;
        for number in first..self.table.filter_numbers_end() {
            if !budget.number() {
                return Part { rows, next: Some(Place::Filter { number, below }) };
            }
            if let Some((id, _)) = self.table.filter_at(number) {
                let next = self.filter_rows(id, below, &mut budget, &mut rows);
                if next.is_some() {
                    return Part { rows, next };
                }
            }
            below = u32::MAX;
        }
        Part { rows, next: None }
    }

    /// The subscribers of one filter below a position, from the back; where it stopped.
    fn filter_rows(
        &self,
        id: FilterId,
        below: u32,
        budget: &mut Budget,
        rows: &mut Vec<SubscriptionRow>,
    ) -> Option<Place> {
        let count = self.table.subscriber_count(id) as u32;
        let mut position = below.min(count);
        let behind = (count - position) as usize;
        for (subscriber, options) in self.table.subscribers(id).rev().skip(behind) {
            if !budget.entry() {
                return Some(Place::Filter { number: id.index(), below: position });
            }
            position -= 1;
            rows.extend(self.subscription_row(id, subscriber, options));
        }
        None
    }

    pub(super) fn subscription_row(
        &self,
        filter: FilterId,
        subscriber: SubscriberId,
        options: SubscriptionOptions,
    ) -> Option<SubscriptionRow> {
        if let Some(group) = groups::group_of(subscriber) {
            return self.groups.outline(group).map(|outline| group_row(&outline).into());
        }
        // A session that has ended may still be in the table for a moment.
        let subscriber = self.subscriber(SessionId(subscriber.0), options)?;
        let filter = self.table.filter(filter).into();
        Some(SubscriptionRow { filter, holder: Holder::Client(subscriber) })
    }

    /// The subscriptions of one client: its own filters, then its shared ones.
    fn survey_client(
        &self,
        client_id: &str,
        from: Option<&Place>,
        only: Option<&str>,
        slice: usize,
    ) -> Part<SubscriptionRow> {
        let mut part = Part { rows: Vec::new(), next: None };
        let Some(session) = self.sessions.find(client_id) else { return part };
        let Some(entry) = self.sessions.get(session) else { return part };
        let mut add = |filter: &str, options: SubscriptionOptions| {
            if only.is_none_or(|only| only == filter)
                && let Some(subscriber) = self.subscriber(session, options)
            {
                let holder = Holder::Client(subscriber);
                part.rows.push(SubscriptionRow { filter: filter.into(), holder });
            }
        };
        // What one client has is bounded by `subscriptions_per_client_max`; going past what was told costs a few
        // nanoseconds each.
        let first = match from {
            Some(Place::OfClient(position)) => *position as usize,
            _ => 0,
        };
        let own = entry.subscriptions.len();
        let mut told = 0;
        for id in entry.subscriptions.iter().skip(first).take(slice) {
            told += 1;
            let options = self.table.value(id, SubscriberId(session.0));
            if let Some(options) = options {
                add(self.table.filter(id), options);
            }
        }
        let groups = entry.shares.iter().flat_map(|shares| &shares.groups);
        for (text, options) in groups.skip(first.saturating_sub(own)).take(slice - told) {
            told += 1;
            add(text, *options);
        }
        let total = own + entry.shares.as_ref().map_or(0, |shares| shares.groups.len());
        if first + told < total && told > 0 {
            part.next = Some(Place::OfClient((first + told) as u32));
        }
        part
    }
}

pub(super) fn group_row(outline: &GroupOutline<'_>) -> GroupRow {
    GroupRow {
        filter: outline.text.into(),
        members: outline.members,
        online: outline.online,
        backlog: outline.backlog,
        next: outline.next.map(|(shard, session)| Member { shard: shard.get(), session }),
    }
}

impl From<GroupRow> for SubscriptionRow {
    fn from(group: GroupRow) -> Self {
        Self { filter: group.filter.clone(), holder: Holder::Group(group) }
    }
}

//! Questions to shards without a socket.

use std::collections::BTreeMap;

use midge_codec::{
    Connect, ConnectProperties, PacketId, ProtocolVersion, QoS, Subscribe, SubscribeFilter, Will,
};

use super::*;
use crate::regression::{Broker, persistent, publish, subscribe};
use crate::{Action, ConnectionId, Settings};

const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;

impl Broker {
    fn ask(&mut self, shard: usize, question: &Question) -> Answer {
        let now = self.now;
        self.shards[shard].handle_question(question, now)
    }

    /// One part of the clients.
    fn clients(
        &mut self,
        shard: usize,
        from: Option<Place>,
        filter: &ClientFilter,
    ) -> Part<ClientRow> {
        let question = Question::Clients { from, filter: filter.clone(), rows_max: usize::MAX };
        let Answer::Clients(part) = self.ask(shard, &question) else { panic!("{question:?}") };
        part
    }

    fn subscriptions(
        &mut self,
        from: Option<Place>,
        filter: &SubscriptionFilter,
    ) -> Part<SubscriptionRow> {
        let question =
            Question::Subscriptions { from, filter: filter.clone(), rows_max: usize::MAX };
        let Answer::Subscriptions(part) = self.ask(0, &question) else { panic!("{question:?}") };
        part
    }

    fn retained(&mut self, from: Option<Place>, filter: Option<&str>) -> Part<RetainedRow> {
        let question =
            Question::Retained { from, filter: filter.map(Into::into), rows_max: usize::MAX };
        let Answer::Retained(part) = self.ask(0, &question) else { panic!("{question:?}") };
        part
    }

    fn kick(&mut self, shard: usize, client_id: &str) -> Kicked {
        let Answer::Kicked(kicked) =
            self.ask(shard, &Question::Kick { client_id: client_id.into() })
        else {
            panic!("not the answer to this question")
        };
        kicked
    }

    fn explain(&mut self, shard: usize, topic: &str) -> Explained {
        let Answer::Explained(explained) =
            self.ask(shard, &Question::Explain { topic: topic.into() })
        else {
            panic!("not the answer to this question")
        };
        *explained
    }
}

/// All parts; between two of them, `meanwhile` happens.
fn all<T>(
    broker: &mut Broker,
    mut part: impl FnMut(&mut Broker, Option<Place>) -> Part<T>,
    mut meanwhile: impl FnMut(&mut Broker, usize),
) -> Vec<T> {
    let mut rows = Vec::new();
    let mut from = None;
    for number in 0.. {
        let found = part(broker, from);
        assert!(found.rows.len() <= SLICE + 1, "a part of {} rows", found.rows.len());
        rows.extend(found.rows);
        from = found.next;
        if from.is_none() {
            break;
        }
        meanwhile(broker, number);
    }
    rows
}

fn connect_many(broker: &mut Broker, count: u32) {
    for n in 0..count {
        broker.connect(0, n, &Connect::new(V311, &format!("c{n}")));
    }
}

#[test]
fn a_row_says_what_a_client_is() {
    let mut broker = Broker::new(1, Settings::default());
    let properties =
        ConnectProperties { session_expiry_interval_seconds: Some(100), ..Default::default() };
    let will = Will { topic: "w", payload: b"x", ..Will::default() };
    let connect = Connect {
        keep_alive_seconds: 30,
        will: Some(will),
        properties,
        ..Connect::new(V5, "lamp")
    };
    broker.connect(0, 7, &connect);
    let mut bytes = Vec::new();
    let filters = ["a", "b/#", "$share/g/c"].map(|filter| SubscribeFilter {
        filter,
        qos: QoS::AtLeastOnce,
        ..Default::default()
    });
    Subscribe::new(PacketId::MIN, &filters).encode(V5, &mut bytes);
    broker.receive(0, 7, &bytes);
    broker.connect(0, 8, &Connect::new(V311, "switch"));
    broker.receive(0, 8, &publish("a", "x", QoS::AtLeastOnce, 1));
    broker.now = broker.now.plus_seconds(5);

    let rows = broker.clients(0, None, &ClientFilter::default()).rows;
    let expected = ClientRow {
        client_id: "lamp".into(),
        connection: Some(ConnectionRow {
            peer: ([127, 0, 0, 1], 1).into(),
            listener: ListenerId(0),
            version: V5,
            keep_alive_seconds: 30,
            output_bytes: rows[0].connection.expect("connected").output_bytes,
        }),
        since_seconds: 5,
        expiry_interval_seconds: 100,
        subscriptions: 3,
        queued: 0,
        in_flight: 1,
        will: true,
    };
    assert_eq!(rows[0], expected);
    assert_eq!(rows[1].client_id.as_ref(), "switch");

    let now = broker.now;
    broker.shards[0].handle_lost(ConnectionId(7), now);
    broker.receive(0, 8, &publish("b/x", "x", QoS::AtLeastOnce, 2));
    broker.now = broker.now.plus_seconds(2);
    let rows = broker.clients(0, None, &ClientFilter::default()).rows;
    let expected = ClientRow { connection: None, since_seconds: 2, will: false, ..expected };
    let found = ClientRow { queued: 0, in_flight: 1, ..rows[0].clone() };
    assert_eq!(found, expected);
    assert_eq!(rows[0].queued + rows[0].in_flight, 2);
}

#[test]
fn clients_are_chosen() {
    let mut broker = Broker::new(1, Settings::default());
    broker.connect(0, 1, &persistent("lamp-1"));
    broker.connect(0, 2, &persistent("lamp-2"));
    broker.connect(0, 3, &persistent("door"));
    let now = broker.now;
    broker.shards[0].handle_lost(ConnectionId(2), now);
    let all = ClientFilter::default();
    for (filter, expected) in [
        (all.clone(), &["lamp-1", "lamp-2", "door"][..]),
        (ClientFilter { prefix: Some("lamp".into()), ..all.clone() }, &["lamp-1", "lamp-2"]),
        (ClientFilter { connected: Some(true), ..all.clone() }, &["lamp-1", "door"]),
        (ClientFilter { connected: Some(false), ..all.clone() }, &["lamp-2"]),
        (ClientFilter { client_id: Some("door".into()), ..all.clone() }, &["door"]),
        (ClientFilter { client_id: Some("doo".into()), ..all.clone() }, &[]),
        (
            ClientFilter { client_id: Some("door".into()), connected: Some(false), ..all.clone() },
            &[],
        ),
        (ClientFilter { address: Some([127, 0, 0, 1].into()), ..all.clone() }, &["lamp-1", "door"]),
        (ClientFilter { address: Some([127, 0, 0, 2].into()), ..all }, &[]),
    ] {
        let rows = broker.clients(0, None, &filter).rows;
        let ids: Vec<&str> = rows.iter().map(|row| &*row.client_id).collect();
        assert_eq!(ids, expected, "{filter:?}");
    }
}

/// Ten thousand clients in parts, while others come and go: those that stay are in the list once.
#[test]
fn clients_that_stay_are_listed_once() {
    let mut broker = Broker::new(1, Settings::default());
    connect_many(&mut broker, 10_000);
    let mut gone = 0;
    let rows = all(
        &mut broker,
        |broker, from| broker.clients(0, from, &ClientFilter::default()),
        |broker, part| {
            let now = broker.now;
            for id in [part as u32 * 2 + 1, 9_999 - part as u32 * 2] {
                broker.shards[0].handle_lost(ConnectionId(id), now);
                broker.shards[0].handle_closed(ConnectionId(id), now);
                gone += 1;
                let back = Connect::new(V311, "somebody else");
                broker.connect(0, id, &back);
            }
        },
    );
    assert!(gone > 100);
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.client_id).or_insert(0) += 1;
    }
    for n in (0..10_000).step_by(2).filter(|n| *n < 9_999 - 2 * gone) {
        assert_eq!(counts.get(&*format!("c{n}")), Some(&1), "c{n}");
    }
}

/// A hundred thousand numbers of which few are in use are not one turn's work.
#[test]
fn numbers_that_are_not_in_use_count_too() {
    let mut broker = Broker::new(1, Settings::default());
    connect_many(&mut broker, 30_000);
    let now = broker.now;
    for id in 1..29_999 {
        broker.shards[0].handle_lost(ConnectionId(id), now);
    }
    let mut parts = 1;
    let rows = all(
        &mut broker,
        |broker, from| broker.clients(0, from, &ClientFilter::default()),
        |_, _| parts += 1,
    );
    assert_eq!(rows.len(), 2);
    assert!((10..=20).contains(&parts), "{parts} parts");
}

/// Subscribers of one filter that go while it is being listed move others to their places: none of those may be missed.
#[test]
fn subscriptions_that_stay_are_not_missed() {
    let mut broker = Broker::new(1, Settings::default());
    connect_many(&mut broker, 1_000);
    for n in 0..1_000 {
        broker.receive(0, n, &subscribe("shared/by/all", QoS::AtMostOnce));
        broker.receive(0, n, &subscribe(&format!("own/{n}"), QoS::AtLeastOnce));
    }
    let rows = all(
        &mut broker,
        |broker, from| broker.subscriptions(from, &SubscriptionFilter::default()),
        |broker, part| {
            let now = broker.now;
            for id in [part as u32 * 20 + 1, 999 - part as u32 * 20] {
                broker.shards[0].handle_lost(ConnectionId(id), now);
            }
        },
    );
    let mut counts = BTreeMap::new();
    for row in &rows {
        let Holder::Client(subscriber) = &row.holder else { panic!("{row:?}") };
        *counts.entry((subscriber.client_id.clone(), row.filter.clone())).or_insert(0) += 1;
    }
    for row in broker.clients(0, None, &ClientFilter::default()).rows {
        let own = format!("own/{}", &row.client_id[1..]);
        assert_eq!(counts.get(&(row.client_id.clone(), own.as_str().into())), Some(&1));
        assert!(counts.contains_key(&(row.client_id, "shared/by/all".into())));
    }
}

#[test]
fn subscriptions_of_a_client_and_to_a_filter() {
    let mut broker = Broker::new(1, Settings::default());
    connect_many(&mut broker, 3);
    for n in 0..400 {
        broker.receive(0, 1, &subscribe(&format!("f/{n}"), QoS::AtLeastOnce));
    }
    for n in 0..150 {
        broker.receive(0, 1, &subscribe(&format!("$share/s{n}/f"), QoS::AtLeastOnce));
    }
    broker.receive(0, 2, &subscribe("f/7", QoS::ExactlyOnce));
    broker.receive(0, 2, &subscribe("$share/s7/f", QoS::ExactlyOnce));

    let of_client = SubscriptionFilter { client_id: Some("c1".into()), filter: None };
    let rows = all(&mut broker, |broker, from| broker.subscriptions(from, &of_client), |_, _| {});
    let mut filters: Vec<_> = rows.iter().map(|row| row.filter.clone()).collect();
    assert!(
        rows.iter().all(|row| matches!(&row.holder, Holder::Client(c) if &*c.client_id == "c1"))
    );
    filters.sort();
    filters.dedup();
    assert_eq!((rows.len(), filters.len()), (550, 550));

    let to = |filter: &str| SubscriptionFilter { client_id: None, filter: Some(filter.into()) };
    let rows = broker.subscriptions(None, &to("f/7")).rows;
    let qos: Vec<_> = rows
        .iter()
        .map(|row| match &row.holder {
            Holder::Client(subscriber) => (&*subscriber.client_id, subscriber.qos),
            Holder::Group(_) => panic!("{row:?}"),
        })
        .collect();
    assert_eq!(qos, [("c2", QoS::ExactlyOnce), ("c1", QoS::AtLeastOnce)]);
    let rows = broker.subscriptions(None, &to("$share/s7/f")).rows;
    assert!(
        matches!(&rows[..], [SubscriptionRow { holder: Holder::Group(group), .. }]
            if (group.members, group.online) == (2, 2)),
        "{rows:?}"
    );
    let rows = all(&mut broker, |broker, from| broker.subscriptions(from, &to("f")), |_, _| {});
    assert_eq!(rows.len(), 150, "the groups of this filter");
    let both = SubscriptionFilter { client_id: Some("c2".into()), filter: Some("f/7".into()) };
    assert_eq!(broker.subscriptions(None, &both).rows.len(), 1);
    assert_eq!(broker.subscriptions(None, &to("f/nobody")).rows, []);
}

#[test]
fn retained_messages_in_the_order_of_their_topics() {
    let mut broker = Broker::new(1, Settings::default());
    connect_many(&mut broker, 1);
    for n in 0..300 {
        let topic = format!("{}/{n:03}", if n % 3 == 0 { "a" } else { "b" });
        let mut bytes = publish(&topic, "kept", QoS::AtLeastOnce, n + 1);
        bytes[0] |= 1;
        broker.receive(0, 0, &bytes);
    }
    broker.now = broker.now.plus_seconds(9);
    let rows = all(&mut broker, |broker, from| broker.retained(from, None), |_, _| {});
    assert_eq!(rows.len(), 300);
    assert!(rows.is_sorted_by(|before, after| before.topic < after.topic));
    let expected = RetainedRow {
        topic: "a/000".into(),
        payload_bytes: 4,
        qos: QoS::AtLeastOnce,
        age_seconds: 9,
        expiry_interval_seconds: None,
    };
    assert_eq!(rows[0], expected);
    let rows = all(&mut broker, |broker, from| broker.retained(from, Some("a/+")), |_, _| {});
    assert_eq!(rows.len(), 100);
    assert_eq!(broker.retained(None, Some("a/000")).rows.len(), 1);
    assert_eq!(broker.retained(None, Some("#/no filter")), Part { rows: vec![], next: None });
}

/// A 5.0 client is told why; the will goes out, the session stays.
#[test]
fn a_client_that_is_kicked_is_told() {
    let mut broker = Broker::new(1, Settings::default());
    broker.connect(0, 1, &Connect::new(V311, "watcher"));
    broker.receive(0, 1, &subscribe("will/#", QoS::AtMostOnce));
    broker.sent(0, 1);
    let properties =
        ConnectProperties { session_expiry_interval_seconds: Some(100), ..Default::default() };
    let will = Will { topic: "will/lamp", payload: b"gone", ..Will::default() };
    let connect = Connect { will: Some(will), properties, ..Connect::new(V5, "lamp") };
    broker.connect(0, 2, &connect);
    broker.actions(0);

    assert_eq!(broker.kick(0, "nobody"), Kicked::Unknown);
    assert_eq!(broker.kick(0, "lamp"), Kicked::Closed);
    let noted = broker.actions(0);
    assert!(
        matches!(&noted[..], [Action::Note(note)] if note.event == crate::Event::Kicked),
        "{noted:?}"
    );
    let said = broker.sent(0, 2);
    assert_eq!((said[0], said[2]), (0xE0, 0x98), "{said:02x?}");
    let closed = broker.actions(0);
    assert!(matches!(closed[..], [Action::Close(ConnectionId(2))]), "{closed:?}");
    assert_eq!(broker.kick(0, "lamp"), Kicked::NotConnected);

    // Its will was published before anything else could be sent to the watcher.
    broker.connect(0, 3, &Connect::new(V311, "another"));
    let rows = broker.clients(0, None, &ClientFilter::default()).rows;
    let lamp = rows.iter().find(|row| &*row.client_id == "lamp").expect("its session stays");
    assert_eq!((lamp.connection, lamp.will), (None, false));
}

#[test]
fn the_will_of_a_kicked_client_is_published() {
    let mut broker = Broker::new(1, Settings::default());
    broker.connect(0, 1, &Connect::new(V311, "watcher"));
    broker.receive(0, 1, &subscribe("will/#", QoS::AtMostOnce));
    broker.sent(0, 1);
    let will = Will { topic: "will/lamp", payload: b"gone", ..Will::default() };
    broker.connect(0, 2, &Connect { will: Some(will), ..Connect::new(V311, "lamp") });
    assert_eq!(broker.kick(0, "lamp"), Kicked::Closed);
    assert_eq!(broker.payloads(0, 1), ["gone"]);
    assert_eq!(broker.kick(0, "lamp"), Kicked::Unknown, "its session ended with its connection");
}

/// What `explain` says is what happens to a message.
#[test]
fn explain_names_who_gets_it() {
    let mut broker = Broker::new(3, Settings::default());
    let homes = [0, 1, 2].map(|shard| broker.client_of(shard));
    for (shard, home) in homes.iter().enumerate() {
        broker.connect(shard, 1, &persistent(home));
    }
    broker.receive(0, 1, &subscribe("t/+", QoS::AtLeastOnce));
    broker.receive(0, 1, &subscribe("t/1", QoS::AtMostOnce));
    for shard in [1, 2] {
        broker.receive(shard, 1, &subscribe("$share/g/t/#", QoS::AtLeastOnce));
    }
    broker.exchange();
    for shard in 0..3 {
        broker.sent(shard, 1);
    }

    let explained = [0, 1, 2].map(|shard| broker.explain(shard, "t/1"));
    let rows = &explained[0].receivers;
    let mut filters: Vec<&str> = rows.iter().map(|row| &*row.filter).collect();
    filters.sort_unstable();
    assert_eq!(filters, ["t/+", "t/1"]);
    assert_eq!(explained[0].subscriptions, 2);
    let chooser = explained.iter().position(|one| !one.groups.is_empty()).expect("a chooser");
    let with_filters: Vec<u16> = (0..3).filter(|s| explained[*s as usize].filters > 0).collect();
    for one in &explained {
        assert!(one.complete);
        assert_eq!(one.interested, explained[0].interested, "one map for all");
        assert!(with_filters.iter().all(|shard| one.interested.contains(shard)));
    }
    for _ in 0..4 {
        let group = broker.explain(chooser, "t/1").groups.remove(0);
        assert_eq!((group.members, group.online, group.backlog), (2, 2, 0));
        let next = group.next.expect("both can take one");
        let question = Question::Identify { members: vec![next] };
        let Answer::Identified(ids) = broker.ask(next.shard.into(), &question) else {
            panic!("not the answer to this question")
        };
        assert_eq!(ids, [Some(homes[usize::from(next.shard)].as_str().into())]);
        broker.receive(0, 1, &publish("t/1", "x", QoS::AtLeastOnce, 1));
        broker.exchange();
        let got: Vec<usize> =
            [1, 2].into_iter().filter(|shard| broker.payloads(*shard, 1) == ["x"]).collect();
        assert_eq!(got, [usize::from(next.shard)]);
        broker.sent(0, 1);
    }
    assert_eq!(broker.explain(0, "nobody/here").subscriptions, 0);
    assert_eq!(broker.explain(0, "no/+/topic"), Explained::default());
}

/// A million subscribers are counted, not listed.
#[test]
fn explain_is_bounded() {
    let mut broker = Broker::new(1, Settings::default());
    connect_many(&mut broker, 3_000);
    for n in 0..3_000 {
        broker.receive(0, n, &subscribe("t", QoS::AtMostOnce));
    }
    let explained = broker.explain(0, "t");
    assert_eq!((explained.filters, explained.subscriptions), (1, 3_000));
    assert_eq!((explained.receivers.len(), explained.complete), (SLICE, false));
    assert_eq!(explained.interested, [0]);
}

/// Places that were made up give some part of a list, or none.
#[test]
fn places_of_another_list_harm_nobody() {
    let mut broker = Broker::new(1, Settings::default());
    connect_many(&mut broker, 5);
    broker.receive(0, 1, &subscribe("t", QoS::AtMostOnce));
    let places = [
        Place::Session(u32::MAX),
        Place::Filter { number: u32::MAX, below: 0 },
        Place::Filter { number: 0, below: 0 },
        Place::OfClient(u32::MAX),
        Place::Topic("~".into()),
    ];
    let of_client = SubscriptionFilter { client_id: Some("c1".into()), filter: None };
    for place in places {
        let from = Some(place);
        assert_eq!(broker.clients(0, from.clone(), &ClientFilter::default()).next, None);
        let all = SubscriptionFilter::default();
        assert_eq!(broker.subscriptions(from.clone(), &all).next, None);
        assert_eq!(broker.subscriptions(from.clone(), &of_client).next, None);
        assert_eq!(broker.retained(from, None).next, None);
    }
}

/// Whoever wants seven rows gets seven, and the rest from there on.
#[test]
fn lists_stop_where_they_are_told_to() {
    let mut broker = Broker::new(1, Settings::default());
    connect_many(&mut broker, 50);
    for n in 0..50 {
        broker.receive(0, n, &subscribe("t", QoS::AtMostOnce));
        let mut bytes = publish(&format!("r/{n:02}"), "kept", QoS::AtLeastOnce, 1);
        bytes[0] |= 1;
        broker.receive(0, n, &bytes);
        broker.receive(0, 3, &subscribe(&format!("own/{n}"), QoS::AtMostOnce));
    }
    let of_client = SubscriptionFilter { client_id: Some("c3".into()), filter: None };
    type Ask<'a> = &'a dyn Fn(Option<Place>) -> Question;
    let (clients, subscriptions): (Ask<'_>, Ask<'_>) = (
        &|from| Question::Clients { from, filter: ClientFilter::default(), rows_max: 7 },
        &|from| Question::Subscriptions {
            from,
            filter: SubscriptionFilter::default(),
            rows_max: 7,
        },
    );
    let (retained, some_retained, own): (Ask<'_>, Ask<'_>, Ask<'_>) = (
        &|from| Question::Retained { from, filter: None, rows_max: 7 },
        &|from| Question::Retained { from, filter: Some("r/+".into()), rows_max: 7 },
        &|from| Question::Subscriptions { from, filter: of_client.clone(), rows_max: 7 },
    );
    for (ask, expected) in
        [(clients, 50), (subscriptions, 100), (retained, 50), (some_retained, 50), (own, 51_usize)]
    {
        let (mut texts, mut from, mut parts) = (Vec::new(), None, 0);
        loop {
            let (rows, next): (Vec<String>, _) = match broker.ask(0, &ask(from)) {
                Answer::Clients(part) => (texts_of(&part.rows), part.next),
                Answer::Subscriptions(part) => (texts_of(&part.rows), part.next),
                Answer::Retained(part) => (texts_of(&part.rows), part.next),
                other => panic!("{other:?}"),
            };
            parts += 1;
            assert!(rows.len() == 7 || next.is_none(), "{} rows in part {parts}", rows.len());
            texts.extend(rows);
            from = next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!((texts.len(), parts), (expected, expected.div_ceil(7)));
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), expected, "each once");
    }
}

fn texts_of<T: std::fmt::Debug>(rows: &[T]) -> Vec<String> {
    rows.iter().map(|row| format!("{row:?}")).collect()
}

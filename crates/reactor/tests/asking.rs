//! Running shards and threads that ask them.

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use midge_codec::QoS;
use midge_reactor::asker::PERIOD;
use midge_reactor::{AskError, Asker};
use midge_session::Publication;
use midge_shard::survey::{Answer, ClientFilter, Kicked, Question};
use support::{connect, serve, settings};

fn clients(asker: &Asker, shard: u16) -> Vec<Box<str>> {
    let filter = ClientFilter::default();
    let question = Question::Clients { from: None, filter, rows_max: 100 };
    match asker.ask(shard, question).expect("the shard is well") {
        Answer::Clients(part) => part.rows.into_iter().map(|row| row.client_id).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sleeping_shards_answer_at_once() {
    let (broker, address) = serve(&settings(2));
    let asker = broker.asker();
    assert_eq!(asker.shards(), 2);
    let mut client = connect(address, b'c');
    let since = Instant::now();
    let homes: Vec<u16> = (0..2).filter(|shard| !clients(&asker, *shard).is_empty()).collect();
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!(homes.len(), 1);

    // What a question causes is done at once, too: the client is closed.
    let kick = Question::Kick { client_id: "c".into() };
    assert_eq!(asker.ask(homes[0], kick), Ok(Answer::Kicked(Kicked::Closed)));
    assert_eq!(client.read(&mut [0; 8]).expect("an end"), 0);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());

    assert_eq!(
        asker.ask(7, Question::Identify { members: Vec::new() }),
        Err(AskError::Ended { shard: 7 })
    );
    broker.stopper().stop(Duration::ZERO);
    broker.join().expect("no shard failed");
    let question = Question::Identify { members: Vec::new() };
    assert_eq!(asker.ask(0, question), Err(AskError::Ended { shard: 0 }));
}

/// However many ask, they share one pace.
#[test]
fn a_flood_of_questions_is_paced() {
    let (broker, _) = serve(&settings(1));
    let asker = broker.asker();
    let since = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..10).for_each(|_| drop(clients(&asker, 0))));
        }
    });
    assert!(since.elapsed() >= PERIOD * 79, "{:?} for 80 questions", since.elapsed());
    broker.stopper().stop(Duration::ZERO);
    broker.join().expect("no shard failed");
}

#[test]
fn an_alien_publishes_what_is_the_brokers_own() {
    let (broker, address) = serve(&settings(2));
    let asker = broker.asker();
    let publications: Vec<_> = (0..40)
        .map(|n| {
            let topic = format!("$SYS/{n}");
            Arc::new(Publication::new(&topic, b"", b"x", QoS::AtMostOnce, true, None))
        })
        .collect();
    assert_eq!(asker.publish(1, &publications), Ok(32), "as many as one turn takes");
    assert_eq!(asker.publish(1, &publications[32..]), Ok(8));
    let mut client = connect(address, b'c');
    client.write_all(b"\x82\x0b\0\x01\0\x06$SYS/+\0").expect("is taken");
    // SUBACK, then 30 topics of seven letters and 10 of six: two bytes of header, two of length, one of payload.
    let mut received = vec![0; 5 + 30 * (5 + 7) + 10 * (5 + 6)];
    client.read_exact(&mut received).expect("all retained messages");
    broker.stopper().stop(Duration::ZERO);
    broker.join().expect("no shard failed");
}

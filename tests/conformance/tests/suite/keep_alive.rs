//! Keep-alive, PINGREQ and PINGRESP.

use std::time::{Duration, Instant};

use midge_conformance::prelude::*;

/// How much later than after 1.5 s the end of a keep-alive of 1 s may be seen on a busy machine.
const BUSY: Duration = Duration::from_secs(10);

/// Silence of one and a half times the keep-alive ends the connection: not earlier, not much later.
///
/// [MQTT-3.1.2-22] [MQTT-3.2.2-22] [MQTT-3.1.2-24 @3.1.1] [MQTT-31-3.1-8 @3.1]
#[test]
fn silence_ends_the_connection() {
    for version in each(Version::ALL) {
        let since = Instant::now();
        let mut silent = connect(hello(version).keep_alive(1));
        silent.expect_error(&[0x8d]);
        let took = since.elapsed();
        assert!(took > Duration::from_millis(1400), "after {took:?}");
        assert!(took < BUSY, "after {took:?}");
    }
}

/// The clock starts again with every packet, whatever it is.
///
/// [MQTT-3.1.2-22] [MQTT-3.1.2-24 @3.1.1] [MQTT-3.12.4-1] [MQTT-3.12.4-1 @3.1.1]
#[test]
fn every_packet_counts() {
    let mut clients =
        Version::NUMBERED.map(|version| (connect(hello(version).keep_alive(4)), topic("t")));
    for round in 0..4 {
        // Four times this is more than 6 s; once leaves a busy machine time to spare.
        let_pass(1.7);
        for (alive, topic) in &mut clients {
            match round {
                0 => alive.ping(),
                1 => alive.send(publish(&**topic)),
                2 => alive.subscribe(topic, 0),
                _ => alive.deliver(publish(format!("{topic}/1")).qos(1, 1)),
            }
        }
    }
    clients.iter_mut().for_each(|(alive, _)| alive.ping());
}

/// Receiving is not speaking.
///
/// [MQTT-3.1.2-22] [MQTT-3.1.2-24 @3.1.1]
#[test]
fn receiving_does_not_count() {
    for version in each(Version::NUMBERED) {
        let (mut silent, topic) = (connect(hello(version).keep_alive(1)), topic("t"));
        silent.subscribe(&topic, 0);
        let mut publisher = client(version);
        let since = Instant::now();
        let mut end = None;
        while end.is_none() && since.elapsed() < BUSY {
            publisher.send(publish(&*topic));
            match silent.receive_or_end() {
                Some(Packet::Publish(_)) => let_pass(0.05),
                other => end = Some(other),
            }
        }
        assert!(end.is_some(), "still connected after {BUSY:?} of silence");
    }
}

/// Without a keep-alive nothing is expected (of the older versions: 5.0 may be told otherwise).
///
/// [MQTT-3.1.2-24 @3.1.1]
#[test]
fn zero_is_no_keep_alive() {
    let mut silent = connect(hello(Version::V311).keep_alive(0));
    let_pass(3.0);
    silent.ping();
}

/// Many pings at once have as many answers.
///
/// [MQTT-3.12.4-1] [MQTT-3.12.4-1 @3.1.1]
#[test]
fn each_ping_is_answered() {
    for version in each(Version::ALL) {
        let mut client = client(version);
        client.send(pingreq().repeat(100));
        for _ in 0..100 {
            client.expect(Packet::PingResp);
        }
        client.ping();
    }
}

/// A keep-alive above the broker's limit is answered with the broker's, which then holds.
///
/// [MQTT-3.1.2-22] [MQTT-3.2.2-22]
#[test]
fn server_keep_alive() {
    let Some(broker) = Broker::start("limits: { keep_alive_seconds_max: 1 }") else { return };
    for asked in each([60, 0]) {
        let since = Instant::now();
        let mut silent = Client::connect(broker.address(), hello(Version::V5).keep_alive(asked));
        assert_eq!(property!(silent.connack().properties, ServerKeepAlive), Some(1));
        silent.expect_error(&[0x8d]);
        assert!(since.elapsed() > Duration::from_millis(1400), "after {:?}", since.elapsed());
    }
    let within = Client::connect(broker.address(), hello(Version::V5).keep_alive(1));
    let told = property!(within.connack().properties, ServerKeepAlive);
    assert!([None, Some(1)].contains(&told));
}

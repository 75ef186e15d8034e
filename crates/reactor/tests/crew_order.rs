//! The order of what travels between shards on one thread.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::{connect, crew_settings, serve, subscriber};

const SHARDS: u16 = 5;

#[test]
fn what_a_client_says_comes_in_order_to_all_of_a_crew() {
    let (broker, address) = serve(&crew_settings(SHARDS));
    let names = b'a'..=b'p';
    let mut clients: Vec<TcpStream> = names.clone().map(|name| subscriber(address, name)).collect();
    let mut publisher = connect(address, b'z');
    // At QoS 0 alone, at QoS 1 alone, and mixed: they take different ways between shards.
    for (round, at_least_once) in [0b0000_u8, 0b1111, 0b0110, 0b1010].into_iter().enumerate() {
        for topic in names.clone() {
            let mut packets = Vec::new();
            for number in 0..100_u8 {
                if at_least_once >> (number % 4) & 1 == 1 {
                    packets.extend([0x32, 7, 0, 1, topic, 0, 1 + number, round as u8, number]);
                } else {
                    packets.extend([0x30, 5, 0, 1, topic, round as u8, number]);
                }
            }
            publisher.write_all(&packets).expect("is taken");
        }
        for (client, topic) in clients.iter_mut().zip(names.clone()) {
            for number in 0..100 {
                let mut packet = [0; 7];
                client.read_exact(&mut packet).expect("a PUBLISH");
                assert_eq!(packet, [0x30, 5, 0, 1, topic, round as u8, number]);
            }
        }
        let acknowledged = 16 * 25 * at_least_once.count_ones() as usize;
        publisher.read_exact(&mut vec![0; 4 * acknowledged]).expect("as many PUBACKs");
    }
    broker.stopper().stop(Duration::from_secs(5));
    broker.join().expect("no shard failed");
}

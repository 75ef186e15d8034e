//! The floor: MQTT framing and forwarding, and nothing else that makes a broker.
//!
//! It answers CONNECT, SUBSCRIBE and PINGREQ, and copies every QoS 0 PUBLISH to the subscribers of its topic. No
//! sessions, no QoS, no limits, no wildcards but a last `+`. What a real broker costs above it on the same ring is its
//! own logic; what the flooder drives it to is what the flooder can drive.
//!
//! `cargo run --release -p midge-flood --example forwarder -- PORT` (0: the kernel's choice) prints the address it serves.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;

use midge_netring::{
    Event, ListenOptions, ListenerId, NetRing, Receive, RingConfig, Slot, Wait, listen_tcp,
};
use midge_output::Output;

#[derive(Default)]
struct Connection {
    partial: Vec<u8>,
    output: Option<Box<Output>>,
    sending: bool,
    dirty: bool,
}

#[derive(Default)]
struct Forwarder {
    connections: Vec<Connection>,
    topics: HashMap<Vec<u8>, Vec<Slot>>,
    dirty: Vec<Slot>,
    #[expect(
        clippy::vec_box,
        reason = "the net ring takes and returns boxes: they are kept, not made anew"
    )]
    pool: Vec<Box<Output>>,
}

impl Forwarder {
    fn at(&mut self, slot: Slot) -> &mut Connection {
        let index = slot.index() as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, Connection::default);
        }
        &mut self.connections[index]
    }

    fn say(&mut self, slot: Slot, bytes: &[u8]) {
        let connection = &mut self.connections[slot.index() as usize];
        let output = connection.output.get_or_insert_with(|| self.pool.pop().unwrap_or_default());
        output.extend(bytes);
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(slot);
        }
    }

    fn received(&mut self, slot: Slot, bytes: &[u8]) {
        let mut partial = std::mem::take(&mut self.at(slot).partial);
        let mut joined = Vec::new();
        let mut rest = bytes;
        if !partial.is_empty() {
            joined.append(&mut partial);
            joined.extend_from_slice(bytes);
            rest = &joined;
        }
        while let Some(size) = frame_size(rest)
            && size <= rest.len()
        {
            let (frame, tail) = rest.split_at(size);
            self.packet(slot, frame);
            rest = tail;
        }
        partial.extend_from_slice(rest);
        self.at(slot).partial = partial;
    }

    fn packet(&mut self, slot: Slot, frame: &[u8]) {
        let body_at = 1 + frame[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        let body = &frame[body_at..];
        match frame[0] >> 4 {
            1 => self.say(slot, &[0x20, 2, 0, 0]),
            3 => {
                let topic_size = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = &body[2..2 + topic_size];
                let level = topic.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
                let wildcard = [&topic[..level], b"+"].concat();
                for key in [topic, &wildcard] {
                    // Taken out for the loop and put back: `say` needs the rest of the forwarder.
                    if let Some(subscribers) = self.topics.get_mut(key).map(std::mem::take) {
                        for subscriber in &subscribers {
                            self.say(*subscriber, frame);
                        }
                        if let Some(place) = self.topics.get_mut(key) {
                            *place = subscribers;
                        }
                    }
                }
            }
            8 => {
                let filter_size = usize::from(u16::from_be_bytes([body[2], body[3]]));
                let filter = body[4..4 + filter_size].to_vec();
                self.topics.entry(filter).or_default().push(slot);
                self.say(slot, &[0x90, 3, body[0], body[1], 0]);
            }
            12 => self.say(slot, &[0xD0, 0]),
            _ => {}
        }
    }

    fn flush(&mut self, ring: &mut NetRing) {
        while let Some(slot) = self.dirty.pop() {
            let connection = &mut self.connections[slot.index() as usize];
            if connection.sending {
                // Stays dirty; its `Sent` brings it back.
                continue;
            }
            connection.dirty = false;
            if let Some(output) = connection.output.take() {
                connection.sending = true;
                ring.send(slot, output);
            }
        }
    }
}

fn frame_size(bytes: &[u8]) -> Option<usize> {
    let mut value = 0;
    for (index, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(2 + index + value);
        }
    }
    None
}

fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("forwarder PORT")?.parse()?;
    let mut ring = NetRing::new(&RingConfig::default())?;
    let listener = listen_tcp(SocketAddr::from(([127, 0, 0, 1], port)), &ListenOptions::default())?;
    println!("{}", listener.local_addr()?);
    ring.listen(listener, ListenerId(0), 64)?;
    let mut forwarder = Forwarder::default();
    loop {
        ring.turn(Wait::Forever)?;
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted { slot, .. } => {
                    *forwarder.at(slot) = Connection::default();
                    ring.receive(slot, Receive::Continuous);
                }
                Event::Received { slot, data } => {
                    forwarder.received(slot, ring.bytes(&data));
                    ring.recycle(data);
                }
                Event::Sent { slot, mut output } => {
                    output.recycle();
                    forwarder.pool.push(output);
                    let connection = forwarder.at(slot);
                    connection.sending = false;
                    if connection.dirty {
                        forwarder.dirty.push(slot);
                    }
                }
                Event::PeerClosed { slot } | Event::Failed { slot, .. } => ring.close(slot),
                Event::Closed { slot } => {
                    *forwarder.at(slot) = Connection::default();
                    for subscribers in forwarder.topics.values_mut() {
                        subscribers.retain(|subscriber| *subscriber != slot);
                    }
                }
                _ => {}
            }
        }
        forwarder.flush(&mut ring);
    }
}

//! What the client has in flight towards us.
//!
//! A QoS 2 packet id is remembered from its PUBLISH until its PUBREL, so that a PUBLISH sent again is acknowledged again
//! but delivered once [MQTT-4.3.3-10]. The ids belong to the session: they survive a reconnect.

use midge_codec::PacketId;

/// What a QoS 2 PUBLISH is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Not seen before: deliver it.
    New,
    /// Its PUBREL has not come yet: acknowledge, do not deliver.
    Again,
}

/// The received and not released QoS 2 packet ids of one session.
///
/// Sorted, since they are few (at most the Receive Maximum) and a search in two cache lines beats a hash.
#[derive(Debug, Default)]
pub struct Inbound {
    unreleased: Vec<PacketId>,
}

impl Inbound {
    /// Notes a QoS 2 PUBLISH.
    pub fn receive(&mut self, packet_id: PacketId) -> Received {
        match self.unreleased.binary_search(&packet_id) {
            Ok(_) if mutant!("qos2-not-remembered") => Received::New,
            Ok(_) => Received::Again,
            Err(index) => {
                self.unreleased.insert(index, packet_id);
                Received::New
            }
        }
    }

    /// Notes a PUBREL. `false`: the id is not known (answer 0x92).
    pub fn release(&mut self, packet_id: PacketId) -> bool {
        match self.unreleased.binary_search(&packet_id) {
            Ok(_) if mutant!("pubrel-keeps-id") => true,
            Ok(index) => {
                self.unreleased.remove(index);
                true
            }
            Err(_) => false,
        }
    }

    /// How many are received and not released.
    #[must_use]
    pub fn count(&self) -> usize {
        self.unreleased.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unreleased.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PUBLISH that comes again before its PUBREL is not new; after it, the id is free again [MQTT-4.3.3-10]
    /// [MQTT-4.3.3-12] [MQTT-4.3.3-2 @3.1.1].
    #[test]
    fn an_id_is_new_once_until_it_is_released() {
        let id = |id| PacketId::new(id).unwrap();
        let mut inbound = Inbound::default();
        for number in [5, 1, 9] {
            assert_eq!(inbound.receive(id(number)), Received::New);
        }
        assert_eq!(inbound.receive(id(5)), Received::Again);
        assert!(inbound.release(id(5)));
        assert!(!inbound.release(id(5)));
        assert_eq!(inbound.receive(id(5)), Received::New);
        assert_eq!(inbound.count(), 3);
    }
}

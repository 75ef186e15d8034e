//! PUBACK: the receiver of a QoS 1 PUBLISH owns it now.

use crate::packet::acknowledgement::acknowledgement;

acknowledgement! {
    /// Answers a QoS 1 PUBLISH. [MQTT-4.3.2-4]
    PubAck
}

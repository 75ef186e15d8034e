//! PUBCOMP: the identifier of a QoS 2 PUBLISH is free again.

use crate::packet::acknowledgement::acknowledgement;

acknowledgement! {
    /// Answers a PUBREL. [MQTT-4.3.3-11]
    PubComp
}

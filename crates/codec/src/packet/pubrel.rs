//! PUBREL: the sender of a QoS 2 PUBLISH will not send it again; the second half begins.

use crate::packet::acknowledgement::acknowledgement;

acknowledgement! {
    /// Answers a PUBREC. [MQTT-3.6.1-1]
    PubRel
}

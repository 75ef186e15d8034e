//! PUBREC: the receiver of a QoS 2 PUBLISH owns it now; the first half of the exchange.

use crate::packet::acknowledgement::acknowledgement;

acknowledgement! {
    /// Answers a QoS 2 PUBLISH. An error code ends the exchange. [MQTT-4.3.3-8]
    PubRec
}

//! Every normative statement of MQTT over a real socket.

mod table;

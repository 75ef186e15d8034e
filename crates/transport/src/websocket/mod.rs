//! WebSocket (RFC 6455), the server's side, as MQTT uses it (MQTT 5.0 §6).
//!
//! The frames are a stream: payload is unmasked as it comes and goes on to MQTT at once, so a frame of any size needs no
//! buffer. Only a control frame's payload, at most 125 bytes, is put together.

mod frames;
mod upgrade;

pub(crate) use frames::{Flow, Frames, NORMAL, write_close, write_data_header};
pub(crate) use upgrade::{Accepted, Upgrade};

#[cfg(test)]
pub(crate) use frames::tests::frame as client_frame;

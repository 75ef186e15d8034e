//! Every normative statement of MQTT over a real socket: one file for each subject, one function for
//! each question, its statements in its doc comment. `statements/*.toml` is the table of them all.

mod alias;
mod auth;
mod availability;
mod connect;
mod delivery;
mod disconnect;
mod expiry;
mod flow;
mod hostile;
mod keep_alive;
mod malformed;
mod order;
mod overlap;
mod packets;
mod properties;
mod resend;
mod retained;
mod session;
mod shared;
mod size;
mod subscribe;
mod table;
mod topics;
mod v31;
mod will;

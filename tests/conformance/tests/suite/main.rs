//! Every normative statement of MQTT over a real socket: one file for each subject, one function for
//! each question, its statements in its doc comment. `statements/*.toml` is the table of them all.

mod connect;
mod delivery;
mod overlap;
mod resend;
mod retained;
mod session;
mod shared;
mod subscribe;
mod table;

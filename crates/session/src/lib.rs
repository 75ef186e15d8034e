//! One client's protocol state machine.

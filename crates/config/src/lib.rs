//! Settings: load, default, validate.

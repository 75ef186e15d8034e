//! Bytes on their way to one connection.

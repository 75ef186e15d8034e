//! Our codec beside another one.

use midge_codec::{ProtocolVersion, RawPacket};

use crate::{header_size, oracle};

/// One packet, read by our codec and by one that others wrote: the same verdict and the same meaning, but for the exceptions in
/// the table of `crates/codec/tests/oracle`.
///
/// The first byte chooses the version, the second is that of the fixed header, the rest is the body.
pub fn differential(bytes: &[u8]) {
    let [choice, first_byte, body @ ..] = bytes else { return };
    if first_byte >> 4 == 0 {
        return;
    }
    let raw =
        RawPacket { first_byte: *first_byte, body, size: header_size(body.len()) + body.len() };
    let version = [ProtocolVersion::V311, ProtocolVersion::V5][usize::from(choice % 2)];
    oracle::compare(version, raw);
}

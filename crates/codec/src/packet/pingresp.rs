//! PINGRESP: the answer to a PINGREQ.

use crate::write::Sink;
use crate::{DecodeError, PacketType, ProtocolVersion, RawPacket};

/// Server answers a PINGREQ. [MQTT-3.12.4-1]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PingResp;

impl PingResp {
    /// Bytes of the packet: a fixed header without body.
    pub const SIZE: usize = 2;

    /// Decodes the packet.
    ///
    /// # Errors
    /// Reserved flags, or a body.
    pub fn decode(raw: RawPacket<'_>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        raw.open(PacketType::PingResp, version)?.finish()?;
        Ok(Self)
    }

    /// Appends the packet, which is the same in every version.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put(&[PacketType::PingResp.first_byte(), 0]);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{is, refuses};
    use crate::{DecodeError, Packet, ProtocolVersion};

    #[test]
    fn two_bytes_in_every_version() {
        for version in ProtocolVersion::ALL {
            is(version, &[0xD0, 0], Packet::PingResp);
            refuses(version, &[0xD0, 1, 0], DecodeError::TrailingBytes);
        }
    }
}

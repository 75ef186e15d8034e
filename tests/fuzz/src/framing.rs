//! Framing beside a naive reading of the specification, however the bytes arrive.

use midge_codec::{Framed, frame};

use crate::choices::Choices;

/// What a stream begins with, by the letter of section 2.1.
#[derive(Debug, PartialEq, Eq)]
enum Naive {
    Packet { first_byte: u8, header_size: usize, size: usize },
    Incomplete,
    Refused,
}

/// Section 2.1.4 as it stands there: seven bits a byte, least significant first, at most four bytes.
fn naive(stream: &[u8], maximum: usize) -> Naive {
    let Some(&first_byte) = stream.first() else { return Naive::Incomplete };
    // Control packet type 0 is reserved and forbidden.
    if first_byte >> 4 == 0 {
        return Naive::Refused;
    }
    let (mut multiplier, mut value) = (1, 0);
    for at in 1.. {
        let Some(&byte) = stream.get(at) else { return Naive::Incomplete };
        value += usize::from(byte & 127) * multiplier;
        if byte & 128 == 0 {
            let header_size = at + 1;
            let size = header_size + value;
            return match size {
                _ if size > maximum => Naive::Refused,
                _ if size > stream.len() => Naive::Incomplete,
                _ => Naive::Packet { first_byte, header_size, size },
            };
        }
        if at == 4 {
            return Naive::Refused;
        }
        multiplier *= 128;
    }
    unreachable!("ends after four bytes")
}

/// A stream that arrives in pieces: framing says at every moment what a naive reading says, and cuts the same packets whatever
/// the pieces are.
///
/// The first byte chooses the size limit, the next ones the pieces (their number first), the rest is the stream.
pub fn framing(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let Some(maximum) = choices.of(&[midge_codec::PACKET_SIZE_MAX, 200, 20, 5, 2]) else { return };
    let Some(pieces) = choices.bytes() else { return };
    let stream = choices.rest();

    let mut pieces = pieces.iter().map(|&size| usize::from(size).max(1)).cycle();
    // What has arrived and is not cut off yet, as a connection keeps it.
    let (mut from, mut to) = (0, 0);
    loop {
        let arrived = &stream[from..to];
        match (frame(arrived, maximum), naive(arrived, maximum as usize)) {
            (Ok(Framed::Packet(raw)), Naive::Packet { first_byte, header_size, size }) => {
                assert_eq!((raw.first_byte, raw.size), (first_byte, size));
                assert_eq!(raw.body, &arrived[header_size..size]);
                from += size;
                continue;
            }
            (Ok(Framed::Incomplete { size_hint }), Naive::Incomplete) => {
                // With all that will ever come, the hint is what the packet is.
                if let Naive::Packet { size, .. } = naive(&stream[from..], maximum as usize) {
                    assert!(size_hint == 0 || size_hint == size);
                }
                assert!(size_hint <= maximum as usize, "room for what is refused anyway");
            }
            (Err(error), Naive::Refused) => {
                assert!(error.reason_code().is_error());
                return;
            }
            (ours, theirs) => panic!("{ours:?}, but {theirs:?} of {arrived:02X?}"),
        }
        if to == stream.len() {
            return;
        }
        to = (to + pieces.next().unwrap_or(stream.len())).min(stream.len());
    }
}

//! Frames, from and to bytes.

use crate::close::CloseReason;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Two bytes, eight of length, four of mask.
const HEADER_SIZE_MAX: usize = 14;
/// RFC 6455 §5.5.
const CONTROL_SIZE_MAX: u64 = 125;

/// Close codes (RFC 6455 §7.4.1).
pub(crate) const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;
const INVALID_PAYLOAD: u16 = 1007;

/// Whether the peer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Open,
    /// It has said Close, and our Close is written.
    Closed,
}

/// The reader of one connection's frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The header of the frame that comes, as far as it is there.
    header: [u8; HEADER_SIZE_MAX],
    header_size: u8,
    /// Of the frame that is being read.
    opcode: u8,
    /// How many bytes of the mask the payload has used, modulo four.
    mask_at: u8,
    mask: [u8; 4],
    /// Inside of a frame's payload.
    in_payload: bool,
    /// A message has begun and its last frame has not come.
    fragmented: bool,
    closed: bool,
    /// Bytes of payload that are missing.
    remaining: u64,
    /// A control frame's payload, as far as it is there.
    control: Vec<u8>,
}

impl Frames {
    /// Payload goes to `plain`, answers to `wire`. A ping is answered only if `answers`: somebody who does not read the
    /// answers gets no more of them (RFC 6455 §5.5.3 allows that).
    pub(crate) fn receive(
        &mut self,
        mut bytes: &[u8],
        answers: bool,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Flow, CloseReason> {
        while !self.closed {
            if self.in_payload {
                let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX);
                let (part, rest) = bytes.split_at(bytes.len().min(wanted));
                bytes = rest;
                self.remaining -= part.len() as u64;
                let target = if self.opcode >= CLOSE { &mut self.control } else { &mut *plain };
                unmask(part, self.mask, self.mask_at, target);
                self.mask_at = ((usize::from(self.mask_at) + part.len()) % 4) as u8;
                if self.remaining > 0 {
                    break;
                }
                self.in_payload = false;
                self.end_of_frame(answers, wire)?;
            } else {
                let Some((&byte, rest)) = bytes.split_first() else { break };
                bytes = rest;
                self.header[usize::from(self.header_size)] = byte;
                self.header_size += 1;
                if let Err(code) = self.look_at_header() {
                    return self.refuse(code, wire);
                }
            }
        }
        Ok(if self.closed { Flow::Closed } else { Flow::Open })
    }

    /// Memory held, in bytes.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.control.capacity()
    }

    fn look_at_header(&mut self) -> Result<(), u16> {
        let size = usize::from(self.header_size);
        let [first, second, ..] = self.header;
        let opcode = first & 0x0f;
        match size {
            1 => return self.judge_opcode(first, opcode),
            2 => {
                // RFC 6455 §5.1: a client masks what it sends.
                if second & MASKED == 0 {
                    return Err(PROTOCOL_ERROR);
                }
                if opcode >= CLOSE && u64::from(second & !MASKED) > CONTROL_SIZE_MAX {
                    return Err(PROTOCOL_ERROR);
                }
            }
            _ => {}
        }
        let length_size = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if size < 2 + length_size + 4 {
            return Ok(());
        }
        let length_bytes = &self.header[2..2 + length_size];
        let length = match length_size {
            0 => u64::from(second & !MASKED),
            _ => length_bytes.iter().fold(0, |length, byte| (length << 8) | u64::from(*byte)),
        };
        // RFC 6455 §5.2: the most significant bit is zero, and the shortest form is used.
        let shortest = match length_size {
            0 => true,
            2 => length > 125,
            _ => length > u64::from(u16::MAX) && length >> 63 == 0,
        };
        if !shortest {
            return Err(PROTOCOL_ERROR);
        }
        self.mask.copy_from_slice(&self.header[size - 4..size]);
        self.mask_at = 0;
        self.opcode = opcode;
        if opcode < CLOSE {
            self.fragmented = first & FIN == 0;
        }
        self.remaining = length;
        self.in_payload = true;
        self.header_size = 0;
        Ok(())
    }

    fn judge_opcode(&self, first: u8, opcode: u8) -> Result<(), u16> {
        // No extension was agreed on, so these bits mean nothing.
        if first & 0x70 != 0 {
            return Err(PROTOCOL_ERROR);
        }
        match opcode {
            CONTINUATION if self.fragmented => Ok(()),
            BINARY if !self.fragmented => Ok(()),
            // [MQTT-6.0.0-1]
            TEXT if !self.fragmented => Err(UNSUPPORTED_DATA),
            CLOSE | PING | PONG if first & FIN != 0 => Ok(()),
            _ => Err(PROTOCOL_ERROR),
        }
    }

    fn end_of_frame(&mut self, answers: bool, wire: &mut Vec<u8>) -> Result<(), CloseReason> {
        if self.opcode < CLOSE {
            return Ok(());
        }
        let payload = std::mem::take(&mut self.control);
        match self.opcode {
            PING if answers => write_control(PONG, &payload, wire),
            CLOSE => {
                let code = match *payload.as_slice() {
                    [] => NORMAL,
                    [_] => PROTOCOL_ERROR,
                    [high, low, ref reason @ ..] => {
                        let code = u16::from_be_bytes([high, low]);
                        if !may_be_sent(code) {
                            PROTOCOL_ERROR
                        } else if std::str::from_utf8(reason).is_err() {
                            INVALID_PAYLOAD
                        } else {
                            code
                        }
                    }
                };
                if matches!(code, PROTOCOL_ERROR | INVALID_PAYLOAD) {
                    return self.refuse(code, wire).map(drop);
                }
                self.closed = true;
                write_close(code, wire);
            }
            _ => {}
        }
        Ok(())
    }

    fn refuse(&mut self, code: u16, wire: &mut Vec<u8>) -> Result<Flow, CloseReason> {
        self.closed = true;
        write_close(code, wire);
        Err(CloseReason::WebSocketFrame)
    }
}

/// RFC 6455 §7.4: codes that may stand in a Close frame.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends the payload without its mask.
fn unmask(part: &[u8], mask: [u8; 4], mask_at: u8, target: &mut Vec<u8>) {
    let start = target.len();
    target.extend_from_slice(part);
    let mut mask = mask;
    mask.rotate_left(usize::from(mask_at));
    // Eight bytes at a time, in a form that the compiler makes wider still.
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (chunks, rest) = target[start..].as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The header of an unmasked binary frame with a whole message of this many bytes.
pub(crate) fn write_data_header(size: usize, out: &mut Vec<u8>) {
    out.push(FIN | BINARY);
    match size {
        0..=125 => out.push(size as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(size as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
}

fn write_control(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!(payload.len() as u64 <= CONTROL_SIZE_MAX);
    out.extend_from_slice(&[FIN | opcode, payload.len() as u8]);
    out.extend_from_slice(payload);
}

/// A Close frame.
pub(crate) fn write_close(code: u16, out: &mut Vec<u8>) {
    write_control(CLOSE, &code.to_be_bytes(), out);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A client's frame, masked.
    pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            size @ 0..=125 => out.push(MASKED | size as u8),
            size @ 126..=0xffff => {
                out.push(MASKED | 126);
                out.extend((size as u16).to_be_bytes());
            }
            size => {
                out.push(MASKED | 127);
                out.extend((size as u64).to_be_bytes());
            }
        }
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    type Outcome = (Result<Flow, CloseReason>, Vec<u8>, Vec<u8>);

    fn read(pieces: &[&[u8]]) -> Outcome {
        let mut frames = Frames::default();
        let (mut plain, mut wire) = (Vec::new(), Vec::new());
        let mut outcome = Ok(Flow::Open);
        for piece in pieces {
            outcome = frames.receive(piece, true, &mut plain, &mut wire);
            if outcome.is_err() {
                break;
            }
        }
        (outcome, plain, wire)
    }

    /// Read whole, byte by byte, and cut in two at every place: always the same.
    fn check(bytes: &[u8], flow: Result<Flow, CloseReason>, plain: &[u8], wire: &[u8]) {
        let expected = (flow, plain.to_vec(), wire.to_vec());
        assert_eq!(read(&[bytes]), expected);
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read(&single), expected, "byte by byte");
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
            assert_eq!(read(&[&bytes[..at], &bytes[at..]]), expected, "cut at {at}");
        }
    }

    #[test]
    fn payload_of_every_size_comes_out() {
        for size in [0, 1, 4, 7, 8, 125, 126, 127, 1000, 65_535, 65_536, 70_001] {
            let payload: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
            let mut bytes = frame(FIN | BINARY, &payload);
            bytes.extend(frame(FIN | BINARY, b"next"));
            let mut plain = payload;
            plain.extend(b"next");
            check(&bytes, Ok(Flow::Open), &plain, b"");
        }
    }

    #[test]
    fn fragments_and_control_frames_between_them() {
        let mut bytes = frame(BINARY, b"one ");
        bytes.extend(frame(FIN | PING, b"are you there?"));
        bytes.extend(frame(CONTINUATION, b"two "));
        bytes.extend(frame(CONTINUATION, b""));
        bytes.extend(frame(FIN | PONG, b"unasked"));
        bytes.extend(frame(FIN | CONTINUATION, b"three"));
        let mut pong = vec![FIN | PONG, 14];
        pong.extend(b"are you there?");
        check(&bytes, Ok(Flow::Open), b"one two three", &pong);
    }

    #[test]
    fn pings_of_somebody_who_does_not_read_are_not_answered() {
        let mut frames = Frames::default();
        let (mut plain, mut wire) = (Vec::new(), Vec::new());
        let ping = frame(FIN | PING, b"x");
        assert_eq!(frames.receive(&ping, false, &mut plain, &mut wire), Ok(Flow::Open));
        assert!(wire.is_empty());
    }

    #[test]
    fn a_close_is_answered_and_ends_it() {
        for (payload, code) in [
            (&b""[..], NORMAL),
            (&[0x03, 0xe8][..], 1000),
            (&[0x03, 0xe9, b'b', b'y', b'e'][..], 1001),
            (&[0x0f, 0xa0][..], 4000),
        ] {
            let mut bytes = frame(FIN | BINARY, b"last");
            bytes.extend(frame(FIN | CLOSE, payload));
            bytes.extend(frame(FIN | BINARY, b"too late"));
            let mut wire = Vec::new();
            write_close(code, &mut wire);
            check(&bytes, Ok(Flow::Closed), b"last", &wire);
        }
    }

    #[test]
    fn frames_that_break_the_protocol() {
        let unmasked = [FIN | BINARY, 3, 1, 2, 3];
        let long_close = [FIN | CLOSE, MASKED | 126, 0, 126];
        let not_shortest = [FIN | BINARY, MASKED | 126, 0, 125, 0, 0, 0, 0];
        let not_shortest_64 = [FIN | BINARY, MASKED | 127, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0];
        let negative = [FIN | BINARY, MASKED | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut interleaved = frame(BINARY, b"");
        interleaved.extend(frame(FIN | BINARY, b""));
        for (bytes, code) in [
            (unmasked.to_vec(), PROTOCOL_ERROR),
            (long_close.to_vec(), PROTOCOL_ERROR),
            (not_shortest.to_vec(), PROTOCOL_ERROR),
            (not_shortest_64.to_vec(), PROTOCOL_ERROR),
            (negative.to_vec(), PROTOCOL_ERROR),
            (interleaved, PROTOCOL_ERROR),
            (frame(FIN | TEXT, b"hello"), UNSUPPORTED_DATA),
            (frame(FIN | CONTINUATION, b""), PROTOCOL_ERROR),
            (frame(FIN | 0x40 | BINARY, b""), PROTOCOL_ERROR),
            (frame(FIN | 0x3, b""), PROTOCOL_ERROR),
            (frame(FIN | 0xb, b""), PROTOCOL_ERROR),
            (frame(PING, b""), PROTOCOL_ERROR),
            (frame(FIN | CLOSE, b"\x03"), PROTOCOL_ERROR),
            (frame(FIN | CLOSE, &[0x03, 0xec]), PROTOCOL_ERROR),
            (frame(FIN | CLOSE, &[0x03, 0xed]), PROTOCOL_ERROR),
            (frame(FIN | CLOSE, &[0, 5]), PROTOCOL_ERROR),
            (frame(FIN | CLOSE, &[0x03, 0xe8, 0xff]), INVALID_PAYLOAD),
        ] {
            let mut wire = Vec::new();
            write_close(code, &mut wire);
            check(&bytes, Err(CloseReason::WebSocketFrame), b"", &wire);
        }
    }

    #[test]
    fn our_headers_say_the_size() {
        for (size, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 255, 255]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            write_data_header(size, &mut out);
            assert_eq!(out, header);
        }
    }
}

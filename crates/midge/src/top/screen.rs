//! The terminal: taken whole, drawn on, given back as it was.

use std::{
    env,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};

/// Alternate screen, no cursor, no wrapping of long lines.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    End,
    Pause,
    Up,
    Down,
    /// The window has another size, or a key means nothing.
    Redraw,
}

/// The terminal while `top` has it. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Screen {
    before: Termios,
    ended: Arc<AtomicBool>,
    resized: Arc<AtomicBool>,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        let (ended, resized) = (Arc::default(), Arc::default());
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&ended))?;
        }
        signal_hook::flag::register(SIGWINCH, Arc::clone(&resized))?;
        let before = termios::tcgetattr(io::stdin())?;
        let mut keys = before.clone();
        // Keys come one by one, are not shown, and Ctrl-C is one of them.
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        keys.special_codes[SpecialCodeIndex::VMIN] = 0;
        keys.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
        let screen = Self { before, ended, resized };
        write(ENTER)?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => (80, 24),
        }
    }

    /// Colour, unless somebody asked to be spared (<https://no-color.org>) or the terminal has none.
    pub(super) fn coloured(&self) -> bool {
        let unset = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        unset && env::var_os("TERM").is_some_and(|term| term != "dumb")
    }

    /// Replaces what is there, without a moment of emptiness.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (number, line) in lines.iter().enumerate() {
            if number > 0 {
                text.push_str("\r\n");
            }
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        write(&text)
    }

    /// Waits for a key, until `end` at the latest.
    pub(super) fn key(&mut self, end: Instant) -> io::Result<Option<Key>> {
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return Ok(Some(Key::End));
            }
            if self.resized.swap(false, Ordering::Relaxed) {
                return Ok(Some(Key::Redraw));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let stdin = io::stdin();
            let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut polled, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    let mut bytes = [0; 64];
                    let size = rustix::io::read(&stdin, &mut bytes)?;
                    // A terminal that is gone reads as the end of a file.
                    return Ok(Some(if size == 0 { Key::End } else { key(&bytes[..size]) }));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone.
        _ = write(LEAVE);
        _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// What the bytes of a key mean. Of several that came together, the first.
fn key(bytes: &[u8]) -> Key {
    match bytes {
        [b'q' | b'Q' | 0x03 | 0x04, ..] | [0x1b] => Key::End,
        [b' ' | b'p', ..] => Key::Pause,
        [b'k', ..] | [0x1b, b'[' | b'O', b'A', ..] => Key::Up,
        [b'j', ..] | [0x1b, b'[' | b'O', b'B', ..] => Key::Down,
        _ => Key::Redraw,
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_meanings() {
        for (bytes, expected) in [
            (&b"q"[..], Key::End),
            (b"\x1b", Key::End),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB\x1bOB", Key::Down),
            (b" ", Key::Pause),
            (b"\x1b[C", Key::Redraw),
            (b"x", Key::Redraw),
        ] {
            assert_eq!(key(bytes), expected, "{bytes:?}");
        }
    }
}

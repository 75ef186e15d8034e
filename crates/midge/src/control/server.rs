//! The socket, who is let in, and what is too much.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | connections at a time | [`CONNECTIONS_MAX`], one thread each | told `busy`, closed |
//! | a request | [`REQUEST_SIZE_MAX`] | told `too_large`, closed |
//! | requests of a connection | one at a time | the next one waits in the socket |
//! | time without a request | [`IDLE_MAX`] | closed |
//! | time without reading the answer | [`STALL_MAX`] | closed |
//! | questions to a shard | one at a time, [`midge_reactor::asker::PERIOD`] apart | they wait |

use std::{
    fs::Permissions,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    answer::{Answering, Sink},
    protocol::{ErrorCode, ErrorLine, Line, REQUEST_SIZE_MAX, Request},
};

/// Connections that are served at a time.
const CONNECTIONS_MAX: usize = 8;

/// How long a connection may wait with its next request.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long it may leave us waiting for room in its socket.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Lower than the shards' threads, so that they come first where they share a core.
const NICE: i32 = 10;

/// Between two tries to accept when the system has no descriptor or thread to spare.
const RECOVERY: Duration = Duration::from_millis(200);

/// Opens the control socket and serves it from threads of its own, until the process ends.
///
/// # Errors
/// When the socket or the thread cannot be made.
pub(crate) fn serve(path: &Path, answering: Answering) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    // The directory lets nobody else in either.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let serving = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => let_in(stream, &answering, &serving),
                Err(_) => thread::sleep(RECOVERY),
            }
        }
    };
    thread::Builder::new().name("control".into()).spawn(accept)?;
    Ok(())
}

fn let_in(stream: UnixStream, answering: &Answering, serving: &Arc<AtomicUsize>) {
    let place = Place::take(serving);
    let timeouts = stream
        .set_read_timeout(Some(IDLE_MAX))
        .and_then(|()| stream.set_write_timeout(Some(STALL_MAX)));
    if timeouts.is_err() {
        return;
    }
    let Some(place) = place else {
        let message = "as many as may are talking to the broker; try again later".into();
        // A line fits into any socket's buffer, so this does not wait for anybody.
        _ = Lines::new(&stream).error(ErrorLine { code: ErrorCode::Busy, message });
        return;
    };
    let answering = answering.clone();
    let talk = move || {
        let _place = place;
        // It is a wish: without the right to it, or in a sandbox, the connection is served all the same.
        _ = rustix::process::setpriority_process(None, NICE);
        let mut lines = Lines::new(&stream);
        // Whoever is gone, or has left us waiting, need not be told.
        _ = talk(&stream, &mut lines, &answering);
        lines.discard();
    };
    // Without a thread it is closed, which says enough.
    _ = thread::Builder::new().name("control-client".into()).spawn(talk);
}

/// One of the [`CONNECTIONS_MAX`].
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(serving: &Arc<AtomicUsize>) -> Option<Self> {
        // Only the accepting thread takes places, so the count cannot grow in between.
        if serving.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            return None;
        }
        serving.fetch_add(1, Ordering::Relaxed);
        Some(Self(Arc::clone(serving)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests and answers, one after the other, until the connection ends.
fn talk(stream: &UnixStream, lines: &mut Lines<'_>, answering: &Answering) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Two more: the end of the line, and one that tells what is too large from what just fits.
        let most = REQUEST_SIZE_MAX as u64 + 2;
        if (&mut reader).take(most).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > REQUEST_SIZE_MAX {
            let message = format!("a request has at most {REQUEST_SIZE_MAX} bytes");
            return lines.error(ErrorLine { code: ErrorCode::TooLarge, message });
        }
        match Request::read(&line) {
            Ok(request) => answering.answer(&request, lines)?,
            Err(error) => lines.error(error)?,
        }
    }
}

/// Lines to a connection.
struct Lines<'a>(BufWriter<&'a UnixStream>);

impl<'a> Lines<'a> {
    fn new(stream: &'a UnixStream) -> Self {
        Self(BufWriter::new(stream))
    }

    /// Ends without another try to write what could not be written.
    fn discard(self) {
        drop(self.0.into_parts());
    }

    fn error(&mut self, error: ErrorLine) -> io::Result<()> {
        self.line(&Line::Error(error))?;
        self.flush()
    }
}

impl Sink for Lines<'_> {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, line)?;
        self.0.write_all(b"\n")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

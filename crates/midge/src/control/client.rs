//! The other end of the control socket, for the commands.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use crate::{
    failure::Failure,
    instance::{Instance, InstanceArguments},
    starting,
};

use super::protocol::{End, ErrorCode, Line, Request};

/// How long the broker may be silent: it says every few seconds that it still looks.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Asks the broker that `arguments` mean; `row` gets the lines before the last.
///
/// # Errors
/// When there is no such broker, it refuses, or `row` fails.
pub(crate) fn ask(
    arguments: &InstanceArguments,
    request: &Request,
    mut row: impl FnMut(Line) -> Result<(), Failure>,
) -> Result<End, Failure> {
    let instance = arguments.find()?;
    let lost = |error: &std::io::Error| lost(&instance, error);
    let stream = UnixStream::connect(instance.control_socket()).map_err(|error| lost(&error))?;
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(|error| lost(&error))?;
    // A broker that closes at once has said why; it is read below.
    _ = (&stream).write_all(request.to_line().as_bytes());
    let mut reader = BufReader::new(&stream);
    let mut text = String::new();
    loop {
        text.clear();
        if reader.read_line(&mut text).map_err(|error| lost(&error))? == 0 {
            let pid = instance.pid;
            let sentence = format!("the broker with process id {pid} ended before it had answered");
            return Err(Failure::Other(sentence));
        }
        let line = serde_json::from_str(&text).map_err(|error| {
            Failure::Other(format!(
                "the broker with process id {} answers in words of another version ({error}); use \
                 its own midge",
                instance.pid
            ))
        })?;
        match line {
            Line::End(end) => return Ok(end),
            Line::Error(error) => {
                return Err(match error.code {
                    ErrorCode::Usage => Failure::Configuration(vec![error.message]),
                    ErrorCode::Refused => {
                        Failure::Configuration(error.message.lines().map(String::from).collect())
                    }
                    _ => Failure::Other(error.message),
                });
            }
            Line::Looking { .. } => {}
            line => row(line)?,
        }
    }
}

fn lost(instance: &Instance, error: &std::io::Error) -> Failure {
    let Instance { pid, .. } = instance;
    let path = instance.control_socket();
    Failure::Other(match error.kind() {
        ErrorKind::PermissionDenied => format!(
            "may not open {}; run this as the user of the broker, or as root",
            path.display()
        ),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            match starting::read(&instance.directory) {
                Some(said) => {
                    format!("the broker with process id {pid} does not serve yet: {said}")
                }
                None => format!(
                    "the broker with process id {pid} has no control socket ({})",
                    path.display()
                ),
            }
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("the broker with process id {pid} does not answer")
        }
        _ => format!("the broker with process id {pid} cannot be asked: {error}"),
    })
}

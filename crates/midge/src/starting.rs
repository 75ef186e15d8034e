//! What a broker says while it starts and reads its logs: over HTTP, to the commands, to the service manager.
//!
//! The commands find it in a file of the broker's directory, `starting`, which is gone when it serves.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use midge_reactor::Progress;

use crate::{notify::Notifier, units::human};

const FILE: &str = "starting";

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);

/// Says how far the start has come, until it is dropped.
#[derive(Debug)]
pub(crate) struct Starting {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Starting {
    /// `directory` is the broker's own, if it has one.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(crate) fn watch(
        progress: Progress,
        directory: Option<&Path>,
        notifier: Arc<Notifier>,
    ) -> std::io::Result<Self> {
        let file = directory.map(file);
        let (stop, stopped) = bounded::<()>(0);
        let watch = move || {
            let mut seen = 0;
            loop {
                let text = sentence(&progress);
                if let Some(file) = &file {
                    // Whoever looks is told that the broker starts, only not how far it is.
                    _ = fs::write(file, &text);
                }
                let read = progress.read_bytes();
                notifier.starting(&text, read > seen);
                seen = read;
                if stopped.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            if let Some(file) = &file {
                _ = fs::remove_file(file);
            }
        };
        let thread = std::thread::Builder::new().name("midge-starting".into()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// `recovering: 312.0 MiB of 1.2 GiB read (25 %)`.
pub(crate) fn sentence(progress: &Progress) -> String {
    let (read, total) = (progress.read_bytes(), progress.total_bytes());
    if total == 0 {
        return "starting".to_owned();
    }
    let percent = u128::from(read) * 100 / u128::from(total);
    format!("recovering: {} of {} read ({percent} %)", human(read), human(total))
}

/// What a broker that does not serve yet says about itself; `None`: it serves, or has only just begun.
pub(crate) fn read(directory: &Path) -> Option<String> {
    fs::read_to_string(file(directory)).ok().filter(|text| !text.is_empty())
}

fn file(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_long_start_can_be_looked_at() {
        let name = format!("midge-starting-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory for this test");
        assert_eq!(read(&directory), None);
        let notifier = Arc::new(Notifier::from_environment());
        let starting = Starting::watch(Progress::default(), Some(&directory), notifier);
        let starting = starting.expect("a thread");
        let began = Instant::now();
        let said = loop {
            assert!(began.elapsed() < Duration::from_secs(20), "it says nothing");
            if let Some(said) = read(&directory) {
                break said;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(said, "starting");
        drop(starting);
        assert_eq!(read(&directory), None);
        _ = fs::remove_dir_all(&directory);
    }
}

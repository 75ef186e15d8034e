//! Threads that create and remove segments: what takes a disk milliseconds is not for a shard's thread.

use std::io;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use midge_netring::Waker;
use midge_store::{Completion, OperationId, SegmentId};

use super::{LogDirectory, driver::Prepared};

/// Jobs that wait, over all shards. A shard has one creation and one removal at a time, and more removals only after a
/// recovery; what finds no room waits with its shard.
const JOBS_MAX: usize = 1024;

/// What a helper does.
#[derive(Debug)]
pub(super) enum Task {
    Create { size: u32 },
    Remove,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: OperationId,
    pub(super) segment: SegmentId,
    pub(super) task: Task,
    pub(super) directory: LogDirectory,
    pub(super) answers: Sender<Prepared>,
    pub(super) waker: Waker,
}

/// A few threads for all shards. They end when the last [`Disk`](super::Disk) and this are gone.
#[derive(Debug)]
pub struct DiskHelper {
    jobs: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl DiskHelper {
    /// Starts that many threads, at least one.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (jobs, waiting) = bounded::<Job>(JOBS_MAX);
        let threads = (0..threads.max(1))
            .map(|number| {
                let waiting = waiting.clone();
                std::thread::Builder::new()
                    .name(format!("disk-{number}"))
                    .spawn(move || work(&waiting))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { jobs, threads })
    }

    pub(super) fn jobs(&self) -> Sender<Job> {
        self.jobs.clone()
    }

    /// Waits until all that was asked for is done. Every disk must be gone by then.
    pub fn join(self) {
        drop(self.jobs);
        for thread in self.threads {
            // A thread that failed has told so when it did.
            let _ = thread.join();
        }
    }
}

/// Gives a job to the helpers, or back.
pub(super) fn offer(jobs: &Sender<Job>, job: Job) -> Option<Job> {
    match jobs.try_send(job) {
        Ok(()) => None,
        Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(job),
    }
}

fn work(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let Job { id, segment, task, directory, answers, waker } = job;
        let (completion, file) = match task {
            Task::Create { size } => match directory.create_segment(segment, size) {
                Ok(file) => (Completion::Created, Some(file)),
                Err(error) => (Completion::Failed(error), None),
            },
            Task::Remove => match directory.remove_segment(segment) {
                Ok(()) => (Completion::Removed, None),
                Err(error) => (Completion::Failed(error), None),
            },
        };
        // A shard that is gone does not ask any more.
        let _ = answers.send(Prepared { id, segment, completion, file });
        waker.wake();
    }
}

//! What a commit costs on the disk of the current directory's file system, and what a log makes of it.
//!
//! ```text
//! cargo bench -p midge-reactor --bench group_commit -- [DIRECTORY]
//! ```
//!
//! First single commits, one after the other, of 4 and 64 KiB into a prepared file, by the ways that were considered
//! (`docs/decisions/0006-commits-on-the-net-ring.md`). Then a log with records of 256 bytes and so many waiting at any
//! time, closed loop: records per second, syncs per record, the time from append to synced. Then its recovery.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use glommio::LocalExecutorBuilder;
use glommio::io::DmaFile;
use midge_netring::{Event, NetRing, RingConfig, Wait};
use midge_reactor::disk::{Disk, DiskHelper, LogDirectory};
use midge_store::{Buffer, Item, Level, Log, LogId, Recovery, Refused, Room, Sequence, Settings};
use rustix::fs::OFlags;

const COMMITS: usize = 2000;
const PAYLOAD: usize = 256;
const LOG_TIME: Duration = Duration::from_secs(3);

fn main() {
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = PathBuf::from(directory.unwrap_or_else(|| ".".to_owned()));
    let scratch = directory.join(format!("group-commit-{}", std::process::id()));
    fs::create_dir_all(&scratch).expect("a directory to write in");
    println!("commits one after the other, microseconds: p50, p99, mean");
    for size in [4 << 10, 64 << 10] {
        for (name, flags, linked) in [
            ("net ring, direct, linked fdatasync", OFlags::DIRECT, true),
            ("net ring, direct, O_DSYNC", OFlags::DIRECT.union(OFlags::DSYNC), false),
            ("net ring, page cache, linked fdatasync", OFlags::empty(), true),
        ] {
            report(name, size, &mut on_ring(&scratch, size, flags, linked));
        }
        report("glommio DmaFile, fdatasync", size, &mut on_glommio(&scratch, size));
    }
    println!(
        "a log, records of {PAYLOAD} bytes: waiting, records/s, MB/s, records per sync, p50 and p99"
    );
    for waiting in [1, 10, 200, 2000, 20_000] {
        log(&scratch, waiting, Level::Fsync);
    }
    log(&scratch, 200, Level::Written);
    fs::remove_dir_all(&scratch).expect("our own directory");
}

/// A file of zeroes, as the disk's helper makes them.
fn prepared(scratch: &Path, size: usize) -> PathBuf {
    let path = scratch.join("commits");
    let file = File::create(&path).expect("a file");
    let zeroes = vec![0; 1 << 20];
    for offset in (0..COMMITS * size).step_by(zeroes.len()) {
        file.write_all_at(&zeroes, offset as u64).expect("room");
    }
    file.sync_all().expect("a sync");
    path
}

fn on_ring(scratch: &Path, size: usize, flags: OFlags, linked: bool) -> Vec<Duration> {
    let path = prepared(scratch, size);
    let flags = flags.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
    let file = Arc::new(file.expect("the file just made"));
    let mut ring = NetRing::new(&RingConfig { slots: 1, ..RingConfig::default() }).expect("a ring");
    let mut buffer = Buffer::zeroed(size);
    buffer.as_mut_slice().fill(7);
    let (mut bytes, start, size) = buffer.into_parts();
    let mut times = Vec::with_capacity(COMMITS);
    for number in 0..COMMITS {
        let begun = Instant::now();
        let offset = (number * size) as u64;
        ring.write_file(&file, bytes, start..start + size, offset, 0, linked.then_some(1));
        bytes = Vec::new();
        let mut open = if linked { 2 } else { 1 };
        while open > 0 {
            ring.turn(Wait::Forever).expect("a ring");
            while let Some(event) = ring.next_event() {
                if let Event::File(done) = event {
                    assert!(done.result >= 0, "{done:?}");
                    open -= 1;
                    if done.tag == 0 {
                        bytes = done.bytes;
                    }
                }
            }
        }
        times.push(begun.elapsed());
    }
    times
}

fn on_glommio(scratch: &Path, size: usize) -> Vec<Duration> {
    let path = prepared(scratch, size);
    let executor = LocalExecutorBuilder::default().io_memory(1 << 20).ring_depth(16);
    let thread = executor.spawn(move || async move {
        let file = DmaFile::open(&path).await;
        drop(file);
        let file = glommio::io::OpenOptions::new().read(true).write(true).dma_open(&path).await;
        let file = file.expect("the file just made");
        let mut times = Vec::with_capacity(COMMITS);
        for number in 0..COMMITS {
            let mut buffer = file.alloc_dma_buffer(size);
            buffer.as_bytes_mut().fill(7);
            let begun = Instant::now();
            file.write_at(buffer, (number * size) as u64).await.expect("a write");
            file.fdatasync().await.expect("a sync");
            times.push(begun.elapsed());
        }
        file.close().await.expect("an open file");
        times
    });
    thread.expect("a thread").join().expect("an executor")
}

fn report(name: &str, size: usize, times: &mut [Duration]) {
    let mean = times.iter().sum::<Duration>() / times.len() as u32;
    let (p50, p99) = percentiles(times);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "  {name:40} {:3} KiB {:7.0} {:7.0} {:7.0}",
        size >> 10,
        micros(p50),
        micros(p99),
        micros(mean)
    );
}

fn percentiles(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Appends as long as fewer than `waiting` records are not kept yet.
fn log(scratch: &Path, waiting: u64, level: Level) {
    let path = scratch.join(format!("log-{waiting}-{level:?}"));
    fs::create_dir_all(&path).expect("a directory");
    let directory = LogDirectory::open(path).expect("a log's directory");
    let helper = DiskHelper::start(1).expect("a thread");
    let mut ring = NetRing::new(&RingConfig { slots: 1, ..RingConfig::default() }).expect("a ring");
    let mut disk = Disk::new(directory.clone(), &helper, ring.waker());
    let mut log = Log::create(Settings::default(), LogId([1; 16]), 0);
    let payload = [7; PAYLOAD];
    let mut begun = Vec::new();
    let mut times = Vec::new();
    let mut start = None;
    loop {
        let kept = log.reached(level);
        while (times.len() as u64) < kept.0 {
            let at: Instant = begun[times.len()];
            times.push(at.elapsed());
        }
        if log.is_ready() {
            let start: &mut Instant = start.get_or_insert_with(Instant::now);
            if start.elapsed() > LOG_TIME {
                break;
            }
            while log.appended().0 < kept.0 + waiting {
                match log.append(1, &[&payload], level, Room::Normal) {
                    Ok(_) => begun.push(Instant::now()),
                    Err(Refused::Busy) => break,
                    Err(refused) => panic!("{refused}"),
                }
            }
        }
        while let Some((id, operation)) = log.poll_operation() {
            disk.submit(&mut ring, id, operation);
        }
        disk.finish(&mut ring);
        ring.turn(Wait::For(Duration::from_millis(100))).expect("a ring");
        while let Some(event) = ring.next_event() {
            if let Event::File(done) = event {
                disk.handle(&mut ring, done);
            }
        }
        while let Some((id, completion)) = disk.poll() {
            log.handle_completion(id, completion);
        }
    }
    let seconds = start.expect("a start").elapsed().as_secs_f64();
    let statistics = log.statistics();
    let records = times.len() as f64;
    let (p50, p99) = percentiles(&mut times);
    println!(
        "  {level:?} {waiting:6} {:10.0} {:7.1} {:8.1} {:9.3} ms {:9.3} ms",
        records / seconds,
        records * PAYLOAD as f64 / seconds / 1e6,
        records / statistics.syncs.max(1) as f64,
        p50.as_secs_f64() * 1e3,
        p99.as_secs_f64() * 1e3,
    );
    drop(disk);
    drop(ring);
    helper.join();
    recovery(&directory, log.reached(level));
}

fn recovery(directory: &LogDirectory, kept: Sequence) {
    let begun = Instant::now();
    let mut recovery = Recovery::open(directory.clone(), 0, LogId([1; 16])).expect("a log");
    let (mut records, mut bytes) = (0_u64, 0);
    while let Some(item) = recovery.next_item().expect("a disk") {
        if let Item::Record(_, record) = item {
            records += 1;
            bytes += record.payload.len();
        }
    }
    let (_, total) = recovery.progress();
    let time = begun.elapsed().as_secs_f64();
    assert!(records >= kept.0, "{records} of {}", kept.0);
    println!(
        "    recovered {records} records, {:.1} MB of payload, {:.1} MB of files in {time:.3} s: {:.0} records/s, \
         {:.0} MB/s of files",
        bytes as f64 / 1e6,
        total as f64 / 1e6,
        records as f64 / time,
        total as f64 / time / 1e6
    );
}

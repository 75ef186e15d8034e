use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::*;
use crate::busiest::{Busiest, WINDOW_NS};
use crate::counters::Counters;
use crate::histogram::bucket_bounds;
use crate::{Instance, PageError};

/// A directory of this test's own, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("midge-metrics-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn page(&self, shard: u16) -> PathBuf {
        self.0.join(format!("shard-{shard}.stats"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn identity(shard: u16, shards: u16) -> Identity {
    Identity { shard, shards, started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
}

#[test]
fn what_is_published_is_read() {
    let directory = Directory::new("published");
    let mut writer = PageWriter::create(&directory.0, identity(0, 1)).unwrap();
    let mut busiest = Busiest::default();
    let counters =
        Counters { connections_now: 7, publishes_sent: [1, 2, 3], ..Counters::default() };
    let weight = busiest.sample(1).unwrap();
    busiest.record("client", "a/topic", weight);
    writer.record(Series::LatencyRemoteQos1, 1000, 3);
    writer.publish(&counters, &mut busiest, 5);

    let instance = Instance::open(&directory.0).unwrap();
    let header = instance.header();
    assert_eq!((header.shard, header.shards, header.process_id), (0, 1, std::process::id()));
    assert_eq!(header.started, identity(0, 1).started);
    let reading = instance.read().unwrap();
    assert_eq!(reading.shards[0].published_at_ns, 5);
    assert_eq!(reading.shards[0].counters, counters);
    assert_eq!(reading.shards[0].busiest, crate::BusiestReading::default(), "no window is over");

    writer.publish(&counters, &mut busiest, WINDOW_NS);
    let reading = instance.read().unwrap().shards.remove(0);
    let histogram = reading.histogram(Series::LatencyRemoteQos1);
    assert_eq!((histogram.count(), histogram.sum()), (3, 3000));
    assert!(histogram.quantile(0.5).unwrap().abs_diff(1000) <= 16);
    assert_eq!(reading.histogram(Series::Turn).count(), 0);
    assert_eq!((reading.busiest.from_ns, reading.busiest.to_ns), (0, WINDOW_NS));
    assert_eq!(reading.busiest.clients[0].text, "client");
    assert_eq!(
        (reading.busiest.topics[0].text.as_str(), reading.busiest.topics[0].count),
        ("a/topic", 1)
    );
}

#[test]
fn shards_are_merged() {
    let directory = Directory::new("merged");
    for shard in 0..3 {
        let mut writer = PageWriter::create(&directory.0, identity(shard, 3)).unwrap();
        let counters = Counters { packets_received: [shard.into(); 16], ..Counters::default() };
        writer.record(Series::Turn, u64::from(shard) * 1_000_000, 1);
        writer.publish(&counters, &mut Busiest::default(), 10 + u64::from(shard));
    }
    let instance = Instance::open(&directory.0).unwrap();
    let reading = instance.read().unwrap();
    let total = reading.total();
    assert_eq!(total.counters.packets_received, [3; 16]);
    assert_eq!(total.published_at_ns, 10);
    assert_eq!(total.histogram(Series::Turn).count(), 3);
    let nothing = reading.since(&reading).total();
    assert_eq!(nothing.counters.packets_received, [0; 16]);
    assert_eq!(nothing.histogram(Series::Turn).count(), 0);
}

#[test]
fn only_the_owner_may_read() {
    let directory = Directory::new("owner");
    let _writer = PageWriter::create(&directory.0, identity(0, 1)).unwrap();
    let mode = fs::metadata(directory.page(0)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1, "no half-made file stays");
}

#[test]
fn another_layout_is_refused_with_a_sentence() {
    let directory = Directory::new("layout");
    drop(PageWriter::create(&directory.0, identity(0, 1)).unwrap());
    let path = directory.page(0);
    let whole = fs::read(&path).unwrap();
    let refused = |change: &dyn Fn(&fs::File)| {
        fs::write(&path, &whole).unwrap();
        change(&fs::File::options().write(true).open(&path).unwrap());
        PageReader::open(&path).map(|_| ()).unwrap_err().to_string()
    };
    let set = |file: &fs::File, at: usize, value: u64| {
        file.write_all_at(&value.to_le_bytes(), at as u64 * 8).unwrap();
    };

    let sentence = refused(&|file| set(file, layout::AT_VERSION, LAYOUT_VERSION + 1));
    assert!(sentence.contains("layout version 2, this program reads version 1"), "{sentence}");
    let sentence = refused(&|file| set(file, layout::AT_HASH, 1));
    assert!(sentence.contains("another build of the broker"), "{sentence}");
    let sentence = refused(&|file| set(file, layout::AT_MAGIC, 1));
    assert!(sentence.contains("is not a statistics page"), "{sentence}");
    let sentence = refused(&|file| file.set_len(PAGE_SIZE as u64 - 1).unwrap());
    assert!(sentence.contains("is not a statistics page"), "{sentence}");
    let sentence = refused(&|file| file.set_len(0).unwrap());
    assert!(sentence.contains("is not a statistics page"), "{sentence}");
    // A newer page that is shorter than ours is still told by its version.
    let sentence = refused(&|file| {
        set(file, layout::AT_VERSION, 9);
        file.set_len(64).unwrap();
    });
    assert!(sentence.contains("layout version 9"), "{sentence}");
    fs::remove_file(&path).unwrap();
    let sentence = PageReader::open(&path).map(|_| ()).unwrap_err().to_string();
    assert!(sentence.contains("cannot read statistics from"), "{sentence}");
}

#[test]
fn a_shard_that_died_while_writing_is_told() {
    let directory = Directory::new("torn");
    drop(PageWriter::create(&directory.0, identity(0, 1)).unwrap());
    let file = fs::File::options().write(true).open(directory.page(0)).unwrap();
    file.write_all_at(&1u64.to_le_bytes(), layout::AT_GENERATION as u64 * 8).unwrap();
    let reader = PageReader::open(&directory.page(0)).unwrap();
    assert!(matches!(reader.read(), Err(PageError::Torn { .. })));
}

/// Every word of a reading comes from the same publication, however often it is overtaken.
#[test]
fn a_reading_is_of_one_moment() {
    let directory = Directory::new("moment");
    let mut writer = PageWriter::create(&directory.0, identity(0, 1)).unwrap();
    let mut busiest = Busiest::default();
    writer.publish(&Counters::default(), &mut busiest, 0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = PageReader::open(&directory.page(0)).unwrap();
        let stop = &stop;
        scope.spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let counters = Counters::from_words(&[number; Counters::WORDS]);
                writer.publish(&counters, &mut busiest, number);
                // A shard has other things to do.
                (0..200).for_each(|_| std::hint::spin_loop());
            }
        });
        let (mut last, mut seen) = (0, 0);
        while seen < 20 {
            // A reader may be overtaken a thousand times by a writer that does nothing else.
            let Ok(reading) = reader.read() else { continue };
            let words = reading.counters.words();
            assert!(words.iter().all(|word| *word == words[0]));
            assert_eq!(words[0], reading.published_at_ns);
            assert!(words[0] >= last);
            seen += usize::from(words[0] > last);
            last = words[0];
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn values_beyond_the_range_are_counted_at_its_end() {
    let directory = Directory::new("range");
    let mut writer = PageWriter::create(&directory.0, identity(0, 1)).unwrap();
    writer.record(Series::Turn, u64::MAX, 1);
    writer.publish(&Counters::default(), &mut Busiest::default(), 1);
    let reading = PageReader::open(&directory.page(0)).unwrap().read().unwrap();
    let max = reading.histogram(Series::Turn).max().unwrap();
    assert_eq!(max, bucket_bounds(crate::BUCKETS - 1).1 - 1);
}

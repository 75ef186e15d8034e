//! The small files of a data directory, changed and cut at every byte: the broker finds its logs all the same.

use std::fs;

use midge_shard::record::{Record, SessionRecord};
use midge_store::{Position, SegmentId};

use super::*;

/// A data directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    /// Two logs, with a session in each.
    fn filled(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("midge-{test}-{}", std::process::id()));
        _ = fs::remove_dir_all(&path);
        let directory = Self(path);
        let store = directory.open(2, false).expect("a new directory");
        for number in 0..2 {
            let mut image = Image::new(wall_time(Time::ZERO));
            let mut payload = Vec::new();
            let session = Record::Session(SessionRecord {
                session: 1,
                client_id: &format!("client-{number}"),
                user: None,
                expiry_interval_seconds: 60,
                away_since_ms: None,
                will: None,
            });
            let kind = session.encode(&mut payload);
            let position = Position { segment: SegmentId(1), offset: 0 };
            image.apply(position, kind, &payload).expect("a record");
            store.write_new(number, &image, &mut []).expect("room");
        }
        directory
    }

    fn open(&self, shards: u16, strict: bool) -> Result<Store, DurabilityError> {
        let settings = Durability {
            directory: self.0.clone(),
            level: Level::Fsync,
            log: midge_store::Settings {
                block_size: 512,
                segment_size_min: 8 << 10,
                segment_size_max: 8 << 10,
                ..midge_store::Settings::default()
            },
            seed: 1,
            strict,
            progress: Progress::default(),
        };
        Store::open(&settings, shards)
    }

    /// How many sessions the logs hold.
    fn sessions(&self, store: &Store, logs: u16) -> u64 {
        let wall = wall_time(Time::ZERO);
        let recover = |number| store.recover(store.first + number, wall).expect("a log");
        (0..logs).map(|number| recover(number).image.counts().sessions).sum()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn its_own_files_may_be_damaged() {
    let directory = Directory::filled("own-files");
    for name in ["format", "layout"] {
        let file = directory.0.join(name);
        let sound = fs::read(&file).expect("it is there");
        let flips = (0..sound.len()).map(|at| {
            let mut changed = sound.clone();
            changed[at] ^= 1 << (at % 7);
            changed
        });
        let cuts = (0..sound.len()).map(|size| sound[..size].to_vec());
        for changed in flips.chain(cuts) {
            fs::write(&file, &changed).expect("our own");
            let context = format!("{name}: {}", changed.escape_ascii());
            let refused = directory.open(2, true).err();
            assert!(matches!(refused, Some(DurabilityError::Damaged { .. })), "{context}");
            assert_eq!(fs::read(&file).expect("it is there"), changed, "{context}: untouched");

            let store = directory.open(2, false).expect(&context);
            assert_eq!(store.earlier.places, 1, "{context}");
            assert_eq!(directory.sessions(&store, 2), 2, "{context}");
            assert_eq!(fs::read(&file).expect("it is there"), sound, "{context}: repaired");
        }
        // Taken away it is written anew; that costs nothing, and is told where it matters.
        fs::remove_file(&file).expect("our own");
        let store = directory.open(2, false).expect(name);
        assert_eq!(directory.sessions(&store, 2), 2, "{name}");
        assert_eq!(fs::read(&file).expect("it is there"), sound, "{name}");
    }
}

#[test]
fn a_log_that_is_gone_is_missed() {
    let directory = Directory::filled("log-gone");
    fs::remove_dir_all(directory.0.join("shard-00001")).expect("our own");
    assert!(matches!(directory.open(2, true), Err(DurabilityError::Damaged { .. })));
    let store = directory.open(2, false).expect("the other one");
    let reports = store.take_reports();
    assert_eq!(reports.len(), 1);
    assert!(reports[0].to_string().ends_with("shard-00001: missing, with all that was in it"));
    assert_eq!(directory.sessions(&store, 2), 1);
}

#[test]
fn another_number_of_shards_moves_everything() {
    let directory = Directory::filled("moves");
    for shards in [3, 1, 2] {
        let store = directory.open(shards, false).expect("the directory");
        assert_eq!(directory.sessions(&store, shards), 2, "{shards} shards");
    }
}

#[test]
fn it_is_known_how_far_the_logs_are_read() {
    let directory = Directory::filled("progress");
    let store = directory.open(2, false).expect("the directory");
    let progress = &store.settings.progress;
    assert_eq!(progress.total_bytes(), 0);
    let wall = wall_time(Time::ZERO);
    let mut before = 0;
    for number in 0..2 {
        store.recover(store.first + number, wall).expect("a log");
        assert!(progress.total_bytes() > before);
        before = progress.total_bytes();
        assert_eq!(progress.read_bytes(), before);
    }
}

#[test]
fn many_logs_share_a_small_disk() {
    const MIB: u64 = 1 << 20;
    for (room, shards, expected) in [
        (None, 8, 1 << 20),
        (Some(1 << 40), 1024, 1 << 20),
        (Some(24 * MIB), 1, 1 << 20),
        (Some(24 * MIB), 2, 768 << 10),
        (Some(16 * MIB), 8, 128 << 10),
        (Some(8 * MIB), 64, SMALL_SEGMENT_SIZE),
        (Some(0), 1, SMALL_SEGMENT_SIZE),
    ] {
        assert_eq!(smallest(1 << 20, room, shards), expected, "{room:?} {shards}");
    }
    assert_eq!(smallest(8 << 10, Some(0), 1), 8 << 10, "what was small stays so");
}

//! Logs on a real disk: the data directory, and the operations on the net ring.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use midge_netring::{Event, NetRing, RingConfig, Wait};
use midge_reactor::disk::{DataDirectory, Disk, DiskHelper, LogDirectory, OpenError};
use midge_store::{
    Item, Level, Log, LogId, Position, Recovered, Recovery, Refused, Room, Segments, Sequence,
    Settings,
};

/// A directory that goes with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("midge-disk-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A log with its disk and ring, as a shard's loop has them.
struct Rig {
    ring: NetRing,
    disk: Disk,
    log: Log,
}

impl Rig {
    fn new(directory: &LogDirectory, helper: &DiskHelper, log: Log) -> Self {
        let ring = NetRing::new(&RingConfig { slots: 1, ..RingConfig::default() }).unwrap();
        let disk = Disk::new(directory.clone(), helper, ring.waker());
        Self { ring, disk, log }
    }

    /// One turn of the loop.
    fn turn(&mut self) {
        while let Some((id, operation)) = self.log.poll_operation() {
            self.disk.submit(&mut self.ring, id, operation);
        }
        self.disk.finish(&mut self.ring);
        self.ring.turn(Wait::For(Duration::from_millis(20))).unwrap();
        while let Some(event) = self.ring.next_event() {
            if let Event::File(done) = event {
                self.disk.handle(&mut self.ring, done);
            }
        }
        while let Some((id, completion)) = self.disk.poll() {
            self.log.handle_completion(id, completion);
        }
    }

    fn until(&mut self, done: impl Fn(&Log) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done(&self.log) {
            assert!(Instant::now() < deadline, "{:?}", self.log);
            self.turn();
        }
    }

    fn append(&mut self, payload: &[u8]) -> Position {
        loop {
            match self.log.append(1, &[payload], Level::Fsync, Room::Normal) {
                Ok(appended) => return appended.position,
                Err(Refused::Busy) => self.turn(),
                Err(refused) => panic!("{refused}"),
            }
        }
    }
}

fn recover(directory: &LogDirectory) -> (Vec<(Position, Vec<u8>)>, Recovered) {
    let mut recovery = Recovery::open(directory.clone(), 0, LogId([1; 16])).unwrap();
    let mut found = Vec::new();
    while let Some(item) = recovery.next_item().unwrap() {
        match item {
            Item::Record(position, record) => found.push((position, record.payload.to_vec())),
            Item::Damage(damage) => panic!("{damage}"),
        }
    }
    (found, recovery.finish().unwrap().0)
}

#[test]
fn a_log_lives_through_restarts() {
    let scratch = Scratch::new("restarts");
    let settings =
        Settings { segment_size_min: 64 << 10, segment_size_max: 256 << 10, ..Settings::default() };
    let mut expected: Vec<(Position, Vec<u8>)> = Vec::new();
    for life in 0..4_u8 {
        let data = DataDirectory::open(&scratch.0).unwrap();
        let directory = data.log(0).unwrap();
        assert_eq!(data.logs().unwrap(), [0]);
        let (found, recovered) = recover(&directory);
        assert_eq!(found, expected, "life {life}");
        assert_eq!(recovered.closed, life > 0);
        directory.settle(&recovered).unwrap();
        let helper = DiskHelper::start(2).unwrap();
        let mut rig = Rig::new(&directory, &helper, Log::resume(settings.clone(), &recovered));
        rig.until(Log::is_ready);
        for number in 0..600_usize {
            let payload = vec![life; number];
            expected.push((rig.append(&payload), payload));
            if number % 50 == 0 {
                rig.turn();
            }
        }
        rig.until(|log| log.synced() == log.appended());
        // What is on the disk can be read by position.
        let (position, payload) = &expected[expected.len() / 2];
        rig.log.read(*position, 64).unwrap();
        let chunk = loop {
            rig.turn();
            if let Some(midge_store::Event::Read { result, .. }) = rig.log.poll_event() {
                break result.unwrap();
            }
        };
        assert_eq!(chunk.record(*position).unwrap().payload, payload);
        rig.log.close();
        rig.until(Log::is_closed);
        drop(rig);
        helper.join();
    }
}

#[test]
fn what_a_broker_writes_past_the_cache_a_reader_sees() {
    let scratch = Scratch::new("readers");
    let data = DataDirectory::open(&scratch.0).unwrap();
    let directory = data.log(7).unwrap();
    let helper = DiskHelper::start(1).unwrap();
    let mut rig =
        Rig::new(&directory, &helper, Log::create(Settings::default(), LogId([1; 16]), 0));
    rig.until(Log::is_ready);
    let position = rig.append(b"seen");
    rig.until(|log| log.synced() == Sequence(1));
    let (found, recovered) = recover(&LogDirectory::view(directory.path().to_path_buf()));
    assert_eq!(found, [(position, b"seen".to_vec())]);
    assert!(!recovered.ready.is_empty(), "what was prepared is adopted");
}

#[test]
fn a_directory_that_cannot_be_used_is_left_alone() {
    let scratch = Scratch::new("refusals");
    let listing = |path: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let held = DataDirectory::open(&scratch.0).unwrap();
    let error = DataDirectory::open(&scratch.0).unwrap_err();
    assert!(
        matches!(error, OpenError::InUse { process: Some(id), .. } if id == std::process::id())
    );
    assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())));
    drop(held);
    DataDirectory::open(&scratch.0).unwrap();

    fs::write(scratch.0.join("format"), "midge data directory, format 99\n").unwrap();
    let error = DataDirectory::open(&scratch.0).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { version: 99, .. }), "{error}");

    fs::write(scratch.0.join("format"), [0xFF, 0xFE]).unwrap();
    assert!(matches!(DataDirectory::open(&scratch.0), Err(OpenError::Foreign { .. })));

    let foreign = Scratch::new("foreign");
    fs::create_dir_all(&foreign.0).unwrap();
    fs::write(foreign.0.join("photo.jpg"), "x").unwrap();
    let error = DataDirectory::open(&foreign.0).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(listing(&foreign.0), ["photo.jpg"]);

    // A file where a directory should be.
    let error = DataDirectory::open(&foreign.0.join("photo.jpg")).unwrap_err();
    assert!(error.to_string().starts_with("cannot "), "{error}");
    assert_eq!(fs::read(foreign.0.join("photo.jpg")).unwrap(), b"x");
}

#[test]
fn what_a_cut_off_creation_left_goes_and_damage_is_copied_aside() {
    let scratch = Scratch::new("leftovers");
    let data = DataDirectory::open(&scratch.0).unwrap();
    let mut directory = data.log(1).unwrap();
    fs::write(directory.path().join("0000000009.new"), "half").unwrap();
    fs::write(directory.path().join("0000000003.log"), "rotten").unwrap();
    directory = LogDirectory::open(directory.path().to_path_buf()).unwrap();
    let segment = midge_store::SegmentId(3);
    assert_eq!(directory.list().unwrap(), [segment]);
    assert!(!directory.path().join("0000000009.new").exists());
    let first = data.set_aside(1, segment).unwrap();
    assert_eq!(data.set_aside(1, segment).unwrap(), first, "the same is not copied again");
    fs::write(directory.segment_path(segment), "worse.").unwrap();
    let second = data.set_aside(1, segment).unwrap();
    assert_ne!(first, second);
    assert_eq!(fs::read(first).unwrap(), b"rotten");
    assert_eq!(fs::read(second).unwrap(), b"worse.");
    let viewed = DataDirectory::view(&scratch.0).unwrap();
    assert_eq!(viewed.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
    assert!(DataDirectory::view(&scratch.0.join("shard-00001")).is_err());
    data.remove_log(1).unwrap();
    assert_eq!(data.logs().unwrap(), [0_u16; 0]);
}

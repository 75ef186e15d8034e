//! The durable log: records of a shard, and segments that are not as they were written.

use std::collections::BTreeMap;
use std::io;

use midge_session::Time;
use midge_shard::record::Record;
use midge_shard::{Image, WallTime};
use midge_store::memory::MemoryDisk;
use midge_store::{
    Item, Level, Log, LogId, Position, Recovery, Refused, Room, SegmentId, Segments, Sequence,
    Settings, suspects,
};

use crate::choices::Choices;

const ID: LogId = LogId([9; 16]);

/// Bits that are turned over: with fewer than four CRC32C notices all of them.
const FLIPS_MAX: usize = 3;

/// One record: a kind, then its payload. What is accepted is written as something that says the same, and an image takes it.
pub fn record(bytes: &[u8]) {
    let [kind, payload @ ..] = bytes else { return };
    let mut image = Image::new(WallTime::new(0, Time::ZERO));
    let position = Position { segment: SegmentId(1), offset: 64 };
    let Ok(record) = Record::decode(*kind, payload) else {
        assert!(image.apply(position, *kind, payload).is_err());
        assert_eq!(image.affected(*kind, payload), None);
        return;
    };
    let mut written = Vec::new();
    let written_kind = record.encode(&mut written);
    assert_eq!(written_kind, *kind);
    assert!(written.len() <= payload.len(), "longer than it came");
    assert_eq!(Record::decode(written_kind, &written), Ok(record));
    assert!(image.apply(position, *kind, payload).is_ok());
    assert!(image.affected(*kind, payload).is_some());
}

/// A log of some records, then what happens to its files: bits turned over, files cut, lost or made of any bytes. Recovery ends,
/// yields only what was appended, in order, and says so when something is missing.
pub fn segments(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let Some((mut files, records)) = log(&mut choices) else { return };
    let _ = spoil(&mut files, &mut choices);
    for file in files.0.values() {
        let _ = suspects(file, 8);
    }
    let mut recovery = match Recovery::open(&mut files, 0, ID) {
        Ok(recovery) => recovery,
        // Any bytes may say that a newer version has written them, if their sum is right.
        Err(error) => return assert!(error.to_string().contains("newer"), "{error}"),
    };
    let mut last = Sequence(0);
    let mut found = 0;
    while let Some(item) = recovery.next_item().expect("files in memory") {
        if let Item::Record(_, record) = item {
            assert!(record.sequence > last, "out of order");
            last = record.sequence;
            let payload = records.get(&record.sequence).expect("it was appended");
            assert_eq!((record.kind, record.payload), (1, &payload[..]));
            found += 1;
        }
    }
    let (recovered, _) = recovery.finish().expect("files in memory");
    assert_eq!(recovered.records, found);
    assert!(recovered.appended >= last);
    // Without a word about damage it is all that was there, or the end is missing: nobody can tell that from an earlier end.
    assert!(recovered.damage_count > 0 || last.0 == found, "{found} records up to {last}");
    // It goes on from there, whatever it was.
    let mut log = Log::resume(settings(), &recovered);
    let mut disk = MemoryDisk::new(3);
    disk.drive(&mut log);
    assert!(log.is_ready());
}

/// Files in memory.
struct Files(BTreeMap<SegmentId, Vec<u8>>);

impl Segments for Files {
    fn list(&mut self) -> io::Result<Vec<SegmentId>> {
        Ok(self.0.keys().copied().collect())
    }

    fn size(&mut self, segment: SegmentId) -> io::Result<u64> {
        Ok(self.0[&segment].len() as u64)
    }

    fn read(&mut self, segment: SegmentId, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = &self.0[&segment];
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        let size = (file.len() - from).min(buffer.len());
        buffer[..size].copy_from_slice(&file[from..from + size]);
        Ok(size)
    }
}

fn settings() -> Settings {
    Settings {
        block_size: 512,
        segment_size_min: 8 << 10,
        segment_size_max: 8 << 10,
        ..Settings::default()
    }
}

/// The files of a log of some records, and those.
fn log(choices: &mut Choices<'_>) -> Option<(Files, BTreeMap<Sequence, Vec<u8>>)> {
    let mut disk = MemoryDisk::new(1);
    let mut log = Log::create(settings(), ID, 0);
    disk.drive(&mut log);
    let mut records = BTreeMap::new();
    for number in 0..choices.below(48)? {
        let size = usize::from(choices.byte()?) * 4;
        let payload = vec![number as u8; size];
        if log.check(size, Room::Normal) == Err(Refused::Busy) {
            log.flush();
            disk.drive(&mut log);
        }
        let level = if size % 3 == 0 { Level::Fsync } else { Level::Memory };
        if let Ok(appended) = log.append(1, &[&payload], level, Room::Normal) {
            records.insert(appended.sequence, payload);
        }
        if size % 5 == 0 {
            disk.drive(&mut log);
        }
    }
    log.flush();
    disk.drive(&mut log);
    let mut files = BTreeMap::new();
    for segment in disk.list().expect("a disk in memory") {
        files.insert(segment, disk.file_mut(segment)?.clone());
    }
    Some((Files(files), records))
}

fn spoil(files: &mut Files, choices: &mut Choices<'_>) -> Option<()> {
    let mut flips = 0;
    loop {
        let segments: Vec<SegmentId> = files.0.keys().copied().collect();
        if segments.is_empty() {
            return None;
        }
        let what = choices.below(8)?;
        let segment = choices.of(&segments)?;
        let at = usize::from(choices.byte()?) << 8 | usize::from(choices.byte()?);
        let file = files.0.get_mut(&segment)?;
        match what {
            0..=3 if flips < FLIPS_MAX && !file.is_empty() => {
                let size = file.len();
                file[at % size] ^= 1 << (what * 2);
                flips += 1;
            }
            4 => file.truncate(at),
            5 => _ = files.0.remove(&segment),
            6 => {
                let bytes = choices.bytes()?.to_vec();
                let number = SegmentId(segment.0 + at as u32 % 8);
                files.0.insert(number, bytes);
            }
            _ => {}
        }
    }
}

//! Every byte of every file of a small log, changed; every file cut at every length, and taken away.
//!
//! At most the record that holds the byte is missing, what is missing is reported, and nothing is yielded that was not
//! appended.

use std::collections::BTreeMap;

use midge_store::{
    Cause, Damage, Item, Level, Log, LogId, Position, Recovered, Recovery, Refused, Room,
    SegmentId, Segments, Sequence, Settings, memory::MemoryDisk, record_size,
};

const ID: LogId = LogId([5; 16]);

#[derive(Clone, Debug, PartialEq)]
struct Kept {
    position: Position,
    payload: Vec<u8>,
}

impl Kept {
    fn range(&self) -> std::ops::Range<usize> {
        let start = self.position.offset as usize;
        start..start + record_size(self.payload.len())
    }
}

struct Sample {
    disk: MemoryDisk,
    records: BTreeMap<Sequence, Kept>,
    files: Vec<(SegmentId, usize)>,
}

/// Two lives over a few small segments, the first of which ended in a crash; the second was killed.
fn sample() -> Sample {
    let settings = Settings {
        block_size: 512,
        segment_size_min: 8 << 10,
        segment_size_max: 16 << 10,
        ..Settings::default()
    };
    let mut disk = MemoryDisk::new(4);
    let mut records = BTreeMap::new();
    let mut log = Log::create(settings.clone(), ID, 0);
    disk.drive(&mut log);
    for number in 0..44_usize {
        if number == 30 {
            let (recovered, _) = recover(&mut disk);
            log = Log::resume(settings.clone(), &recovered);
            disk.drive(&mut log);
        }
        let payload: Vec<u8> = (0..number * 61 % 700).map(|byte| (byte * number) as u8).collect();
        while log.check(payload.len(), Room::Normal) == Err(Refused::Busy) {
            disk.drive(&mut log);
        }
        let appended = log.append(1, &[&payload], Level::Fsync, Room::Normal).unwrap();
        records.insert(appended.sequence, Kept { position: appended.position, payload });
        if number % 4 == 0 || number == 29 {
            disk.drive(&mut log);
        }
    }
    disk.drive(&mut log);
    assert_eq!(log.synced(), log.appended());
    let list = disk.list().unwrap();
    let files = list.into_iter().map(|segment| (segment, disk.size(segment).unwrap() as usize));
    let files: Vec<_> = files.collect();
    assert!(log.statistics().segments >= 3);
    assert!(files.len() > log.statistics().segments as usize, "some are only prepared");
    Sample { disk, records, files }
}

fn recover(disk: &mut MemoryDisk) -> (Recovered, BTreeMap<Sequence, Kept>) {
    let mut recovery = Recovery::open(disk, 0, ID).unwrap();
    let mut found = BTreeMap::new();
    while let Some(item) = recovery.next_item().unwrap() {
        if let Item::Record(position, record) = item {
            let kept = Kept { position, payload: record.payload.to_vec() };
            assert_eq!(found.insert(record.sequence, kept), None);
        }
    }
    (recovery.finish().unwrap().0, found)
}

/// What is there but the records that touch the range of the file; everything yielded is as it was appended.
fn check(sample: &Sample, found: &BTreeMap<Sequence, Kept>, lost: &[Sequence], context: &str) {
    for (sequence, kept) in &sample.records {
        match found.get(sequence) {
            Some(found) => assert_eq!(found, kept, "{context}: {sequence}"),
            None => assert!(lost.contains(sequence), "{context}: {sequence} is missing"),
        }
    }
    assert!(found.keys().all(|sequence| sample.records.contains_key(sequence)), "{context}");
}

fn names(damage: &[Damage], sequence: Sequence) -> bool {
    damage
        .iter()
        .filter_map(|damage| damage.missing)
        .any(|(first, last)| first <= sequence && sequence <= last)
}

#[test]
fn an_undamaged_log_is_whole() {
    let mut sample = sample();
    let (recovered, found) = recover(&mut sample.disk);
    assert_eq!(found, sample.records);
    assert_eq!(recovered.damage, []);
}

#[test]
fn one_changed_byte_costs_at_most_its_record_and_is_reported() {
    let sample = sample();
    let mut disk = sample.disk.copy(1);
    for (segment, size) in &sample.files {
        for at in 0..*size {
            let context = format!("segment {segment}, byte {at}");
            disk.file_mut(*segment).unwrap()[at] ^= 1 << (at % 8);
            let (recovered, found) = recover(&mut disk);
            let holder = sample
                .records
                .iter()
                .find(|(_, kept)| kept.position.segment == *segment && kept.range().contains(&at));
            let lost: Vec<Sequence> = holder.map(|(sequence, _)| *sequence).into_iter().collect();
            check(&sample, &found, &lost, &context);
            let missing = sample.records.len() - found.len();
            assert!(missing <= 1, "{context}");
            // What stands behind the end of a segment that a crash ended is of no account.
            let beyond = sample
                .records
                .values()
                .filter(|kept| kept.position.segment == *segment)
                .all(|kept| kept.range().end <= at);
            let last_used = sample.records.values().map(|kept| kept.position.segment).max();
            if !beyond || Some(*segment) == last_used {
                assert!(recovered.damage_count > 0, "{context} is not reported");
            }
            if let Some(sequence) = lost.first().filter(|sequence| !found.contains_key(sequence)) {
                // The last record of all: nothing tells that there was one more.
                let last = sample.records.keys().next_back() == Some(sequence);
                assert!(last || names(&recovered.damage, *sequence), "{context}: {recovered:?}");
                assert!(recovered.damage.iter().any(|damage| damage.segment == *segment));
            }
            disk.file_mut(*segment).unwrap()[at] ^= 1 << (at % 8);
        }
    }
}

#[test]
fn a_file_cut_short_costs_what_was_cut_and_is_reported() {
    let sample = sample();
    for (segment, size) in &sample.files {
        let used = sample.records.values().any(|kept| kept.position.segment == *segment);
        let step = if used { 1 } else { 97 };
        for length in (0..*size).step_by(step) {
            let context = format!("segment {segment}, cut to {length}");
            let mut disk = sample.disk.copy(1);
            disk.file_mut(*segment).unwrap().truncate(length);
            let (recovered, found) = recover(&mut disk);
            let lost: Vec<Sequence> = sample
                .records
                .iter()
                .filter(|(_, kept)| kept.position.segment == *segment && kept.range().end > length)
                .map(|(sequence, _)| *sequence)
                .collect();
            check(&sample, &found, &lost, &context);
            if used {
                assert!(recovered.damage_count > 0, "{context} is not reported");
                let named = |damage: &Damage| damage.segment == *segment;
                assert!(recovered.damage.iter().any(named), "{context}: {:?}", recovered.damage);
            }
        }
    }
}

#[test]
fn a_missing_segment_is_named() {
    let sample = sample();
    for (segment, _) in &sample.files {
        let used = sample.records.values().any(|kept| kept.position.segment == *segment);
        if !used {
            continue;
        }
        let mut disk = sample.disk.copy(1);
        disk.lose(*segment);
        let (recovered, found) = recover(&mut disk);
        let lost: Vec<Sequence> = sample
            .records
            .iter()
            .filter(|(_, kept)| kept.position.segment == *segment)
            .map(|(sequence, _)| *sequence)
            .collect();
        assert!(lost.iter().all(|sequence| !found.contains_key(sequence)));
        check(&sample, &found, &lost, &format!("segment {segment} is gone"));
        let named =
            |damage: &Damage| damage.cause == Cause::MissingSegment && damage.segment == *segment;
        assert!(recovered.damage.iter().any(named), "{segment}: {:?}", recovered.damage);
    }
}

#[test]
fn a_foreign_segment_is_not_used() {
    let sample = sample();
    let mut other = MemoryDisk::new(4);
    let mut log = Log::create(Settings::default(), LogId([6; 16]), 0);
    other.drive(&mut log);
    log.append(1, &[b"foreign"], Level::Fsync, Room::Normal).unwrap();
    other.drive(&mut log);
    let mut disk = sample.disk.copy(1);
    let last = sample.files.last().unwrap().0;
    *disk.file_mut(last).unwrap() = other.file_mut(SegmentId(1)).unwrap().clone();
    let (recovered, found) = recover(&mut disk);
    assert_eq!(found, sample.records);
    assert!(recovered.damage.iter().any(|damage| damage.cause == Cause::Foreign));
}

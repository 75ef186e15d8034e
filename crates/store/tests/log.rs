//! A log on a disk that works, and on one that is full.

use midge_store::{
    Appended, Condition, Event, Item, Level, Log, LogId, Operation, Position, Recovered, Recovery,
    Refused, Room, SegmentId, Sequence, Settings,
    memory::{Faults, MemoryDisk},
};

const ID: LogId = LogId([9; 16]);

fn small() -> Settings {
    Settings {
        block_size: 512,
        segment_size_min: 32 << 10,
        segment_size_max: 64 << 10,
        ..Settings::default()
    }
}

fn ready(disk: &mut MemoryDisk) -> Log {
    let mut log = Log::create(small(), ID, 3);
    disk.drive(&mut log);
    assert!(log.is_ready());
    log
}

/// With one record in its first segment.
fn started(disk: &mut MemoryDisk) -> Log {
    let mut log = ready(disk);
    log.append(0, &[b"start"], Level::Fsync, Room::Normal).unwrap();
    disk.drive(&mut log);
    assert_eq!(log.synced(), Sequence(1));
    log
}

/// Appends as soon as there is room.
fn append(disk: &mut MemoryDisk, log: &mut Log, bytes: &[u8]) -> Appended {
    while log.check(bytes.len(), Room::Normal) == Err(Refused::Busy) {
        disk.drive(log);
    }
    log.append(1, &[bytes], Level::Memory, Room::Normal).unwrap()
}

type Found = Vec<(Position, Sequence, u8, Vec<u8>)>;

fn recover(disk: &mut MemoryDisk) -> (Found, Recovered) {
    let mut recovery = Recovery::open(disk, 3, ID).unwrap();
    let mut found = Vec::new();
    while let Some(item) = recovery.next_item().unwrap() {
        if let Item::Record(position, record) = item {
            found.push((position, record.sequence, record.kind, record.payload.to_vec()));
        }
    }
    (found, recovery.finish().unwrap().0)
}

fn payload(number: u64) -> Vec<u8> {
    let size = (number * 37 % 700) as usize;
    number.to_le_bytes().iter().copied().cycle().take(size).collect()
}

#[test]
fn what_is_appended_is_recovered_in_order() {
    let mut disk = MemoryDisk::new(1);
    let mut log = ready(&mut disk);
    let mut expected = Vec::new();
    for number in 0..1000 {
        let bytes = payload(number);
        let (head, tail) = bytes.split_at(bytes.len() / 3);
        let kind = (number % 5) as u8;
        let appended = log.append(kind, &[head, tail], Level::Fsync, Room::Normal).unwrap();
        expected.push((appended.position, appended.sequence, kind, bytes));
        if number % 7 == 0 {
            disk.drive(&mut log);
            assert_eq!(log.synced(), log.appended());
        }
    }
    disk.drive(&mut log);
    assert_eq!(log.synced(), Sequence(1000));
    assert!(log.statistics().segments > 3);
    let (found, recovered) = recover(&mut disk);
    assert_eq!(found, expected);
    assert_eq!((recovered.records, recovered.damage_count), (1000, 0));
    assert_eq!(recovered.last, Sequence(1000));
    assert!(!recovered.closed);

    // The next life goes on behind it.
    let mut log = Log::resume(small(), &recovered);
    disk.drive(&mut log);
    let appended = log.append(7, &[b"next"], Level::Fsync, Room::Normal).unwrap();
    assert!(appended.sequence > Sequence(1000));
    disk.drive(&mut log);
    log.close();
    disk.drive(&mut log);
    assert!(log.is_closed());
    expected.push((appended.position, appended.sequence, 7, b"next".to_vec()));
    let (found, recovered) = recover(&mut disk);
    assert_eq!(found, expected);
    assert_eq!(recovered.damage, []);
    assert!(recovered.closed);
}

#[test]
fn commits_gather_what_comes_meanwhile() {
    let mut disk = MemoryDisk::new(1);
    let mut log = started(&mut disk);
    log.append(1, &[b"first"], Level::Fsync, Room::Normal).unwrap();
    let Some((write, Operation::Write { buffer, .. })) = log.poll_operation() else { panic!() };
    let Some((sync, Operation::Sync { .. })) = log.poll_operation() else { panic!() };
    for _ in 0..100 {
        log.append(1, &[b"more"], Level::Fsync, Room::Normal).unwrap();
        assert!(log.poll_operation().is_none(), "one commit at a time");
    }
    log.handle_completion(write, midge_store::Completion::Written(buffer));
    assert_eq!((log.written(), log.synced()), (Sequence(2), Sequence(1)));
    assert!(log.poll_operation().is_none());
    log.handle_completion(sync, midge_store::Completion::Synced);
    assert_eq!(log.synced(), Sequence(2));
    let Some((_, Operation::Write { buffer, .. })) = log.poll_operation() else { panic!() };
    assert!(buffer.len() >= 100 * 32);
    assert!(matches!(log.poll_operation(), Some((_, Operation::Sync { .. }))));
    assert_eq!(log.statistics().syncs, 3);
}

#[test]
fn levels_decide_what_the_disk_is_asked_for() {
    let mut disk = MemoryDisk::new(1);
    let mut log = started(&mut disk);
    log.append(1, &[b"a"], Level::Memory, Room::Normal).unwrap();
    assert!(log.poll_operation().is_none(), "nobody waits");
    log.append(1, &[b"b"], Level::Written, Room::Normal).unwrap();
    disk.drive(&mut log);
    assert_eq!(log.reached(Level::Written), Sequence(3));
    assert_eq!(log.reached(Level::Fsync), Sequence(1));
    log.flush();
    disk.drive(&mut log);
    assert_eq!(log.reached(Level::Fsync), Sequence(3));
    assert_eq!((log.statistics().writes, log.statistics().syncs), (2, 2));
}

#[test]
fn records_are_read_back_whole() {
    let mut disk = MemoryDisk::new(1);
    let mut log = ready(&mut disk);
    let mut places = Vec::new();
    for number in 0..200 {
        let bytes = payload(number);
        places.push((append(&mut disk, &mut log, &bytes), bytes));
    }
    // Without a word from us: reading writes first.
    for (appended, bytes) in &places {
        let mut size = 64;
        let chunk = loop {
            let read = log.read(appended.position, size).unwrap();
            disk.drive(&mut log);
            match log.poll_event() {
                Some(Event::Read { read: answered, result }) => {
                    assert_eq!(answered, read);
                    let chunk = result.unwrap();
                    match chunk.record(appended.position) {
                        Err(midge_store::ChunkError::Outside { size: needed }) => size = needed,
                        Err(error) => panic!("{error:?}"),
                        Ok(_) => break chunk,
                    }
                }
                other => panic!("{other:?}"),
            }
        };
        let record = chunk.record(appended.position).unwrap();
        assert_eq!((record.sequence, record.payload), (appended.sequence, &bytes[..]));
    }
    // And a whole segment, as cleaning does.
    let mut next = midge_store::Rest::From { position: log.first_position(SegmentId(1)), size: 9 };
    let mut found = Vec::new();
    while let midge_store::Rest::From { position, size } = next {
        log.read(position, size.max(2000)).unwrap();
        disk.drive(&mut log);
        let Some(Event::Read { result: Ok(chunk), .. }) = log.poll_event() else { panic!() };
        let mut records = chunk.records();
        for (position, record) in records.by_ref() {
            found.push((position, record.sequence));
        }
        assert!(!records.damaged());
        next = records.rest();
    }
    let expected: Vec<_> = places
        .iter()
        .map(|(appended, _)| (appended.position, appended.sequence))
        .filter(|(position, _)| position.segment == SegmentId(1))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_full_disk_is_known_before_the_write_and_can_be_emptied() {
    let mut disk = MemoryDisk::new(1);
    disk.set_capacity(300 << 10);
    let mut log = ready(&mut disk);
    let mut kept = Vec::new();
    let refused = loop {
        match log.append(1, &[&[1; 1000]], Level::Fsync, Room::Normal) {
            Ok(appended) => kept.push(appended.position),
            Err(Refused::Busy) => disk.drive(&mut log),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, Refused::Full);
    disk.drive(&mut log);
    assert_eq!(log.synced(), log.appended(), "what was taken is kept");
    assert_eq!(log.condition(), Condition::Full);
    assert!(kept.len() > 150, "{}", kept.len());
    // Deletions still go through, and make room.
    for position in &kept {
        log.append(2, &[b"gone"], Level::Fsync, Room::Reserve).unwrap();
        log.release(*position, 1000);
    }
    while let Some(segment) = log.cleaning() {
        log.retire(segment);
        disk.drive(&mut log);
        assert!(log.oldest() > segment);
    }
    assert_eq!(log.condition(), Condition::Healthy);
    log.append(1, &[&[1; 1000]], Level::Fsync, Room::Normal).unwrap();
    disk.drive(&mut log);
    let (found, recovered) = recover(&mut disk);
    assert_eq!(recovered.damage, []);
    let kept = found.iter().filter(|(.., kind, _)| *kind == 1).count();
    assert!(kept < 100, "{kept} are left");
}

#[test]
fn a_large_record_gets_a_segment_that_holds_it() {
    let mut disk = MemoryDisk::new(1);
    let mut log = ready(&mut disk);
    let largest = (64 << 10) - 2 * 512 - 40 - 24;
    assert_eq!(
        log.append(1, &[&vec![0; largest + 1]], Level::Fsync, Room::Normal),
        Err(Refused::TooLarge)
    );
    for _ in 0..3 {
        while let Err(refused) = log.check(largest, Room::Normal) {
            assert_eq!(refused, Refused::Busy);
            disk.drive(&mut log);
        }
        log.append(1, &[&vec![5; largest]], Level::Fsync, Room::Normal).unwrap();
        disk.drive(&mut log);
    }
    assert_eq!(log.synced(), Sequence(3));
    let (found, recovered) = recover(&mut disk);
    assert_eq!((found.len(), recovered.damage_count), (3, 0));
}

/// What may be forgotten because the disk has it, asked by position: over the end of a segment, a failure and a restart.
#[test]
fn positions_are_synced_or_not() {
    let mut disk = MemoryDisk::new(1);
    let mut log = started(&mut disk);
    let mut places = Vec::new();
    for number in 0..300 {
        let appended = append(&mut disk, &mut log, &payload(number));
        assert!(!log.is_synced(appended.position), "it has just been appended");
        places.push(appended);
    }
    for one in &places {
        assert_eq!(log.is_synced(one.position), one.sequence <= log.synced());
    }
    log.flush();
    disk.drive(&mut log);
    assert!(places.iter().all(|one| log.is_synced(one.position)));
    assert!(log.statistics().segments > 1);
    let lost = log.append(1, &[b"lost"], Level::Fsync, Room::Normal).unwrap();
    let works = Faults::default();
    disk.set_faults(Faults { sync_per_million: 1_000_000, ..works });
    disk.drive(&mut log);
    disk.set_faults(works);
    assert!(log.take_failure().is_some());
    log.retry();
    disk.drive(&mut log);
    log.append(1, &[b"found"], Level::Fsync, Room::Normal).unwrap();
    disk.drive(&mut log);
    assert_eq!(log.condition(), Condition::Healthy);
    assert!(!log.is_synced(lost.position), "others behind it are, but it is not");
    assert!(places.iter().all(|one| log.is_synced(one.position)));
    let (_, recovered) = recover(&mut disk);
    let log = Log::resume(small(), &recovered);
    assert!(places.iter().all(|one| log.is_synced(one.position)));
    let beyond = Position { segment: SegmentId(1000), offset: 1024 };
    assert!(!log.is_synced(beyond) && !log.has_segment(beyond.segment));
}

/// Records are found by their positions, in any order, and nothing is found where none is.
#[test]
fn a_reader_finds_single_records() {
    let mut disk = MemoryDisk::new(1);
    let mut log = Log::create(
        Settings { segment_size_max: 2 << 20, segment_size_min: 1 << 20, ..small() },
        ID,
        3,
    );
    disk.drive(&mut log);
    let mut places = Vec::new();
    for number in 0..2000 {
        let bytes = if number == 700 { vec![7; 600_000] } else { payload(number) };
        places.push((append(&mut disk, &mut log, &bytes).position, bytes));
    }
    log.flush();
    disk.drive(&mut log);
    let mut reader = midge_store::RecordReader::new(disk, ID);
    for (position, bytes) in places.iter().chain(places.iter().rev()) {
        let record = reader.record(*position).unwrap().unwrap();
        assert_eq!((record.kind, record.payload), (1, &bytes[..]));
    }
    for (position, bytes) in &places {
        let inside = Position { offset: position.offset + 8, ..*position };
        if bytes.len() > 8 {
            assert_eq!(reader.record(inside).unwrap(), None);
        }
    }
    let end = Position { segment: SegmentId(1), offset: 2 << 20 };
    assert_eq!(reader.record(end).unwrap(), None);
}

/// What is prepared, and what has ended and is still there, follows what counts, not what went through.
#[test]
fn a_log_of_which_little_counts_stays_small() {
    let settings = Settings { segment_size_min: 16 << 10, segment_size_max: 256 << 10, ..small() };
    let mut disk = MemoryDisk::new(1);
    let mut log = Log::create(settings, ID, 3);
    disk.drive(&mut log);
    let mut cleaned = 0;
    for number in 0..20_000 {
        let bytes = payload(number);
        let place = append(&mut disk, &mut log, &bytes);
        log.release(place.position, bytes.len());
        if let Some(segment) = log.cleaning() {
            log.flush();
            disk.drive(&mut log);
            log.retire(segment);
            disk.drive(&mut log);
            cleaned += 1;
        }
        let statistics = log.statistics();
        assert!(statistics.bytes_total <= 4 * (64 << 10), "{number}: {statistics:?}");
        assert!(statistics.bytes_reserved <= 2 * (64 << 10), "{number}: {statistics:?}");
    }
    assert!(cleaned > 50, "{cleaned}");
    // When all of it counts, segments become large.
    for number in 0..8_000 {
        append(&mut disk, &mut log, &payload(number));
    }
    disk.drive(&mut log);
    assert_eq!(log.statistics().bytes_reserved, 2 * (256 << 10));
}

/// A disk becomes full while it fails: when it works again the log knows that there is no room, so that it asks for some until there
/// is.
#[test]
fn a_disk_that_became_full_while_it_failed_is_full() {
    let mut disk = MemoryDisk::new(1);
    disk.set_capacity(90 << 10);
    let mut log = started(&mut disk);
    assert_eq!(log.condition(), Condition::Full, "one segment ready, and no room for another");
    disk.set_faults(Faults { sync_per_million: 1_000_000, ..Faults::default() });
    log.append(1, &[b"lost"], Level::Fsync, Room::Reserve).unwrap();
    disk.drive(&mut log);
    assert_eq!(log.condition(), Condition::Failed);
    assert!(log.take_failure().is_some());
    disk.set_faults(Faults::default());
    log.retry();
    disk.drive(&mut log);
    assert_eq!(log.condition(), Condition::Full);
    disk.set_capacity(u64::MAX);
    log.retry();
    disk.drive(&mut log);
    assert_eq!(log.condition(), Condition::Healthy);
    assert_eq!(log.statistics().segments_ready, 2);
}

/// Larger records are refused where a segment for them has no room, until somebody asks again.
#[test]
fn a_refusal_of_a_large_record_wants_a_retry() {
    let mut disk = MemoryDisk::new(1);
    disk.set_capacity(140 << 10);
    let mut log = started(&mut disk);
    let large = 50 << 10;
    let refused = loop {
        match log.check(large, Room::Normal) {
            Err(Refused::Busy) => disk.drive(&mut log),
            other => break other,
        }
    };
    assert_eq!(refused, Err(Refused::Full));
    assert_eq!(log.condition(), Condition::Healthy, "smaller ones have room");
    assert!(log.wants_retry());
    disk.set_capacity(u64::MAX);
    log.retry();
    assert!(!log.wants_retry());
    append(&mut disk, &mut log, &vec![1; large]);
}

//! The journal against crashes, damage and a full disk.

use std::fs::File;

use super::*;
use crate::adapters::testing::SmallDisk;

fn session(number: u128) -> SessionId {
    SessionId::from_uuid(Uuid::from_u128(number))
}

fn open(dir: &Path) -> Result<Journal, StoreError> {
    Journal::open(dir, false)
}

fn append(
    journal: &mut Journal,
    log: u128,
    next: u64,
    events: Vec<EventBytes>,
) -> Result<(), StoreError> {
    journal.stage(&session(log), next, events)?;
    journal.commit()
}

fn events(journal: &Journal, log: u128) -> Vec<EventBytes> {
    let events = journal.reader().events(&session(log), 1, usize::MAX);
    events.unwrap()
}

/// A journal with three groups of one event each; where their records begin.
fn three_events(dir: &Path) -> (PathBuf, [u64; 4]) {
    let mut journal = open(dir).unwrap();
    let mut ends = [journal.end; 4];
    for n in 1..=3 {
        append(&mut journal, 1, n, vec![vec![n as u8; 100]]).unwrap();
        ends[n as usize] = journal.end;
    }
    journal.close();
    (segment::path(dir, 1), ends)
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn logs_are_replayed_in_order_after_opening() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).unwrap();
    for round in 0..50_u64 {
        for log in 1..=3_u128 {
            let event = |n: u64| [&log.to_be_bytes()[..], &n.to_be_bytes()].concat();
            let (first, second) = (2 * round + 1, 2 * round + 2);
            let both = vec![event(first), event(second)];
            journal.stage(&session(log), first, both).unwrap();
        }
        journal.commit().unwrap();
    }
    drop(journal);
    let journal = open(dir.path()).unwrap();
    for log in 1..=3_u128 {
        let all: Vec<_> = (1..=100_u64)
            .map(|n| [&log.to_be_bytes()[..], &n.to_be_bytes()].concat())
            .collect();
        assert_eq!(events(&journal, log), all);
        let some = journal.reader().events(&session(log), 40, 20).unwrap();
        assert_eq!(some, all[39..59]);
    }
    let all = journal.reader().sessions().unwrap();
    assert_eq!(all, [session(3), session(2), session(1)]);
}

#[test]
fn a_refused_append_stages_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).unwrap();
    journal.stage(&session(1), 1, vec![vec![1]]).unwrap();
    let refused = journal.stage(&session(1), 1, vec![vec![2]]).unwrap_err();
    assert!(matches!(
        refused,
        StoreError::WrongSequence { expected: 2, .. }
    ));
    journal.commit().unwrap();
    assert_eq!(events(&journal, 1), [[1]]);
}

#[test]
fn a_group_cut_off_at_any_byte_is_gone_and_all_before_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (path, ends) = three_events(dir.path());
    let whole = fs::read(&path).unwrap();
    for cut in (ends[2]..ends[3]).step_by(5) {
        for zeros in [0, 5_000] {
            let mut torn = whole[..cut as usize].to_vec();
            torn.resize(torn.len() + zeros, 0);
            fs::write(&path, torn).unwrap();
            let mut journal = open(dir.path()).unwrap();
            assert_eq!(events(&journal, 1).len(), 2, "cut at {cut}");
            append(&mut journal, 1, 3, vec![vec![4]]).expect("the log goes on");
            assert_eq!(events(&journal, 1)[2], [4]);
        }
    }
}

#[test]
fn of_a_torn_group_nothing_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).unwrap();
    append(&mut journal, 1, 1, vec![vec![1]]).unwrap();
    let start = journal.end;
    append(&mut journal, 1, 2, vec![vec![2]; 5]).unwrap();
    let end = journal.end;
    journal.close();
    let path = segment::path(dir.path(), 1);
    let whole = fs::read(&path).unwrap();
    // Pages reach the disk in any order: any byte may be the one missing.
    for offset in (start..end).step_by(3) {
        fs::write(&path, &whole).unwrap();
        flip(&path, offset);
        let journal = open(dir.path()).unwrap();
        assert_eq!(events(&journal, 1), [[1]], "damaged at {offset}");
        drop(journal);
        assert_eq!(fs::metadata(&path).unwrap().len(), start);
    }
}

#[test]
fn damage_in_the_middle_is_refused_with_file_and_byte_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, ends) = three_events(dir.path());
    let whole = fs::read(&path).unwrap();
    for offset in (ends[0]..ends[2]).step_by(3) {
        fs::write(&path, &whole).unwrap();
        flip(&path, offset);
        let before = fs::read(&path).unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        let record = if offset < ends[1] { ends[0] } else { ends[1] };
        let place = format!("{} at byte {record}", path.display());
        assert!(error.contains(&place), "{offset}: {error}");
        assert!(fs::read(&path).unwrap() == before, "nothing was cut");
    }
}

#[test]
fn a_zeroed_page_in_the_middle_is_not_taken_for_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (path, ends) = three_events(dir.path());
    let file = File::options().write(true).open(&path).unwrap();
    let zeros = vec![0; (ends[1] - ends[0]) as usize];
    file.write_all_at(&zeros, ends[0]).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
}

#[test]
fn damage_that_happens_while_open_is_refused_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).unwrap();
    append(&mut journal, 1, 1, vec![vec![1; 100]]).unwrap();
    let at = journal.end;
    append(&mut journal, 1, 2, vec![vec![2; 100]]).unwrap();
    flip(&segment::path(dir.path(), 1), at + 80);
    let error = journal.reader().events(&session(1), 1, 9).unwrap_err();
    assert!(error.to_string().contains(&format!("at byte {at}")));
    let before = journal.reader().events(&session(1), 1, 1).unwrap();
    assert_eq!(before, [[1; 100]]);
}

#[test]
fn a_full_file_is_followed_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Journal::open_with(dir.path().to_owned(), false, 2_000);
    let mut journal = open().unwrap();
    let event = |n: u64| vec![n as u8; 300];
    for n in 1..=40_u64 {
        if n % 10 == 0 {
            drop(journal);
            journal = open().unwrap();
        }
        append(
            &mut journal,
            1 + u128::from(n % 2),
            n.div_ceil(2),
            vec![event(n)],
        )
        .unwrap();
    }
    drop(journal);
    let numbers = segment::numbers(dir.path()).unwrap();
    assert!(numbers.len() > 4, "{numbers:?}");
    let journal = open().unwrap();
    for log in [1, 2] {
        let all: Vec<_> = (1..=40).filter(|n| n % 2 == log - 1).map(event).collect();
        assert_eq!(events(&journal, log.into()), all);
    }
    drop(journal);

    // A file that is not the last ends with its last record.
    let second = segment::path(dir.path(), 2);
    let whole = fs::read(&second).unwrap();
    fs::write(&second, &whole[..whole.len() - 1]).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("00000002.log at byte"), "{error}");
    fs::remove_file(&second).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("00000002.log is missing"), "{error}");
    let first = segment::path(dir.path(), 1);
    fs::copy(&first, &second).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("00000002.log at byte 0"), "{error}");
}

#[test]
fn a_file_whose_making_was_cut_off_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    three_events(dir.path());
    for cut_off in [Vec::new(), vec![0; 64], b"compyev1".to_vec()] {
        fs::write(segment::path(dir.path(), 2), cut_off).unwrap();
        let mut journal = open(dir.path()).unwrap();
        assert_eq!(events(&journal, 1).len(), 3);
        append(&mut journal, 1, 4, vec![vec![4]]).unwrap();
        drop(journal);
        let journal = open(dir.path()).unwrap();
        assert_eq!(events(&journal, 1).len(), 4);
    }
}

#[test]
fn a_journal_that_must_exist_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let error = Journal::open(dir.path().join("events"), true).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
}

#[test]
fn a_disk_full_to_the_brim_loses_nothing_and_work_goes_on() {
    let Some(disk) = SmallDisk::mount(12 << 20) else {
        return;
    };
    let dir = disk.path().join("events");
    let mut journal = open(&dir).unwrap();
    let event = |n: u64| [n.to_be_bytes().to_vec(), vec![7; 20_000]].concat();
    let mut acknowledged = 0;
    for bytes in [24 << 20, 48 << 20] {
        let error = loop {
            let next = acknowledged + 1;
            match append(&mut journal, 1, next, vec![event(next)]) {
                Ok(()) => acknowledged = next,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::DiskFull(_)), "{error}");
        let all: Vec<_> = (1..=acknowledged).map(event).collect();
        assert!(events(&journal, 1) == all);
        // As after a crash right now.
        drop(journal);
        journal = open(&dir).unwrap();
        assert!(events(&journal, 1) == all);
        let next = acknowledged + 1;
        append(&mut journal, 1, next, vec![event(next)]).expect_err("it is still full");
        disk.resize(bytes);
        append(&mut journal, 1, next, vec![event(next)]).expect("there is space");
        acknowledged = next;
    }
    assert!(acknowledged > 1_000, "{acknowledged}");
}

#[test]
fn a_new_file_that_finds_no_space_is_tried_again() {
    let Some(disk) = SmallDisk::mount(8 << 20) else {
        return;
    };
    let dir = disk.path().join("events");
    let mut journal = Journal::open_with(dir.clone(), false, 1_000).unwrap();
    append(&mut journal, 1, 1, vec![vec![1; 2_000]]).unwrap();
    journal.cut().unwrap();
    fs::write(disk.path().join("ballast"), vec![1; 9 << 20]).expect_err("it is full");
    let error = append(&mut journal, 1, 2, vec![vec![2]]).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull(_)), "{error}");
    fs::remove_file(disk.path().join("ballast")).unwrap();
    append(&mut journal, 1, 2, vec![vec![2]]).unwrap();
    assert_eq!(segment::numbers(&dir).unwrap(), [1, 2]);
    assert_eq!(events(&journal, 1)[1], [2]);
}

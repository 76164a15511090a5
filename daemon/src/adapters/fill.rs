//! Room for appends, made some way ahead.
//!
//! A write into room that is there changes no size and no extent of its file,
//! so its `fdatasync` needs no commit of the file system's own journal. That
//! makes it several times as fast as growing the file, and it holds up nobody
//! else's sync.
//!
//! Whoever appends would wait for the zeros too, so a thread makes them, piece
//! by piece, before they are needed.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How far ahead a file is filled with zeros; less than half of it is too little.
pub(super) const FILL_BYTES: u64 = 2 << 20;
/// Zeros that are written at a time: the sync of an append may wait for them.
const PIECE_BYTES: u64 = 512 << 10;
/// Between two pieces, for the syncs of others.
const PAUSE: Duration = Duration::from_millis(10);

/// How far a file that is appended to is filled with zeros. Its owner knows
/// where what it has appended ends, and takes zeros behind that for nothing.
#[derive(Debug)]
pub(super) struct Filled {
    room: Arc<Room>,
    filler: Option<JoinHandle<()>>,
}

/// What whoever appends and whoever fills share.
#[derive(Debug)]
struct Room {
    /// Who appends writes before this, who fills behind it.
    to: AtomicU64,
    /// Held by whoever moves that. How often the file was cut: a filler stops when
    /// it was since it began.
    cuts: Mutex<u64>,
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills a file, on a description of its own: an error of writing that is told
    /// to this one must be told to whoever appends as well.
    fn fill(&self, file: &File, goal: u64, cuts: u64) -> io::Result<()> {
        let zeros = vec![0; PIECE_BYTES as usize];
        loop {
            let now = self.lock();
            let to = self.to.load(Ordering::Acquire);
            if *now != cuts || to >= goal {
                return Ok(());
            }
            file.write_all_at(&zeros, to)?;
            file.sync_data()?;
            self.to.store(to + PIECE_BYTES, Ordering::Release);
            drop(now);
            thread::sleep(PAUSE);
        }
    }
}

impl Filled {
    /// Of a file that ends there.
    pub(super) fn to(end: u64) -> Self {
        let room = Room {
            to: end.into(),
            cuts: Mutex::default(),
        };
        Self {
            room: Arc::new(room),
            filler: None,
        }
    }

    /// Makes room for a write that will end at `end`, with more behind it. Where
    /// that fails, the write itself tells.
    pub(super) fn reach(&mut self, file: &File, path: &Path, end: u64) {
        if end > self.room.to.load(Ordering::Acquire) {
            let _moving = self.room.lock();
            if end > self.room.to.load(Ordering::Acquire) {
                // What lies before `end` is written by whoever asks, in any case.
                let filled = file.write_all_at(&vec![0; PIECE_BYTES as usize], end);
                let piece = if filled.is_ok() { PIECE_BYTES } else { 0 };
                self.room.to.store(end + piece, Ordering::Release);
            }
        }
        let too_little = self.room.to.load(Ordering::Acquire) < end + FILL_BYTES / 2;
        if too_little && self.filler.as_ref().is_none_or(JoinHandle::is_finished) {
            self.filler = self.start(path, end + FILL_BYTES);
        }
    }

    /// Fills to `goal` beside the appends. Without a thread they go on in pieces.
    fn start(&self, path: &Path, goal: u64) -> Option<JoinHandle<()>> {
        let file = File::options().write(true).open(path).ok()?;
        let room = self.room.clone();
        let cuts = *room.lock();
        let work = move || {
            // On a full disk the appends find out themselves.
            let _ = room.fill(&file, goal, cuts);
        };
        let named = thread::Builder::new().name("fill-ahead".to_owned());
        named.spawn(work).ok()
    }

    /// Takes everything behind `end` off the file, durably.
    pub(super) fn cut(&mut self, file: &File, end: u64) -> io::Result<()> {
        let mut cuts = self.room.lock();
        *cuts += 1;
        file.set_len(end)?;
        file.sync_all()?;
        self.room.to.store(end, Ordering::Release);
        Ok(())
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        *self.room.lock() += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn length(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().len()
    }

    #[test]
    fn zeros_never_lie_over_what_was_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = File::create(&path).unwrap();
        let (mut filled, mut expected) = (Filled::to(0), Vec::new());
        let mut seed = fastrand::Rng::with_seed(1);
        // Longer than a piece now and then, so that the filler is overtaken.
        for number in 0..200_u64 {
            let most = if number % 20 == 0 {
                PIECE_BYTES * 2
            } else {
                9_000
            };
            let bytes = vec![1 + (number % 255) as u8; seed.u64(1..most) as usize];
            let at = expected.len() as u64;
            filled.reach(&file, &path, at + bytes.len() as u64);
            file.write_all_at(&bytes, at).unwrap();
            expected.extend(bytes);
        }
        filled.cut(&file, expected.len() as u64).unwrap();
        assert!(std::fs::read(&path).unwrap() == expected);
    }

    #[test]
    fn room_is_made_beside_the_appends_until_the_file_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = File::create(&path).unwrap();
        let mut filled = Filled::to(0);
        filled.reach(&file, &path, 10);
        file.write_all_at(b"0123456789", 0).unwrap();
        let begun = Instant::now();
        while filled.room.to.load(Ordering::Acquire) < FILL_BYTES {
            assert!(begun.elapsed() < Duration::from_secs(60), "no room is made");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(length(&path) >= FILL_BYTES);
        let content = std::fs::read(&path).unwrap();
        assert!(content[10..].iter().all(|byte| *byte == 0));

        // Nothing is written once it is cut or given up, though a filler has begun.
        for give_up in [false, true] {
            filled.reach(&file, &path, FILL_BYTES * 4);
            assert!(length(&path) > FILL_BYTES * 4);
            filled.cut(&file, 10).unwrap();
            if give_up {
                filled.reach(&file, &path, 10 + PIECE_BYTES);
                drop(std::mem::replace(&mut filled, Filled::to(10)));
                file.set_len(10).unwrap();
            }
            thread::sleep(PAUSE * 5);
            assert_eq!(length(&path), 10);
        }
    }
}

//! What of a stream is kept, read from its file's holes: for a command whose
//! agent was killed before it could say.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Whence, lseek};

use super::extent::{Extent, UNIT_BYTES};

/// The stream in a file. What lies between its first and its last hole counts
/// as dropped, and so do zeros right beside them: they may be the rest of a
/// block that was never written.
pub(super) fn extent_of(file: &File) -> io::Result<Extent> {
    let bytes = file.metadata()?.len();
    let mut gap: Option<(u64, u64)> = None;
    let mut offset = 0;
    while let Some(hole) = next(file, offset, Whence::SeekHole)?.filter(|hole| *hole < bytes) {
        let data = next(file, hole, Whence::SeekData)?.unwrap_or(bytes);
        gap = Some((gap.map_or(hole, |(from, _)| from), data));
        offset = data;
    }
    let Some((from, to)) = gap else {
        return Ok(Extent::whole(bytes));
    };
    Ok(Extent {
        bytes,
        gap_from: from - zeros_before(file, from)?,
        gap_to: to + zeros_after(file, to)?,
    })
}

/// Where the next hole or data begins; nothing after the last.
fn next(file: &File, offset: u64, whence: Whence) -> io::Result<Option<u64>> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    match lseek(file, offset, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn zeros_before(file: &File, end: u64) -> io::Result<u64> {
    let start = end.saturating_sub(UNIT_BYTES);
    let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes.iter().rev().take_while(|byte| **byte == 0).count() as u64)
}

fn zeros_after(file: &File, start: u64) -> io::Result<u64> {
    let mut bytes = vec![0; usize::try_from(UNIT_BYTES).unwrap_or(0)];
    let length = file.read_at(&mut bytes, start)?;
    Ok(bytes[..length]
        .iter()
        .take_while(|byte| **byte == 0)
        .count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_what_was_never_written_to_it() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(extent_of(&file).unwrap(), Extent::default());
        file.write_all_at(&vec![b'h'; 70_000], 0).unwrap();
        assert_eq!(extent_of(&file).unwrap(), Extent::whole(70_000));
        let tail = 10 * UNIT_BYTES + 17;
        file.write_all_at(b"tail", tail).unwrap();
        let extent = extent_of(&file).unwrap();
        assert_eq!((extent.gap_from, extent.gap_to), (70_000, tail));
        assert_eq!(extent.bytes, tail + 4);
        // A second hole makes the gap wider, not two of it.
        file.write_all_at(b"end", 2 * tail).unwrap();
        let extent = extent_of(&file).unwrap();
        assert_eq!((extent.gap_from, extent.gap_to), (70_000, 2 * tail));
    }
}

//! The content of a file in pieces: chunks of its data, and its holes.
//!
//! A run of data between holes is one chunk up to 64 KiB, which most files
//! are. A longer one is cut where its content says (FastCDC), so that an
//! insertion changes the chunks around it and no others.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use compyd_proto::tree::MAX_CHUNK_BYTES;
use fastcdc::v2020::StreamCDC;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

const KIB: usize = 1024;
/// Runs up to this are one chunk.
const WHOLE_BYTES: u64 = 64 * KIB as u64;
/// From this size on, a file is cut into fewer and larger chunks, so that the
/// list of them stays within a message.
const HUGE_FILE_BYTES: u64 = 8 << 30;

/// Sizes of chunks, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    least: usize,
    usual: usize,
    most: usize,
}

const USUAL: Sizes = Sizes {
    least: 16 * KIB,
    usual: 64 * KIB,
    most: 256 * KIB,
};
const HUGE: Sizes = Sizes {
    least: 128 * KIB,
    usual: 512 * KIB,
    most: MAX_CHUNK_BYTES,
};

/// A part of a file's content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes, 1 to 1 MiB of them.
    Data(Vec<u8>),
    /// So many bytes that are zero and take no room, at least 1.
    Hole(u64),
}

/// Hands the first `size` bytes of a file to `take`, piece by piece; fewer when
/// the file has become shorter.
pub(super) fn read<E: From<io::Error>>(
    file: &File,
    size: u64,
    mut take: impl FnMut(Piece) -> Result<(), E>,
) -> Result<(), E> {
    let sizes = if size < HUGE_FILE_BYTES { USUAL } else { HUGE };
    let mut at = 0;
    while at < size {
        let data = run_start(file, at)?.min(size);
        if data > at {
            take(Piece::Hole(data - at))?;
            at = data;
            continue;
        }
        let end = run_end(file, at)?.min(size);
        let read = read_run(file, at..end, sizes, &mut take)?;
        if read < end - at {
            return Ok(());
        }
        at = end;
    }
    Ok(())
}

/// Where the next data is at or after an offset; the end of everything when
/// only a hole is left. A file system that knows no holes has data everywhere.
fn run_start(file: &File, at: u64) -> io::Result<u64> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => Ok(start),
        Err(Errno::NXIO) => Ok(u64::MAX),
        Err(Errno::INVAL) => Ok(at),
        Err(errno) => Err(errno.into()),
    }
}

/// Where the data at an offset ends.
fn run_end(file: &File, at: u64) -> io::Result<u64> {
    match seek(file, SeekFrom::Hole(at)) {
        Ok(end) => Ok(end),
        // Shorter by now: reading will show it.
        Err(Errno::NXIO | Errno::INVAL) => Ok(u64::MAX),
        Err(errno) => Err(errno.into()),
    }
}

/// Cuts a run of data into chunks. Returns the bytes there were.
fn read_run<E: From<io::Error>>(
    file: &File,
    range: std::ops::Range<u64>,
    sizes: Sizes,
    take: &mut impl FnMut(Piece) -> Result<(), E>,
) -> Result<u64, E> {
    let length = range.end - range.start;
    if length <= WHOLE_BYTES {
        let data = read_at_once(file, range.start, length as usize)?;
        let read = data.len() as u64;
        if read > 0 {
            take(Piece::Data(data))?;
        }
        return Ok(read);
    }
    let run = Run { file, range };
    let mut read = 0;
    for chunk in StreamCDC::new(run, sizes.least, sizes.usual, sizes.most) {
        let data = chunk.map_err(io::Error::from)?.data;
        read += data.len() as u64;
        take(Piece::Data(data))?;
    }
    Ok(read)
}

/// So many bytes of a file, or as many as there are.
fn read_at_once(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; length];
    let mut read = 0;
    while read < length {
        match file.read_at(&mut data[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    data.truncate(read);
    Ok(data)
}

/// A range of a file as a reader.
struct Run<'a> {
    file: &'a File,
    range: std::ops::Range<u64>,
}

impl Read for Run<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.range.end - self.range.start;
        if left == 0 {
            return Ok(0);
        }
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..length], self.range.start)?;
        self.range.start += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(file: &File, size: u64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        read(file, size, |piece| {
            pieces.push(piece);
            Ok::<_, io::Error>(())
        })
        .unwrap();
        pieces
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut noise = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    }

    fn chunks(content: &[u8]) -> Vec<Vec<u8>> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        pieces(&file, content.len() as u64)
            .into_iter()
            .map(|piece| match piece {
                Piece::Data(data) => data,
                Piece::Hole(length) => panic!("a hole of {length} bytes"),
            })
            .collect()
    }

    #[test]
    fn a_small_file_is_one_chunk_and_an_empty_one_is_none() {
        assert_eq!(chunks(b""), Vec::<Vec<u8>>::new());
        for length in [1, 64 * KIB] {
            assert_eq!(chunks(&noise(length)), [noise(length)]);
        }
    }

    #[test]
    fn an_insertion_leaves_most_chunks_of_a_large_file_as_they_were() {
        let content = noise(4 << 20);
        let before = chunks(&content);
        assert_eq!(before.concat(), content);
        assert!(before.iter().all(|chunk| chunk.len() <= 256 * KIB));
        let mut changed = content;
        changed.splice(1_000_000..1_000_000, *b"inserted");
        let after = chunks(&changed);
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 3, "{new} of {} chunks are new", after.len());
    }

    #[test]
    fn holes_are_told_from_data() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[5; 4096], 1 << 20).unwrap();
        assert_eq!(
            pieces(&file, 10 << 20),
            [
                Piece::Hole(1 << 20),
                Piece::Data(vec![5; 4096]),
                Piece::Hole((9 << 20) - 4096)
            ]
        );
    }

    #[test]
    fn a_file_that_grows_or_shrinks_is_read_as_far_as_asked_and_there_is() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 5000], 0).unwrap();
        assert_eq!(pieces(&file, 3000), [Piece::Data(vec![1; 3000])]);
        let read: u64 = pieces(&file, 9000)
            .iter()
            .map(|piece| match piece {
                Piece::Data(data) => data.len() as u64,
                Piece::Hole(_) => 0,
            })
            .sum();
        assert_eq!(read, 5000);
    }
}

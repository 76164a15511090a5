//! Chunks on their way out: each is named and packed on one of a few threads, and
//! sent once.
//!
//! Chunks are numbered in the order in which the walk meets them. Two workers
//! may hold equal chunks at the same time and finish in either order, so the
//! one to be sent is the one with the lowest number: whoever is lower at the
//! time packs its chunk, and the sender, which goes by number, sends the one
//! that nobody undercut.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use blake3::Hash;
use bytes::Bytes;
use compyd_proto::agent::{ChunkContent, ChunkEncoding};
use tokio::sync::oneshot;
use zstd::bulk::Compressor;

use super::queue::Queue;

const ZSTD_LEVEL: i32 = 1;

/// A chunk to be named and packed.
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) data: Vec<u8>,
    pub(super) done: oneshot::Sender<Packed>,
}

/// A chunk with its name.
pub(super) struct Packed {
    pub(super) hash: Hash,
    /// Absent when a lower number had the same bytes.
    pub(super) content: Option<ChunkContent>,
}

/// The lowest number that has each chunk.
#[derive(Default)]
pub(super) struct Claims {
    lowest: Mutex<HashMap<Hash, u64>>,
}

impl Claims {
    /// Whether `number` is the lowest with this chunk so far.
    pub(super) fn claim(&self, hash: Hash, number: u64) -> bool {
        let mut lowest = self.lowest.lock().unwrap_or_else(PoisonError::into_inner);
        let lowest = lowest.entry(hash).or_insert(number);
        *lowest = number.min(*lowest);
        *lowest == number
    }
}

/// Makes what a worker packs with.
pub(super) fn packer() -> io::Result<Compressor<'static>> {
    Compressor::new(ZSTD_LEVEL)
}

/// Takes jobs until there are no more.
pub(super) fn work(jobs: &Queue<Job>, claims: &Claims, mut packer: Compressor<'_>) {
    let mut packed = Vec::new();
    while let Some(Job { number, data, done }) = jobs.pop() {
        let hash = blake3::hash(&data);
        let content = if claims.claim(hash, number) {
            packed.clear();
            packed.reserve(zstd::zstd_safe::compress_bound(data.len()));
            Some(match packer.compress_to_buffer(&data, &mut packed) {
                Ok(length) if length < data.len() => {
                    content(ChunkEncoding::Zstd, Bytes::copy_from_slice(&packed))
                }
                Ok(_) | Err(_) => content(ChunkEncoding::Raw, data.into()),
            })
        } else {
            None
        };
        // Nobody waits when the client has gone.
        let _ = done.send(Packed { hash, content });
    }
}

fn content(encoding: ChunkEncoding, data: Bytes) -> ChunkContent {
    ChunkContent {
        encoding: encoding.into(),
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_chunks_that_finish_in_the_wrong_order_are_sent_by_the_lowest() {
        let claims = Claims::default();
        let hash = blake3::hash(b"same");
        // Number 7 is done first and packs; 3 undercuts it; 5 does not.
        assert!(claims.claim(hash, 7));
        assert!(claims.claim(hash, 3));
        assert!(!claims.claim(hash, 5));
        // The sender asks again, by number.
        let sent: Vec<u64> = [3, 5, 7]
            .into_iter()
            .filter(|number| claims.claim(hash, *number))
            .collect();
        assert_eq!(sent, [3]);
    }

    #[test]
    fn a_chunk_travels_packed_only_when_that_is_smaller() {
        let (jobs, claims) = (Queue::new(usize::MAX), Claims::default());
        let contents = [vec![7; 10_000], vec![1, 2, 3], vec![7; 10_000]];
        let packed: Vec<_> = (0..)
            .zip(&contents)
            .map(|(number, data)| {
                let (done, packed) = oneshot::channel();
                let data = data.clone();
                assert!(jobs.push(Job { number, data, done }, 0).is_ok());
                packed
            })
            .collect();
        jobs.close();
        work(&jobs, &claims, packer().unwrap());
        let packed: Vec<Packed> = packed
            .into_iter()
            .map(|packed| packed.blocking_recv().unwrap())
            .collect();
        let first = packed[0].content.clone().unwrap();
        assert_eq!(first.encoding(), ChunkEncoding::Zstd);
        assert!(first.data.len() < 100);
        assert_eq!(
            zstd::bulk::decompress(&first.data, 10_000).unwrap(),
            contents[0]
        );
        assert_eq!(
            packed[1].content,
            Some(content(ChunkEncoding::Raw, contents[1].clone().into()))
        );
        assert_eq!(
            (packed[2].hash, &packed[2].content),
            (packed[0].hash, &None)
        );
    }
}

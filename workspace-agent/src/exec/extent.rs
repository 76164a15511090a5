//! Which bytes of a stream are kept: its beginning, its end, and at most one
//! gap between them.
//!
//! ```text
//!   0          gap_from            gap_to      bytes
//!   |== head ====|..... dropped .....|== tail ===|--> more comes here
//! ```
//!
//! What a person looks for in output that is too long is how it began and how
//! it ended. So half of a quota is for the head, and the rest follows the end.
//! Offsets never change: a byte behind the gap is where the command wrote it.
//! Everything here is arithmetic; who drops the bytes is the keeper.

/// A stream as it is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes that the command has written.
    pub(crate) bytes: u64,
    /// First byte that is not kept.
    pub(crate) gap_from: u64,
    /// First byte that is kept again; equal to `gap_from` without a gap.
    pub(crate) gap_to: u64,
}

/// Unit in which space is given back: no smaller than a file system's block.
pub(super) const UNIT_BYTES: u64 = 64 * 1024;
/// What a head gives up for a tail when the disk is full.
const CARVED_BYTES: u64 = 1024 * 1024;

impl Extent {
    /// All of it is kept.
    pub(crate) fn whole(bytes: u64) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// Nothing of it is kept.
    pub(crate) fn dropped(self) -> Self {
        Self {
            bytes: self.bytes,
            gap_from: 0,
            gap_to: self.bytes,
        }
    }

    /// Bytes on disk.
    pub(crate) fn kept(self) -> u64 {
        self.bytes - (self.gap_to - self.gap_from)
    }

    pub(crate) fn has_gap(self) -> bool {
        self.gap_to > self.gap_from
    }

    /// Whether the byte at an offset was dropped.
    pub(crate) fn lacks(self, offset: u64) -> bool {
        (self.gap_from..self.gap_to).contains(&offset)
    }

    /// First byte that is not there, at or after an offset that is kept.
    pub(crate) fn end_of_kept(self, offset: u64) -> u64 {
        if self.has_gap() && offset < self.gap_from {
            self.gap_from
        } else {
            self.bytes
        }
    }

    /// With so many bytes more at the end.
    pub(super) fn grown(self, more: u64) -> Self {
        Self {
            bytes: self.bytes + more,
            ..self
        }
    }

    /// With so many bytes more that are not kept. A gap reaches to the end
    /// then, since there is but one.
    pub(super) fn lost(self, more: u64) -> Self {
        let bytes = self.bytes + more;
        Self {
            bytes,
            gap_from: if self.has_gap() {
                self.gap_from
            } else {
                self.bytes
            },
            gap_to: bytes,
        }
    }

    /// With a tail so much shorter that `more` bytes fit under `quota`; nothing
    /// when they fit as it is. Drops an eighth of the tail at least, so that a
    /// flood does not come back here with every piece.
    pub(super) fn trimmed_for(self, more: u64, quota: u64) -> Option<Self> {
        if self.kept() + more <= quota {
            return None;
        }
        let half = down(quota / 2);
        let head = if self.has_gap() {
            self.gap_from.min(half)
        } else {
            half.min(self.bytes)
        };
        let tail = quota - head;
        let keep = (tail - tail / 8).saturating_sub(more);
        let to = self.bytes.saturating_sub(keep).max(head).max(self.gap_to);
        Some(Self {
            bytes: self.bytes,
            gap_from: head,
            gap_to: to.min(self.bytes),
        })
    }

    /// With less kept, so that the disk has room for what comes: without the
    /// older half of the tail, or with the end of a long head given up for
    /// one. Nothing when there is too little to give.
    pub(super) fn shrunk(self) -> Option<Self> {
        let tail = self.bytes - self.gap_to;
        let (gap_from, gap_to) = if !self.has_gap() {
            let carved = down(CARVED_BYTES.min(self.bytes / 2));
            (down(self.bytes - carved), self.bytes)
        } else if tail >= 2 * UNIT_BYTES {
            (self.gap_from, self.gap_to + tail / 2)
        } else {
            (self.gap_from, self.bytes)
        };
        let shrunk = Self {
            bytes: self.bytes,
            gap_from,
            gap_to,
        };
        (self.kept() - shrunk.kept() >= UNIT_BYTES).then_some(shrunk)
    }
}

/// The last unit's border at or before an offset.
pub(super) fn down(offset: u64) -> u64 {
    offset - offset % UNIT_BYTES
}

/// The first unit's border at or after an offset.
pub(super) fn up(offset: u64) -> u64 {
    offset.next_multiple_of(UNIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// Plays a flood against a quota, in pieces of this size.
    fn flood(pieces: u64, piece: u64, quota: u64) -> (Extent, u64) {
        let mut extent = Extent::default();
        let mut trims = 0;
        for _ in 0..pieces {
            if let Some(trimmed) = extent.trimmed_for(piece, quota) {
                assert!(trimmed.gap_from <= trimmed.gap_to && trimmed.gap_to <= trimmed.bytes);
                assert!(trimmed.gap_to >= extent.gap_to, "a dropped byte came back");
                extent = trimmed;
                trims += 1;
            }
            extent = extent.grown(piece);
            assert!(extent.kept() <= quota, "{extent:?} is more than {quota}");
        }
        (extent, trims)
    }

    #[test]
    fn what_fits_the_quota_is_kept_whole() {
        let (extent, trims) = flood(16, MIB / 16, MIB);
        assert_eq!((extent, trims), (Extent::whole(MIB), 0));
    }

    #[test]
    fn a_flood_keeps_half_a_quota_of_head_and_most_of_the_rest_as_tail() {
        for piece in [1, 4_096, 100_000, 256 * 1024] {
            let (extent, trims) = flood(10 * MIB / piece, piece, MIB);
            assert_eq!(extent.gap_from, MIB / 2);
            let tail = extent.bytes - extent.gap_to;
            assert!(tail >= MIB / 8, "pieces of {piece} leave a tail of {tail}");
            assert!(trims <= 160, "{trims} trims for pieces of {piece}");
        }
    }

    #[test]
    fn a_smaller_quota_takes_from_the_head_too() {
        let (extent, _) = flood(100, MIB / 10, 4 * MIB);
        let trimmed = extent.trimmed_for(1, MIB).unwrap();
        assert_eq!(trimmed.gap_from, MIB / 2);
        assert!(trimmed.kept() < MIB);
    }

    #[test]
    fn a_full_disk_takes_from_the_tail_until_there_is_none() {
        let mut extent = Extent::whole(10 * MIB + 5);
        let carved = extent.shrunk().unwrap();
        assert_eq!((carved.gap_from, carved.gap_to), (9 * MIB, 10 * MIB + 5));
        assert_eq!(carved.shrunk(), None, "there is no tail to give");
        extent = carved.grown(MIB);
        let halved = extent.shrunk().unwrap();
        assert_eq!(halved.gap_to, 10 * MIB + 5 + MIB / 2);
        assert_eq!(Extent::whole(UNIT_BYTES).shrunk(), None);
    }

    #[test]
    fn lost_bytes_lie_in_the_one_gap_there_is() {
        let lost = Extent::whole(100).lost(20);
        assert_eq!((lost.bytes, lost.gap_from, lost.gap_to), (120, 100, 120));
        let again = lost.grown(30).lost(1);
        assert_eq!((again.bytes, again.gap_from, again.gap_to), (151, 100, 151));
        assert_eq!(again.kept(), 100);
        assert!(again.lacks(100) && again.lacks(150) && !again.lacks(99));
        assert_eq!(Extent::whole(7).dropped().kept(), 0);
    }
}

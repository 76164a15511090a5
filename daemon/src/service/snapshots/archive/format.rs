//! The format of archives: members, their names, and their bounds.
//!
//! ```text
//! snapshot.json        format and manifest
//! chunks/HASH          raw bytes of a chunk: first those of the listings, in
//! ...                  the manifest's order, then those of the files
//! image/config.json    \  in any order; a layer's number is its place among
//! image/layers/0       |  the layers here
//! ...                  /
//! end.json             how many there were, and the hash of the manifest
//! ```
//!
//! All of it in one tar, in one zstd frame. A member is there once, and there
//! are no others. Names say nothing about where anything goes: nothing of an
//! archive is ever unpacked under a name of its own.

use serde::{Deserialize, Serialize};

use crate::domain::snapshot::hash::ChunkHash;

/// The format that this daemon writes, and the newest it reads.
pub(super) const ARCHIVE_FORMAT: u32 = 1;
/// Longest document with the manifest, in bytes: a manifest has 67 bytes for
/// some 256 files.
pub(super) const HEAD_BYTES_MAX: u64 = 64 << 20;
/// Longest last document, in bytes.
pub(super) const END_BYTES_MAX: u64 = 64 << 10;
/// Zeros after the last member: writers of tar fill up blocks.
pub(super) const PADDING_BYTES_MAX: u64 = 1 << 20;

/// The first member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// [`ARCHIVE_FORMAT`] when it was written.
    pub(super) format: u32,
    /// The snapshot's manifest, whose format is its own.
    pub(super) manifest: serde_json::Value,
}

/// The last member: what comes after it, or without it, is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    /// blake3 of the first member, in hex.
    pub(super) head: ChunkHash,
    /// Chunks before it.
    pub(super) chunks: u64,
    /// Layers before it.
    pub(super) layers: u64,
}

/// What a member is, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member {
    Head,
    Chunk(ChunkHash),
    Config,
    /// By number, from 0.
    Layer(u64),
    End,
}

impl Member {
    /// Its name.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Head => "snapshot.json".to_owned(),
            Self::Chunk(hash) => format!("chunks/{hash}"),
            Self::Config => "image/config.json".to_owned(),
            Self::Layer(number) => format!("image/layers/{number}"),
            Self::End => "end.json".to_owned(),
        }
    }

    /// The member with a name: exactly that name, in no other spelling.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let member = match name {
            "snapshot.json" => Self::Head,
            "image/config.json" => Self::Config,
            "end.json" => Self::End,
            _ => match name.strip_prefix("chunks/") {
                Some(hash) => Self::Chunk(hash.parse().ok()?),
                None => Self::Layer(name.strip_prefix("image/layers/")?.parse().ok()?),
            },
        };
        (member.name() == name).then_some(member)
    }
}

/// Why an archive was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// A newer daemon wrote it.
    #[error("the archive has format {found}; this daemon knows up to {known}: use a newer daemon",
        known = ARCHIVE_FORMAT)]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// A newer daemon wrote the manifest in it.
    #[error(transparent)]
    NewerManifest(crate::domain::snapshot::ManifestError),
    /// It is no archive, or not all of one.
    #[error("it is no archive of a snapshot, or not a whole one: {0}")]
    Broken(String),
    /// A member that does not belong there.
    #[error("member {name:?} of the archive: {why}")]
    Member {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something that the manifest or a listing names is not there.
    #[error("the archive lacks {0}")]
    Missing(String),
    /// A volume's listing is not what it should be.
    #[error("volume {volume} in the archive: {why}")]
    Volume {
        /// Which.
        volume: &'static str,
        /// What is wrong, and at which path.
        why: String,
    },
    /// The image is not what the manifest says.
    #[error("the archive's root file system is refused: {0}")]
    Image(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_one_name() {
        let hash = ChunkHash::of(b"x");
        for member in [
            Member::Head,
            Member::Chunk(hash),
            Member::Config,
            Member::Layer(0),
            Member::Layer(12),
            Member::End,
        ] {
            assert_eq!(Member::parse(&member.name()), Some(member));
        }
        let digits = hash.to_string();
        for name in [
            "",
            "/snapshot.json",
            "./snapshot.json",
            "../snapshot.json",
            "snapshot.json/",
            "chunks/",
            "chunks/../end.json",
            &format!("chunks/{}", digits.to_uppercase()),
            &format!("chunks/{digits}/x"),
            "image/layers/",
            "image/layers/01",
            "image/layers/+1",
            "image/layers/-1",
            "image/layers/99999999999999999999",
            "image/config.json\0",
        ] {
            assert_eq!(Member::parse(name), None, "{name}");
        }
    }
}

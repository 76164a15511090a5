//! Whether the root file system of a container is what an image holds already,
//! so that a snapshot needs no new one.
//!
//! A container is the files of its image and what it changed of them, which the
//! engine keeps apart. Equal fingerprints of that part, for the same container,
//! mean that nothing has changed between two snapshots.

use serde::{Deserialize, Serialize};

use super::{Snapshot, hash::Fingerprint, journal::ImageRef};

/// What a container had changed of its image's files, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootLook {
    /// The engine's id of the container.
    pub container: String,
    /// Of what it changed.
    pub fingerprint: Fingerprint,
    /// Files, directories and all else that it changed, and the root, which is
    /// always there.
    pub entries: u64,
}

impl RootLook {
    /// The image that holds the root file system as it was looked at; `None`
    /// when it has to be committed.
    ///
    /// `base` is the image of a snapshot that the container was made from,
    /// `last` the last snapshot of the container's workspace.
    #[must_use]
    pub fn held_by(&self, base: Option<&ImageRef>, last: Option<&Snapshot>) -> Option<ImageRef> {
        // The root itself is in no commit, whatever becomes of it.
        if self.entries <= 1 {
            return base.cloned();
        }
        let last = last?;
        let before = last.root.as_ref()?;
        let same = before.container == self.container && before.fingerprint == self.fingerprint;
        same.then(|| ImageRef::of(&last.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::contract::store::snapshot;

    fn look(container: &str, content: &str, entries: u64) -> RootLook {
        RootLook {
            container: container.to_owned(),
            fingerprint: Fingerprint::of(content.as_bytes()),
            entries,
        }
    }

    #[test]
    fn only_the_same_container_with_the_same_fingerprint_is_unchanged() {
        let before = look("c", "one", 5);
        let last = Snapshot {
            root: Some(before.clone()),
            ..snapshot(1, 2)
        };
        let older = Snapshot {
            root: None,
            ..snapshot(1, 2)
        };
        let base = ImageRef("base".to_owned());
        let held = Some(ImageRef::of(&last.id));
        for (now, last, expected) in [
            (&before, Some(&last), held),
            (&look("c", "two", 5), Some(&last), None),
            (&look("d", "one", 5), Some(&last), None),
            (&before, Some(&older), None),
            (&before, None, None),
        ] {
            assert_eq!(now.held_by(Some(&base), last), expected, "{now:?}");
        }
    }

    #[test]
    fn a_container_that_changed_nothing_is_its_image() {
        let base = ImageRef("base".to_owned());
        let now = look("c", "one", 1);
        assert_eq!(now.held_by(Some(&base), None), Some(base));
        // An image that is no snapshot's is somebody else's to keep.
        assert_eq!(now.held_by(None, None), None);
    }
}

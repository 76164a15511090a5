//! An archive for the engine to unpack: directories with everything that a
//! tree keeps of one, and plain files.

use compyd_proto::agent::TreeEntry;

use crate::ports::runtime::RuntimeError;

/// The archive being written.
pub(super) struct RootArchive {
    archive: tar::Builder<Vec<u8>>,
}

impl Default for RootArchive {
    fn default() -> Self {
        Self {
            archive: tar::Builder::new(Vec::new()),
        }
    }
}

impl RootArchive {
    /// A directory that root alone may enter.
    pub(super) fn private_directory(&mut self, path: &str) -> Result<(), RuntimeError> {
        let entry = TreeEntry {
            mode: 0o700,
            ..TreeEntry::default()
        };
        self.root(path, &entry)
    }

    /// A directory that is the root of a tree.
    pub(super) fn root(&mut self, path: &str, root: &TreeEntry) -> Result<(), RuntimeError> {
        self.append(path, root)
            .map_err(|error| unwritten(path, &error))
    }

    fn append(&mut self, path: &str, root: &TreeEntry) -> std::io::Result<()> {
        let mtime = decimal_time(root.mtime_s, root.mtime_ns);
        let mut extensions = vec![("mtime".to_owned(), mtime.as_bytes())];
        for xattr in &root.xattrs {
            let name = String::from_utf8_lossy(&xattr.name);
            extensions.push((format!("SCHILY.xattr.{name}"), &xattr.value[..]));
        }
        let extensions = extensions.iter().map(|(name, value)| (&name[..], *value));
        self.archive.append_pax_extensions(extensions)?;
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(root.mode);
        header.set_uid(root.uid.into());
        header.set_gid(root.gid.into());
        header.set_size(0);
        self.archive
            .append_data(&mut header, format!("{path}/"), std::io::empty())
    }

    /// A file that everybody may read.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> Result<(), RuntimeError> {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let appended = self.archive.append_data(&mut header, path, content);
        appended.map_err(|error| unwritten(path, &error))
    }

    /// Another name of a file that came before.
    pub(super) fn hard_link(&mut self, path: &str, to: &str) -> Result<(), RuntimeError> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Link);
        header.set_mode(0o644);
        header.set_size(0);
        let appended = self.archive.append_link(&mut header, path, to);
        appended.map_err(|error| unwritten(path, &error))
    }

    /// The archive's bytes.
    pub(super) fn finish(self) -> Result<Vec<u8>, RuntimeError> {
        let finished = self.archive.into_inner();
        finished.map_err(|error| unwritten("its end", &error))
    }
}

/// Writing into memory fails for names and numbers alone.
fn unwritten(what: &str, error: &std::io::Error) -> RuntimeError {
    RuntimeError::Refused {
        action: "be given",
        subject: what.to_owned(),
        message: error.to_string(),
    }
}

/// Seconds since the Unix epoch with nine decimals; the seconds of a tree are
/// rounded down, those of an archive towards zero.
fn decimal_time(seconds: i64, nanoseconds: u32) -> String {
    if seconds >= 0 || nanoseconds == 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    let (seconds, nanoseconds) = (-(seconds + 1), 1_000_000_000 - nanoseconds);
    format!("-{seconds}.{nanoseconds:09}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use compyd_proto::agent::Xattr;

    use super::*;

    #[test]
    fn times_before_the_epoch_count_towards_it() {
        for (seconds, nanoseconds, text) in [
            (5, 7, "5.000000007"),
            (0, 0, "0.000000000"),
            (-2, 0, "-2.000000000"),
            (-1, 5, "-0.999999995"),
            (-3, 999_999_999, "-2.000000001"),
        ] {
            assert_eq!(decimal_time(seconds, nanoseconds), text);
        }
    }

    #[test]
    fn a_root_is_written_with_all_that_a_tree_keeps_of_it() {
        let acl = Bytes::from_static(b"\x02\0\0\0\x01\xff");
        let root = TreeEntry {
            mode: 0o3770,
            uid: 1000,
            gid: 4_000_000_000,
            mtime_s: 1_577_934_245,
            mtime_ns: 123_456_789,
            xattrs: vec![Xattr {
                name: Bytes::from_static(b"system.posix_acl_default"),
                value: acl,
            }],
            ..TreeEntry::default()
        };
        let mut archive = RootArchive::default();
        archive.root("volumes/work/upper", &root).unwrap();
        let bytes = archive.finish().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path_bytes().as_ref(), b"volumes/work/upper/");
        let header = entry.header();
        assert_eq!(header.mode().unwrap(), 0o3770);
        assert_eq!(header.uid().unwrap(), 1000);
        assert_eq!(header.gid().unwrap(), 4_000_000_000);
        let extensions = entry.pax_extensions().unwrap().unwrap();
        let found: Vec<_> = extensions
            .map(|one| one.unwrap())
            .map(|one| (one.key().unwrap().to_owned(), one.value_bytes().to_vec()))
            .collect();
        assert_eq!(found[0].0, "mtime");
        assert_eq!(found[0].1, b"1577934245.123456789");
        assert_eq!(found[1].0, "SCHILY.xattr.system.posix_acl_default");
        assert!(
            bytes
                .windows(6)
                .any(|window| window == b"\x02\0\0\0\x01\xff")
        );
    }
}

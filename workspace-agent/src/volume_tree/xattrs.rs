//! The extended attributes that belong to the content of a tree.
//!
//! Others are the host's: security labels follow the host's policy, and what
//! the overlay driver keeps in `trusted.*` describes its own layers.

use std::os::fd::AsFd;

use compyd_proto::agent::Xattr;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

const USER: &[u8] = b"user.";
const NAMED: [&[u8]; 3] = [
    b"security.capability",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
];
/// Most file systems answer in this; the rest are asked for the size first.
const USUAL_BYTES: usize = 1024;

/// Whether an attribute of this name is captured and restored.
pub(super) fn belongs_to_content(name: &[u8]) -> bool {
    name.starts_with(USER) || NAMED.contains(&name)
}

/// The attributes of an open file or directory, sorted by name. None where the
/// file system has none.
pub(super) fn read(open: impl AsFd) -> Result<Vec<Xattr>, Errno> {
    let open = open.as_fd();
    collect(
        filled(
            |buffer| rustix::fs::flistxattr(open, buffer),
            || rustix::fs::flistxattr_query(open),
        ),
        |name| {
            filled(
                |buffer| rustix::fs::fgetxattr(open, name, buffer),
                || rustix::fs::fgetxattr_query(open, name),
            )
        },
    )
}

/// The same for what is at `path`; a link at its end is not followed.
pub(super) fn read_at(path: &[u8]) -> Result<Vec<Xattr>, Errno> {
    collect(
        filled(
            |buffer| rustix::fs::llistxattr(path, buffer),
            || rustix::fs::llistxattr_query(path),
        ),
        |name| {
            filled(
                |buffer| rustix::fs::lgetxattr(path, name, buffer),
                || rustix::fs::lgetxattr_query(path, name),
            )
        },
    )
}

/// Makes the attributes of an object these, and no others. The path is its
/// descriptor's, and is followed to it.
pub(super) fn write_exactly(descriptor_path: &[u8], wanted: &[Xattr]) -> Result<(), Errno> {
    let present = filled(
        |buffer| rustix::fs::listxattr(descriptor_path, buffer),
        || rustix::fs::listxattr_query(descriptor_path),
    );
    for name in content_names(present)? {
        if !wanted.iter().any(|xattr| xattr.name == name) {
            rustix::fs::removexattr(descriptor_path, &name[..])?;
        }
    }
    for Xattr { name, value } in wanted {
        rustix::fs::setxattr(descriptor_path, &name[..], value, XattrFlags::empty())?;
    }
    Ok(())
}

fn collect(
    list: Result<Vec<u8>, Errno>,
    value: impl Fn(&[u8]) -> Result<Vec<u8>, Errno>,
) -> Result<Vec<Xattr>, Errno> {
    let mut xattrs = Vec::new();
    for name in content_names(list)? {
        match value(&name) {
            Ok(value) => xattrs.push(Xattr {
                name: name.into(),
                value: value.into(),
            }),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(xattrs)
}

/// The names in a listing that belong to the content, sorted.
fn content_names(list: Result<Vec<u8>, Errno>) -> Result<Vec<Vec<u8>>, Errno> {
    let list = match list {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut names: Vec<Vec<u8>> = list
        .split(|byte| *byte == 0)
        .filter(|name| belongs_to_content(name))
        .map(<[u8]>::to_vec)
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Reads into a buffer that is made larger until everything fits.
fn filled(
    read: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    size: impl Fn() -> Result<usize, Errno>,
) -> Result<Vec<u8>, Errno> {
    let mut usual = [0; USUAL_BYTES];
    match read(&mut usual) {
        Ok(length) => return Ok(usual[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    loop {
        let mut buffer = vec![0; size()?.max(1)];
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // It grew in between.
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}

//! The hashes that a snapshot is made of: 32 bytes of blake3, as text in hex.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::domain::ids::IdError;

macro_rules! content_hash {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// The hash of some content.
            #[must_use]
            pub fn of(content: &[u8]) -> Self {
                Self(*blake3::hash(content).as_bytes())
            }

            /// A hash that somebody else computed.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let lower = !text.contains(|c: char| c.is_ascii_uppercase());
                match blake3::Hash::from_hex(text) {
                    Ok(hash) if lower => Ok(Self(*hash.as_bytes())),
                    Ok(_) | Err(_) => Err(IdError {
                        what: $what,
                        text: text.to_owned(),
                        rule: "hashes are 64 digits of 0-9 and a-f",
                    }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(hash: $name) -> Self {
                hash.to_string()
            }
        }
    };
}

content_hash!(
    /// Names a chunk: blake3 of its raw bytes.
    ChunkHash, "the hash of a chunk"
);
content_hash!(
    /// Names a directory tree: blake3 of its encoded listing. Trees with the
    /// same hash have the same names, metadata and content.
    TreeHash, "the hash of a tree"
);

content_hash!(
    /// Tells whether a directory tree is what it was: blake3 of what the kernel
    /// says of everything in it. Of use on one machine only.
    Fingerprint, "the fingerprint of a tree"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_text_in_json_and_parses_back() {
        let hash = ChunkHash::of(b"content");
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(json, format!("\"{}\"", blake3::hash(b"content").to_hex()));
        assert_eq!(serde_json::from_str::<ChunkHash>(&json).unwrap(), hash);
        let digits = hash.to_string();
        for bad in ["", "ab", &digits.to_uppercase(), &digits[1..]] {
            assert!(bad.parse::<ChunkHash>().is_err(), "{bad}");
        }
    }
}

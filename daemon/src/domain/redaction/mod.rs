//! Takes the values of stored credentials out of bytes, in every form that
//! tools commonly print them in.
//!
//! A value is looked for as it is, JSON-escaped, URL-encoded, in hexadecimal and
//! in base64 at each of the three alignments; see [`forms`]. What is found is
//! replaced by a [`marker`] that names the credential. At each place the longest
//! form that fits wins, so the outcome depends on the bytes alone and never on
//! how a stream was cut.
//!
//! The first eight bytes of all forms are in one table, behind a bit set for the
//! first four: an automaton over the encodings of a few long keys takes hundreds
//! of megabytes, this takes as much as the forms themselves.
//!
//! What it cannot know: a value that was split, reversed, compressed or encrypted.

pub mod forms;
mod json;
mod stream;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::HashMap};

pub use self::stream::RedactionStream;

/// Bytes of a form that are in the table; no form is shorter.
const KEY_BYTES: usize = 8;
/// Bytes of a form that the first set is asked about.
const START_BYTES: usize = 4;
/// Bits of each set: small enough to stay in the nearest cache.
const SET_BITS: u32 = 16;

/// What stands where the value of a credential was.
#[must_use]
pub fn marker(name: &str) -> String {
    format!("[redacted:{name}]")
}

/// Finds the values of credentials. Made once for a set of credentials, then
/// shared; it has no `Debug`, as it holds the values.
pub struct Redactor {
    /// Forms of all values, those with the same first bytes beside each other
    /// and the longest of them first.
    forms: Vec<Form>,
    /// First bytes of a form to its place among the forms and how many share
    /// them.
    by_key: HashMap<u64, (u32, u32)>,
    /// Of the first four bytes of each form.
    starts: BitSet,
    /// Of the first eight.
    key_set: BitSet,
    /// The first bytes of each form, sorted.
    keys: Vec<[u8; KEY_BYTES]>,
    markers: Vec<String>,
}

struct Form {
    bytes: Vec<u8>,
    marker: u32,
}

/// What is at a place.
enum Found {
    Nothing,
    /// A form of this many bytes.
    Match(usize, u32),
    /// More bytes could make it a form.
    Open,
}

/// Whether more bytes follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    MayFollow,
    Ended,
}

impl Redactor {
    /// A redactor for named values. A value that [`forms::check`] refuses is
    /// looked for all the same where it has eight bytes or more.
    pub fn new<'a>(credentials: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut markers = Vec::new();
        let mut all: Vec<Form> = Vec::new();
        for (name, value) in credentials {
            let number = u32::try_from(markers.len()).expect("credentials are few");
            markers.push(marker(name));
            let forms = forms::of(value).into_iter();
            all.extend(
                forms
                    .filter(|form| form.len() >= KEY_BYTES)
                    .map(|bytes| Form {
                        bytes,
                        marker: number,
                    }),
            );
        }
        // Of two credentials with the same value the first one gives the name.
        all.sort_by(|a, b| {
            let of = |form: &Form| (key(&form.bytes), std::cmp::Reverse(form.bytes.len()));
            of(a)
                .cmp(&of(b))
                .then_with(|| a.bytes.cmp(&b.bytes))
                .then(a.marker.cmp(&b.marker))
        });
        all.dedup_by(|later, earlier| later.bytes == earlier.bytes);
        let mut by_key: HashMap<u64, (u32, u32)> = HashMap::new();
        let (mut starts, mut key_set) = (BitSet::default(), BitSet::default());
        for (place, form) in all.iter().enumerate() {
            let place = u32::try_from(place).expect("forms are few");
            let entry = by_key
                .entry(u64::from_le_bytes(key(&form.bytes)))
                .or_insert((place, 0));
            entry.1 += 1;
            starts.insert(start_hash(&form.bytes));
            key_set.insert(key_hash(key(&form.bytes)));
        }
        let mut keys: Vec<_> = all.iter().map(|form| key(&form.bytes)).collect();
        keys.dedup();
        Self {
            forms: all,
            by_key,
            starts,
            key_set,
            keys,
            markers,
        }
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Bytes without the values.
    #[must_use]
    pub fn bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match self.scan(bytes, Rest::Ended) {
            Scan { clean: None, .. } => Cow::Borrowed(bytes),
            Scan {
                clean: Some(clean), ..
            } => Cow::Owned(clean),
        }
    }

    /// A text without the values.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.bytes(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // A form may end inside a character, where a value is no text.
            Cow::Owned(clean) => Cow::Owned(match String::from_utf8(clean) {
                Ok(text) => text,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            }),
        }
    }

    /// The name's [`marker`] of the first credential whose value is in the bytes,
    /// and where that begins.
    #[must_use]
    pub fn first(&self, bytes: &[u8]) -> Option<(usize, &str)> {
        let mut at = 0;
        while let Some(next) = self.candidate(bytes, at) {
            if let Found::Match(_, marker) = self.at(&bytes[next..], Rest::Ended) {
                return Some((next, &self.markers[marker as usize]));
            }
            at = next + 1;
        }
        None
    }

    /// Looks through bytes as far as it can be decided.
    fn scan(&self, bytes: &[u8], rest: Rest) -> Scan {
        let mut clean = None;
        let (mut at, mut copied) = (0, 0);
        while at < bytes.len() {
            // Too few are left for a key at the end; there each place is asked.
            let short = bytes.len().saturating_sub(KEY_BYTES - 1).max(at);
            at = self.candidate(bytes, at).unwrap_or(short);
            if at == bytes.len() {
                break;
            }
            match self.at(&bytes[at..], rest) {
                Found::Nothing => at += 1,
                Found::Open => break,
                Found::Match(length, marker) => {
                    let clean = clean.get_or_insert_with(|| Vec::with_capacity(bytes.len()));
                    clean.extend_from_slice(&bytes[copied..at]);
                    clean.extend_from_slice(self.markers[marker as usize].as_bytes());
                    at += length;
                    copied = at;
                }
            }
        }
        if let Some(clean) = &mut clean {
            clean.extend_from_slice(&bytes[copied..at]);
        }
        Scan { clean, decided: at }
    }

    /// The next place from `from` on that has a key's length of bytes and where
    /// one may begin. This is the loop that every byte goes through.
    fn candidate(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let end = bytes.len().checked_sub(KEY_BYTES - START_BYTES)?;
        let starts = bytes.get(from..end)?.windows(START_BYTES);
        let mut places = starts.map(|start| self.starts.contains(start_hash(start)));
        Some(from + places.position(|may_begin| may_begin)?)
    }

    fn at(&self, here: &[u8], rest: Rest) -> Found {
        if here.len() < KEY_BYTES {
            return match rest {
                Rest::MayFollow if self.begins_a_form(here) => Found::Open,
                Rest::MayFollow | Rest::Ended => Found::Nothing,
            };
        }
        let key = key(here);
        if !self.key_set.contains(key_hash(key)) {
            return Found::Nothing;
        }
        let Some(&(first, count)) = self.by_key.get(&u64::from_le_bytes(key)) else {
            return Found::Nothing;
        };
        for form in &self.forms[first as usize..(first + count) as usize] {
            if form.bytes.len() > here.len() {
                if rest == Rest::MayFollow && form.bytes.starts_with(here) {
                    return Found::Open;
                }
            } else if here.starts_with(&form.bytes) {
                return Found::Match(form.bytes.len(), form.marker);
            }
        }
        Found::Nothing
    }

    /// Whether a form begins with these bytes, which are fewer than a key.
    fn begins_a_form(&self, start: &[u8]) -> bool {
        let place = self.keys.partition_point(|key| &key[..] < start);
        self.keys
            .get(place)
            .is_some_and(|key| key.starts_with(start))
    }
}

/// The first bytes of a form, or of what may be one.
fn key(bytes: &[u8]) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&bytes[..KEY_BYTES]);
    key
}

/// The set's bit for the first four bytes.
fn start_hash(bytes: &[u8]) -> u32 {
    let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    word.wrapping_mul(0x9E37_79B1) >> (u32::BITS - SET_BITS)
}

/// The set's bit for a key.
fn key_hash(key: [u8; KEY_BYTES]) -> u32 {
    let hash = u64::from_le_bytes(key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (hash >> (u64::BITS - SET_BITS)) as u32
}

/// A set that may hold more than was put in.
struct BitSet(Box<[u64; 1 << (SET_BITS - 6)]>);

impl Default for BitSet {
    fn default() -> Self {
        Self(Box::new([0; 1 << (SET_BITS - 6)]))
    }
}

impl BitSet {
    fn insert(&mut self, bit: u32) {
        self.0[(bit >> 6) as usize] |= 1 << (bit & 63);
    }

    fn contains(&self, bit: u32) -> bool {
        self.0[(bit >> 6) as usize] >> (bit & 63) & 1 == 1
    }
}

/// What was found in some bytes.
struct Scan {
    /// What was decided, without values; `None` where it is as it was.
    clean: Option<Vec<u8>>,
    /// How many bytes were decided.
    decided: usize,
}

//! Bytes as SSH lays them out (RFC 4251, section 5).

/// Bytes, read from the front.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        let bytes = self.take(4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    /// Nothing may follow.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Appends a string.
pub(super) fn put(bytes: &mut Vec<u8>, string: &[u8]) {
    let length = u32::try_from(string.len()).expect("messages are short");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(string);
}

/// Strings, one after the other.
pub(super) fn strings(all: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    all.iter().for_each(|string| put(&mut bytes, string));
    bytes
}

/// A number without the zeros in front of it.
pub(super) fn unsigned(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// A positive number as SSH writes it: no zeros in front but one that keeps it
/// positive.
pub(super) fn positive(number: &[u8]) -> Vec<u8> {
    let number = unsigned(number);
    match number.first() {
        Some(first) if *first >= 0x80 => [&[0], number].concat(),
        Some(_) | None => number.to_vec(),
    }
}

/// The same number in so many bytes; `None` when it has more.
pub(super) fn fixed<const BYTES: usize>(number: &[u8]) -> Option<[u8; BYTES]> {
    let number = unsigned(number);
    let mut bytes = [0; BYTES];
    let start = BYTES.checked_sub(number.len())?;
    bytes[start..].copy_from_slice(number);
    Some(bytes)
}

//! The forms in which a value may turn up.

/// Values with fewer bytes are refused.
const MIN_BYTES: usize = 8;
/// As many for values that look like words or numbers.
const MIN_BYTES_PLAIN: usize = 16;
/// Different bytes that a value has to have.
const MIN_DISTINCT: usize = 4;
/// Bytes from which a part of a file counts as a secret of its own.
const MIN_PART: usize = 20;
/// Columns after which tools break lines of base64.
const BASE64_COLUMNS: [usize; 2] = [76, 64];

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Why a value cannot be told from ordinary text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndistinctError {
    /// It has too few bytes.
    #[error(
        "it has {bytes} bytes without the white space around it and needs at least {MIN_BYTES}"
    )]
    Short {
        /// Its bytes.
        bytes: usize,
    },
    /// It looks like a word or a number.
    #[error(
        "it has {bytes} characters that are letters of one case, or digits, as words and numbers are; such a value needs at least {MIN_BYTES_PLAIN}"
    )]
    Plain {
        /// Its bytes.
        bytes: usize,
    },
    /// It repeats itself.
    #[error("it has fewer than {MIN_DISTINCT} different characters")]
    Uniform,
}

/// Refuses a value that would turn up in ordinary text by chance, so that hiding
/// it would hide other things.
///
/// # Errors
/// [`IndistinctError`], which says why.
pub fn check(value: &[u8]) -> Result<(), IndistinctError> {
    let value = value.trim_ascii();
    let bytes = value.len();
    if bytes < MIN_BYTES {
        return Err(IndistinctError::Short { bytes });
    }
    let joins = |byte: &u8| b"_-./ ".contains(byte);
    let all = |is: fn(&u8) -> bool| value.iter().all(|byte| is(byte) || joins(byte));
    let kinds = [
        u8::is_ascii_lowercase,
        u8::is_ascii_uppercase,
        u8::is_ascii_digit,
    ];
    let plain = kinds.into_iter().any(all);
    if plain && bytes < MIN_BYTES_PLAIN {
        return Err(IndistinctError::Plain { bytes });
    }
    let mut distinct = value.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < MIN_DISTINCT {
        return Err(IndistinctError::Uniform);
    }
    Ok(())
}

/// Every form of a value: of the whole without the white space around it, and of
/// each part that is a secret of its own. The forms of the whole contain those
/// with white space around.
#[must_use]
pub fn of(value: &[u8]) -> Vec<Vec<u8>> {
    let whole = value.trim_ascii();
    let mut forms = Vec::new();
    add(&mut forms, whole);
    for part in parts(whole) {
        add(&mut forms, part);
    }
    forms.sort();
    forms.dedup();
    forms
}

/// Parts of a value of several lines, or of a user and a password, that must not
/// be seen by themselves: the lines of a key, the tokens in a file.
fn parts(whole: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    if whole.contains(&b'\n') {
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b"\"'`,;".contains(byte);
        let tokens = whole.split(ends);
        parts.extend(tokens.filter(|token| token.len() >= MIN_PART && is_mixed(token)));
    } else if let Some(colon) = whole.iter().position(|byte| *byte == b':') {
        let password = &whole[colon + 1..];
        if check(password).is_ok() {
            parts.push(password);
        }
    }
    parts
}

/// Whether a text has letters and digits, as keys do and words do not.
fn is_mixed(token: &[u8]) -> bool {
    token.iter().any(u8::is_ascii_digit) && token.iter().any(u8::is_ascii_alphabetic)
}

fn add(forms: &mut Vec<Vec<u8>>, value: &[u8]) {
    forms.push(value.to_vec());
    if let Ok(text) = std::str::from_utf8(value) {
        forms.extend(json(text));
    }
    let kept: [fn(u8) -> bool; 4] = [is_unreserved, is_path, is_uri_component, is_uri];
    for plain in kept {
        forms.push(percent(value, plain, b"0123456789ABCDEF", b"%20"));
        forms.push(percent(value, plain, b"0123456789abcdef", b"%20"));
        forms.push(percent(value, plain, b"0123456789ABCDEF", b"+"));
    }
    forms.push(hex(value, b"0123456789abcdef"));
    forms.push(hex(value, b"0123456789ABCDEF"));
    for alphabet in [STANDARD, URL_SAFE] {
        for before in 0..3 {
            let encoded = base64(value, before, alphabet);
            if before == 0 {
                for columns in BASE64_COLUMNS {
                    // Whole lines only: the start of the last one would be short.
                    forms.extend(encoded.chunks_exact(columns).map(<[u8]>::to_vec));
                }
            }
            forms.push(encoded);
        }
    }
}

/// As the inside of a JSON text: short escapes; everything beyond ASCII escaped as
/// some writers do; `/` escaped as others do; and as the inside of a text in JSON
/// that is itself in a text in JSON, as arguments of tools are.
fn json(text: &str) -> Vec<Vec<u8>> {
    let inside = quoted(text);
    let mut ascii = String::new();
    for character in inside.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    let twice = [quoted(&inside), quoted(&ascii)];
    let slashed = [inside.replace('/', "\\/"), ascii.replace('/', "\\/")];
    let forms = [inside, ascii].into_iter().chain(slashed).chain(twice);
    forms.map(String::into_bytes).collect()
}

/// A text between the quotes of JSON.
fn quoted(text: &str) -> String {
    let quoted = serde_json::to_string(text).expect("a text is always JSON");
    quoted[1..quoted.len() - 1].to_owned()
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What Python's `quote` leaves as it is.
fn is_path(byte: u8) -> bool {
    is_unreserved(byte) || byte == b'/'
}

/// What `encodeURIComponent` leaves as it is.
fn is_uri_component(byte: u8) -> bool {
    is_unreserved(byte) || b"!'()*".contains(&byte)
}

/// What `encodeURI` leaves as it is.
fn is_uri(byte: u8) -> bool {
    is_uri_component(byte) || b";,/?:@&=+$#".contains(&byte)
}

fn percent(value: &[u8], plain: fn(u8) -> bool, digits: &[u8; 16], space: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b' ' => encoded.extend_from_slice(space),
            byte if plain(*byte) => encoded.push(*byte),
            byte => {
                encoded.push(b'%');
                encoded.extend_from_slice(&digits_of(*byte, digits));
            }
        }
    }
    encoded
}

fn hex(value: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    let pairs = value.iter().flat_map(|byte| digits_of(*byte, digits));
    pairs.collect()
}

fn digits_of(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    [
        digits[usize::from(byte >> 4)],
        digits[usize::from(byte & 15)],
    ]
}

/// The characters of base64 that a value decides alone when `before` bytes, 0 to
/// 2, come before it in its group of three.
fn base64(value: &[u8], before: usize, alphabet: &[u8; 64]) -> Vec<u8> {
    let mut characters = Vec::with_capacity(value.len() * 4 / 3 + 1);
    let (mut bits, mut count) = (0_u32, 0_u32);
    // The bits that share a character with what comes before.
    let mut skip = [0, 4, 2][before];
    for byte in value {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        if skip > 0 {
            count -= skip;
            skip = 0;
        }
        while count >= 6 {
            count -= 6;
            characters.push(alphabet[(bits >> count & 63) as usize]);
        }
        bits &= (1 << count) - 1;
    }
    characters
}

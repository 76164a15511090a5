use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const SECRET: &[u8] = b"p\"w/ \xc3\xa4+k3y?\\end";

fn redactor(values: &[(&str, &[u8])]) -> Redactor {
    Redactor::new(values.iter().copied())
}

/// Base64 as everybody writes it, from the definition: not the code under test.
fn reference_base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            text.push(alphabet[(word >> (18 - 6 * place) & 63) as usize] as char);
        }
        text.push_str(&"="[..usize::from(group.len() != 3)]);
        text.push_str(&"="[..usize::from(group.len() == 1)]);
    }
    text
}

const ALPHABETS: [&[u8; 64]; 2] = [
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
];

#[test]
fn every_written_form_is_replaced_by_the_credentials_name() {
    let redactor = redactor(&[("npm", SECRET)]);
    let text = std::str::from_utf8(SECRET).unwrap();
    let json = serde_json::to_string(text).unwrap();
    let forms = [
        text.to_owned(),
        json[1..json.len() - 1].to_owned(),
        "p\\\"w\\/ \\u00e4+k3y?\\\\end".to_owned(),
        "p%22w%2F%20%C3%A4%2Bk3y%3F%5Cend".to_owned(),
        "p%22w%2f%20%c3%a4%2bk3y%3f%5cend".to_owned(),
        "p%22w%2F+%C3%A4%2Bk3y%3F%5Cend".to_owned(),
        "p%22w/%20%C3%A4%2Bk3y%3F%5Cend".to_owned(),
        "p%22w/%20%C3%A4+k3y?%5Cend".to_owned(),
        "7022772f20c3a42b6b33793f5c656e64".to_owned(),
        "7022772F20C3A42B6B33793F5C656E64".to_owned(),
    ];
    for form in forms {
        assert_eq!(
            redactor.text(&format!("a {form}\nb")),
            "a [redacted:npm]\nb",
            "{form}"
        );
    }
}

#[test]
fn base64_is_found_wherever_the_value_lies_in_what_was_encoded() {
    let redactor = redactor(&[("npm", SECRET)]);
    for alphabet in ALPHABETS {
        for before in 0..7 {
            for after in 0..4 {
                let whole = [&b"user:x:"[..before], SECRET, &b"tail"[..after]].concat();
                let encoded = reference_base64(&whole, alphabet);
                let clean = redactor.text(&encoded).into_owned();
                let marker = "[redacted:npm]";
                assert!(clean.contains(marker), "{before} {after}: {encoded}");
                // What is left belongs to the bytes around, with one character
                // of the value at either side at most.
                let left = clean.len() - marker.len();
                assert!(left * 6 <= (before + after + 2) * 8 + 24, "{clean}");
            }
        }
    }
}

#[test]
fn the_white_space_around_a_value_is_not_part_of_it() {
    let redactor = redactor(&[("t", b"\n token-1234 \n")]);
    assert_eq!(redactor.text("x token-1234."), "x [redacted:t].");
}

#[test]
fn the_longest_value_wins_and_the_first_of_equal_ones_names_it() {
    let redactor = redactor(&[
        ("short", b"abcd1234"),
        ("long", b"abcd1234efgh"),
        ("same", b"abcd1234"),
    ]);
    assert_eq!(
        redactor.text("abcd1234efgh abcd1234efg abcd1234abcd1234"),
        "[redacted:long] [redacted:short]efg [redacted:short][redacted:short]"
    );
}

#[test]
fn a_password_and_the_lines_of_a_key_are_values_of_their_own() {
    let key = b"-----BEGIN KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAE\nAAAAMwAAAAtzc2gtZWQyNTUxOQAAACB1234567\n-----END KEY-----\n";
    let redactor = redactor(&[("git", b"me:s3cret-token"), ("key", key)]);
    assert_eq!(redactor.text("-H s3cret-token"), "-H [redacted:git]");
    assert_eq!(
        redactor.text("> b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAE"),
        "> [redacted:key]"
    );
    assert_eq!(redactor.text("-----BEGIN KEY-----"), "-----BEGIN KEY-----");
}

#[test]
fn base64_of_a_file_in_lines_of_76_leaves_no_whole_line() {
    let value: Vec<u8> = (0..400_u32).map(|n| (n * 7 % 251) as u8).collect();
    let encoded = reference_base64(&value, ALPHABETS[0]);
    for columns in [64, 76] {
        let lines: Vec<&str> = (0..encoded.len())
            .step_by(columns)
            .map(|at| &encoded[at..(at + columns).min(encoded.len())])
            .collect();
        let clean = redactor(&[("f", &value)])
            .text(&lines.join("\n"))
            .into_owned();
        for line in lines.iter().filter(|line| line.len() == columns) {
            assert!(!clean.contains(line), "{clean}");
        }
    }
}

#[test]
fn nothing_is_changed_where_there_is_no_value() {
    let redactor = redactor(&[("npm", SECRET)]);
    for text in ["", "p", "p\"w/ ä+k3y?\\en", "an ordinary line\n"] {
        assert!(matches!(redactor.text(text), Cow::Borrowed(same) if same == text));
    }
    assert!(Redactor::new([]).is_empty());
}

#[test]
fn what_cannot_be_told_from_text_is_refused_with_the_reason() {
    use forms::{IndistinctError::*, check};
    assert_eq!(check(b" 1234567\n"), Err(Short { bytes: 7 }));
    assert_eq!(check(b"password"), Err(Plain { bytes: 8 }));
    assert_eq!(check(b"2026-11-21"), Err(Plain { bytes: 10 }));
    assert_eq!(check(b"message_added"), Err(Plain { bytes: 13 }));
    assert_eq!(check(b"abababababababab"), Err(Uniform));
    assert_eq!(check(b"p4ssword"), Ok(()));
    assert_eq!(check(b"correcthorsebattery"), Ok(()));
}

proptest! {
    #[test]
    fn how_a_stream_is_cut_makes_no_difference(
        pieces in prop::collection::vec(prop_oneof![
            Just(b"tok-en-1".to_vec()), Just(b"tok-en-1-longer".to_vec()),
            Just(b"746f6b2d656e2d31".to_vec()), Just(b"tok-".to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ], 0..12),
        cuts in prop::collection::vec(1_usize..9, 0..60),
    ) {
        let redactor = Arc::new(redactor(&[("a", b"tok-en-1"), ("b", b"tok-en-1-longer")]));
        let whole = pieces.concat();
        let mut stream = RedactionStream::new(redactor.clone());
        let (mut clean, mut rest) = (Vec::new(), &whole[..]);
        for cut in cuts {
            let (piece, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            clean.extend_from_slice(&stream.push(Bytes::copy_from_slice(piece)));
        }
        clean.extend_from_slice(&stream.push(Bytes::copy_from_slice(rest)));
        clean.extend_from_slice(&stream.flush());
        let expected = redactor.bytes(&whole);
        prop_assert_eq!(&clean[..], &expected[..]);
        prop_assert!(!clean.windows(8).any(|window| window == b"tok-en-1"));
    }
}

#[test]
fn json_is_cleaned_at_every_depth_before_it_is_text() {
    let redactor = redactor(&[("a", b"k\"ey-1234"), ("pin", b"7316024950182736")]);
    let value = serde_json::json!({
        "k\"ey-1234": ["x k\"ey-1234 y", {"n": 7_316_024_950_182_736_u64, "m": 7}],
    });
    assert_eq!(
        redactor.json(value).to_string(),
        r#"{"[redacted:a]":["x [redacted:a] y",{"m":7,"n":"[redacted:pin]"}]}"#
    );
}

#[test]
fn what_is_no_start_of_a_value_is_not_held_back() {
    let mut stream = RedactionStream::new(Arc::new(redactor(&[("a", b"tok-en-1")])));
    assert_eq!(stream.push(Bytes::from_static(b"$ ")), "$ ");
    assert_eq!(stream.push(Bytes::from_static(b"is a to")), "is a ");
    assert_eq!(stream.push(Bytes::from_static(b"k-en-")), "");
    assert_eq!(stream.push(Bytes::from_static(b"1!")), "[redacted:a]!");
    assert_eq!(stream.push(Bytes::from_static(b"tok-en")), "");
    assert_eq!(stream.flush(), "tok-en");
}

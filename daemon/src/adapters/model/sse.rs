//! Server-sent events from raw bytes.
//!
//! Owns lines and frames only: it knows neither JSON nor providers. Bytes may
//! be split anywhere, also inside a CRLF or a UTF-8 sequence. Of a frame only
//! the `data` matters here: both providers repeat the event's name inside it.

/// Longest event, in bytes. A whole file may arrive as the arguments of one
/// tool call in one event.
pub(super) const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// An event grew beyond [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {MAX_EVENT_BYTES} bytes")]
pub(super) struct EventTooLarge;

/// Turns bytes into the data of events, in the order they came.
#[derive(Debug, Default)]
pub(super) struct SseDecoder {
    /// The line under way, without its end.
    line: Vec<u8>,
    /// Data lines of the event under way, joined by line feeds.
    data: Option<String>,
    /// The last byte was a CR: a LF that follows belongs to it.
    after_carriage_return: bool,
    /// A first line was seen; before it a byte-order mark is skipped.
    started: bool,
}

impl SseDecoder {
    /// Takes the next bytes and appends the data of every event that they
    /// complete to `events`.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        events: &mut Vec<String>,
    ) -> Result<(), EventTooLarge> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_carriage_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            match bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                None => {
                    self.extend_line(bytes)?;
                    break;
                }
                Some(end) => {
                    self.extend_line(&bytes[..end])?;
                    self.after_carriage_return = bytes[end] == b'\r';
                    events.extend(self.end_line());
                    bytes = &bytes[end + 1..];
                }
            }
        }
        Ok(())
    }

    /// The data of an event that the stream's end left without its blank line.
    pub(super) fn finish(mut self) -> Option<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.data
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), EventTooLarge> {
        let held = self.line.len() + self.data.as_ref().map_or(0, String::len);
        if held + bytes.len() > MAX_EVENT_BYTES {
            return Err(EventTooLarge);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// Reads the line that just ended; a blank one gives the event's data.
    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.data.take();
        }
        // A line is decoded whole, so that no character is split. Comments
        // start with a colon; `event`, `id` and `retry` are of no use here.
        let value = line
            .strip_prefix(b"data:")
            .or_else(|| (line == b"data").then_some(b""))?;
        let text = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match &mut self.data {
            None => self.data = Some(text.into_owned()),
            Some(data) => {
                data.push('\n');
                data.push_str(&text);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]]) -> (Vec<String>, Option<String>) {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.push(chunk, &mut events).unwrap();
        }
        (events, decoder.finish())
    }

    const STREAM: &str = "\u{feff}: PROCESSING\n\nevent: message\ndata: {\"a\":\"22\u{b0}C \u{1f980}\"}\n\n\
        data:no space\r\n\r\ndata: one\ndata: two\r\rid: 7\ndata\n\ndata: [DONE]\n\n";
    const EVENTS: [&str; 5] = [
        "{\"a\":\"22\u{b0}C \u{1f980}\"}",
        "no space",
        "one\ntwo",
        "",
        "[DONE]",
    ];

    #[test]
    fn every_single_split_gives_the_same_events() {
        for at in 0..=STREAM.len() {
            let (head, tail) = STREAM.as_bytes().split_at(at);
            assert_eq!(
                decode(&[head, tail]),
                (EVENTS.map(str::to_owned).to_vec(), None),
                "{at}"
            );
        }
    }

    #[test]
    fn an_event_without_its_blank_line_is_given_at_the_end() {
        assert_eq!(
            decode(&[b"data: a\n\ndata: [DONE]"]),
            (vec!["a".into()], Some("[DONE]".into()))
        );
    }

    #[test]
    fn invalid_utf8_is_replaced_and_does_not_end_the_stream() {
        assert_eq!(decode(&[b"data: a\xffb\n\n"]).0, ["a\u{fffd}b"]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut decoder = SseDecoder::default();
        let chunk = vec![b'x'; MAX_EVENT_BYTES / 4];
        let results: Vec<_> = (0..5)
            .map(|_| decoder.push(&chunk, &mut Vec::new()))
            .collect();
        assert_eq!(results[3], Ok(()));
        assert_eq!(results[4], Err(EventTooLarge));
    }

    #[test]
    fn endless_data_lines_of_one_event_are_refused() {
        let mut decoder = SseDecoder::default();
        let line = [
            b"data: ".as_slice(),
            &vec![b'x'; MAX_EVENT_BYTES / 4],
            b"\n",
        ]
        .concat();
        let refused = (0..5).any(|_| decoder.push(&line, &mut Vec::new()).is_err());
        assert!(refused);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_split_give_what_the_whole_gives(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), Just(b'd'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&bytes[from..cut]);
                from = cut;
            }
            chunks.push(&bytes[from..]);
            prop_assert_eq!(decode(&chunks), decode(&[&bytes]));
        }
    }
}

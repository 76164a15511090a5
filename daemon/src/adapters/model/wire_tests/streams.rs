//! What providers stream, cut anywhere and changed.

use super::super::{
    anthropic::Anthropic,
    openai::OpenAi,
    sse::SseDecoder,
    transport::{Dialect, Next, ReplyReader},
};
use crate::ports::model::{ModelError, ModelRequest};

fn request() -> ModelRequest {
    ModelRequest {
        system: "s".into(),
        tools: Vec::new(),
        messages: Vec::new(),
        max_output_tokens: 1_000,
        turns_left_out: 0,
    }
}

/// The recorded streams of a provider.
fn recorded(provider: &str) -> Vec<Vec<u8>> {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/model/");
    let files = std::fs::read_dir(format!("{fixtures}{provider}")).expect("there are recordings");
    let mut files: Vec<_> = files.flatten().map(|file| file.path()).collect();
    files.sort();
    let streams = files
        .iter()
        .map(|file| std::fs::read(file).expect("it can be read"));
    streams.collect()
}

/// What a reader makes of a stream, whose pieces have nothing to do with it.
fn read(dialect: &impl Dialect, stream: &[u8]) -> Result<String, ModelError> {
    let mut reader = dialect.reader(&request());
    let mut decoder = SseDecoder::default();
    for piece in stream.chunks(1 + stream.len() % 97) {
        let mut events = Vec::new();
        decoder
            .push(piece, &mut events)
            .expect("it is not that long");
        for data in events {
            if reader.event(&data, &mut |_| {})? == Next::Done {
                return ended(reader);
            }
        }
    }
    if let Some(data) = decoder.finish() {
        reader.event(&data, &mut |_| {})?;
    }
    ended(reader)
}

fn ended(reader: impl ReplyReader) -> Result<String, ModelError> {
    let complete = reader.is_complete();
    let reply = reader.end("it ended")?;
    assert!(complete, "what is not complete is no reply");
    Ok(format!(
        "{:?} {} {}",
        reply.stop,
        reply.turn.tool_calls.len().min(5),
        reply.turn.text.is_empty()
    ))
}

fn fuzz(provider: &str, dialect: &impl Dialect) {
    crate::fuzz::run_here(provider, recorded(provider), |stream| {
        match read(dialect, stream) {
            Ok(words) => words,
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn streams_of_openai() {
    fuzz("openai", &OpenAi::unconnected());
}

#[test]
fn streams_of_anthropic() {
    fuzz("anthropic", &Anthropic::unconnected());
}

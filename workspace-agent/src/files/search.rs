//! Glob and Grep, with ripgrep's crates.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use compyd_proto::agent::{GlobRequest, GlobResponse, GrepLine, GrepRequest, GrepResponse};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{
    BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkFinish, SinkMatch,
};
use ignore::WalkBuilder;

use super::info;
use crate::errors::{AgentError, Reason};

/// Longest time one search may take; what was found by then is the answer.
const TIME_LIMIT: Duration = Duration::from_secs(20);
const DEFAULT_MATCHES: u32 = 200;
const MAX_MATCHES: u32 = 5000;
const MAX_CONTEXT: u32 = 20;
const MAX_LINE_BYTES: usize = 2000;
/// Largest line that is searched; a file with a larger one is passed over.
const HEAP_BYTES: usize = 16 * 1024 * 1024;
const REGEX_BYTES: usize = 10 * 1024 * 1024;

fn limit(wanted: u32) -> usize {
    match wanted {
        0 => DEFAULT_MATCHES as usize,
        wanted => wanted.min(MAX_MATCHES) as usize,
    }
}

/// Files below `base` that match a glob, newest first.
pub(super) fn glob(base: &Path, request: &GlobRequest) -> Result<GlobResponse, AgentError> {
    must_be_directory(base)?;
    let globs = compile(std::slice::from_ref(&request.pattern))?;
    let deadline = Instant::now() + TIME_LIMIT;
    let mut found = Vec::new();
    let mut out_of_time = false;
    for path in walk(base, request.include_ignored) {
        if Instant::now() > deadline {
            out_of_time = true;
            break;
        }
        let below = path.strip_prefix(base).unwrap_or(&path);
        if globs.is_match(below)
            && let Ok(meta) = std::fs::symlink_metadata(&path)
        {
            let modified = meta.modified().unwrap_or(UNIX_EPOCH);
            found.push((modified, path));
        }
    }
    found.sort_by(|(a_time, a_path), (b_time, b_path)| {
        b_time.cmp(a_time).then_with(|| a_path.cmp(b_path))
    });
    let limit = limit(request.max_matches);
    let truncated = out_of_time || found.len() > limit;
    let files = found
        .iter()
        .take(limit)
        .filter_map(|(_, path)| {
            let meta = std::fs::symlink_metadata(path).ok()?;
            Some(info::describe(path, path, &meta))
        })
        .collect();
    Ok(GlobResponse { files, truncated })
}

/// Lines that match a regular expression, in order of path and line.
pub(super) fn grep(base: &Path, request: &GrepRequest) -> Result<GrepResponse, AgentError> {
    let matcher = RegexMatcherBuilder::new()
        .case_insensitive(request.ignore_case)
        .line_terminator(Some(b'\n'))
        .size_limit(REGEX_BYTES)
        .build(&request.pattern)
        .map_err(|error| pattern_invalid(&request.pattern, &error))?;
    let globs = if request.globs.is_empty() {
        None
    } else {
        Some(compile(&request.globs)?)
    };
    let mut searcher = SearcherBuilder::new()
        .binary_detection(BinaryDetection::quit(0))
        .line_number(true)
        .before_context(request.before_context.min(MAX_CONTEXT) as usize)
        .after_context(request.after_context.min(MAX_CONTEXT) as usize)
        .heap_limit(Some(HEAP_BYTES))
        .build();
    let mut grep = Grep {
        answer: GrepResponse::default(),
        matches_left: limit(request.max_matches),
        deadline: Instant::now() + TIME_LIMIT,
    };
    let meta = std::fs::metadata(base).map_err(|error| AgentError::io("search", base, &error))?;
    if meta.is_file() {
        grep.search(&mut searcher, &matcher, base);
        return Ok(grep.answer);
    }
    must_be_directory(base)?;
    for path in walk(base, request.include_ignored) {
        if grep.answer.truncated {
            break;
        }
        let below = path.strip_prefix(base).unwrap_or(&path);
        let name = below.file_name().map(Path::new).unwrap_or(below);
        if globs
            .as_ref()
            .is_none_or(|globs| globs.is_match(below) || globs.is_match(name))
        {
            grep.search(&mut searcher, &matcher, &path);
        }
    }
    Ok(grep.answer)
}

fn must_be_directory(path: &Path) -> Result<(), AgentError> {
    let meta = std::fs::metadata(path).map_err(|error| AgentError::io("search", path, &error))?;
    if meta.is_dir() {
        return Ok(());
    }
    Err(AgentError::new(
        Reason::NotADirectory,
        format!(
            "{} is not a directory; name the directory to search",
            path.display()
        ),
    ))
}

fn pattern_invalid(pattern: &str, error: &dyn std::fmt::Display) -> AgentError {
    AgentError::new(
        Reason::PatternInvalid,
        format!("the pattern {pattern:?} cannot be used: {error}"),
    )
}

fn compile(patterns: &[String]) -> Result<GlobSet, AgentError> {
    let mut globs = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .map_err(|error| pattern_invalid(pattern, &error))?;
        globs.add(glob);
    }
    globs
        .build()
        .map_err(|error| pattern_invalid(&patterns.join(", "), &error))
}

/// Regular files below a directory in order of path. Links are not followed;
/// what cannot be read is passed over.
fn walk(base: &Path, include_ignored: bool) -> impl Iterator<Item = PathBuf> {
    WalkBuilder::new(base)
        .standard_filters(!include_ignored)
        // Repositories lie side by side, and not everything is one.
        .require_git(false)
        .git_global(false)
        .sort_by_file_path(Path::cmp)
        .build()
        .flatten()
        .filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file()))
        .map(ignore::DirEntry::into_path)
}

struct Grep {
    answer: GrepResponse,
    matches_left: usize,
    deadline: Instant,
}

impl Grep {
    fn search(&mut self, searcher: &mut Searcher, matcher: &RegexMatcher, path: &Path) {
        if Instant::now() > self.deadline {
            self.answer.truncated = true;
            return;
        }
        let mut lines = Lines {
            path: path.to_string_lossy().into_owned(),
            found: Vec::new(),
            matches: 0,
            matches_left: self.matches_left,
            more: false,
            binary: false,
            deadline: self.deadline,
        };
        // A file that cannot be read or has a line too long is not a match.
        let searched = searcher.search_path(matcher, path, &mut lines);
        self.answer.files_searched += 1;
        if searched.is_err() || lines.binary || lines.matches == 0 && !lines.more {
            return;
        }
        self.answer.truncated |= lines.more;
        if lines.matches > 0 {
            self.matches_left -= lines.matches;
            self.answer.files_matched += 1;
            self.answer.lines.append(&mut lines.found);
        }
    }
}

/// Collects the lines of one file.
struct Lines {
    path: String,
    found: Vec<GrepLine>,
    matches: usize,
    matches_left: usize,
    /// Whether a match was left out.
    more: bool,
    binary: bool,
    deadline: Instant,
}

impl Lines {
    fn push(&mut self, number: Option<u64>, bytes: &[u8], matched: bool) {
        let end = bytes
            .strip_suffix(b"\n")
            .map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut text = String::from_utf8_lossy(&end[..end.len().min(MAX_LINE_BYTES)]).into_owned();
        if end.len() > MAX_LINE_BYTES {
            // The cut may have gone through a character.
            while text.ends_with(char::REPLACEMENT_CHARACTER) {
                text.pop();
            }
        }
        self.found.push(GrepLine {
            path: self.path.clone(),
            line: u32::try_from(number.unwrap_or(0)).unwrap_or(u32::MAX),
            text,
            matched,
        });
    }
}

impl Sink for Lines {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        if self.matches == self.matches_left || Instant::now() > self.deadline {
            self.more = true;
            return Ok(false);
        }
        self.matches += 1;
        self.push(found.line_number(), found.bytes(), true);
        Ok(true)
    }

    fn context(&mut self, _: &Searcher, found: &SinkContext<'_>) -> Result<bool, io::Error> {
        self.push(found.line_number(), found.bytes(), false);
        Ok(true)
    }

    fn finish(&mut self, _: &Searcher, finish: &SinkFinish) -> Result<(), io::Error> {
        self.binary = finish.binary_byte_offset().is_some();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        write("a.py", b"import os\ndef needle():\n    pass\n");
        write("src/b.py", b"x = 1\nNEEDLE = 2\r\n");
        write("src/deep/c.rs", b"// needle\n");
        write("ignored/d.py", b"needle\n");
        write(".gitignore", b"ignored/\n");
        write("blob.bin", b"needle\0needle\n");
        dir
    }

    fn grep_in(dir: &Path, request: GrepRequest) -> GrepResponse {
        grep(dir, &request).unwrap()
    }

    fn request(pattern: &str) -> GrepRequest {
        GrepRequest {
            pattern: pattern.into(),
            ..GrepRequest::default()
        }
    }

    fn brief(dir: &Path, answer: &GrepResponse) -> Vec<String> {
        let prefix = format!("{}/", dir.display());
        answer
            .lines
            .iter()
            .map(|line| {
                let mark = if line.matched { ':' } else { '-' };
                let path = line.path.strip_prefix(&prefix).unwrap();
                format!("{path}{mark}{}{mark}{}", line.line, line.text)
            })
            .collect()
    }

    #[test]
    fn grep_honours_ignore_files_and_passes_over_binary_ones() {
        let dir = tree();
        let answer = grep_in(dir.path(), request("needle"));
        assert_eq!(
            brief(dir.path(), &answer),
            ["a.py:2:def needle():", "src/deep/c.rs:1:// needle"]
        );
        assert_eq!((answer.files_matched, answer.truncated), (2, false));
        assert_eq!(answer.files_searched, 4);

        let all = GrepRequest {
            include_ignored: true,
            ignore_case: true,
            globs: vec!["*.py".into()],
            ..request("needle")
        };
        assert_eq!(
            brief(dir.path(), &grep_in(dir.path(), all)),
            [
                "a.py:2:def needle():",
                "ignored/d.py:1:needle",
                "src/b.py:2:NEEDLE = 2"
            ]
        );
    }

    #[test]
    fn grep_shows_context_and_says_when_matches_are_left_out() {
        let dir = tree();
        let answer = grep_in(
            dir.path(),
            GrepRequest {
                before_context: 1,
                after_context: 1,
                max_matches: 1,
                ..request("needle")
            },
        );
        assert_eq!(
            brief(dir.path(), &answer),
            [
                "a.py-1-import os",
                "a.py:2:def needle():",
                "a.py-3-    pass"
            ]
        );
        assert!(answer.truncated);
        let exactly = grep_in(
            dir.path(),
            GrepRequest {
                max_matches: 2,
                ..request("needle")
            },
        );
        assert!(!exactly.truncated);
        let one_file = grep_in(&dir.path().join("src/b.py"), request("^x"));
        assert_eq!((one_file.lines.len(), one_file.files_searched), (1, 1));
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), format!("a{}\n", "€".repeat(3000))).unwrap();
        let answer = grep_in(dir.path(), request("a"));
        assert_eq!(answer.lines[0].text, format!("a{}", "€".repeat(666)));
    }

    #[test]
    fn glob_matches_the_path_below_and_sorts_the_newest_first() {
        let dir = tree();
        let old = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let file = std::fs::File::options()
            .append(true)
            .open(dir.path().join("a.py"))
            .unwrap();
        file.set_modified(old).unwrap();
        let names = |request: GlobRequest| -> (Vec<String>, bool) {
            let answer = glob(dir.path(), &request).unwrap();
            let prefix = format!("{}/", dir.path().display());
            let names = answer
                .files
                .iter()
                .map(|file| file.path.strip_prefix(&prefix).unwrap().to_owned())
                .collect();
            (names, answer.truncated)
        };
        let with = |pattern: &str| GlobRequest {
            pattern: pattern.into(),
            ..GlobRequest::default()
        };
        assert_eq!(
            names(with("**/*.py")),
            (vec!["src/b.py".into(), "a.py".into()], false)
        );
        assert_eq!(names(with("*.py")), (vec!["a.py".into()], false));
        assert_eq!(
            names(GlobRequest {
                max_matches: 1,
                ..with("**/*.py")
            }),
            (vec!["src/b.py".into()], true)
        );
        let all = GlobRequest {
            include_ignored: true,
            ..with("**/d.py")
        };
        assert_eq!(names(all).0, ["ignored/d.py"]);
    }

    #[test]
    fn patterns_that_cannot_be_used_are_named() {
        let dir = tree();
        let error = grep(dir.path(), &request("(")).unwrap_err();
        assert_eq!(error.reason(), Reason::PatternInvalid);
        let error = glob(
            dir.path(),
            &GlobRequest {
                pattern: "a[".into(),
                ..GlobRequest::default()
            },
        );
        assert_eq!(error.unwrap_err().reason(), Reason::PatternInvalid);
        let missing = grep(&dir.path().join("missing"), &request("x")).unwrap_err();
        assert_eq!(missing.reason(), Reason::NotFound);
        let file = glob(
            &dir.path().join("a.py"),
            &GlobRequest {
                pattern: "*".into(),
                ..GlobRequest::default()
            },
        );
        assert_eq!(file.unwrap_err().reason(), Reason::NotADirectory);
    }
}

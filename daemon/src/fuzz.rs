//! Random bytes for whoever reads what it cannot trust.
//!
//! A target says in a few words what came of an input. What leads to words that
//! were not heard before is kept and changed further, so that a run works its way
//! from what is refused at once to what is nearly right; that needs no other
//! compiler than the one that everything is built with. The first inputs are real
//! ones, and those in `fuzz/NAME` of the crate, where what two minutes under
//! `make torture` find stays. In any other run everything there is tried, and as
//! much more as takes a second, the same each time.
//!
//! A panic, and an input that takes longer than [`SLOWEST`], fail the test, which
//! says where the input is.

use std::{
    collections::HashSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a run takes in a test, and under `COMPY_TORTURE`.
const QUICK: Duration = Duration::from_secs(1);
const THOROUGH: Duration = Duration::from_secs(120);
/// How much of a processor an input of [`MAX_BYTES`] at most may take: the time of
/// the thread, as others may need the machine meanwhile.
const SLOWEST: Duration = Duration::from_secs(10);
/// No input is longer.
const MAX_BYTES: usize = 64 << 10;
/// Longer ones are not kept in the tree.
const MAX_KEPT_BYTES: usize = 4 << 10;
/// Inputs that are changed further; later ones take the place of others.
const MAX_INPUTS: usize = 4_000;
/// New inputs of a run that are kept in the tree.
const MAX_KEPT: usize = 40;
/// Bytes that many languages give a meaning to.
const TELLING: &[u8] = b"\0\xff\x7f\x80\n\r\t \"'\\{}[]()<>$`|&;:=-+/*#@,.0";
/// Bytes of the words that count.
const WORDS_BYTES: usize = 160;

/// Tries a target with the inputs in `directory/NAME`, with `seeds`, and with what
/// comes of changing them.
///
/// # Panics
/// When the target panics, or takes too long; with the file that has the input.
pub fn run(directory: &Path, name: &str, seeds: Vec<Vec<u8>>, target: impl FnMut(&[u8]) -> String) {
    let thorough = std::env::var_os("COMPY_TORTURE").is_some();
    let kept = directory.join(name);
    let mut run = Run {
        target,
        under_way: std::env::temp_dir().join(format!("compy-fuzz-{name}-{}", std::process::id())),
        heard: HashSet::new(),
        inputs: Vec::new(),
        random: fastrand::Rng::with_seed(match thorough {
            true => fastrand::u64(..),
            false => 1,
        }),
        tried: 0,
    };
    for seed in stored(&kept).into_iter().chain(seeds) {
        run.try_one(&seed);
        run.inputs.push(seed);
    }
    assert!(!run.inputs.is_empty(), "{name} has something to begin with");
    let mut found = 0;
    let end = Instant::now() + if thorough { THOROUGH } else { QUICK };
    while Instant::now() < end {
        let input = run.changed();
        if !run.try_one(&input) {
            continue;
        }
        if thorough && found < MAX_KEPT && input.len() <= MAX_KEPT_BYTES {
            keep(&kept, &input);
            found += 1;
        }
        match run.inputs.len() {
            MAX_INPUTS.. => {
                let place = run.random.usize(..MAX_INPUTS);
                run.inputs[place] = input;
            }
            _ => run.inputs.push(input),
        }
    }
    let _ = fs::remove_file(&run.under_way);
    let (tried, heard) = (run.tried, run.heard.len());
    eprintln!("{name}: {tried} inputs, {heard} different outcomes");
}

/// What this thread has had of a processor.
fn thread_time() -> Duration {
    let told = fs::read_to_string("/proc/thread-self/schedstat");
    let told = told.expect("Linux tells it");
    let nanoseconds = told.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("it is a number"))
}

struct Run<T> {
    target: T,
    /// Has the input that is tried: a stack that overflows says nothing.
    under_way: PathBuf,
    heard: HashSet<String>,
    inputs: Vec<Vec<u8>>,
    random: fastrand::Rng,
    tried: u64,
}

impl<T: FnMut(&[u8]) -> String> Run<T> {
    /// Tries an input; whether something new came of it.
    fn try_one(&mut self, input: &[u8]) -> bool {
        fs::write(&self.under_way, input).expect("there is room for an input");
        self.tried += 1;
        let begun = thread_time();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target)(input)));
        let took = thread_time().saturating_sub(begun);
        let words = outcome
            .unwrap_or_else(|_| panic!("the input in {} is a finding", self.under_way.display()));
        assert!(
            took < SLOWEST,
            "the input in {} takes {took:?}",
            self.under_way.display()
        );
        self.heard.insert(plain(&words))
    }

    /// Another input, made of those there are.
    fn changed(&mut self) -> Vec<u8> {
        // What was found late is the nearest to something new.
        let newest = self.inputs.len() - 1;
        let place = newest - (newest as f64 * self.random.f64().powi(2)) as usize;
        let mut input = self.inputs[place].clone();
        for _ in 0..1 << self.random.u32(..4) {
            self.change(&mut input);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let random = &mut self.random;
        let at = random.usize(..=input.len());
        let length = |random: &mut fastrand::Rng, most: usize| match most {
            0 => 0,
            most => {
                let short = 1 << random.u32(..8);
                1 + random.usize(..most.min(short))
            }
        };
        let some = at..at + length(random, input.len() - at);
        match random.u32(..11) {
            0 if at < input.len() => input[at] ^= 1 << random.u32(..8),
            1 if at < input.len() => input[at] = random.u8(..),
            2 if at < input.len() => input[at] = TELLING[random.usize(..TELLING.len())],
            3 => drop(input.drain(some)),
            4 => {
                let bytes: Vec<u8> = (0..length(random, 32)).map(|_| random.u8(..)).collect();
                input.splice(at..at, bytes);
            }
            5 => {
                let copy = input[some].to_vec();
                let to = random.usize(..=input.len());
                input.splice(to..to, copy);
            }
            // Deep and long ones.
            6 => {
                let most = 1 << random.u32(..12);
                let copy = input[some.clone()].repeat(random.usize(..=most));
                input.splice(some, copy.into_iter().take(MAX_BYTES));
            }
            7 => input.truncate(at),
            8 => {
                let numbers: [&[u8]; 9] = [
                    b"0",
                    b"-1",
                    b"1",
                    b"255",
                    b"4294967296",
                    b"9223372036854775807",
                    b"18446744073709551616",
                    b"1e999",
                    b"0x",
                ];
                let end = input[at..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit())
                    .count();
                let number = numbers[random.usize(..numbers.len())];
                input.splice(at..at + end, number.iter().copied());
            }
            9 => {
                let letters: [&str; 6] = ["é", "\u{feff}", "\u{202e}", "𝄞", "\u{0301}", "\u{2028}"];
                let letter = letters[random.usize(..letters.len())];
                input.splice(at..at, letter.bytes());
            }
            // A part of another one.
            _ => {
                let other = &self.inputs[random.usize(..self.inputs.len())];
                let from = random.usize(..=other.len());
                let part = other[from..from + length(random, other.len() - from)].to_vec();
                let end = if random.bool() { at } else { some.end };
                input.splice(at..end, part);
            }
        }
    }
}

/// Words without what differs in every one.
fn plain(words: &str) -> String {
    let mut plain = String::new();
    for letter in words.chars() {
        let letter = if letter.is_ascii_digit() { '#' } else { letter };
        if plain.len() >= WORDS_BYTES {
            break;
        }
        if letter != '#' || !plain.ends_with('#') {
            plain.push(letter);
        }
    }
    plain
}

/// What is kept in a directory, in the order of the names; nothing where there is
/// none.
fn stored(directory: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let read = |file: &PathBuf| fs::read(file).expect("an input can be read");
    files.iter().map(read).collect()
}

fn keep(directory: &Path, input: &[u8]) {
    let name = blake3::hash(input).to_hex()[..16].to_owned();
    let kept = fs::create_dir_all(directory).and_then(|()| fs::write(directory.join(name), input));
    kept.expect("there is room for an input");
}

/// The crate's own inputs.
#[cfg(test)]
pub(crate) fn run_here(name: &str, seeds: Vec<Vec<u8>>, target: impl FnMut(&[u8]) -> String) {
    run(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz"),
        name,
        seeds,
        target,
    );
}

#[cfg(test)]
mod targets;

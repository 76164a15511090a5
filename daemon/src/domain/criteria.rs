//! Acceptance criteria of a todo: what must hold before it counts as done.
//!
//! The model writes them as JSON; the daemon checks them itself.

mod infer;

pub use self::infer::infer;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ids::ArtifactId;

/// Something that must hold. Paths are relative to the repository, or absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Criterion {
    /// A file or directory is there.
    FileExists {
        /// Where.
        path: String,
    },
    /// A line of a file matches.
    FileMatches {
        /// The file.
        path: String,
        /// A regular expression in the syntax of Rust's regex crate.
        pattern: String,
    },
    /// A command ends with an exit status.
    CommandExits {
        /// Program and arguments, no shell.
        argv: Vec<String>,
        /// The exit status wanted; 0 when left out.
        #[serde(default)]
        code: u32,
    },
    /// A command exits with 0 and its output matches.
    CommandOutputMatches {
        /// Program and arguments, no shell.
        argv: Vec<String>,
        /// A regular expression in the syntax of Rust's regex crate.
        pattern: String,
    },
    /// A test command runs at least one test and none fails.
    TestsPass {
        /// Program and arguments; the session's test command when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        argv: Option<Vec<String>>,
    },
    /// A source file parses.
    SyntaxValid {
        /// The file; its extension says the language.
        path: String,
    },
}

/// What the daemon found when it checked a criterion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CriterionResult {
    /// The criterion.
    pub criterion: Criterion,
    /// Whether it holds.
    pub holds: bool,
    /// What was found, a line or a few for people and the model.
    pub found: String,
}

/// What came of checking a todo's criteria.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Whether there is at least one criterion and every one holds.
    pub holds: bool,
    /// Each criterion in order.
    pub results: Vec<CriterionResult>,
    /// The evidence.
    pub artifact: ArtifactId,
}

impl Criterion {
    /// The names of the types, as the model writes them.
    const TYPES: [&str; 6] = [
        "file_exists",
        "file_matches",
        "command_exits",
        "command_output_matches",
        "tests_pass",
        "syntax_valid",
    ];

    /// Parses one criterion as a model writes it.
    ///
    /// # Errors
    /// Says what is wrong and what is wanted, in words for the model.
    pub fn parse(value: &Value) -> Result<Self, CriterionError> {
        let types = Self::TYPES.join(", ");
        match value.get("type").and_then(Value::as_str) {
            Some(kind) if Self::TYPES.contains(&kind) => {}
            Some(kind) => {
                let text = format!("`{kind}` is no type of criterion; the types are {types}");
                return Err(CriterionError(text));
            }
            None => {
                return Err(CriterionError(format!(
                    "a criterion is an object with a `type`, one of {types}; got {}",
                    shorten(value)
                )));
            }
        }
        let criterion: Self = serde_json::from_value(value.clone())
            .map_err(|error| CriterionError(format!("criterion {}: {error}", shorten(value))))?;
        criterion.validate()?;
        Ok(criterion)
    }

    fn validate(&self) -> Result<(), CriterionError> {
        match self {
            Self::FileExists { path } | Self::SyntaxValid { path } => check_path(path),
            Self::FileMatches { path, pattern } => {
                check_path(path)?;
                compile(pattern).map(|_| ())
            }
            Self::CommandExits { argv, .. } => check_argv(argv),
            Self::CommandOutputMatches { argv, pattern } => {
                check_argv(argv)?;
                compile(pattern).map(|_| ())
            }
            Self::TestsPass { argv } => argv.as_deref().map_or(Ok(()), check_argv),
        }
    }

    /// One line for people: "the tests of `pytest -q` pass".
    #[must_use]
    pub fn describe(&self) -> String {
        let shown = |argv: &[String]| shell_words::join(argv);
        match self {
            Self::FileExists { path } => format!("{path} exists"),
            Self::FileMatches { path, pattern } => format!("{path} matches /{pattern}/"),
            Self::CommandExits { argv, code } => format!("`{}` exits with {code}", shown(argv)),
            Self::CommandOutputMatches { argv, pattern } => {
                format!("the output of `{}` matches /{pattern}/", shown(argv))
            }
            Self::TestsPass { argv: Some(argv) } => format!("the tests of `{}` pass", shown(argv)),
            Self::TestsPass { argv: None } => "the tests pass".to_owned(),
            Self::SyntaxValid { path } => format!("{path} parses"),
        }
    }
}

/// A criterion that cannot be used; the text says what is wanted instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CriterionError(String);

/// Compiles a criterion's pattern; `^` and `$` are ends of lines.
///
/// # Errors
/// Says where the pattern is wrong.
pub fn compile(pattern: &str) -> Result<Regex, CriterionError> {
    RegexBuilder::new(pattern)
        .multi_line(true)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| CriterionError(format!("the pattern `{pattern}` is invalid: {error}")))
}

fn check_path(path: &str) -> Result<(), CriterionError> {
    if path.is_empty() || path.contains('\0') {
        let text = "a criterion's `path` names a file, relative to the repository";
        return Err(CriterionError(text.to_owned()));
    }
    Ok(())
}

fn check_argv(argv: &[String]) -> Result<(), CriterionError> {
    match argv.first() {
        Some(program) if !program.is_empty() => Ok(()),
        _ => Err(CriterionError(
            "a criterion's `argv` is a list of the program and its arguments, without a shell: \
             [\"python\", \"-m\", \"pytest\"]"
                .to_owned(),
        )),
    }
}

fn shorten(value: &Value) -> String {
    const SHOWN: usize = 120;
    let text = value.to_string();
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The JSON schema of one criterion, for a model's tool definition.
#[must_use]
pub fn criterion_schema() -> Value {
    let text = |about: &str| json!({"type": "string", "description": about});
    let argv = json!({
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "description": "program and arguments, run without a shell in the repository",
    });
    let code = json!({"type": "integer", "minimum": 0, "maximum": 255});
    let path = text("a path relative to the repository");
    let pattern = text("a regular expression; ^ and $ are ends of lines");
    let variant = |name: &str, about: &str, required: &[&str], properties: Value| {
        let mut all = json!({"type": {"const": name}});
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), properties) {
            all.extend(more);
        }
        let required: Vec<&str> = ["type"].iter().chain(required).copied().collect();
        json!({
            "type": "object",
            "description": about,
            "properties": all,
            "required": required,
            "additionalProperties": false,
        })
    };
    json!({"oneOf": [
        variant(
            "file_exists",
            "a file or directory is there",
            &["path"],
            json!({"path": path}),
        ),
        variant(
            "file_matches",
            "a line of a file matches",
            &["path", "pattern"],
            json!({"path": path, "pattern": pattern}),
        ),
        variant(
            "command_exits",
            "a command ends with an exit status, 0 when `code` is left out",
            &["argv"],
            json!({"argv": argv, "code": code}),
        ),
        variant(
            "command_output_matches",
            "a command exits with 0 and its output matches",
            &["argv", "pattern"],
            json!({"argv": argv, "pattern": pattern}),
        ),
        variant(
            "tests_pass",
            "a test command passes; the session's own when `argv` is left out",
            &[],
            json!({"argv": argv}),
        ),
        variant(
            "syntax_valid",
            "a source file parses",
            &["path"],
            json!({"path": path}),
        ),
    ]})
}

/// How the syntax of a file is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntaxCheck {
    /// By a program in the workspace; the file's path is added.
    Command(&'static [&'static str]),
    /// As JSON, by the daemon.
    Json,
    /// As TOML, by the daemon.
    Toml,
    /// Not at all.
    Unsupported,
}

impl SyntaxCheck {
    /// How the file's extension says it is checked.
    #[must_use]
    pub fn of(path: &str) -> Self {
        const PYTHON: &str =
            "import ast,sys; ast.parse(open(sys.argv[1],'rb').read(), sys.argv[1])";
        let extension = path.rsplit(['.', '/']).next().unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "py" | "pyi" => Self::Command(&["python3", "-c", PYTHON]),
            "js" | "mjs" | "cjs" => Self::Command(&["node", "--check"]),
            "sh" => Self::Command(&["sh", "-n"]),
            "bash" => Self::Command(&["bash", "-n"]),
            "c" | "h" => Self::Command(&["cc", "-fsyntax-only"]),
            "go" => Self::Command(&["gofmt", "-e", "-l"]),
            "rb" => Self::Command(&["ruby", "-c"]),
            "json" => Self::Json,
            "toml" => Self::Toml,
            _ => Self::Unsupported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_of_the_schema_parses_and_describes_itself() {
        let cases = [
            (
                json!({"type": "file_exists", "path": "a.py"}),
                "a.py exists",
            ),
            (
                json!({"type": "file_matches", "path": "a", "pattern": "^x"}),
                "a matches /^x/",
            ),
            (
                json!({"type": "command_exits", "argv": ["ls", "a b"]}),
                "`ls 'a b'` exits with 0",
            ),
            (
                json!({"type": "command_output_matches", "argv": ["ls"], "pattern": "a"}),
                "the output of `ls` matches /a/",
            ),
            (json!({"type": "tests_pass"}), "the tests pass"),
            (
                json!({"type": "syntax_valid", "path": "a.py"}),
                "a.py parses",
            ),
        ];
        let schema = criterion_schema();
        let variants = schema["oneOf"].as_array().unwrap();
        assert_eq!(variants.len(), cases.len());
        for ((value, line), variant) in cases.into_iter().zip(variants) {
            let criterion = Criterion::parse(&value).unwrap();
            assert_eq!(criterion.describe(), line);
            assert_eq!(variant["properties"]["type"]["const"], value["type"]);
            for required in variant["required"].as_array().unwrap() {
                assert!(value.get(required.as_str().unwrap()).is_some(), "{value}");
            }
            let again = serde_json::to_value(&criterion).unwrap();
            assert_eq!(Criterion::parse(&again), Ok(criterion));
        }
    }

    #[test]
    fn a_wrong_criterion_is_refused_with_what_is_wanted() {
        for (value, wanted) in [
            (json!("tests pass"), "an object with a `type`"),
            (json!({"type": "works"}), "file_exists"),
            (json!({"type": "file_exists"}), "missing field `path`"),
            (json!({"type": "file_exists", "path": ""}), "names a file"),
            (
                json!({"type": "file_matches", "path": "a", "pattern": "("}),
                "pattern `(` is invalid",
            ),
            (
                json!({"type": "command_exits", "argv": []}),
                "without a shell",
            ),
            (
                json!({"type": "command_exits", "argv": "make test"}),
                "expected a sequence",
            ),
            (
                json!({"type": "tests_pass", "command": "x"}),
                "unknown field `command`",
            ),
        ] {
            let error = Criterion::parse(&value).unwrap_err().to_string();
            assert!(error.contains(wanted), "{value}: {error}");
        }
    }
}

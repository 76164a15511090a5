//! How far the setup of a workspace's repositories has come, and the key that
//! its result is kept under.
//!
//! ```text
//! (nothing) --- result is known ---> Restoring ----> Done (from a baked snapshot)
//!     |                                  |
//!     |                                  v not to be had after all
//!     `--- result is not known ---> Initializing --> Done (ran here), Failed
//! ```
//!
//! A state is written before what it names is done, so that a daemon that was
//! killed, or the next request, goes on where it was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ids::{RepositoryName, SnapshotId},
    setup_file::SetupCommand,
};

/// What is known of the setups of a workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceSetup {
    /// Whether nobody but the daemon has run or copied anything in it since it
    /// was made from its image.
    #[serde(default)]
    pub pristine: bool,
    /// The start of its container that maintenance was last run for.
    #[serde(default)]
    pub maintained: Option<StartStamp>,
    /// Repositories that have a setup file, or had one.
    #[serde(default)]
    pub repositories: BTreeMap<RepositoryName, RepositorySetup>,
    /// Why the last maintenance of a repository failed; those for which it did
    /// not are left out.
    #[serde(default)]
    pub maintenance_problems: BTreeMap<RepositoryName, String>,
}

impl WorkspaceSetup {
    /// Whether a baked snapshot is being put in place: what the volumes hold
    /// is about to be another thing.
    #[must_use]
    pub fn is_restoring(&self) -> bool {
        let mut setups = self.repositories.values();
        setups.any(|setup| matches!(setup.state, SetupState::Restoring { .. }))
    }

    /// What a person should know of it: setups and maintenance that failed.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let failed = self.repositories.iter().find_map(|(name, setup)| {
            let SetupState::Failed { problem } = &setup.state else {
                return None;
            };
            Some(format!("the setup of {name} failed: {problem}"))
        });
        failed.or_else(|| {
            let (name, problem) = self.maintenance_problems.iter().next()?;
            Some(format!("the maintenance of {name} failed: {problem}"))
        })
    }
}

/// One start of one container: it changes whenever its processes are new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartStamp(pub String);

/// The setup of one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositorySetup {
    /// What the ids of its commands begin with: the same run finds its commands
    /// again.
    pub run: String,
    /// What is run once.
    pub initialize: Vec<SetupCommand>,
    /// Milliseconds that each of them may take.
    pub timeout_ms: u64,
    /// What the result is to be kept under; `None` when it is not to be kept.
    pub keep_as: Option<SetupKey>,
    /// How far it is.
    pub state: SetupState,
}

/// How far a setup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum SetupState {
    /// A snapshot with the result is being put in place.
    Restoring {
        /// The snapshot.
        snapshot: SnapshotId,
        /// What the result in it is kept under.
        key: SetupKey,
    },
    /// `initialize` is being run.
    Initializing,
    /// It is done.
    Done {
        /// How.
        result: SetupResult,
    },
    /// It is not done.
    Failed {
        /// What failed, and its last words.
        problem: String,
    },
}

/// How a setup was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum SetupResult {
    /// `initialize` ran here.
    Running {
        /// The snapshot that keeps the result; `None` when none was taken.
        kept: Option<SnapshotId>,
    },
    /// The result was there.
    Restoring {
        /// The snapshot it came from.
        snapshot: SnapshotId,
    },
}

/// What the result of `initialize` is kept under: equal keys, equal results.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetupKey(String);

/// All that the result of `initialize` depends on.
#[derive(Debug, Clone, Copy)]
pub struct SetupIngredients<'a> {
    /// Content id of the workspace's image. It implies the architecture.
    pub image_id: &'a str,
    /// Account of its commands; `None` means the image's.
    pub user: Option<&'a str>,
    /// Where the repository came from. Another source with equal inputs has
    /// other files, which `initialize` may run.
    pub source: SetupSource<'a>,
    /// Its directory.
    pub repository: &'a RepositoryName,
    /// The commands.
    pub initialize: &'a [SetupCommand],
    /// Paths that they depend on, each with git's id of what is there; an empty
    /// id where nothing is.
    pub inputs: &'a [(String, String)],
}

/// What makes the files of one repository other than those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupSource<'a> {
    /// A source that the daemon vouches for.
    Vouched(&'a str),
    /// The commit that has the setup file, in hex. Whoever brings a repository
    /// can say anything of its source, but not bring other files under its hash.
    Commit(&'a str),
}

impl SetupKey {
    /// Goes up when equal ingredients no longer give an equal result.
    const FORMAT: &'static str = "compy setup 2";

    /// The key of these ingredients.
    #[must_use]
    pub fn of(ingredients: &SetupIngredients<'_>) -> Self {
        let mut hasher = blake3::Hasher::new();
        // Each part with its length: no two lists of parts run together.
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        part(Self::FORMAT);
        part(ingredients.image_id);
        part(ingredients.user.unwrap_or_default());
        let (kind, source) = match ingredients.source {
            SetupSource::Vouched(source) => ("source", source),
            SetupSource::Commit(commit) => ("commit", commit),
        };
        part(kind);
        part(source);
        part(ingredients.repository.as_str());
        part(&ingredients.initialize.len().to_string());
        for command in ingredients.initialize {
            part(&command.run);
            part(command.user.as_deref().unwrap_or_default());
        }
        for (path, object) in ingredients.inputs {
            part(path);
            part(object);
        }
        Self(hasher.finalize().to_hex().to_string())
    }

    /// 64 hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ingredient_makes_another_key() {
        let name: RepositoryName = "app".parse().unwrap();
        let other: RepositoryName = "other".parse().unwrap();
        let command = |run: &str, user: Option<&str>| SetupCommand {
            run: run.to_owned(),
            user: user.map(str::to_owned),
        };
        let input = |path: &str, object: &str| (path.to_owned(), object.to_owned());
        let (one, two) = (
            [command("a", None)],
            [command("a", None), command("b", None)],
        );
        let as_root = [command("a", Some("root"))];
        let (file, changed) = ([input("f", "1")], [input("f", "2")]);
        let (absent, more) = ([input("f", "")], [input("f", "1"), input("g", "1")]);
        let first = SetupIngredients {
            image_id: "sha256:1",
            user: None,
            source: SetupSource::Vouched("https://host/app"),
            repository: &name,
            initialize: &one,
            inputs: &file,
        };
        let all = [
            first,
            SetupIngredients {
                image_id: "sha256:2",
                ..first
            },
            SetupIngredients {
                user: Some("root"),
                ..first
            },
            SetupIngredients {
                source: SetupSource::Vouched("https://host/fork"),
                ..first
            },
            SetupIngredients {
                source: SetupSource::Commit("https://host/app"),
                ..first
            },
            SetupIngredients {
                source: SetupSource::Commit("5e7f"),
                ..first
            },
            SetupIngredients {
                repository: &other,
                ..first
            },
            SetupIngredients {
                initialize: &two,
                ..first
            },
            SetupIngredients {
                initialize: &as_root,
                ..first
            },
            SetupIngredients {
                inputs: &changed,
                ..first
            },
            SetupIngredients {
                inputs: &absent,
                ..first
            },
            SetupIngredients {
                inputs: &more,
                ..first
            },
            SetupIngredients {
                inputs: &[],
                ..first
            },
        ];
        let keys: std::collections::BTreeSet<_> = all.iter().map(SetupKey::of).collect();
        assert_eq!(keys.len(), all.len());
        assert_eq!(SetupKey::of(&first), SetupKey::of(&first.clone()));
    }

    #[test]
    fn an_older_record_has_no_setup_and_is_not_pristine() {
        let setup: WorkspaceSetup = serde_json::from_str("{}").unwrap();
        assert_eq!(setup, WorkspaceSetup::default());
        assert!(!setup.pristine);
    }
}

//! Names that need a look: credentials, and files of a repository that change
//! what others run, depend on or store.
//!
//! A name may be a pattern of a shell. It stands for a guarded name where it
//! fits one and says more than an ending: `.en*` does, `*.json` does not.

use super::super::risk::RiskKind;

/// How much of a directory is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The directory goes, with all that is in it.
    Whole,
    /// Something in it changes.
    Some,
}

const CREDENTIALS: [&str; 20] = [
    ".netrc",
    ".git-credentials",
    ".pgpass",
    ".npmrc",
    ".pypirc",
    ".dockercfg",
    "id_rsa",
    "id_ed25519",
    "id_ecdsa",
    "id_dsa",
    "authorized_keys",
    ".htpasswd",
    "credentials.json",
    "service-account.json",
    ".vault-token",
    "shadow",
    "gshadow",
    "sudoers",
    ".env",
    "kubeconfig",
];
const CREDENTIAL_DIRECTORIES: [&str; 12] = [
    "/.ssh",
    "/.aws",
    "/.gnupg",
    "/.kube",
    "/.azure",
    "/.config/gcloud",
    "/.config/gh",
    "/.docker/config.json",
    "/.password-store",
    "/run/compy/secrets",
    "/run/secrets",
    "/.cargo/credentials",
];
const CI_FILES: [&str; 13] = [
    ".gitlab-ci.yml",
    ".travis.yml",
    "Jenkinsfile",
    "azure-pipelines.yml",
    "bitbucket-pipelines.yml",
    ".drone.yml",
    "appveyor.yml",
    ".appveyor.yml",
    "cloudbuild.yaml",
    ".woodpecker.yml",
    "buildspec.yml",
    "compy.toml",
    "CODEOWNERS",
];
const CI_DIRECTORIES: [&str; 8] = [
    ".github/workflows",
    ".github/actions",
    ".circleci",
    ".ci",
    ".buildkite",
    ".husky",
    ".woodpecker",
    ".gitlab/ci",
];
const DEPENDENCIES: [&str; 35] = [
    "package.json",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lockb",
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "requirements.txt",
    "constraints.txt",
    "Pipfile",
    "Pipfile.lock",
    "poetry.lock",
    "uv.lock",
    "pdm.lock",
    "environment.yml",
    "Cargo.toml",
    "Cargo.lock",
    "go.mod",
    "go.sum",
    "Gemfile",
    "Gemfile.lock",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "gradle.lockfile",
    "libs.versions.toml",
    "composer.json",
    "composer.lock",
    "mix.exs",
    "mix.lock",
    "pubspec.yaml",
    "pubspec.lock",
    "deno.lock",
];
const SCHEMAS: [&str; 6] = [
    "schema.rb",
    "structure.sql",
    "schema.sql",
    "schema.prisma",
    "schema.graphqls",
    "changelog.xml",
];
/// Directories whose content is migrations.
const MIGRATIONS: [&str; 4] = ["migrations", "migrate", "alembic/versions", "flyway"];
/// Those that are directories of migrations by their name alone.
const MIGRATION_DIRECTORIES: [&str; 4] = ["migrations", "db/migrate", "alembic/versions", "flyway"];

/// Whether a path names credentials.
pub(super) fn is_credential(path: &str) -> bool {
    if is_credential_by_name(path) {
        return true;
    }
    if !is_pattern(path) {
        return false;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    parts
        .last()
        .is_some_and(|name| is_one_of(name, &CREDENTIALS))
        || parts.first() == Some(&"proc") && parts.last().is_some_and(|name| fits(name, "environ"))
        || CREDENTIAL_DIRECTORIES.iter().any(|directory| {
            // What lies below `run` is the system's only at the root.
            let most = match directory.starts_with("/run/") {
                true => usize::from(path.starts_with('/')),
                false => parts.len(),
            };
            (0..most).any(|at| begins(&parts[at..], &directory[1..]))
        })
}

/// The same of a path that is no pattern, whatever it looks like.
pub(super) fn is_credential_by_name(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    if CREDENTIALS.contains(&name)
        || [".pem", ".p12", ".pfx", ".jks", ".keystore", ".key"]
            .iter()
            .any(|end| name.ends_with(end))
        || name.starts_with(".env.")
            && ![
                ".env.example",
                ".env.sample",
                ".env.template",
                ".env.test",
                ".env.dist",
            ]
            .contains(&name)
    {
        return true;
    }
    let rooted = format!("/{}", path.trim_start_matches('/'));
    let in_process = rooted.starts_with("/proc/") && name == "environ";
    in_process
        || CREDENTIAL_DIRECTORIES.iter().any(|directory| {
            rooted.match_indices(directory).any(|(at, _)| {
                let rest = &rooted[at + directory.len()..];
                rest.is_empty() || rest.starts_with(['/', '.', '*'])
            })
        })
}

/// What a file of a repository is for, where a change of it needs a look. The
/// path is relative to the repository; a directory of such files counts too.
pub(super) fn kind_of_file(path: &str) -> Option<RiskKind> {
    if is_credential(path) {
        return Some(RiskKind::Credentials);
    }
    let parts: Vec<&str> = path.split('/').collect();
    let name = *parts.last()?;
    if is_one_of(name, &CI_FILES)
        || CI_DIRECTORIES
            .iter()
            .any(|directory| begins(&parts, directory))
    {
        return Some(RiskKind::CiFile);
    }
    let is_requirements = name.ends_with(".txt")
        && (name.starts_with("requirements")
            || name.starts_with("constraints")
            || path.contains("requirements/"));
    if is_one_of(name, &DEPENDENCIES)
        || is_requirements
        || name.ends_with(".gemspec")
        || name.ends_with(".csproj")
    {
        return Some(RiskKind::DependencyFile);
    }
    let tails = || (0..parts.len()).map(|at| &parts[at..]);
    let in_migrations = MIGRATIONS.iter().any(|directory| {
        tails().any(|tail| tail.len() > depth(directory) && begins(tail, directory))
    });
    let is_migrations = MIGRATION_DIRECTORIES.iter().any(|directory| {
        tails().any(|tail| tail.len() == depth(directory) && begins(tail, directory))
    });
    if is_one_of(name, &SCHEMAS) || in_migrations && name != "__init__.py" || is_migrations {
        return Some(RiskKind::MigrationFile);
    }
    None
}

/// The same of a directory, by what is known to lie below it.
pub(super) fn kind_below(path: &str, extent: Extent) -> Option<RiskKind> {
    let of_itself = kind_of_file(path);
    if of_itself.is_some() {
        return of_itself;
    }
    let parts: Vec<&str> = path.split('/').collect();
    let above = |parts: &[&str], directory: &str| {
        let guarded: Vec<&str> = directory.split('/').take(parts.len()).collect();
        parts.len() < depth(directory) && begins(parts, &guarded.join("/"))
    };
    if CI_DIRECTORIES
        .iter()
        .any(|directory| above(&parts, directory))
    {
        return Some(RiskKind::CiFile);
    }
    let holds_migrations = MIGRATION_DIRECTORIES
        .iter()
        .any(|directory| (0..parts.len()).any(|at| above(&parts[at..], directory)));
    (extent == Extent::Whole && holds_migrations).then_some(RiskKind::MigrationFile)
}

/// Whether a part of a path is git's own directory.
pub(super) fn is_git(part: &str) -> bool {
    is_one_of(part, &[".git"])
}

/// Whether a pattern fits git's own directory among others: `.*` and `.[!.]*` do.
pub(super) fn may_be_git(part: &str) -> bool {
    is_pattern(part) && fits(part, ".git")
}

/// Whether a pattern fits nearly every name there is, git's own directory or what
/// is seen: `*`, `?*`, `[!.]*`, `.*`, `.??*`.
pub(super) fn stands_for_all(part: &str) -> bool {
    if !is_pattern(part) {
        return false;
    }
    let plain = plain(part);
    let bare = plain.strip_prefix('.').unwrap_or(&plain);
    let is_any = bare.contains('*') && bare.chars().all(|char| matches!(char, '*' | '?'));
    let few = part.contains("[0-9]") || bare.chars().filter(|char| *char == '?').count() > 3;
    is_any && !few
}

fn depth(directory: &str) -> usize {
    directory.split('/').count()
}

/// Whether a path's parts begin with those of a directory.
fn begins(parts: &[&str], directory: &str) -> bool {
    let mut telling = false;
    for (at, name) in directory.split('/').enumerate() {
        match parts.get(at) {
            Some(part) if fits(part, name) => telling |= is_telling(part),
            _ => return false,
        }
    }
    telling
}

fn is_one_of(part: &str, names: &[&str]) -> bool {
    names.iter().any(|name| fits(part, name)) && is_telling(part)
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether a part of a path can stand for a name.
fn fits(part: &str, name: &str) -> bool {
    if !is_pattern(part) {
        return part == name;
    }
    // A shell lets nothing but a dot stand for a leading dot.
    if name.starts_with('.') && !part.starts_with('.') {
        return false;
    }
    matches(plain(part).as_bytes(), name.as_bytes())
}

/// Whether a part that may be a pattern says more than an ending.
fn is_telling(part: &str) -> bool {
    if !is_pattern(part) {
        return true;
    }
    let plain = plain(part);
    let rest = plain.trim_start_matches(['*', '?']);
    let is_ending = rest.len() < plain.len() && rest.starts_with('.') && !is_pattern(rest);
    !is_ending && rest.contains(|char: char| char.is_ascii_alphanumeric())
}

/// A pattern with `*` and `?` alone: `[x]` is an x, and any other set is any
/// letter.
fn plain(pattern: &str) -> String {
    let mut plain = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(open) = rest.find('[') {
        plain.push_str(&rest[..open]);
        let inner = &rest[open + 1..];
        // A bracket that comes first is one of the set.
        let Some(close) = inner.char_indices().skip(1).find(|(_, char)| *char == ']') else {
            plain.push_str(&rest[open..]);
            return plain;
        };
        let set = &inner[..close.0];
        match set.chars().count() {
            1 => plain.push_str(set),
            _ => plain.push('?'),
        }
        rest = &inner[close.0 + 1..];
    }
    plain.push_str(rest);
    plain
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut in_name) = (0, 0);
    let mut star = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => match star {
                Some((star_at, from)) => {
                    star = Some((star_at, from + 1));
                    at = star_at + 1;
                    in_name = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_the_names_that_they_tell() {
        for path in [
            ".en*",
            ".e?v",
            "~/.ss*/id_*",
            "x/[i]d_rsa",
            "?d_rsa",
            "~/.aw[rs]/x",
            "/proc/*/env*",
            "/run/compy/*/x",
            "/run/*/secrets/x",
        ] {
            assert!(is_credential(path), "{path}");
        }
        for path in [
            "*",
            "*.json",
            ".*",
            "src/*.py",
            "*_test.go",
            "[a-z]*",
            "run/*",
            "doc[",
            "??",
            "*.*",
        ] {
            assert!(!is_credential(path), "{path}");
        }
    }

    #[test]
    fn patterns_of_nothing_but_marks_stand_for_all_or_for_git() {
        for part in [
            "*", ".*", "**", "?*", "[!.]*", "[^.]*", ".??*", ".[!.]*", "[a-z]*",
        ] {
            assert!(stands_for_all(part), "{part}");
        }
        for part in ["*.py", "[0-9]*", "build*", "??", ".gitignore", ".e*", "*.*"] {
            assert!(!stands_for_all(part), "{part}");
        }
        for part in [".*", ".[!.]*", ".??*", ".g??", ".[a-z]*"] {
            assert!(may_be_git(part), "{part}");
        }
        for part in ["*", ".*.swp", ".e*", ".git", ".cache"] {
            assert!(!may_be_git(part), "{part}");
        }
    }

    #[test]
    fn a_directory_is_of_the_kind_of_what_lies_in_it() {
        use RiskKind::{CiFile, DependencyFile, MigrationFile};
        let table = [
            (".github/workflows", Some(CiFile)),
            (".github/*/ci.yml", Some(CiFile)),
            (".gith*/w*", Some(CiFile)),
            ("app/migrations", Some(MigrationFile)),
            ("db/migrate/1.rb", Some(MigrationFile)),
            ("app/migrations/__init__.py", None),
            ("pack*.json", Some(DependencyFile)),
            ("scripts/migrate", None),
            ("*/*", None),
            ("src", None),
        ];
        for (path, kind) in table {
            assert_eq!(kind_of_file(path), kind, "{path}");
        }
        for (path, whole, some) in [
            (".github", Some(CiFile), Some(CiFile)),
            ("db", Some(MigrationFile), None),
            ("x/alembic", Some(MigrationFile), None),
            ("src", None, None),
            (".gitlab", Some(CiFile), Some(CiFile)),
        ] {
            assert_eq!(kind_below(path, Extent::Whole), whole, "{path}");
            assert_eq!(kind_below(path, Extent::Some), some, "{path}");
        }
    }
}

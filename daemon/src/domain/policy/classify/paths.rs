//! Where a path lies, and what kind of file it names.

use super::super::risk::RiskKind;

/// Where a path lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The repository itself, or all that is in it.
    WholeRepository,
    /// What git keeps in the repository.
    GitInternals,
    /// In the repository, at this path relative to it.
    Repository(String),
    /// Where anybody keeps what need not last.
    Scratch,
    /// Everything else.
    Outside,
}

/// Where an absolute path lies; `repository` is absolute.
pub(super) fn place(path: &str, repository: &str) -> Place {
    if let Some(rest) = path.strip_prefix(repository)
        && (rest.is_empty() || rest.starts_with('/'))
    {
        let rest = rest.trim_start_matches('/');
        return match rest {
            "" | "*" | ".*" | "**" | "{*,.*}" | "[!.]*" | "?*" => Place::WholeRepository,
            ".git" | ".gi?" | ".git*" | ".g*" => Place::GitInternals,
            rest if rest.starts_with(".git/") => Place::GitInternals,
            rest => Place::Repository(rest.to_owned()),
        };
    }
    const SCRATCH: [&str; 5] = ["/tmp/", "/var/tmp/", "/dev/shm/", "~/.cache/", "/dev/fd/"];
    const DEVICES: [&str; 7] = [
        "/dev/null",
        "/dev/stdout",
        "/dev/stderr",
        "/dev/stdin",
        "/dev/tty",
        "/dev/zero",
        "/dev/full",
    ];
    if SCRATCH.iter().any(|directory| path.starts_with(directory)) || DEVICES.contains(&path) {
        return Place::Scratch;
    }
    Place::Outside
}

/// Whether a path outside belongs to the system or to a user's settings that
/// programs run from.
pub(super) fn is_system(path: &str) -> bool {
    const SYSTEM: [&str; 13] = [
        "/etc",
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib64",
        "/boot",
        "/dev",
        "/proc",
        "/sys",
        "/root",
        "/var/spool",
        "/run",
    ];
    const SETTINGS: [&str; 10] = [
        "~/.bashrc",
        "~/.profile",
        "~/.bash_profile",
        "~/.zshrc",
        "~/.zprofile",
        "~/.gitconfig",
        "~/.bash_aliases",
        "~/.config/git",
        "~/.config/fish",
        "~/.local/bin",
    ];
    path == "/"
        || path == "~"
        || SYSTEM.iter().chain(&SETTINGS).any(|directory| {
            path.strip_prefix(directory)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// Whether a path names credentials.
pub(super) fn is_credential(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    const NAMES: [&str; 20] = [
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
    const DIRECTORIES: [&str; 12] = [
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
    if NAMES.contains(&name)
        || [".pem", ".p12", ".pfx", ".jks", ".keystore"]
            .iter()
            .any(|end| name.ends_with(end))
        || name.ends_with(".key")
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
        || DIRECTORIES.iter().any(|directory| {
            rooted.match_indices(directory).any(|(at, _)| {
                let rest = &rooted[at + directory.len()..];
                rest.is_empty() || rest.starts_with(['/', '.', '*'])
            })
        })
}

/// What a file of a repository is for, where a change of it needs a look. The
/// path is relative to the repository.
pub(super) fn kind_of_file(path: &str) -> Option<RiskKind> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if is_credential(path) {
        return Some(RiskKind::Credentials);
    }
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
        ".github/workflows/",
        ".github/actions/",
        ".circleci/",
        ".ci/",
        ".buildkite/",
        ".husky/",
        ".woodpecker/",
        ".gitlab/ci/",
    ];
    if CI_FILES.contains(&name)
        || CI_DIRECTORIES
            .iter()
            .any(|directory| path.starts_with(directory))
    {
        return Some(RiskKind::CiFile);
    }
    const DEPENDENCIES: [&str; 33] = [
        "package.json",
        "package-lock.json",
        "npm-shrinkwrap.json",
        "yarn.lock",
        "pnpm-lock.yaml",
        "bun.lockb",
        "pyproject.toml",
        "setup.py",
        "setup.cfg",
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
    let is_requirements = name.ends_with(".txt")
        && (name.starts_with("requirements")
            || name.starts_with("constraints")
            || path.contains("requirements/"));
    if DEPENDENCIES.contains(&name)
        || is_requirements
        || name.ends_with(".gemspec")
        || name.ends_with(".csproj")
    {
        return Some(RiskKind::DependencyFile);
    }
    const SCHEMAS: [&str; 6] = [
        "schema.rb",
        "structure.sql",
        "schema.sql",
        "schema.prisma",
        "schema.graphqls",
        "changelog.xml",
    ];
    const MIGRATIONS: [&str; 4] = ["migrations/", "migrate/", "alembic/versions/", "flyway/"];
    let rooted = format!("/{path}");
    let in_migrations = MIGRATIONS
        .iter()
        .any(|directory| rooted.contains(&format!("/{directory}")));
    if SCHEMAS.contains(&name) || in_migrations && name != "__init__.py" {
        return Some(RiskKind::MigrationFile);
    }
    None
}

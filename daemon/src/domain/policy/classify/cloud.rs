//! Package managers, clouds and forges: what they deploy, publish, merge, buy
//! and depend on.

use super::{
    super::{
        risk::{Level, RiskKind},
        shell::Word,
    },
    Act, has,
};

/// A program, the words it is followed by, and what that is. Words may stand
/// after options; `*` stands for any word.
const TABLE: &[(&[&str], &[&str], RiskKind)] = &[
    (
        &[
            "npm",
            "yarn",
            "pnpm",
            "bun",
            "lerna",
            "cargo",
            "poetry",
            "uv",
            "flit",
            "hatch",
            "pdm",
            "dart",
            "vsce",
            "wasm-pack",
        ],
        &["publish"],
        RiskKind::Deploy,
    ),
    (&["npm"], &["unpublish"], RiskKind::Deploy),
    (&["npm"], &["deprecate"], RiskKind::Deploy),
    (&["npm"], &["dist-tag"], RiskKind::Deploy),
    (
        &[
            "npm", "yarn", "cargo", "docker", "podman", "heroku", "vercel", "netlify", "gcloud",
            "az", "flyctl", "helm", "gem",
        ],
        &["login"],
        RiskKind::Credentials,
    ),
    (&["npm"], &["adduser"], RiskKind::Credentials),
    (&["npm"], &["token"], RiskKind::Credentials),
    (&["cargo"], &["yank"], RiskKind::Deploy),
    (&["cargo"], &["owner"], RiskKind::Credentials),
    (&["twine"], &["upload"], RiskKind::Deploy),
    (&["gem"], &["push"], RiskKind::Deploy),
    (
        &["docker", "podman", "buildah", "skopeo"],
        &["push"],
        RiskKind::Deploy,
    ),
    (&["skopeo"], &["copy"], RiskKind::Deploy),
    (&["docker", "podman"], &["run"], RiskKind::Machine),
    (&["docker", "podman"], &["exec"], RiskKind::Machine),
    (&["docker", "podman"], &["system"], RiskKind::Machine),
    (&["docker", "podman"], &["rm"], RiskKind::Machine),
    (&["docker", "podman"], &["volume"], RiskKind::Machine),
    (&["mvn", "mvnw", "./mvnw"], &["deploy"], RiskKind::Deploy),
    (
        &["mvn", "mvnw", "./mvnw"],
        &["release:perform"],
        RiskKind::Deploy,
    ),
    (
        &["gradle", "./gradlew", "gradlew"],
        &["publish"],
        RiskKind::Deploy,
    ),
    (&["kubectl", "oc"], &["apply"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["create"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["delete"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["scale"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["rollout"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["patch"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["replace"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["edit"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["set"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["drain"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["exec"], RiskKind::Deploy),
    (&["kubectl", "oc"], &["port-forward"], RiskKind::Egress),
    (&["helm"], &["install"], RiskKind::Deploy),
    (&["helm"], &["upgrade"], RiskKind::Deploy),
    (&["helm"], &["uninstall"], RiskKind::Deploy),
    (&["helm"], &["rollback"], RiskKind::Deploy),
    (
        &["terraform", "tofu", "terragrunt"],
        &["apply"],
        RiskKind::Spending,
    ),
    (
        &["terraform", "tofu", "terragrunt"],
        &["destroy"],
        RiskKind::Deploy,
    ),
    (
        &["terraform", "tofu", "terragrunt"],
        &["import"],
        RiskKind::Deploy,
    ),
    (
        &["terraform", "tofu", "terragrunt"],
        &["state"],
        RiskKind::Deploy,
    ),
    (&["pulumi"], &["up"], RiskKind::Spending),
    (&["pulumi"], &["destroy"], RiskKind::Deploy),
    (
        &[
            "cdk",
            "sst",
            "serverless",
            "sls",
            "sam",
            "copilot",
            "eb",
            "amplify",
        ],
        &["deploy"],
        RiskKind::Spending,
    ),
    (
        &["cdk", "serverless", "sls"],
        &["destroy"],
        RiskKind::Deploy,
    ),
    (&["ansible-playbook"], &[], RiskKind::Deploy),
    (&["ansible"], &["*"], RiskKind::Deploy),
    (
        &[
            "vercel", "now", "surge", "gh-pages", "wrangler", "netlify", "firebase", "fly",
            "flyctl", "railway", "render", "heroku", "dokku", "cap", "fab", "fastlane", "kamal",
            "nomad", "skaffold", "argocd", "waypoint",
        ],
        &["deploy"],
        RiskKind::Deploy,
    ),
    (&["vercel", "surge", "gh-pages"], &[], RiskKind::Deploy),
    (&["wrangler"], &["publish"], RiskKind::Deploy),
    (&["railway"], &["up"], RiskKind::Deploy),
    (&["heroku"], &["run"], RiskKind::Deploy),
    (&["heroku"], &["config:set"], RiskKind::Credentials),
    (&["argocd"], &["app"], RiskKind::Deploy),
    (&["gh", "hub"], &["pr", "merge"], RiskKind::Merge),
    (&["gh", "hub"], &["pr", "create"], RiskKind::Push),
    (&["gh"], &["pr", "close"], RiskKind::Merge),
    (&["gh"], &["pr", "review"], RiskKind::Merge),
    (&["glab"], &["mr", "merge"], RiskKind::Merge),
    (&["glab"], &["mr", "create"], RiskKind::Push),
    (&["gh"], &["release"], RiskKind::Deploy),
    (&["gh"], &["workflow"], RiskKind::Deploy),
    (&["gh"], &["secret"], RiskKind::Credentials),
    (&["gh"], &["auth"], RiskKind::Credentials),
    (&["gh"], &["ssh-key"], RiskKind::Credentials),
    (&["gh"], &["repo", "delete"], RiskKind::ForcePush),
    (&["gh"], &["repo", "create"], RiskKind::Push),
    (&["gh"], &["gist"], RiskKind::SendOut),
    (&["gh"], &["api"], RiskKind::SendOut),
    (&["aws"], &["configure"], RiskKind::Credentials),
    (&["aws"], &["secretsmanager"], RiskKind::Credentials),
    (&["aws"], &["iam"], RiskKind::Credentials),
    (&["aws"], &["sts"], RiskKind::Credentials),
    (&["aws"], &["s3", "ls"], RiskKind::SendOut),
    (&["gcloud", "az", "doctl"], &["auth"], RiskKind::Credentials),
    (
        &["npm", "pnpm", "yarn", "bun"],
        &["add"],
        RiskKind::DependencyFile,
    ),
    (
        &["npm", "pnpm", "yarn", "bun"],
        &["remove"],
        RiskKind::DependencyFile,
    ),
    (&["npm", "pnpm"], &["uninstall"], RiskKind::DependencyFile),
    (
        &["npm", "pnpm", "yarn"],
        &["upgrade"],
        RiskKind::DependencyFile,
    ),
    (&["npm", "pnpm"], &["update"], RiskKind::DependencyFile),
    (
        &["npm", "pnpm"],
        &["audit", "fix"],
        RiskKind::DependencyFile,
    ),
    (
        &["cargo", "poetry", "uv", "pdm", "rye", "hatch"],
        &["add"],
        RiskKind::DependencyFile,
    ),
    (
        &["cargo", "poetry", "uv", "pdm"],
        &["remove"],
        RiskKind::DependencyFile,
    ),
    (
        &["cargo", "poetry", "pdm", "composer", "bundle", "mix"],
        &["update"],
        RiskKind::DependencyFile,
    ),
    (
        &["poetry", "uv", "pdm", "pipenv", "bundle"],
        &["lock"],
        RiskKind::DependencyFile,
    ),
    (&["pipenv"], &["install", "*"], RiskKind::DependencyFile),
    (&["bundle"], &["add"], RiskKind::DependencyFile),
    (&["composer"], &["require"], RiskKind::DependencyFile),
    (&["go"], &["get"], RiskKind::DependencyFile),
    (&["go"], &["mod", "tidy"], RiskKind::DependencyFile),
    (&["go"], &["mod", "edit"], RiskKind::DependencyFile),
    (&["pip-compile"], &[], RiskKind::DependencyFile),
    (
        &["pip", "pip3", "pipx", "gem", "conda", "mamba"],
        &["install"],
        RiskKind::Install,
    ),
    (
        &["pip", "pip3", "pipx", "gem", "conda"],
        &["uninstall"],
        RiskKind::Install,
    ),
    (&["cargo", "go", "rustup"], &["install"], RiskKind::Install),
    (&["alembic"], &["upgrade"], RiskKind::Database),
    (&["alembic"], &["downgrade"], RiskKind::Database),
    (&["alembic"], &["revision"], RiskKind::MigrationFile),
    (&["prisma", "npx"], &["migrate"], RiskKind::Database),
    (&["prisma"], &["db", "push"], RiskKind::Database),
    (
        &[
            "knex",
            "sequelize",
            "sequelize-cli",
            "typeorm",
            "drizzle-kit",
        ],
        &["migrate"],
        RiskKind::Database,
    ),
    (
        &["knex", "sequelize", "sequelize-cli", "typeorm"],
        &["migration:run"],
        RiskKind::Database,
    ),
    (
        &["sequelize", "sequelize-cli", "rails", "rake"],
        &["db:migrate"],
        RiskKind::Database,
    ),
    (&["rails", "rake"], &["db:drop"], RiskKind::Database),
    (&["rails", "rake"], &["db:reset"], RiskKind::Database),
    (&["diesel"], &["migration"], RiskKind::Database),
    (&["sqlx"], &["migrate"], RiskKind::Database),
    (&["stripe", "twilio"], &["*"], RiskKind::Spending),
];

/// Words that mark a look in `aws`, `gcloud` and `az`.
const LOOKS: [&str; 8] = [
    "list", "describe", "get", "show", "ls", "info", "version", "help",
];

/// Whether a program is one of the table.
pub(super) fn knows(program: &str) -> bool {
    TABLE
        .iter()
        .any(|(programs, _, _)| programs.contains(&program))
}

pub(super) fn judge(act: &mut Act, program: &str, words: &[Word]) {
    if has(words, &["--help", "--version", "--dry-run"]) {
        return;
    }
    let plain: Vec<&str> = words
        .iter()
        .map(|word| word.text.as_str())
        .filter(|text| !text.starts_with('-'))
        .collect();
    // Who approves one package, of one source, approves no other.
    let texts = words.iter().map(|word| word.text.as_str());
    let whole: Vec<&str> = [program].into_iter().chain(texts).collect();
    let whole = whole.join(" ");
    for (programs, follows, kind) in TABLE {
        if !programs.contains(&program) {
            continue;
        }
        let fits = match follows {
            [] => true,
            [first] if *first == "*" => !plain.is_empty(),
            [first] => plain.iter().take(3).any(|word| word == first),
            [first, second] => {
                plain.first() == Some(first)
                    && plain
                        .get(1)
                        .is_some_and(|word| word == second || *second == "*")
            }
            _ => false,
        };
        if fits {
            act.find(*kind, &whole);
        }
    }
    match program {
        "npm" | "pnpm"
            if plain
                .first()
                .is_some_and(|word| matches!(*word, "install" | "i"))
                && !has(words, &["-g", "--global", "--no-save"])
                && plain.len() > 1 =>
        {
            act.find(RiskKind::DependencyFile, &whole);
        }
        "npm" | "pnpm" | "yarn" if has(words, &["-g", "--global"]) => {
            act.find(RiskKind::Install, program)
        }
        "python" | "python3" if plain.contains(&"manage.py") && plain.contains(&"migrate") => {
            act.find(RiskKind::Database, "manage.py migrate")
        }
        "python" | "python3"
            if plain.contains(&"manage.py")
                && plain
                    .iter()
                    .any(|word| matches!(*word, "flush" | "sqlflush" | "reset_db")) =>
        {
            act.find(RiskKind::Database, "manage.py")
        }
        "python" | "python3"
            if plain.contains(&"manage.py") && plain.contains(&"makemigrations") =>
        {
            act.find(RiskKind::MigrationFile, &whole)
        }
        "python" | "python3" if has(words, &["-m"]) => {
            let module = words
                .iter()
                .skip_while(|word| word.text != "-m")
                .nth(1)
                .map_or("", |word| word.text.as_str());
            let after: Vec<&Word> = words
                .iter()
                .skip_while(|word| word.text != "-m")
                .skip(2)
                .collect();
            match module {
                "pip"
                    if after
                        .iter()
                        .any(|word| word.text == "install" || word.text == "uninstall") =>
                {
                    act.find(RiskKind::Install, "pip")
                }
                "twine" | "build.upload" => act.find(RiskKind::Deploy, module),
                "http.server" => act.level = act.level.max(Level::Write),
                "pty" | "smtpd" => act.find(RiskKind::Egress, module),
                _ => {}
            }
        }
        "aws" | "gcloud" | "az" | "doctl" | "linode-cli" | "hcloud" | "oci" | "ibmcloud"
        | "aliyun" => {
            let looks = plain.iter().any(|word| {
                LOOKS
                    .iter()
                    .any(|look| word == look || word.starts_with(&format!("{look}-")))
            });
            if !looks && !plain.is_empty() && act.findings.is_empty() {
                act.find(RiskKind::Spending, [program, plain[0]].join(" "));
            }
        }
        "gh" if plain.first() == Some(&"api")
            && has(words, &["-X", "--method", "-f", "-F", "--field", "--input"]) =>
        {
            act.find(RiskKind::Merge, "gh api");
        }
        _ => {}
    }
}

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
    (&["glab"], &["mr", "accept"], RiskKind::Merge),
    (&["glab"], &["mr", "create"], RiskKind::Push),
    (&["gh"], &["release"], RiskKind::Deploy),
    (&["gh"], &["workflow"], RiskKind::Deploy),
    (&["gh"], &["secret"], RiskKind::Credentials),
    (&["gh"], &["auth"], RiskKind::Credentials),
    (&["gh"], &["ssh-key"], RiskKind::Credentials),
    (&["gh"], &["repo", "delete"], RiskKind::ForcePush),
    (&["gh"], &["repo", "create"], RiskKind::Push),
    (&["gh"], &["gist"], RiskKind::SendOut),
    (&["gh", "glab"], &["api"], RiskKind::SendOut),
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

/// Programs that know `--dry-run`, and do nothing with it.
const DRY_RUNS: [&str; 18] = [
    "npm", "pnpm", "bun", "cargo", "poetry", "uv", "kubectl", "oc", "helm", "aws", "pip", "pip3",
    "python", "python3", "composer", "rake", "rails", "wrangler",
];
/// What `npm` does without doing it; it knows the option for nothing else.
const DRY_RUNS_OF_NPM: [&str; 10] = [
    "publish",
    "unpublish",
    "install",
    "i",
    "add",
    "uninstall",
    "remove",
    "update",
    "audit",
    "ci",
];
/// Of these, an option takes the next word for its value whatever it looks like.
const TAKES_ANYTHING: [&str; 9] = [
    "npm", "pnpm", "bun", "kubectl", "oc", "helm", "gh", "hub", "glab",
];
/// Options that take no value for certain.
const FLAGS: [&str; 18] = [
    "--force",
    "--wait",
    "--all",
    "--now",
    "--atomic",
    "--install",
    "--debug",
    "--silent",
    "--json",
    "--verbose",
    "--quiet",
    "--yes",
    "--recursive",
    "-A",
    "-i",
    "-q",
    "-v",
    "-y",
];

/// A word that is no option.
struct Plain<'w> {
    text: &'w str,
    /// Whether it may be the value of the option before it.
    may_be_value: bool,
}

fn plain_words(words: &[Word]) -> Vec<Plain<'_>> {
    let mut plain = Vec::new();
    let mut may_be_value = false;
    for word in words {
        let text = word.text.as_str();
        let is_option = text.starts_with('-');
        if !is_option {
            plain.push(Plain { text, may_be_value });
        }
        may_be_value = is_option && text.len() > 1 && text != "--" && !text.contains('=');
    }
    plain
}

/// Where the words after a program name what it does; a word that may be the value
/// of an option may stand before them, or between them.
fn stand_first(plain: &[Plain<'_>], follows: &[&str]) -> bool {
    let mut left = follows.iter().peekable();
    for word in plain {
        match left.peek() {
            Some(wanted) if **wanted == "*" || **wanted == word.text => {
                left.next();
            }
            Some(_) if word.may_be_value => {}
            Some(_) | None => break,
        }
    }
    left.peek().is_none()
}

/// Whether a word is among the first that name what a program does.
fn stands_early(plain: &[Plain<'_>], wanted: &str) -> bool {
    let mut others = 0;
    for word in plain {
        if word.text == wanted {
            return true;
        }
        others += usize::from(!word.may_be_value);
        if others == 3 {
            break;
        }
    }
    false
}

/// Whether a command only says something: how it is used, or what it would do.
fn only_says(program: &str, words: &[Word], plain: &[Plain<'_>]) -> bool {
    if let [only] = words
        && only.text == "--version"
    {
        return true;
    }
    // What comes after it is another command's, or a name.
    let end = words.iter().position(|word| word.text == "--");
    let words = &words[..end.unwrap_or(words.len())];
    let is_on = |name: &str| is_on(program, words, name);
    let starts_others = words
        .iter()
        .position(|word| matches!(word.text.as_str(), "run" | "exec"));
    let asks_help = match starts_others {
        // What follows is a command with options of its own.
        Some(at) => words.get(at + 1).is_some_and(|word| word.text == "--help"),
        None => is_on("--help"),
    };
    let knows_dry = DRY_RUNS.contains(&program)
        && (program != "npm"
            || DRY_RUNS_OF_NPM
                .iter()
                .any(|does| stand_first(plain, &[*does])));
    asks_help || knows_dry && is_on("--dry-run")
}

/// Whether an option is on in the end: `--x=false`, `--x false` and `--no-x` after
/// it turn it off, and what is the value of another option is none.
fn is_on(program: &str, words: &[Word], name: &str) -> bool {
    const ON: [&str; 3] = ["true", "client", "server"];
    const OFF: [&str; 6] = ["false", "none", "null", "no", "off", "0"];
    let mut on = false;
    let mut before = "";
    for (at, word) in words.iter().enumerate() {
        let text = word.text.as_str();
        let may_be_value = TAKES_ANYTHING.contains(&program)
            && before.starts_with('-')
            && !before.contains('=')
            && !FLAGS.contains(&before);
        before = text;
        if !word.exact && text.starts_with(['$', '`']) {
            // It may be any option.
            return false;
        }
        let next = words.get(at + 1).map_or("", |word| word.text.as_str());
        if text == name {
            on = !may_be_value && !OFF.contains(&next);
        } else if let Some(value) = text
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
        {
            on = !may_be_value && ON.contains(&value);
        } else if text.starts_with("--no-")
            && name[2..].starts_with(text[5..].split('=').next().unwrap_or_default())
        {
            on = false;
        }
    }
    on
}

pub(super) fn judge(act: &mut Act, program: &str, words: &[Word]) {
    let plain = plain_words(words);
    if only_says(program, words, &plain) {
        return;
    }
    let says = |wanted: &str| plain.iter().any(|word| word.text == wanted);
    // Who approves one package, of one source, approves no other.
    let texts = words.iter().map(|word| word.text.as_str());
    let whole: Vec<&str> = [program].into_iter().chain(texts).collect();
    let whole = whole.join(" ");
    for (programs, follows, kind) in TABLE {
        if !programs.contains(&program) {
            continue;
        }
        let fits = match follows {
            [first] if *first != "*" => stands_early(&plain, first),
            follows => stand_first(&plain, follows),
        };
        if fits {
            act.find(*kind, &whole);
        }
    }
    match program {
        "npm" | "pnpm"
            if (stand_first(&plain, &["install", "*"]) || stand_first(&plain, &["i", "*"]))
                && !has(words, &["-g", "--global", "--no-save"]) =>
        {
            act.find(RiskKind::DependencyFile, &whole);
        }
        "npm" | "pnpm" | "yarn" if has(words, &["-g", "--global"]) => {
            act.find(RiskKind::Install, program)
        }
        "python" | "python3" if says("manage.py") && says("migrate") => {
            act.find(RiskKind::Database, "manage.py migrate")
        }
        "python" | "python3"
            if says("manage.py") && (says("flush") || says("sqlflush") || says("reset_db")) =>
        {
            act.find(RiskKind::Database, "manage.py")
        }
        "python" | "python3" if says("manage.py") && says("makemigrations") => {
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
            let looks = plain.iter().filter(|word| !word.may_be_value).any(|word| {
                LOOKS
                    .iter()
                    .any(|look| word.text == *look || word.text.starts_with(&format!("{look}-")))
            });
            if let Some(first) = plain.first()
                && !looks
                && act.findings.is_empty()
            {
                act.find(RiskKind::Spending, [program, first.text].join(" "));
            }
        }
        "gh" | "glab"
            if stand_first(&plain, &["api"])
                && has(
                    words,
                    &[
                        "-X",
                        "--method",
                        "-f",
                        "-F",
                        "--field",
                        "--raw-field",
                        "--input",
                        "--form",
                    ],
                ) =>
        {
            act.find(RiskKind::Merge, format!("{program} api"));
        }
        _ => {}
    }
}

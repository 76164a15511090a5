//! Requests over HTTP, and which of them merge or change branches by a forge's API.

use super::{
    super::shell::{Input, SimpleCommand, Word, absolute},
    given::{Given, Names},
};

/// Options of `curl` that have a value.
const CURL: [&str; 93] = [
    "-A",
    "-b",
    "-c",
    "-C",
    "-d",
    "-D",
    "-e",
    "-E",
    "-F",
    "-H",
    "-K",
    "-m",
    "-o",
    "-P",
    "-Q",
    "-r",
    "-t",
    "-T",
    "-u",
    "-U",
    "-w",
    "-x",
    "-X",
    "-y",
    "-Y",
    "-z",
    "--cacert",
    "--capath",
    "--cert",
    "--cert-type",
    "--ciphers",
    "--config",
    "--connect-timeout",
    "--connect-to",
    "--continue-at",
    "--cookie",
    "--cookie-jar",
    "--crlfile",
    "--data",
    "--data-ascii",
    "--data-binary",
    "--data-raw",
    "--data-urlencode",
    "--dns-servers",
    "--doh-url",
    "--dump-header",
    "--form",
    "--form-string",
    "--header",
    "--interface",
    "--json",
    "--keepalive-time",
    "--key",
    "--key-type",
    "--limit-rate",
    "--max-filesize",
    "--max-redirs",
    "--max-time",
    "--noproxy",
    "--oauth2-bearer",
    "--output",
    "--output-dir",
    "--pass",
    "--preproxy",
    "--proto",
    "--proto-default",
    "--proxy",
    "--proxy-user",
    "--range",
    "--referer",
    "--request",
    "--request-target",
    "--resolve",
    "--retry",
    "--retry-delay",
    "--retry-max-time",
    "--socks5",
    "--socks5-hostname",
    "--speed-limit",
    "--speed-time",
    "--stderr",
    "--tls-max",
    "--tls13-ciphers",
    "--trace",
    "--trace-ascii",
    "--unix-socket",
    "--upload-file",
    "--url",
    "--url-query",
    "--user",
    "--user-agent",
    "--variable",
    "--write-out",
];
/// Options of `wget` and `aria2c` that have a value.
const WGET: [&str; 24] = [
    "-a",
    "-A",
    "-B",
    "-D",
    "-e",
    "-i",
    "-I",
    "-l",
    "-o",
    "-O",
    "-P",
    "-Q",
    "-R",
    "-t",
    "-T",
    "-U",
    "-w",
    "-X",
    "--body-data",
    "--body-file",
    "--header",
    "--method",
    "--post-data",
    "--post-file",
];
/// Options of `http` that have a value.
const HTTPIE: [&str; 12] = [
    "-a",
    "-A",
    "-o",
    "-p",
    "-s",
    "--auth",
    "--cert",
    "--output",
    "--print",
    "--raw",
    "--session",
    "--timeout",
];
/// Options that give a request a body, or begin like one.
const BODIES: [&str; 9] = [
    "--body-data",
    "--body-file",
    "--data",
    "--form",
    "--json",
    "--post-data",
    "--post-file",
    "--raw",
    "--upload-file",
];
/// Paths by which something is merged, or a branch or who may change it is changed;
/// `*` stands for any part.
const MERGES: &[&[&str]] = &[
    &["pulls", "*", "merge"],
    &["pullrequests", "*", "merge"],
    &["pull-requests", "*", "merge"],
    &["merge_requests", "*", "merge"],
    &["merges"],
    &["merge-upstream"],
    &["git", "refs"],
    &["branches", "*", "protection"],
    &["branches", "*", "rename"],
    &["branch_protections"],
    &["protected_branches"],
    &["rulesets"],
    &["refs", "branches"],
    &["repository", "branches"],
    &["repository", "merged_branches"],
    &["repository", "commits"],
    &["repository", "files"],
    &["repos", "*", "*", "contents"],
];
/// What of GraphQL does the same, in small letters.
const MUTATIONS: [&str; 7] = [
    "merge",
    "createref",
    "updateref",
    "deleteref",
    "createcommit",
    "protection",
    "ruleset",
];
/// Parts of the names of hosts that are forges for certain.
const FORGES: [&str; 6] = [
    "github",
    "gitlab",
    "gitea",
    "forgejo",
    "codeberg",
    "bitbucket",
];

/// A request.
#[derive(Debug, Default)]
pub(super) struct Request {
    urls: Vec<Word>,
    /// Methods that are named; none stands for one that is not known.
    methods: Vec<Option<String>>,
    bodies: Vec<Word>,
    /// Whether it has a body.
    has_body: bool,
    /// Whether there are several, each with options of its own.
    several: bool,
}

impl Request {
    /// The request that a command makes.
    pub(super) fn of(command: &SimpleCommand) -> Self {
        match command.program() {
            Some("curl") => Self::of_options(command.arguments(), &CURL, Names::Whole),
            Some("http" | "https") => Self::of_httpie(command),
            _ => Self::of_options(command.arguments(), &WGET, Names::Shortened),
        }
    }

    fn of_options(words: &[Word], valued: &[&str], names: Names) -> Self {
        let given = Given::read(words, valued, names);
        let is_curl = names == Names::Whole;
        let mut request = Self {
            urls: given.operands.into_iter().cloned().collect(),
            several: words
                .iter()
                .any(|word| matches!(word.text.as_str(), "--next" | "-:")),
            ..Self::default()
        };
        for (name, value) in given.options {
            // `--expand-data` is `--data` with variables of curl's own.
            let name = name.replacen("--expand-", "--", 1);
            let is_body = match name.as_str() {
                "--url" => {
                    request.urls.extend(value);
                    continue;
                }
                "-X" | "--request" if is_curl => {
                    request.method(value.as_ref());
                    continue;
                }
                "--method" if !is_curl => {
                    request.method(value.as_ref());
                    continue;
                }
                "-d" | "-F" | "-T" => is_curl,
                name => gives_a_body(name),
            };
            if is_body {
                request.has_body = true;
                request.bodies.extend(value);
            }
        }
        request
    }

    /// `http [METHOD] URL [ITEM...]`: fields and files make a body.
    fn of_httpie(command: &SimpleCommand) -> Self {
        let given = Given::read(command.arguments(), &HTTPIE, Names::Whole);
        let mut request = Self::default();
        let mut operands = given.operands.iter().copied().peekable();
        let is_method = |word: &&Word| {
            let text = word.text.as_str();
            text != "localhost" && text.chars().all(|char| char.is_ascii_alphabetic())
        };
        if let Some(method) = operands.next_if(is_method) {
            request.method(Some(method));
        }
        request.urls.extend(operands.next().cloned());
        let items: Vec<Word> = operands.cloned().collect();
        let is_field = |word: &Word| word.text.replace("==", "").contains(['=', '@']);
        request.has_body =
            items.iter().any(is_field) || command.input != Input::None || given.has(&["--raw"]);
        request.bodies = items;
        request.bodies.extend(given.values(&["--raw"]).cloned());
        if command.input != Input::None {
            request.bodies.push(Word::unknown("@-"));
        }
        request
    }

    fn method(&mut self, word: Option<&Word>) {
        let known = word.and_then(Word::known);
        self.methods.push(known.map(str::to_ascii_uppercase));
    }

    /// A method that writes, where one is named.
    pub(super) fn writing_method(&self) -> Option<&str> {
        let mut methods = self.methods.iter();
        methods.find_map(|method| match method.as_deref() {
            Some("GET" | "HEAD" | "OPTIONS") => None,
            Some(method) => Some(method),
            None => Some("a method that is not known"),
        })
    }

    fn writes(&self) -> bool {
        let by_body = self.has_body && (self.methods.is_empty() || self.several);
        by_body || self.writing_method().is_some()
    }

    /// Whether it goes to this machine alone.
    pub(super) fn stays_here(&self) -> bool {
        !self.urls.is_empty() && self.urls.iter().all(is_here)
    }

    /// What it merges or changes of a forge's branches, if anything.
    pub(super) fn merges(&self) -> Option<String> {
        if !self.writes() {
            return None;
        }
        let merges = |url: &&Word| {
            let parts = parts(&url.text);
            let by_path = MERGES.iter().any(|path| leads_by(&parts, path));
            by_path || parts.last().is_some_and(|part| part == "graphql") && self.mutates(&url.text)
        };
        self.urls.iter().find(merges).map(|url| url.text.clone())
    }

    /// Whether what is sent to a GraphQL address changes branches, or may.
    fn mutates(&self, url: &str) -> bool {
        let host = authority(url).to_ascii_lowercase();
        let is_forge = host.contains('$') || FORGES.iter().any(|name| host.contains(name));
        let names_one = |body: &Word| {
            let text = body.text.to_ascii_lowercase();
            MUTATIONS.iter().any(|word| text.contains(word))
        };
        let is_unknown = |body: &Word| !body.exact || body.text.contains(['@', '\\']);
        self.bodies.iter().any(names_one)
            || is_forge && (self.bodies.is_empty() || self.bodies.iter().any(is_unknown))
    }
}

fn gives_a_body(option: &str) -> bool {
    option.len() > 3
        && BODIES
            .iter()
            .any(|body| option.starts_with(body) || body.starts_with(option))
}

/// The part of an address that names the host.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Whether an address is one of this machine.
fn is_here(url: &Word) -> bool {
    let authority = authority(&url.text);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (name, port) = match host.strip_prefix("[::1]") {
        Some(port) => ("localhost", port),
        None => host.split_once(':').unwrap_or((host, "")),
    };
    // What is put in place of a port must be one.
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_:-${}".contains(char);
    let is_name = matches!(name, "localhost" | "127.0.0.1" | "0.0.0.0" | "");
    is_name && port.chars().all(is_plain) && !(name.is_empty() && port.is_empty())
}

/// The parts of an address's path, as a server reads them.
fn parts(url: &str) -> Vec<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = absolute(&decoded(path), "/").to_ascii_lowercase();
    path.split('/').map(str::to_owned).collect()
}

/// A path without `%2f` and its like.
fn decoded(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3);
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(u8::is_ascii) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            None => {
                plain.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// Whether parts lead by a path. A part that a shell or `curl` has yet to fill in
/// may be any one, where another is what it has to be.
fn leads_by(parts: &[String], path: &[&str]) -> bool {
    parts.windows(path.len()).any(|window| {
        let mut certain = false;
        let fits = window.iter().zip(path).all(|(part, wanted)| {
            let is_it = part == wanted;
            certain |= is_it;
            is_it || *wanted == "*" || part.contains(['$', '`', '{', '[', '*'])
        });
        fits && certain
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_a_server_reads_them() {
        let merges = |url: &str| MERGES.iter().any(|path| leads_by(&parts(url), path));
        for url in [
            "https://api.github.com/repos/o/r/pulls/1/merge",
            "api.github.com/repos/o/r/pulls/$N/merge?x=1",
            "https://h/repos/o/r/pulls/1/%6Derge",
            "https://h/repos/o/r/pulls/1/x/../merge",
            "https://h/repos/o/r/pulls/1/merg[e-e]",
            "https://h/api/v4/projects/1/merge_requests/2/merge",
            "https://h/repos/o/r/git/refs/heads/main",
            "https://h/repos/o/r/branches/main/protection",
            "$API/pulls/1/$ACTION",
        ] {
            assert!(merges(url), "{url}");
        }
        for url in [
            "https://h/repos/o/r/pulls/1",
            "https://h/repos/o/r/pulls/1/comments",
            "https://h/items/$ID",
            "$URL",
            "https://h/git",
        ] {
            assert!(!merges(url), "{url}");
        }
    }

    #[test]
    fn this_machine_is_told_from_others() {
        let here = |url: &str| is_here(&Word::unknown(url));
        for url in [
            "localhost",
            "localhost:3000/x",
            "http://127.0.0.1/x",
            "http://localhost:$PORT/x",
            "http://[::1]:80/",
            ":3000/x",
        ] {
            assert!(here(url), "{url}");
        }
        for url in [
            "localhost.example.com",
            "http://localhost@example.com",
            "http://localhost:80@example.com/",
            "http://localhost:$(cat x)/",
            "example.com/localhost",
            "$URL",
            "",
        ] {
            assert!(!here(url), "{url}");
        }
    }
}

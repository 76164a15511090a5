//! Rules, compiled once: which of them match an act.

use std::{collections::HashMap, time::Duration};

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use super::{
    classify::{Act, FileChangeKind, FileUse, Subject, acts},
    decision::Decision,
    file::{APPROVAL_TIMEOUT_S, Example, PolicyError, PolicyFile, RuleText, line_at},
    risk::{RiskKind, Tier},
};
use crate::domain::{audit::chain::Hash, budget::Money, proof::Risk, tools::Tool};

/// The rules that come with the daemon.
pub(super) const BUILT_IN: &str = include_str!("default.toml");
/// How the rules that come with the daemon are named in verdicts.
pub(super) const BUILT_IN_ORIGIN: &str = "the built-in policy";
/// Where the examples of rules run.
const EXAMPLE_REPOSITORY: &str = "/workspace/repository";

/// A policy, ready to be asked. Reading it is dear, asking it is not.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    /// Rules that name programs, by the first word.
    by_program: HashMap<String, Vec<(usize, Vec<String>)>>,
    /// Every path pattern, and the rule of each.
    globs: GlobSet,
    glob_rules: Vec<usize>,
    protected_branches: Vec<String>,
    approval_timeout: Duration,
    ask_above: AskAbove,
    ask_on_proof: AskOnProof,
    hash: Hash,
    /// The texts that it was read from, with their origins.
    sources: Vec<(String, String)>,
}

/// What of a change that is proved a person is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskOnProof {
    /// Tests, and what runs them, that were changed at this risk or a higher one.
    pub test_changes: Option<Risk>,
    /// Whether the operator's policy says that, and not the daemon's own alone:
    /// leave that a task gives to change tests counts against the latter only.
    pub test_changes_given: bool,
    /// Tests that failed before and fail still.
    pub known_failures: bool,
}

impl Default for AskOnProof {
    fn default() -> Self {
        Self {
            test_changes: Some(Risk::High),
            test_changes_given: false,
            known_failures: true,
        }
    }
}

/// What a session may have spent before a person is asked whether it may go on.
/// Each is more than nothing where it is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AskAbove {
    /// Tokens.
    pub tokens: Option<u64>,
    /// Money.
    pub money: Option<Money>,
}

/// The hash of files' texts and of how long each is; names of files do not count.
fn hash_of(files: &[(&str, &str)]) -> Hash {
    let texts = files
        .iter()
        .map(|(text, _)| format!("{}\n{text}", text.len()));
    Hash::of(texts.collect::<String>().as_bytes())
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    /// Its name.
    pub(super) name: String,
    /// Where it stands.
    pub(super) origin: String,
    /// Its line there.
    pub(super) line: usize,
    pub(super) decision: Decision,
    pub(super) reason: String,
    tools: Option<Vec<Tool>>,
    has_argv: bool,
    has_paths: bool,
    hosts: Option<Vec<String>>,
    branches: Option<Vec<String>>,
    risks: Option<Vec<RiskKind>>,
}

/// A set of rules.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn insert(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn contains(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }
}

impl Policy {
    /// The policy that comes with the daemon.
    #[must_use]
    pub fn built_in() -> Self {
        let read = Self::compile(&[(BUILT_IN, BUILT_IN_ORIGIN)]);
        read.expect("the built-in policy is checked by a test")
    }

    /// Reads a policy file; `origin` names it in errors. The rules that come with
    /// the daemon follow, unless the file says that they do not.
    ///
    /// # Errors
    /// The first thing that is wrong, with the rule and the line.
    pub fn read(text: &str, origin: &str) -> Result<Self, PolicyError> {
        match PolicyFile::parse(text, origin)?.defaults {
            true => Self::compile(&[(text, origin), (BUILT_IN, BUILT_IN_ORIGIN)]),
            false => Self::compile(&[(text, origin)]),
        }
    }

    /// All that it was read from, as JSON: [`from_record`](Self::from_record) makes
    /// the same of it, whatever rules a later daemon comes with.
    #[must_use]
    pub fn to_record(&self) -> String {
        serde_json::to_string(&self.sources).expect("texts are JSON")
    }

    /// Reads what [`to_record`](Self::to_record) wrote; `None` where that is not to
    /// be had, or this daemon does not understand its rules.
    #[must_use]
    pub fn from_record(text: &str) -> Option<Self> {
        let sources: Vec<(String, String)> = serde_json::from_str(text).ok()?;
        let files = sources.iter().map(|(text, origin)| (&**text, &**origin));
        Self::compile(&files.collect::<Vec<_>>()).ok()
    }

    /// Compiles files, earlier ones first; what the first says of the whole wins.
    fn compile(files: &[(&str, &str)]) -> Result<Self, PolicyError> {
        let mut policy = Self {
            rules: Vec::new(),
            by_program: HashMap::new(),
            globs: GlobSet::empty(),
            glob_rules: Vec::new(),
            protected_branches: Vec::new(),
            approval_timeout: Duration::from_secs(APPROVAL_TIMEOUT_S),
            ask_above: AskAbove::default(),
            ask_on_proof: AskOnProof::default(),
            hash: hash_of(files),
            sources: (files.iter())
                .map(|(text, origin)| ((*text).to_owned(), (*origin).to_owned()))
                .collect(),
        };
        let mut globs = GlobSetBuilder::new();
        let mut examples = Vec::new();
        let (mut protected, mut timeout) = (None, None);
        let (mut test_changes, mut known_failures) = (None, None);
        for (text, origin) in files {
            let file = PolicyFile::parse(text, origin)?;
            protected = protected.or(file.protected_branches);
            timeout = timeout.or(file.approval_timeout_s);
            let above = &mut policy.ask_above;
            above.tokens = above.tokens.or(file.ask_above_tokens);
            above.money = above.money.or(file.ask_above_money);
            if test_changes.is_none() && file.ask_on_test_changes.is_some() {
                policy.ask_on_proof.test_changes_given = *origin != BUILT_IN_ORIGIN;
            }
            test_changes = test_changes.or(file.ask_on_test_changes);
            known_failures = known_failures.or(file.ask_on_known_failures);
            for spanned in file.rule {
                let line = line_at(text, spanned.span().start);
                let rule = spanned.into_inner();
                let wrong = |why: String| PolicyError::Rule {
                    origin: (*origin).to_owned(),
                    line,
                    rule: rule.name.clone(),
                    why,
                };
                policy.add(&rule, origin, line, &mut globs).map_err(wrong)?;
                examples.push((policy.rules.len() - 1, rule.matches, rule.misses));
            }
        }
        policy.globs = globs.build().map_err(|error| PolicyError::Malformed {
            origin: files[0].1.to_owned(),
            why: format!("its path patterns cannot be used together: {error}"),
        })?;
        policy.protected_branches = protected.unwrap_or_default();
        if let Some(from) = test_changes {
            policy.ask_on_proof.test_changes = from.from();
        }
        if let Some(asks) = known_failures {
            policy.ask_on_proof.known_failures = asks;
        }
        if let Some(seconds) = timeout {
            policy.approval_timeout = Duration::from_secs(seconds);
        }
        for (at, matches, misses) in examples {
            policy.check_examples(at, &matches, &misses)?;
        }
        Ok(policy)
    }

    fn add(
        &mut self,
        text: &RuleText,
        origin: &str,
        line: usize,
        globs: &mut GlobSetBuilder,
    ) -> Result<(), String> {
        let at = self.rules.len();
        if text.name.trim().is_empty() {
            return Err("it has no name: give it one, it is what people are shown".into());
        }
        if self
            .rules
            .iter()
            .any(|rule| rule.name == text.name && rule.origin == origin)
        {
            return Err("another rule has this name: give each its own".into());
        }
        let conditions = [
            text.tools.as_ref().map(Vec::len),
            text.argv.as_ref().map(Vec::len),
            text.paths.as_ref().map(Vec::len),
            text.hosts.as_ref().map(Vec::len),
            text.branches.as_ref().map(Vec::len),
            text.risks.as_ref().map(Vec::len),
        ];
        if conditions.iter().all(Option::is_none) {
            return Err(
                "it has no condition: give tools, argv, paths, hosts, branches or risks".into(),
            );
        }
        if conditions.contains(&Some(0)) {
            return Err(
                "one of its conditions is an empty list, which nothing matches: leave it out"
                    .into(),
            );
        }
        if text.matches.is_empty() || text.misses.is_empty() {
            return Err("it needs examples: at least one in `matches` and one in `misses`".into());
        }
        if text.decision == Decision::Deny && text.reason.trim().is_empty() {
            return Err("it denies and gives no `reason`: say what is to be done instead, the model reads it".into());
        }
        for prefix in text.argv.iter().flatten() {
            let words: Vec<String> = prefix.split_whitespace().map(str::to_owned).collect();
            let Some(program) = words.first() else {
                return Err("`argv` has an empty entry".into());
            };
            self.by_program
                .entry(program.clone())
                .or_default()
                .push((at, words));
        }
        for pattern in text.paths.iter().flatten() {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            globs.add(glob.map_err(|error| format!("`paths` has `{pattern}`: {error}"))?);
            self.glob_rules.push(at);
        }
        for host in text.hosts.iter().flatten() {
            let plain = host.strip_prefix("*.").unwrap_or(host);
            if plain.is_empty() || plain.contains(['*', '/', ':']) {
                return Err(format!(
                    "`hosts` has `{host}`: a name, or `*.` and a name, is wanted"
                ));
            }
        }
        for branch in text.branches.iter().flatten() {
            if branch.is_empty() || branch.trim_end_matches('*').contains('*') {
                return Err(format!(
                    "`branches` has `{branch}`: a branch, or the start of one with `*` at its end, is wanted"
                ));
            }
        }
        self.rules.push(Rule {
            name: text.name.clone(),
            origin: origin.to_owned(),
            line,
            decision: text.decision,
            reason: text.reason.trim().to_owned(),
            tools: text.tools.clone(),
            has_argv: text.argv.is_some(),
            has_paths: text.paths.is_some(),
            hosts: text.hosts.clone(),
            branches: text.branches.clone(),
            risks: text.risks.clone(),
        });
        Ok(())
    }

    fn check_examples(
        &self,
        at: usize,
        matches: &[Example],
        misses: &[Example],
    ) -> Result<(), PolicyError> {
        let rule = &self.rules[at];
        let wrong = |why| PolicyError::Rule {
            origin: rule.origin.clone(),
            line: rule.line,
            rule: rule.name.clone(),
            why,
        };
        for (examples, wanted) in [(matches, true), (misses, false)] {
            for example in examples {
                let acts = self.example_acts(example).map_err(wrong)?;
                if acts.iter().any(|act| self.matching(act, &[at]).is_some()) != wanted {
                    let shown = example.shown();
                    return Err(wrong(match wanted {
                        true => format!(
                            "it does not match its example `{shown}`: mend the rule or the example"
                        ),
                        false => format!(
                            "it matches `{shown}`, which stands in `misses`: mend the rule or the example"
                        ),
                    }));
                }
            }
        }
        Ok(())
    }

    fn example_acts(&self, example: &Example) -> Result<Vec<Act>, String> {
        let (tool, subject) = match example {
            Example::Command(line) => (
                Tool::RunCommand,
                Subject::Line {
                    line: line.clone(),
                    directory: EXAMPLE_REPOSITORY.to_owned(),
                },
            ),
            Example::File(file) => {
                let change = match file.tool {
                    Tool::WriteFile | Tool::EditFile => FileChangeKind::Write,
                    Tool::ReadFile | Tool::ListDirectory | Tool::Glob | Tool::Grep => {
                        FileChangeKind::Read
                    }
                    other => {
                        return Err(format!(
                            "the example names `{}`, which has no path",
                            other.name()
                        ));
                    }
                };
                let path = file.path.clone();
                (
                    file.tool,
                    Subject::Files {
                        paths: vec![FileUse {
                            path,
                            change,
                            script: None,
                        }],
                    },
                )
            }
        };
        Ok(acts(
            tool,
            &subject,
            EXAMPLE_REPOSITORY,
            &self.protected_branches,
        ))
    }

    /// Branches that nothing is merged to without a person.
    #[must_use]
    pub fn protected_branches(&self) -> &[String] {
        &self.protected_branches
    }

    /// How long an approval is waited for.
    #[must_use]
    pub fn approval_timeout(&self) -> Duration {
        self.approval_timeout
    }

    /// What a session may have spent before a person is asked.
    #[must_use]
    pub fn ask_above(&self) -> AskAbove {
        self.ask_above
    }

    /// What of a change that is proved a person is asked about.
    #[must_use]
    pub fn ask_on_proof(&self) -> AskOnProof {
        self.ask_on_proof
    }

    /// SHA-256 of everything that it was read from: with another one, it may
    /// decide otherwise.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// How many rules it has.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The first rule that matches an act.
    pub(super) fn rule_of(&self, act: &Act) -> Option<&Rule> {
        self.matching(act, &[]).map(|at| &self.rules[at])
    }

    /// The first rule that names a command and matches an act.
    pub(super) fn rule_naming(&self, act: &Act) -> Option<&Rule> {
        let naming = self.rules.iter().enumerate();
        let naming = naming.filter(|(_, rule)| rule.has_argv);
        let only: Vec<usize> = naming.map(|(at, _)| at).collect();
        if only.is_empty() {
            return None;
        }
        self.matching(act, &only).map(|at| &self.rules[at])
    }

    /// The first rule that matches an act; of `only` these, unless that is empty.
    fn matching(&self, act: &Act, only: &[usize]) -> Option<usize> {
        let argv = self.argv_bits(act);
        let paths: Vec<Bits> = act.paths.iter().map(|path| self.path_bits(path)).collect();
        let mut every = 0..self.rules.len();
        let fits = |at: &usize| self.fits(*at, act, &argv, &paths);
        match only {
            [] => every.find(fits),
            only => only.iter().copied().find(fits),
        }
    }

    fn argv_bits(&self, act: &Act) -> Bits {
        let mut bits = Bits::none(self.rules.len());
        let words = &act.argv[..act.certain.min(act.argv.len())];
        let candidates = words
            .first()
            .and_then(|program| self.by_program.get(program));
        for (at, prefix) in candidates.into_iter().flatten() {
            if words.starts_with(prefix) {
                bits.insert(*at);
            }
        }
        bits
    }

    fn path_bits(&self, path: &str) -> Bits {
        let mut bits = Bits::none(self.rules.len());
        if !self.glob_rules.is_empty() {
            for glob in self.globs.matches_candidate(&Candidate::new(path)) {
                bits.insert(self.glob_rules[glob]);
            }
        }
        bits
    }

    /// A rule that allows has to fit all that an act does; one that asks or
    /// denies, any of it.
    fn fits(&self, at: usize, act: &Act, argv: &Bits, paths: &[Bits]) -> bool {
        let rule = &self.rules[at];
        let all = rule.decision == Decision::Allow;
        if rule
            .tools
            .as_ref()
            .is_some_and(|tools| !tools.contains(&act.tool))
        {
            return false;
        }
        if rule.has_argv && !argv.contains(at) {
            return false;
        }
        if rule.has_paths && !some_or_all(all, paths.iter().map(|bits| bits.contains(at))) {
            return false;
        }
        if let Some(hosts) = &rule.hosts
            && !some_or_all(
                all,
                act.hosts
                    .iter()
                    .map(|host| hosts.iter().any(|pattern| host_fits(pattern, host))),
            )
        {
            return false;
        }
        if let Some(branches) = &rule.branches
            && !some_or_all(
                all,
                act.branches
                    .iter()
                    .map(|branch| branches.iter().any(|pattern| branch_fits(pattern, branch))),
            )
        {
            return false;
        }
        if let Some(risks) = &rule.risks {
            let found = act.findings.iter();
            // What is of low risk needs no leave.
            let found = found.filter(|finding| !all || finding.kind.tier() > Tier::Low);
            if !some_or_all(all, found.map(|finding| risks.contains(&finding.kind))) {
                return false;
            }
        }
        true
    }
}

/// Whether all are true, or any is; none is neither.
fn some_or_all(all: bool, mut each: impl Iterator<Item = bool>) -> bool {
    if !all {
        return each.any(|fits| fits);
    }
    let mut count = 0;
    each.all(|fits| {
        count += 1;
        fits
    }) && count > 0
}

fn host_fits(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => host
            .strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.')),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

fn branch_fits(pattern: &str, branch: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => branch.starts_with(prefix),
        None => branch == pattern,
    }
}

//! Which packages a project declares, and whether an edit imports another.
//!
//! Declared is what occurs as a word in one of the project's manifests, in the
//! directory of the edited file or above it: that takes no parser for each of
//! them and never accuses wrongly because of a way of writing that is not known
//! here. A module that lies beside the file, or beside a directory above it, is
//! the project's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::successors,
    sync::LazyLock,
};

use regex::Regex;
use serde::{Deserialize, Serialize};

/// Names of manifests.
const MANIFESTS: [&str; 10] = [
    "Pipfile",
    "dev-requirements.txt",
    "package.json",
    "pyproject.toml",
    "requirements-dev.txt",
    "requirements-test.txt",
    "requirements.txt",
    "setup.cfg",
    "setup.py",
    "tox.ini",
];
/// Words that are kept of the manifests of a directory.
const WORDS_MAX: usize = 4_000;

/// What a project declares and has of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Libraries {
    #[serde(flatten)]
    top: Place,
    /// Directories below the top, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    below: BTreeMap<String, Place>,
}

/// The same of one directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Words of its Python manifests; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    python: Option<BTreeSet<String>>,
    /// Words of its Node manifest; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<BTreeSet<String>>,
    /// Modules and packages in it, without endings.
    #[serde(default)]
    own: BTreeSet<String>,
    /// Whether it has a manifest that was not read whole: it may declare anything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unread: bool,
}

impl Libraries {
    /// The files of a repository that [`Self::of`] goes by, as an extended regular
    /// expression for paths from the top: manifests and Python modules.
    #[must_use]
    pub fn files() -> String {
        let manifests = MANIFESTS.map(|name| name.replace('.', "\\."));
        format!("(^|/)({}|[^/]+\\.pyi?)$", manifests.join("|"))
    }

    /// Whether a file of a repository is a manifest that counts.
    #[must_use]
    pub fn is_manifest(path: &str) -> bool {
        let mut parts = path.rsplit('/');
        parts.next().is_some_and(|name| MANIFESTS.contains(&name))
            && parts.all(|directory| directory != "node_modules")
    }

    /// From paths in a repository, and its manifests with their texts, `None` for
    /// those that were not read.
    #[must_use]
    pub fn of(paths: &[String], manifests: &[(String, Option<String>)]) -> Self {
        let mut libraries = Self::default();
        for path in paths {
            libraries.learn(path);
        }
        for (path, text) in manifests {
            let place = libraries.place_mut(parent(path));
            let Some(text) = text else {
                place.unread = true;
                continue;
            };
            let words = match path.ends_with("package.json") {
                true => place.node.get_or_insert_default(),
                false => place.python.get_or_insert_default(),
            };
            for word in text.split(|c: char| !(c.is_alphanumeric() || "-_@/.".contains(c))) {
                if words.len() >= WORDS_MAX {
                    place.unread = true;
                    break;
                }
                if !word.is_empty() {
                    words.insert(normal(word));
                }
            }
        }
        libraries
    }

    /// Each part of a path is a name in the directory above it.
    fn learn(&mut self, path: &str) {
        let mut rest = path;
        loop {
            let directory = parent(rest);
            let name = rest.rsplit('/').next().unwrap_or_default();
            let stem = name.split('.').next().unwrap_or_default();
            let is_new = self.place_mut(directory).own.insert(stem.to_owned());
            if directory.is_empty() || !is_new {
                break;
            }
            rest = directory;
        }
    }

    fn place_mut(&mut self, directory: &str) -> &mut Place {
        match directory {
            "" => &mut self.top,
            below => self.below.entry(below.to_owned()).or_default(),
        }
    }

    fn place(&self, directory: &str) -> Option<&Place> {
        match directory {
            "" => Some(&self.top),
            below => self.below.get(below),
        }
    }

    /// The first package that a text for this file imports and that is neither
    /// of the language, the project's own nor declared; `None` as well where it
    /// cannot be told. The path is from the top of the repository; `is_known` are
    /// modules that the project has by now.
    #[must_use]
    pub fn undeclared(
        &self,
        path: &str,
        text: &str,
        is_known: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let (is_python, imports) = match path.rsplit_once('.')?.1 {
            "py" => (true, python_imports(text)),
            "js" | "jsx" | "ts" | "tsx" | "mjs" | "cjs" => (false, node_imports(text)),
            _ => return None,
        };
        let places: Vec<&Place> = directories(path)
            .filter_map(|directory| self.place(directory))
            .collect();
        let declared: Vec<&BTreeSet<String>> = (places.iter())
            .filter_map(|place| match is_python {
                true => place.python.as_ref(),
                false => place.node.as_ref(),
            })
            .collect();
        if declared.is_empty() || places.iter().any(|place| place.unread) {
            return None;
        }
        imports.into_iter().find(|package| {
            let known_as = DISTRIBUTIONS.iter().find(|(module, _)| module == package);
            let name = known_as.map_or(package.as_str(), |(_, distribution)| distribution);
            // `requests>=2` and `requests[socks]` are cut into words; extras of
            // namespaces (`google-cloud-storage`) begin with the module's name.
            let name = normal(name);
            let is_declared = declared.iter().copied().flatten().any(|word| {
                let rest = word.strip_prefix(&name);
                rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            });
            !is_declared && !self.has(path, package) && !is_known(package)
        })
    }

    /// Whether a package lies beside a file or beside a directory above it, or in
    /// the `src` there.
    fn has(&self, path: &str, package: &str) -> bool {
        let is_in = |directory: &str| {
            let place = self.place(directory);
            place.is_some_and(|place| place.own.contains(package))
        };
        directories(path).any(|directory| {
            let sources = match directory {
                "" => "src".to_owned(),
                below => format!("{below}/src"),
            };
            is_in(directory) || is_in(&sources)
        })
    }
}

/// The directories of a file, its own first, the top last.
fn directories(path: &str) -> impl Iterator<Item = &str> {
    successors(Some(parent(path)), |&directory| {
        (!directory.is_empty()).then(|| parent(directory))
    })
}

/// The directory that a path is in; the top is empty.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Modules whose distribution has another name.
const DISTRIBUTIONS: [(&str, &str); 10] = [
    ("PIL", "pillow"),
    ("attr", "attrs"),
    ("bs4", "beautifulsoup4"),
    ("cv2", "opencv-python"),
    ("dateutil", "python-dateutil"),
    ("dotenv", "python-dotenv"),
    ("jwt", "pyjwt"),
    ("serial", "pyserial"),
    ("sklearn", "scikit-learn"),
    ("yaml", "pyyaml"),
];

/// Upper and lower case, `-` and `_` make no difference.
fn normal(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// Top-level modules that Python code imports, those of the language left out.
fn python_imports(text: &str) -> Vec<String> {
    static IMPORT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?m)^[ \t]*(?:from[ \t]+([A-Za-z_]\w*)[\w.]*[ \t]+import\b|import[ \t]+([^#;\n]+))",
        )
        .expect("the pattern is valid")
    });
    let mut found = Vec::new();
    for import in IMPORT.captures_iter(text) {
        let list = import
            .get(1)
            .or(import.get(2))
            .map_or("", |list| list.as_str());
        for module in list.split(',') {
            let module = module.trim().split([' ', '.']).next().unwrap_or_default();
            if !module.is_empty() && !PYTHON_OWN.contains(&module) {
                found.push(module.to_owned());
            }
        }
    }
    found
}

/// Packages that JavaScript code imports, those of the language left out.
fn node_imports(text: &str) -> Vec<String> {
    static IMPORT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"(?:\bfrom|\bimport|\brequire\(|\bimport\()[ \t]*["']([^"'./][^"']*)["']"#)
            .expect("the pattern is valid")
    });
    let mut found = Vec::new();
    for import in IMPORT.captures_iter(text) {
        let mut parts = import[1].split('/');
        let first = parts.next().unwrap_or_default();
        // Names that bundlers and `imports` of the manifest give to own files.
        if ["@", "~"].contains(&first) || first.starts_with('#') {
            continue;
        }
        let package = match (first.starts_with('@'), parts.next()) {
            (true, Some(second)) => format!("{first}/{second}"),
            _ => first.to_owned(),
        };
        if !package.contains(':') && !NODE_OWN.contains(&package.as_str()) {
            found.push(package);
        }
    }
    found
}

/// Modules of Python itself (sys.stdlib_module_names of 3.13 and those that
/// went since 3.9), private ones left out.
const PYTHON_OWN: [&str; 225] = [
    "__future__",
    "abc",
    "aifc",
    "antigravity",
    "argparse",
    "array",
    "ast",
    "asynchat",
    "asyncio",
    "asyncore",
    "atexit",
    "audioop",
    "base64",
    "bdb",
    "binascii",
    "binhex",
    "bisect",
    "builtins",
    "bz2",
    "cProfile",
    "calendar",
    "cgi",
    "cgitb",
    "chunk",
    "cmath",
    "cmd",
    "code",
    "codecs",
    "codeop",
    "collections",
    "colorsys",
    "compileall",
    "concurrent",
    "configparser",
    "contextlib",
    "contextvars",
    "copy",
    "copyreg",
    "crypt",
    "csv",
    "ctypes",
    "curses",
    "dataclasses",
    "datetime",
    "dbm",
    "decimal",
    "difflib",
    "dis",
    "distutils",
    "doctest",
    "email",
    "encodings",
    "ensurepip",
    "enum",
    "errno",
    "faulthandler",
    "fcntl",
    "filecmp",
    "fileinput",
    "fnmatch",
    "formatter",
    "fractions",
    "ftplib",
    "functools",
    "gc",
    "genericpath",
    "getopt",
    "getpass",
    "gettext",
    "glob",
    "graphlib",
    "grp",
    "gzip",
    "hashlib",
    "heapq",
    "hmac",
    "html",
    "http",
    "idlelib",
    "imaplib",
    "imghdr",
    "imp",
    "importlib",
    "inspect",
    "io",
    "ipaddress",
    "itertools",
    "json",
    "keyword",
    "lib2to3",
    "linecache",
    "locale",
    "logging",
    "lzma",
    "mailbox",
    "mailcap",
    "marshal",
    "math",
    "mimetypes",
    "mmap",
    "modulefinder",
    "msilib",
    "msvcrt",
    "multiprocessing",
    "netrc",
    "nis",
    "nntplib",
    "nt",
    "ntpath",
    "nturl2path",
    "numbers",
    "opcode",
    "operator",
    "optparse",
    "os",
    "ossaudiodev",
    "parser",
    "pathlib",
    "pdb",
    "pickle",
    "pickletools",
    "pipes",
    "pkgutil",
    "platform",
    "plistlib",
    "poplib",
    "posix",
    "posixpath",
    "pprint",
    "profile",
    "pstats",
    "pty",
    "pwd",
    "py_compile",
    "pyclbr",
    "pydoc",
    "pydoc_data",
    "pyexpat",
    "queue",
    "quopri",
    "random",
    "re",
    "readline",
    "reprlib",
    "resource",
    "rlcompleter",
    "runpy",
    "sched",
    "secrets",
    "select",
    "selectors",
    "shelve",
    "shlex",
    "shutil",
    "signal",
    "site",
    "sitecustomize",
    "smtpd",
    "smtplib",
    "sndhdr",
    "socket",
    "socketserver",
    "spwd",
    "sqlite3",
    "sre_compile",
    "sre_constants",
    "sre_parse",
    "ssl",
    "stat",
    "statistics",
    "string",
    "stringprep",
    "struct",
    "subprocess",
    "sunau",
    "symbol",
    "symtable",
    "sys",
    "sysconfig",
    "syslog",
    "tabnanny",
    "tarfile",
    "telnetlib",
    "tempfile",
    "termios",
    "test",
    "textwrap",
    "this",
    "threading",
    "time",
    "timeit",
    "tkinter",
    "token",
    "tokenize",
    "tomllib",
    "trace",
    "traceback",
    "tracemalloc",
    "tty",
    "turtle",
    "turtledemo",
    "types",
    "typing",
    "unicodedata",
    "unittest",
    "urllib",
    "usercustomize",
    "uu",
    "uuid",
    "venv",
    "warnings",
    "wave",
    "weakref",
    "webbrowser",
    "winreg",
    "winsound",
    "wsgiref",
    "xdrlib",
    "xml",
    "xmlrpc",
    "zipapp",
    "zipfile",
    "zipimport",
    "zlib",
    "zoneinfo",
];

/// Modules of Node itself that may be written without `node:`.
const NODE_OWN: [&str; 38] = [
    "assert",
    "async_hooks",
    "buffer",
    "child_process",
    "cluster",
    "console",
    "constants",
    "crypto",
    "dgram",
    "diagnostics_channel",
    "dns",
    "domain",
    "events",
    "fs",
    "http",
    "http2",
    "https",
    "inspector",
    "module",
    "net",
    "os",
    "path",
    "perf_hooks",
    "process",
    "punycode",
    "querystring",
    "readline",
    "repl",
    "stream",
    "string_decoder",
    "timers",
    "tls",
    "tty",
    "url",
    "util",
    "v8",
    "vm",
    "zlib",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn libraries() -> Libraries {
        let paths = ["textkit", "setup.py", "conftest.py"].map(str::to_owned);
        let python = "dependencies = [\"requests>=2\", \"PyYAML\", \"google-cloud-storage\"]";
        let node = r#"{"dependencies": {"lodash": "^4", "@scope/tool": "1"}}"#;
        let read = |path: &str, text: &str| (path.to_owned(), Some(text.to_owned()));
        Libraries::of(
            &paths,
            &[read("pyproject.toml", python), read("package.json", node)],
        )
    }

    fn undeclared(libraries: &Libraries, path: &str, text: &str) -> Option<String> {
        libraries.undeclared(path, text, |_| false)
    }

    #[test]
    fn python_imports_are_told_from_what_is_declared_own_or_of_the_language() {
        let libraries = libraries();
        for (text, expected) in [
            (
                "import os, sys\nfrom collections.abc import Mapping\n",
                None,
            ),
            (
                "import requests\nimport yaml\nfrom google.cloud import storage\n",
                None,
            ),
            (
                "from textkit.words import split_words\nimport conftest\n",
                None,
            ),
            ("    import numpy as np\n", Some("numpy")),
            ("import os, httpx  # both\n", Some("httpx")),
            ("from request import x\n", Some("request")),
            ("from . import words\nfrom .a import b\n", None),
            ("text = 'no import of flask here'\n", None),
        ] {
            let found = undeclared(&libraries, "a/b.py", text);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn node_imports_are_told_as_well() {
        let libraries = libraries();
        for (text, expected) in [
            (
                "import _ from 'lodash/fp'\nimport fs from 'node:fs'\n",
                None,
            ),
            (
                "const x = require('@scope/tool')\nimport './own.js'\n",
                None,
            ),
            ("import axios from \"axios\"", Some("axios")),
            ("await import('left-pad')", Some("left-pad")),
            ("import a from '@/a'\nimport b from '#b'\n", None),
        ] {
            let found = undeclared(&libraries, "a.ts", text);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn without_a_manifest_nothing_can_be_told() {
        let none = Libraries::default();
        assert_eq!(undeclared(&none, "a.py", "import numpy"), None);
        let go = undeclared(&libraries(), "a.go", "import \"numpy\"");
        assert_eq!(go, None);
    }

    #[test]
    fn manifests_count_for_what_is_below_them_and_modules_for_what_is_beside_them() {
        let paths = [
            "packages/web/src/components",
            "tests/helpers.py",
            "tests/unit/test_a.py",
            "tools/gen/made.py",
        ];
        let manifest = |path: &str, text: Option<&str>| (path.to_owned(), text.map(str::to_owned));
        let libraries = Libraries::of(
            &paths.map(str::to_owned),
            &[
                manifest(
                    "package.json",
                    Some("{\"devDependencies\": {\"vitest\": \"1\"}}"),
                ),
                manifest(
                    "packages/web/package.json",
                    Some("{\"dependencies\": {\"lodash\": \"4\"}}"),
                ),
                manifest("packages/large/package.json", None),
                manifest("requirements.txt", Some("requests\n")),
                manifest("tools/setup.cfg", Some("install_requires = jinja2\n")),
            ],
        );
        for (path, text, expected) in [
            ("packages/web/a.ts", "import 'lodash'", None),
            ("packages/web/src/a.ts", "import 'vitest'", None),
            ("packages/web/a.ts", "import 'components/b'", None),
            ("packages/api/a.ts", "import 'lodash'", Some("lodash")),
            ("packages/large/a.ts", "import 'lodash'", None),
            ("a.ts", "import 'lodash'", Some("lodash")),
            ("tests/test_b.py", "import helpers", None),
            ("tests/unit/test_a.py", "import helpers", None),
            ("sums.py", "import helpers", Some("helpers")),
            ("tools/gen/b.py", "import made, jinja2, requests", None),
            ("tests/test_b.py", "import jinja2", Some("jinja2")),
        ] {
            let found = undeclared(&libraries, path, text);
            assert_eq!(found.as_deref(), expected, "{path}: {text}");
        }
        let known = |module: &str| module == "made";
        let found = libraries.undeclared("sums.py", "import made", known);
        assert_eq!(found, None);
    }

    #[test]
    fn logs_of_before_say_what_is_at_the_top() {
        let before = r#"{"python": ["requests"], "node": null, "own": ["textkit"]}"#;
        let libraries: Libraries = serde_json::from_str(before).unwrap();
        let found = undeclared(&libraries, "a/b.py", "import textkit, requests, httpx");
        assert_eq!(found.as_deref(), Some("httpx"));
        let text = serde_json::to_string(&libraries).unwrap();
        assert_eq!(serde_json::from_str::<Libraries>(&text).unwrap(), libraries);
    }

    #[test]
    fn files_are_those_that_say_something() {
        let pattern = Regex::new(&Libraries::files()).unwrap();
        for path in [
            "setup.py",
            "a/b.pyi",
            "packages/web/package.json",
            "Pipfile",
        ] {
            assert!(pattern.is_match(path), "{path}");
        }
        for path in ["a.js", "my-package.json", "setup-cfg", "a.pyc"] {
            assert!(!pattern.is_match(path), "{path}");
        }
        assert!(Libraries::is_manifest("packages/web/package.json"));
        assert!(!Libraries::is_manifest("node_modules/a/package.json"));
    }
}

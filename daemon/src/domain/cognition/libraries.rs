//! Which packages a project declares, and whether an edit imports another.
//!
//! Declared is what occurs as a word in one of the project's manifests: that
//! takes no parser for each of them and never accuses wrongly because of a way
//! of writing that is not known here.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;
use serde::{Deserialize, Serialize};

/// Manifests at the top of a repository.
pub const MANIFESTS: [&str; 10] = [
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
/// Words that are kept of all manifests.
const WORDS_MAX: usize = 4_000;

/// What a project declares and has of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Libraries {
    /// Words of its Python manifests; `None` without one.
    python: Option<BTreeSet<String>>,
    /// Words of its Node manifest; `None` without one.
    node: Option<BTreeSet<String>>,
    /// Its own modules and packages at the top, without endings.
    own: BTreeSet<String>,
}

impl Libraries {
    /// From the names at the top of a repository, and below `src`, and the
    /// manifests among them with their texts.
    #[must_use]
    pub fn of(names: &[String], manifests: &[(&str, String)]) -> Self {
        let mut libraries = Self::default();
        let stem = |name: &String| name.split('.').next().unwrap_or_default().to_owned();
        libraries.own = names.iter().map(stem).collect();
        for (name, text) in manifests {
            let words = match *name {
                "package.json" => &mut libraries.node,
                _ => &mut libraries.python,
            };
            let words = words.get_or_insert_default();
            for word in text.split(|c: char| !(c.is_alphanumeric() || "-_@/.".contains(c))) {
                if words.len() < WORDS_MAX && !word.is_empty() {
                    words.insert(normal(word));
                }
            }
        }
        libraries
    }

    /// The first package that a text for this file imports and that is neither
    /// of the language, the project's own nor declared; `None` as well where it
    /// cannot be told.
    #[must_use]
    pub fn undeclared(&self, path: &str, text: &str) -> Option<String> {
        let (declared, imports) = match path.rsplit_once('.')?.1 {
            "py" => (self.python.as_ref()?, python_imports(text)),
            "js" | "jsx" | "ts" | "tsx" | "mjs" | "cjs" => {
                (self.node.as_ref()?, node_imports(text))
            }
            _ => return None,
        };
        imports.into_iter().find(|package| {
            let known_as = DISTRIBUTIONS.iter().find(|(module, _)| module == package);
            let name = known_as.map_or(package.as_str(), |(_, distribution)| distribution);
            // `requests>=2` and `requests[socks]` are cut into words; extras of
            // namespaces (`google-cloud-storage`) begin with the module's name.
            let name = normal(name);
            let is_declared = declared.iter().any(|word| {
                let rest = word.strip_prefix(&name);
                rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            });
            !is_declared && !self.own.contains(package)
        })
    }
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
        let names = ["textkit", "setup.py", "conftest.py"].map(str::to_owned);
        let python = "dependencies = [\"requests>=2\", \"PyYAML\", \"google-cloud-storage\"]";
        let node = r#"{"dependencies": {"lodash": "^4", "@scope/tool": "1"}}"#;
        Libraries::of(
            &names,
            &[
                ("pyproject.toml", python.to_owned()),
                ("package.json", node.to_owned()),
            ],
        )
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
            let found = libraries.undeclared("a/b.py", text);
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
        ] {
            let found = libraries.undeclared("a.ts", text);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn without_a_manifest_nothing_can_be_told() {
        let none = Libraries::default();
        assert_eq!(none.undeclared("a.py", "import numpy"), None);
        assert_eq!(libraries().undeclared("a.go", "import \"numpy\""), None);
    }
}

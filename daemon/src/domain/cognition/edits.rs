//! What calls change in files, and what those declare.

use std::sync::LazyLock;

use regex::Regex;

use crate::domain::{
    conversation::ToolCall,
    edits::{Change, FileChange},
    judges::{self, Inside},
    tools::ToolRequest,
};

/// A change of a file that a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) path: String,
    /// What goes; `None` for a whole file.
    pub(super) old: Option<String>,
    pub(super) new: String,
}

impl Edit {
    /// Whether it is about tests beside the code, as far as its own texts show
    /// them: a line inside of a test shows none.
    pub(super) fn touches_tests_inside(&self) -> bool {
        let of_tests = |inside: &Inside| match inside {
            Inside::TestsAdded | Inside::TestsChanged => true,
            Inside::Runner(_) => false,
        };
        self.inside().iter().any(of_tests)
    }

    /// Whether tests beside the code, which it shows, are others after it.
    pub(super) fn changes_tests_inside(&self) -> bool {
        // What stays as it was has company now.
        let stays = |old: &String| self.new.contains(old.trim());
        self.old.as_ref().is_some_and(|old| !stays(old))
            && self.inside().contains(&Inside::TestsChanged)
    }

    fn inside(&self) -> Vec<Inside> {
        judges::inside(&self.path, self.old.as_deref(), Some(&self.new))
    }
}

/// The changes that a request names.
pub(super) fn edits(request: &ToolRequest) -> Vec<Edit> {
    match request {
        ToolRequest::WriteFile(write) => vec![Edit {
            path: write.path.clone(),
            old: None,
            new: write.content.clone(),
        }],
        ToolRequest::EditFile(edit) => {
            // What cannot be read as an edit is refused by the tool.
            let changes = edit.changes().unwrap_or_default();
            changes.into_iter().flat_map(edits_of).collect()
        }
        _ => Vec::new(),
    }
}

/// The files that a call changes.
pub(super) fn edited_paths(call: &ToolCall) -> Vec<String> {
    let request = ToolRequest::parse(call);
    let edits = request.map(|request| edits(&request)).unwrap_or_default();
    edits.into_iter().map(|edit| edit.path).collect()
}

/// The places that a change of one file is about.
fn edits_of(file: FileChange) -> Vec<Edit> {
    let path = file.path;
    let gone = |path: String| Edit {
        path,
        old: Some(String::new()),
        new: String::new(),
    };
    match file.change {
        Change::Modify { blocks, .. } if blocks.is_empty() => vec![gone(path)],
        Change::Modify { blocks, .. } => (blocks.into_iter())
            .map(|block| Edit {
                path: path.clone(),
                old: Some(block.old),
                new: block.new,
            })
            .collect(),
        Change::Create { content } => vec![Edit {
            path,
            old: None,
            new: content,
        }],
        Change::Delete => vec![gone(path)],
    }
}

/// A function or type, and the line that declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Declaration {
    pub(super) symbol: String,
    pub(super) line: String,
}

/// The functions and types that a text declares.
pub(super) fn declared(text: &str) -> Vec<Declaration> {
    static DECLARATION: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?m)^.*\b(?:def|class|fn|struct|enum|trait|function|interface)\s+([A-Za-z_]\w{2,}).*$",
        )
        .expect("the pattern is valid")
    });
    let found = DECLARATION.captures_iter(text);
    found
        .map(|found| Declaration {
            symbol: found[1].to_owned(),
            line: found[0].trim().to_owned(),
        })
        .collect()
}

/// Of these, the symbols whose declaration a text does not have any more.
pub(super) fn changed_symbols(before: &[Declaration], text: &str) -> Vec<String> {
    let mut symbols: Vec<String> = before
        .iter()
        .filter(|declaration| !text.contains(&declaration.line))
        .map(|declaration| declaration.symbol.clone())
        .collect();
    symbols.dedup();
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_that_changes_or_goes_is_told_from_one_that_stays() {
        let before = declared("import os\ndef add(a, b):\n    pass\nclass Sum:\n    x = 1\n");
        let symbols: Vec<&str> = before.iter().map(|each| each.symbol.as_str()).collect();
        assert_eq!(symbols, ["add", "Sum"]);
        assert_eq!(
            changed_symbols(&before, "def add(a, b, c=0):\nclass Sum:\n"),
            ["add"]
        );
        assert_eq!(
            changed_symbols(&before, "def add(a, b):\n    return 1\n"),
            ["Sum"]
        );
    }
}

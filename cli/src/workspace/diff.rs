//! `compyctl workspace diff`.

use clap::Args;
use compyd_proto::v1::{
    DiffSummary, DiffWorkspaceRequest, PathChange, PathChangeKind, PathSide, RootChange,
    diff_workspace_response::Part,
};
use serde::Serialize;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, bytes, print, print_json, table::Table};

/// `compyctl workspace diff NAME A [B]`.
///
/// Compares the volumes file by file: names, content, mode, owner, time,
/// extended attributes. Without B the workspace is read while it runs, and what
/// is being written may be told as it was or as it will be. Of the root file
/// system, two snapshots tell whether it is the same image; its files are not
/// compared, and that of a running workspace is not looked at.
#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// Name or id.
    workspace: String,
    /// Snapshot id: what was before.
    #[arg(value_name = "A")]
    from: String,
    /// Snapshot id: what is after. Default: the workspace as it is now.
    #[arg(value_name = "B", default_value = "", hide_default_value = true)]
    to: String,
}

/// A comparison in JSON.
#[derive(Debug, Serialize)]
struct DiffView {
    /// `same`, `other-image` or `not-compared`.
    root: &'static str,
    /// By volume; a directory before what is in it.
    changes: Vec<ChangeView>,
}

/// A path in JSON.
#[derive(Debug, Serialize)]
struct ChangeView {
    /// `added`, `removed`, `type`, `content`, `metadata`.
    change: &'static str,
    /// `work`, `home`, `browser`.
    volume: String,
    /// Below the volume; bytes that are no text are written `\xff`, and a
    /// backslash `\\`.
    path: String,
    /// What it was.
    before: Option<SideView>,
    /// What it is.
    after: Option<SideView>,
}

/// A path on one side in JSON.
#[derive(Debug, Serialize)]
struct SideView {
    /// `file`, `directory`, `symlink`, `fifo`, ...
    r#type: String,
    /// Files: size in bytes.
    size_bytes: u64,
}

impl From<PathSide> for SideView {
    fn from(side: PathSide) -> Self {
        SideView {
            r#type: side.r#type,
            size_bytes: side.size_bytes,
        }
    }
}

impl From<PathChange> for ChangeView {
    fn from(change: PathChange) -> Self {
        ChangeView {
            change: match change.kind() {
                PathChangeKind::Unspecified => "unknown",
                PathChangeKind::Added => "added",
                PathChangeKind::Removed => "removed",
                PathChangeKind::Type => "type",
                PathChangeKind::Content => "content",
                PathChangeKind::Metadata => "metadata",
            },
            path: escaped(&change.path),
            volume: change.volume,
            before: change.before.map(Into::into),
            after: change.after.map(Into::into),
        }
    }
}

impl DiffArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = DiffWorkspaceRequest {
            workspace: self.workspace,
            from: self.from,
            to: self.to,
        };
        let mut stream = daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.diff_workspace(request).await }
            })
            .await?;
        let mut changes: Vec<ChangeView> = Vec::new();
        let mut summary = None;
        while let Some(message) = stream
            .message()
            .await
            .map_err(|status| daemon.failure(status))?
        {
            match message.part {
                Some(Part::Changes(some)) => {
                    changes.extend(some.changes.into_iter().map(ChangeView::from));
                }
                Some(Part::Summary(last)) => summary = Some(last),
                None => {}
            }
        }
        let Some(summary) = summary.filter(|last| last.changes == changes.len() as u64) else {
            return Err(Failure::local(
                "the comparison ended early",
                "make it again",
            ));
        };
        show(context.format, &summary, changes)?;
        Ok(Exit::OK)
    }
}

fn show(format: Format, summary: &DiffSummary, changes: Vec<ChangeView>) -> Result<(), Failure> {
    let (root, sentence) = match summary.root() {
        RootChange::Unspecified => ("unknown", "unknown"),
        RootChange::Same => ("same", "the same image"),
        RootChange::OtherImage => ("other-image", "another image, whose files are not compared"),
        RootChange::NotCompared => ("not-compared", "not compared"),
    };
    if format == Format::Json {
        return print_json(&DiffView { root, changes });
    }
    if !changes.is_empty() {
        let mut table = Table::new(&["CHANGE", "BEFORE", "AFTER", "PATH"]);
        for change in &changes {
            let path = format!("{}:/{}", change.volume, change.path);
            let (before, after) = (cell(change.before.as_ref()), cell(change.after.as_ref()));
            table.row([change.change, &before, &after, &path]);
        }
        print(&table.to_string())?;
    }
    eprintln!(
        "{} paths differ; root file system: {sentence}",
        changes.len()
    );
    Ok(())
}

/// A file's size, or what else it is.
fn cell(side: Option<&SideView>) -> String {
    match side {
        Some(side) if side.r#type == "file" => bytes(side.size_bytes),
        Some(side) => side.r#type.clone(),
        None => String::new(),
    }
}

/// A path as text that says every byte: what is no text, and what a terminal
/// would act on, is written `\xff`.
fn escaped(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for piece in path.utf8_chunks() {
        for char in piece.valid().chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                char if char.is_control() => {
                    let mut utf8 = [0; 4];
                    hex(char.encode_utf8(&mut utf8).as_bytes(), &mut text);
                }
                char => text.push(char),
            }
        }
        hex(piece.invalid(), &mut text);
    }
    text
}

fn hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_every_byte_and_drives_no_terminal() {
        for (path, text) in [
            (&b"plain/path"[..], "plain/path"),
            ("d\u{e9}j\u{e0}".as_bytes(), "d\u{e9}j\u{e0}"),
            (b"\xff\xfea", "\\xff\\xfea"),
            (b"a\x1b[2Jb\nc", "a\\x1b[2Jb\\x0ac"),
            (b"a\\xff", "a\\\\xff"),
        ] {
            assert_eq!(escaped(path), text);
        }
    }
}

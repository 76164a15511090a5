//! `compyctl workspace add-repo`, and the way a repository gets into a
//! workspace: a URL is the daemon's to fetch, a path is bundled here.

use clap::Args;
use compyd_proto::link::MAX_CHUNK_BYTES;
use compyd_proto::v1::{
    AddRepositoryRequest, AddRepositoryResponse, AddRepositoryStart, Repository,
    add_repository_request::Part,
};

use crate::command_line::Context;
use crate::connection::{Daemon, request_id};
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json, workspace::RepositoryView};
use crate::run::local_repository::{Bundle, LocalRepository};
use crate::values::split_reference;

/// `compyctl workspace add-repo NAME SOURCE`.
#[derive(Debug, Args)]
pub(crate) struct AddRepoArguments {
    /// Name or id.
    workspace: String,
    /// A path on this machine, or a URL that the daemon fetches.
    #[arg(value_name = "PATH_OR_URL[#REF]")]
    source: String,
    /// Directory below /workspace; default: the last part of the source.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "DIR"
    )]
    name: String,
    /// Leave its compy.toml aside: nothing of the repository runs.
    #[arg(long)]
    no_setup: bool,
}

impl AddRepoArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let source = RepositorySource::find(&self.source).await?;
        let daemon = context.daemon().await?;
        let repository =
            add_repository(&daemon, &self.workspace, &self.name, &source, self.no_setup).await?;
        let view = RepositoryView::from(repository);
        match context.format {
            Format::Json => print_json(&view)?,
            Format::Table => print(&format!(
                "/workspace/{} at {} {}\n",
                view.name, view.branch, view.commit
            ))?,
        }
        Ok(Exit::OK)
    }
}

/// Where a repository comes from.
#[derive(Debug)]
pub(crate) enum RepositorySource {
    /// The daemon fetches it.
    Url {
        /// URL.
        url: String,
        /// Branch, tag or commit; empty means the source's HEAD.
        reference: String,
    },
    /// It is bundled here.
    Local(LocalRepository),
}

impl RepositorySource {
    /// Reads `PATH_OR_URL[#REF]`. A path is looked at; a URL is not.
    pub(crate) async fn find(text: &str) -> Result<Self, Failure> {
        if let Some((url, reference)) = as_url(text) {
            return Ok(RepositorySource::Url { url, reference });
        }
        LocalRepository::open(text)
            .await
            .map(RepositorySource::Local)
    }

    /// The last part of the source, without `.git`.
    pub(crate) fn base_name(&self) -> &str {
        match self {
            RepositorySource::Url { url, .. } => {
                let last = url
                    .trim_end_matches('/')
                    .rsplit(['/', ':'])
                    .next()
                    .unwrap_or(url);
                last.strip_suffix(".git").unwrap_or(last)
            }
            RepositorySource::Local(repository) => repository.base_name(),
        }
    }
}

/// A URL and its reference, if the text is one: `SCHEME://...` or git's short
/// form `USER@HOST:PATH`, which is written out.
fn as_url(text: &str) -> Option<(String, String)> {
    let (source, reference) = split_reference(text);
    if source.contains("://") {
        return Some((source.to_owned(), reference.to_owned()));
    }
    let (host, path) = source.split_once(':')?;
    if !host.contains('@') || host.contains('/') || path.is_empty() {
        return None;
    }
    Some((
        format!("ssh://{host}/{}", path.trim_start_matches('/')),
        reference.to_owned(),
    ))
}

/// Puts a repository into a workspace, and says on standard error what was
/// left out and how it was set up. A broken upload starts over under the same
/// request id.
pub(crate) async fn add_repository(
    daemon: &Daemon,
    workspace: &str,
    name: &str,
    source: &RepositorySource,
    no_setup: bool,
) -> Result<Repository, Failure> {
    let mut start = AddRepositoryStart {
        request_id: request_id(),
        workspace: workspace.to_owned(),
        name: name.to_owned(),
        no_setup,
        ..AddRepositoryStart::default()
    };
    let bundle = match source {
        RepositorySource::Url { url, reference } => {
            start.url.clone_from(url);
            start.reference.clone_from(reference);
            None
        }
        RepositorySource::Local(repository) => {
            start.reference = repository.reference().to_owned();
            start.bundle_source = repository.path().display().to_string();
            if start.name.is_empty() {
                start.name = repository.base_name().to_owned();
            }
            Some(repository.bundle().await?)
        }
    };
    let response: AddRepositoryResponse = daemon
        .call(|| {
            let mut client = daemon.workspaces();
            let start = start.clone();
            let bundle = bundle.clone();
            async move { client.add_repository(requests(start, bundle)).await }
        })
        .await?;
    for note in &response.notes {
        eprintln!("note: {note}");
    }
    Ok(response.repository.unwrap_or_default())
}

/// The first message, then the bundle. A file that cannot be read ends the
/// stream early; the daemon then refuses the incomplete bundle.
fn requests(
    start: AddRepositoryStart,
    bundle: Option<Bundle>,
) -> impl futures_util::Stream<Item = AddRepositoryRequest> + Send + 'static {
    enum State {
        Start(AddRepositoryStart, Option<Bundle>),
        Data(Bundle, u64),
        End,
    }
    futures_util::stream::unfold(State::Start(start, bundle), |state| async move {
        let (part, next) = match state {
            State::Start(start, bundle) => {
                let next = match bundle {
                    Some(bundle) => State::Data(bundle, 0),
                    None => State::End,
                };
                (Part::Start(start), next)
            }
            State::Data(bundle, offset) => match bundle.read(offset, MAX_CHUNK_BYTES).await {
                Ok(chunk) if !chunk.is_empty() => {
                    let next = State::Data(bundle, offset + chunk.len() as u64);
                    (Part::Bundle(chunk), next)
                }
                Ok(_) | Err(_) => return None,
            },
            State::End => return None,
        };
        Some((AddRepositoryRequest { part: Some(part) }, next))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_gits_short_form_are_told_from_paths() {
        let url = |text| as_url(text).map(|(url, reference)| format!("{url} {reference}"));
        assert_eq!(
            url("https://h/o/r.git#v1").as_deref(),
            Some("https://h/o/r.git v1")
        );
        assert_eq!(
            url("git@h:o/r.git").as_deref(),
            Some("ssh://git@h/o/r.git ")
        );
        for path in [".", "/srv/r", "../a:b", "dir#main", "a:b"] {
            assert_eq!(url(path), None, "{path:?}");
        }
    }

    #[test]
    fn a_urls_last_part_names_the_repository() {
        let name = |url: &str| {
            RepositorySource::Url {
                url: url.to_owned(),
                reference: String::new(),
            }
            .base_name()
            .to_owned()
        };
        assert_eq!(name("https://h/o/slug.git"), "slug");
        assert_eq!(name("https://h/o/slug/"), "slug");
        assert_eq!(name("ssh://git@h/r"), "r");
    }
}

//! Refusals of the services behind workspaces, each as one status.

use tonic::{Code, Status};

use super::super::status::{Retry, internal, invalid, refusal};
use crate::{
    ports::{agent::AgentError, links::LinkError, runtime::RuntimeError, store::StoreError},
    service::workspaces::{GitSourceError, WorkspacesError},
};

/// When trying again may help.
const SOON: Retry = Retry::After(std::time::Duration::from_secs(2));

/// Each error of the service as one status; the only place that decides.
#[must_use]
pub fn error(error: &WorkspacesError) -> Status {
    let message = error.to_string();
    match error {
        WorkspacesError::Unknown(_) => refusal(
            Code::NotFound,
            "WORKSPACE_UNKNOWN",
            message,
            "`compyctl workspace list` shows names and ids",
            Retry::No,
        ),
        WorkspacesError::NameTaken(_) => refusal(
            Code::AlreadyExists,
            "NAME_TAKEN",
            message,
            "choose another name, or use or delete the workspace that has it",
            Retry::No,
        ),
        WorkspacesError::Limit(error) => invalid(
            "LIMIT_INVALID",
            message,
            format!(
                "give {} within {}, or 0 for the default",
                error.limit, error.range
            ),
        ),
        WorkspacesError::Busy { .. } => refusal(
            Code::FailedPrecondition,
            "WORKSPACE_BUSY",
            message,
            "wait for its sessions, cancel them, or force it",
            Retry::No,
        ),
        WorkspacesError::Deleting(_) => refusal(
            Code::FailedPrecondition,
            "WORKSPACE_DELETING",
            message,
            "wait until it is gone; then the name is free",
            Retry::No,
        ),
        WorkspacesError::Stopped(_) => refusal(
            Code::FailedPrecondition,
            "WORKSPACE_STOPPED",
            message,
            "start it and attach again; the command's output is kept",
            Retry::No,
        ),
        WorkspacesError::Paused(name) => refusal(
            Code::FailedPrecondition,
            "WORKSPACE_PAUSED",
            message,
            format!("`compyctl workspace resume {name}` lets it go on"),
            Retry::No,
        ),
        WorkspacesError::DiskLimit { name, .. } => refusal(
            Code::ResourceExhausted,
            "DISK_LIMIT",
            message,
            format!(
                "clean up with `compyctl workspace exec --over-limit {name} -- ...`, or raise the limit with `compyctl workspace set {name} --disk SIZE`"
            ),
            Retry::No,
        ),
        WorkspacesError::Runtime(error) => runtime(error, message),
        WorkspacesError::ImageVolumes { image, .. } => refusal(
            Code::FailedPrecondition,
            "IMAGE_VOLUMES",
            message,
            format!(
                "use another image, or a copy of this one without them: `docker create {image}`, then `docker export CONTAINER | docker import - NAME`"
            ),
            Retry::No,
        ),
        WorkspacesError::ContainerEnded { container, .. }
        | WorkspacesError::AgentSilent { container, .. } => refusal(
            Code::Unavailable,
            "WORKSPACE_NOT_UP",
            message,
            format!("`docker logs {container}` shows the agent's own words; then try again"),
            SOON,
        ),
        WorkspacesError::Link(LinkError::Timeout { .. }) => refusal(
            Code::Unavailable,
            "AGENT_UNREACHABLE",
            message,
            "try again; commands that were started run on and can be attached to",
            SOON,
        ),
        WorkspacesError::Salvage(_) => refusal(
            Code::Unavailable,
            "WORKSPACE_DAMAGED",
            message,
            "it is tried again by itself; `compyctl doctor` and the daemon's log say what is in the \
             way",
            Retry::After(std::time::Duration::from_secs(5)),
        ),
        WorkspacesError::Link(LinkError::Listen { .. }) | WorkspacesError::Dropped(_) => {
            internal(error)
        }
        WorkspacesError::Agent(error) => agent(error, message),
        WorkspacesError::Store(error) => store(error, message),
        WorkspacesError::RepositoryExists(_) => refusal(
            Code::AlreadyExists,
            "REPOSITORY_EXISTS",
            message,
            "give the repository another name, or remove the directory",
            Retry::No,
        ),
        WorkspacesError::RepositoryUnknown(_) => refusal(
            Code::NotFound,
            "REPOSITORY_UNKNOWN",
            message,
            "name one of the workspace's repositories; `compyctl workspace show` lists them",
            Retry::No,
        ),
        WorkspacesError::SetupFailed { .. } => refusal(
            Code::FailedPrecondition,
            "SETUP_FAILED",
            message,
            "mend it in the workspace and run `compyctl workspace setup NAME`, or add the \
             repository elsewhere with --no-setup",
            Retry::No,
        ),
        WorkspacesError::EgressOnBridge => invalid(
            "EGRESS_INVALID",
            message,
            "leave the egress out, or create the workspace with network none",
        ),
        WorkspacesError::NoTunnel(_) => refusal(
            Code::FailedPrecondition,
            "AGENT_TOO_OLD",
            message,
            "`compyctl workspace stop` and `start` give it this daemon's agent",
            Retry::No,
        ),
        WorkspacesError::Source(error) => source(error, message),
        WorkspacesError::Checkout(_) => refusal(
            Code::FailedPrecondition,
            "CHECKOUT_FAILED",
            message,
            "the workspace's image needs git and space on its disk",
            Retry::No,
        ),
    }
}

fn runtime(error: &RuntimeError, message: String) -> Status {
    match error {
        RuntimeError::Unavailable(_) => refusal(
            Code::Unavailable,
            "ENGINE_UNAVAILABLE",
            message,
            "start the container engine; `compyctl doctor` says what it sees",
            SOON,
        ),
        RuntimeError::ImageMissing(_) => refusal(
            Code::FailedPrecondition,
            "IMAGE_MISSING",
            message,
            "`make images` builds the default one; pull or load any other first",
            Retry::No,
        ),
        RuntimeError::NetworkUnavailable(_) => refusal(
            Code::FailedPrecondition,
            "NETWORK_UNAVAILABLE",
            message,
            "use `--network none`, or give the engine a bridge network",
            Retry::No,
        ),
        RuntimeError::ContainerMissing(_) => refusal(
            Code::Aborted,
            "CONTAINER_MISSING",
            message,
            "somebody removed the container; starting the workspace makes it again",
            SOON,
        ),
        RuntimeError::DiskFull { .. } => refusal(
            Code::ResourceExhausted,
            "ENGINE_DISK_FULL",
            message,
            "free some space where the engine keeps its data, which `docker info` names as its \
             root; nothing was lost",
            SOON,
        ),
        RuntimeError::Refused { .. } => refusal(
            Code::FailedPrecondition,
            "ENGINE_REFUSED",
            message,
            "the engine's own words say why; `compyctl doctor` looks at the common causes",
            Retry::No,
        ),
    }
}

fn store(error: &StoreError, message: String) -> Status {
    match error {
        StoreError::DiskFull(_) => refusal(
            Code::ResourceExhausted,
            "DISK_FULL",
            message,
            "free some space where the daemon keeps its data; nothing was lost",
            SOON,
        ),
        StoreError::NameTaken(_) => refusal(
            Code::AlreadyExists,
            "NAME_TAKEN",
            message,
            "choose another name",
            Retry::No,
        ),
        StoreError::Missing(_)
        | StoreError::WrongSequence { .. }
        | StoreError::NewerFormat { .. }
        | StoreError::Damaged(_)
        | StoreError::Failed { .. } => internal(error),
    }
}

fn agent(error: &AgentError, message: String) -> Status {
    let advice = match error {
        AgentError::Refused { code, .. } => {
            let (code, reason) = (agent_code(code), code);
            let advice = "the message says what to change";
            return refusal(code, reason, message, advice, Retry::No);
        }
        AgentError::Unreachable(_) => "try again; what was started runs on",
        AgentError::Deadline { .. } => "the workspace may be paused or overloaded; try again",
        AgentError::Protocol { .. } => {
            let advice = "stop and start the workspace; that gives it this daemon's own agent";
            return refusal(Code::Internal, "AGENT_PROTOCOL", message, advice, Retry::No);
        }
    };
    refusal(
        Code::Unavailable,
        "AGENT_UNREACHABLE",
        message,
        advice,
        SOON,
    )
}

/// The class of an agent's code.
fn agent_code(code: &str) -> Code {
    match code {
        "EXEC_UNKNOWN" | "NOT_FOUND" => Code::NotFound,
        "EXEC_CONFLICT" | "ALREADY_EXISTS" => Code::AlreadyExists,
        "SPOOL_FULL" | "DISK_FULL" => Code::ResourceExhausted,
        "OFFSET_OUT_OF_RANGE" | "STDIN_GAP" => Code::OutOfRange,
        "PERMISSION" => Code::PermissionDenied,
        "SPEC_INVALID" | "SIGNAL_INVALID" | "PATH_INVALID" | "PATTERN_INVALID" => {
            Code::InvalidArgument
        }
        _ => Code::FailedPrecondition,
    }
}

fn source(error: &GitSourceError, message: String) -> Status {
    let (code, reason, advice, retry) = match error {
        GitSourceError::UrlInvalid { .. } => (
            Code::InvalidArgument,
            "URL_INVALID",
            "give an https, http, git or ssh URL, or a path for compyctl to bundle",
            Retry::No,
        ),
        GitSourceError::Forbidden { .. } => (
            Code::PermissionDenied,
            "FETCH_REFUSED",
            "clone it yourself and give the path, or ask an admin to add it",
            Retry::No,
        ),
        GitSourceError::Unreachable { .. } => (
            Code::FailedPrecondition,
            "REPOSITORY_UNREACHABLE",
            "check the URL with `git ls-remote` on the daemon's host",
            Retry::No,
        ),
        GitSourceError::NeedsLogin(_) => (
            Code::Unauthenticated,
            "REPOSITORY_NEEDS_LOGIN",
            "check the URL; for a private repository clone it yourself and give the path",
            Retry::No,
        ),
        GitSourceError::Empty(_) => (
            Code::FailedPrecondition,
            "REPOSITORY_EMPTY",
            "push a first commit",
            Retry::No,
        ),
        GitSourceError::ReferenceUnknown { .. } => (
            Code::NotFound,
            "REFERENCE_UNKNOWN",
            "`git ls-remote` shows branches and tags; a commit is named in full",
            Retry::No,
        ),
        GitSourceError::BundleInvalid(_) => (
            Code::InvalidArgument,
            "BUNDLE_INVALID",
            "make it with `git bundle create FILE --branches --tags HEAD`",
            Retry::No,
        ),
        GitSourceError::GivenUp { .. } => (
            Code::ResourceExhausted,
            "REPOSITORY_TOO_LARGE",
            "the bounds are in the daemon's configuration; a shallow clone is smaller",
            Retry::No,
        ),
        GitSourceError::Host(_) => return internal(error),
    };
    refusal(code, reason, message, advice, retry)
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::api::grpc::status::reason;

    #[test]
    fn every_error_carries_a_code_and_advice() {
        let status = error(&WorkspacesError::Unknown("x".to_owned()));
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::NotFound, "WORKSPACE_UNKNOWN")
        );
        let details = status.get_error_details();
        assert!(
            details
                .localized_message()
                .unwrap()
                .message
                .contains("workspace list")
        );
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn only_what_may_pass_says_when_to_try_again() {
        let unavailable = RuntimeError::Unavailable("no socket".to_owned());
        let status = error(&unavailable.into());
        assert_eq!(reason(&status), "ENGINE_UNAVAILABLE");
        assert!(status.get_error_details().retry_info().is_some());
        let missing = RuntimeError::ImageMissing("x".to_owned());
        assert!(
            error(&missing.into())
                .get_error_details()
                .retry_info()
                .is_none()
        );
    }

    #[test]
    fn the_agents_own_codes_are_passed_on() {
        let refused = AgentError::Refused {
            code: "EXEC_CONFLICT".to_owned(),
            message: "x".to_owned(),
        };
        let status = error(&refused.into());
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::AlreadyExists, "EXEC_CONFLICT")
        );
    }
}

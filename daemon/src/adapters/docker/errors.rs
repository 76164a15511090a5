//! The engine's errors in the port's words.

use bollard::errors::Error;

use crate::ports::runtime::{ContainerId, RuntimeError};

fn response(error: &Error) -> Option<(u16, &str)> {
    match error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => Some((*status_code, message)),
        _ => None,
    }
}

/// Whether the engine answered that there is no such thing.
pub(super) fn not_found(error: &Error) -> bool {
    response(error).is_some_and(|(status, _)| status == 404)
}

/// Whether a create failed for want of its image.
pub(super) fn is_missing_image(error: &Error) -> bool {
    response(error)
        .is_some_and(|(status, message)| status == 404 && message.contains("No such image"))
}

/// Whether somebody else is removing it at this moment.
pub(super) fn is_removal_under_way(error: &Error) -> bool {
    response(error)
        .is_some_and(|(status, message)| status == 409 && message.contains("already in progress"))
}

/// Whether it is in use, or in another state than the call needs.
pub(super) fn conflict(error: &Error) -> bool {
    response(error).is_some_and(|(status, _)| status == 409)
}

/// Whether a container could not be paused because it is.
pub(super) fn is_paused_already(error: &Error) -> bool {
    response(error).is_some_and(|(_, message)| message.contains("already paused"))
}

/// Whether a container could not be unpaused because it is not paused.
pub(super) fn is_not_paused(error: &Error) -> bool {
    response(error).is_some_and(|(_, message)| message.contains("not paused"))
}

/// Whether a container could not be frozen because it starts processes all the
/// time: with cgroup v1 that is a race, and the next try may win it.
pub(super) fn is_too_busy_to_freeze(error: &Error) -> bool {
    response(error).is_some_and(|(_, message)| message.contains("unable to freeze"))
}

/// The engine did not answer.
pub(super) fn unavailable(error: &Error) -> RuntimeError {
    RuntimeError::Unavailable(error.to_string())
}

/// An error of a call: the engine's refusal, or its silence.
pub(super) fn refused(action: &'static str, subject: &str, error: &Error) -> RuntimeError {
    match response(error) {
        Some((_, message)) if message.contains("no space left on device") => {
            RuntimeError::DiskFull {
                action,
                subject: subject.to_owned(),
                message: message.to_owned(),
            }
        }
        Some((_, message)) => RuntimeError::Refused {
            action,
            subject: subject.to_owned(),
            message: message.to_owned(),
        },
        None => unavailable(error),
    }
}

/// An error of a call on a container.
pub(super) fn container(action: &'static str, id: &ContainerId, error: &Error) -> RuntimeError {
    if not_found(error) {
        return RuntimeError::ContainerMissing(id.0.clone());
    }
    refused(action, &id.0, error)
}

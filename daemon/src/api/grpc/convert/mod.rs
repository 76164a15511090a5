//! Wire types to the domain's and back, by hand: a change of a proto cannot
//! reshape the domain.

pub mod activity;
pub mod audit;
pub mod cognition;
pub mod diff;
pub mod exec;
pub mod policy;
pub mod session;
pub mod snapshot;
pub mod workspace;
pub mod workspace_error;

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

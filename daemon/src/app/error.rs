//! Why a daemon does not start, or does not end well.

use std::path::PathBuf;

use super::{ListenError, LockError};
use crate::{
    adapters::certificates::CertificateError,
    api::grpc::server,
    domain::recovery::CatalogueError,
    ports::{audit::AuditError, blobs::BlobError, chunks::ChunkError, store::StoreError},
    service::{credentials::CredentialError, policies::PoliciesError, sessions::SessionError},
};

/// Why the daemon did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data directory cannot be made or used.
    #[error("cannot use the data directory {}: {message}; set data_dir to one that this account may write", dir.display())]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        message: String,
    },
    /// Another daemon has the data directory, or that cannot be found out.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A socket cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs cannot be opened.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The content of snapshots cannot be opened.
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The stored credentials cannot be opened, so that nothing could be kept from
    /// showing them.
    #[error("cannot open the stored credentials: {0}")]
    Credentials(#[from] CredentialError),
    /// No host could be trusted.
    #[error("cannot set up TLS: {0}")]
    Tls(std::io::Error),
    /// Sessions of the past cannot be listed.
    #[error("cannot bring sessions back: {0}")]
    Sessions(#[from] SessionError),
    /// The file of a person's own failures cannot be read.
    #[error("cannot read {}, which recovery.patterns_file names: {message}", file.display())]
    PatternsFile {
        /// The file.
        file: PathBuf,
        /// The cause.
        message: String,
    },
    /// The failures in it cannot be used.
    #[error("{0}; mend it in the file that recovery.patterns_file names")]
    Catalogue(#[from] CatalogueError),
    /// The policy file cannot be used.
    #[error(transparent)]
    Policy(#[from] PoliciesError),
    /// There is no certificate to serve with.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Serving failed.
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    /// A part of the daemon panicked.
    #[error("a part of the daemon failed: {0}; this is a bug, please report it with the log")]
    Bug(tokio::task::JoinError),
}

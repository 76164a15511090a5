//! The steps of the journal by name, all of them: for the log, and for who cuts
//! operations off at each.

use std::fmt;

use super::journal::{DeleteStep, ForkStep, ImportStep, Progress, RestoreStep, SnapshotStep};

macro_rules! points {
    ($($point:ident = $name:literal,)+) => {
        /// A step of an operation, without what is known of it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Point {
            $(#[doc = $name] $point,)+
        }

        impl Point {
            /// Every one there is.
            pub const ALL: &[Self] = &[$(Self::$point),+];

            /// Its name: `restore swapping`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

points! {
    SnapshotBegun = "snapshot begun",
    SnapshotPausing = "snapshot pausing",
    SnapshotResumed = "snapshot resumed",
    SnapshotFlattening = "snapshot flattening",
    SnapshotStoring = "snapshot storing",
    RestoreBegun = "restore begun",
    RestoreFilled = "restore filled",
    RestoreSwapping = "restore swapping",
    RestoreCleaning = "restore cleaning",
    ForkBegun = "fork begun",
    ForkFilled = "fork filled",
    ForkAdding = "fork adding",
    ImportBegun = "import begun",
    ImportStoring = "import storing",
    DeleteBegun = "delete begun",
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Progress {
    /// How far it has come. A new step has a point of its own.
    #[must_use]
    pub fn point(&self) -> Point {
        match self {
            Self::Snapshot { step, .. } => match step {
                SnapshotStep::Begun => Point::SnapshotBegun,
                SnapshotStep::Pausing { .. } => Point::SnapshotPausing,
                SnapshotStep::Resumed => Point::SnapshotResumed,
                SnapshotStep::Flattening { .. } => Point::SnapshotFlattening,
                SnapshotStep::Storing { .. } => Point::SnapshotStoring,
            },
            Self::Restore { step, .. } => match step {
                RestoreStep::Begun => Point::RestoreBegun,
                RestoreStep::Filled => Point::RestoreFilled,
                RestoreStep::Swapping { .. } => Point::RestoreSwapping,
                RestoreStep::Cleaning { .. } => Point::RestoreCleaning,
            },
            Self::Fork { step, .. } => match step {
                ForkStep::Begun => Point::ForkBegun,
                ForkStep::Filled => Point::ForkFilled,
                ForkStep::Adding { .. } => Point::ForkAdding,
            },
            Self::Import { step, .. } => match step {
                ImportStep::Begun => Point::ImportBegun,
                ImportStep::Storing { .. } => Point::ImportStoring,
            },
            Self::Delete { step, .. } => match step {
                DeleteStep::Begun { .. } => Point::DeleteBegun,
            },
        }
    }
}

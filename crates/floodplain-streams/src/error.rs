//! What can go wrong.

use crate::rules::RULES_MAX;
use floodplain_log::Refusal;

/// Short for a result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something was not done; nothing has changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rule makes no sense; says what would.
    #[error("{0}")]
    Invalid(String),
    #[error("there is no alert {name:?}")]
    Unknown { name: String },
    /// The file would bring it back at the next start.
    #[error("alert {name:?} is from the configuration file: change it there, and restart")]
    FromConfig { name: String },
    #[error("there are {RULES_MAX} alerts, which is all there can be")]
    TooMany,
    /// It has not been read yet when each device was last heard.
    #[error("the log is still being read to find out when each device was last heard: try again")]
    Behind,
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may have been done, or not.
    #[error("the log did not say whether the change is stored")]
    Open,
    /// The log cannot be read, or a snapshot cannot be used.
    #[error("alerts cannot be read")]
    Fold(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot start the thread of alerts")]
    Thread(#[source] std::io::Error),
}

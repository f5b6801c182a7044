//! What can go wrong with brokers.

use super::NodeId;
use std::{
    fmt, io,
    path::{Path, PathBuf},
};

pub(super) type Result<T> = std::result::Result<T, Error>;

/// Why a cluster does not do what it was asked for.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tests were not run by what installs their tools.
    #[error("Kafka's jars are not in {}: run `cargo xtask test`, or `cargo xtask tools`, which fetch them", .0.display())]
    NoJars(PathBuf),
    /// No JDK.
    #[error("cannot start `java`: run `cargo xtask test`, or `cargo xtask tools`, which install it")]
    Java(#[source] io::Error),
    /// A file or socket of ours.
    #[error("{what}")]
    Io {
        /// Which one.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The folder is that of a cluster with more nodes, and data that only they have.
    #[error("the cluster in {} has more than {brokers} brokers: name their number, or another folder", .dir.display())]
    Larger {
        /// The folder.
        dir: PathBuf,
        /// How many were wanted.
        brokers: u32,
    },
    /// The data folder was not made.
    #[error("kafka.tools.StorageTool failed: {output}")]
    Format {
        /// All that it said.
        output: String,
    },
    /// A broker has ended by itself.
    #[error("broker {id} has ended ({how}); its log ends:\n{log}")]
    Ended {
        /// Which one.
        id: NodeId,
        /// Its exit status.
        how: String,
        /// The end of its log.
        log: String,
    },
    /// Somebody else listens where a broker should, also after other ports were chosen.
    #[error("a port of broker {id} is taken; its log ends:\n{log}")]
    PortTaken {
        /// Which one.
        id: NodeId,
        /// The end of its log.
        log: String,
    },
    /// A broker does not know the others in time.
    #[error("broker {id} is not ready in time; its log ends:\n{log}")]
    Late {
        /// Which one.
        id: NodeId,
        /// The end of its log.
        log: String,
    },
    /// A broker did not end within a minute, and was killed.
    #[error("broker {id} did not end in order; its log ends:\n{log}")]
    EndsNot {
        /// Which one.
        id: NodeId,
        /// The end of its log.
        log: String,
    },
    /// There is no node of this number.
    #[error("there is no broker {id}")]
    NoNode {
        /// The number.
        id: NodeId,
    },
    /// The broker should run for that.
    #[error("broker {id} does not run")]
    RunsNot {
        /// Which one.
        id: NodeId,
    },
    /// The broker should not run for that.
    #[error("broker {id} runs already")]
    Runs {
        /// Which one.
        id: NodeId,
    },
    /// Nobody is there to be asked.
    #[error("no broker runs")]
    NoneRuns,
    /// The cluster was started without proxies.
    #[error("broker {id} has no proxy: start the cluster with `proxied`")]
    NoProxy {
        /// Which one.
        id: NodeId,
    },
    /// What was waited for did not come in time.
    #[error("waited in vain: {what}{last}")]
    InVain {
        /// What should have become true.
        what: String,
        /// The last error, in parentheses.
        last: String,
    },
    /// A broker has answered a question with an error, or not as its protocol says.
    #[error("a broker answers to {question}: {answer}")]
    Answer {
        /// What was asked.
        question: &'static str,
        /// What was wrong with the answer.
        answer: String,
    },
}

/// For people, as `unwrap` in a test shows it: logs have lines.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        std::error::Error::source(self).map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

impl Error {
    /// For `map_err`: the path that an I/O error is about.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::what(path.display().to_string())
    }

    pub(super) fn what(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    pub(super) fn java() -> impl FnOnce(io::Error) -> Self {
        Self::Java
    }
}

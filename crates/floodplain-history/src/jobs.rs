//! Jobs that decode records of the log again, and how far they are: one document, key [`KEY`], in the stream `state`.

use crate::documents::Document;
use floodplain_types::{Position, Timestamp};
use serde::{Deserialize, Serialize};

/// Key of the document in the stream `state`.
pub const KEY: &str = "replay";
/// Jobs that are kept, those that have ended with them.
pub(crate) const JOBS_MAX: usize = 50;
/// Letters that one job may name.
pub const LETTERS_MAX: usize = 1000;

/// What is to be decoded again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// Messages that were received from `from` on and before `to`, those of one binding or one stream if it is named.
    Range { binding: Option<String>, stream: Option<String>, from: Option<Timestamp>, to: Option<Timestamp> },
    /// Messages of letters: those named as `dlq/partition/generation/offset`, or with this reason, or all.
    Letters { ids: Option<Vec<String>>, reason: Option<String> },
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// `r-1` and so on.
    pub name: String,
    pub replay: Replay,
    pub state: JobState,
    pub progress: Progress,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    /// What is left, by partition.
    pub(crate) left: Vec<Left>,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Messages, or letters, that were looked at.
    pub records: u64,
    /// How many there were when the job began, by their positions: about as many, where the log has holes.
    pub total: u64,
    /// Rows that were written, also such as were there before.
    pub rows: u64,
    /// Messages that were refused again, or that the log does not have any more.
    pub failed: u64,
}

/// Positions of a partition, from the first to before the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    /// Of messages, its index among all data partitions; of letters, its index in `dlq`.
    pub(crate) partition: u32,
    pub(crate) from: Position,
    pub(crate) to: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Running,
    Done,
}

impl JobState {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
        }
    }
}

/// All jobs, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Jobs {
    pub(crate) version: u32,
    /// How many there ever were.
    pub(crate) begun: u64,
    pub(crate) list: Vec<Job>,
}

impl Jobs {
    /// The jobs, oldest first.
    #[must_use]
    pub fn list(&self) -> &[Job] {
        &self.list
    }

    /// The job that runs; there is at most one.
    pub(crate) fn running(&self) -> Option<usize> {
        self.list.iter().position(|job| job.state == JobState::Running)
    }

    /// The next document, with one more job; the oldest that have ended go.
    pub(crate) fn with(&self, job: impl FnOnce(String) -> Job) -> Self {
        let mut next = Self { version: self.version + 1, begun: self.begun + 1, list: self.list.clone() };
        next.list.push(job(format!("r-{}", next.begun)));
        while next.list.len() > JOBS_MAX {
            let Some(ended) = next.list.iter().position(|job| job.state == JobState::Done) else { break };
            next.list.remove(ended);
        }
        next
    }
}

impl Document for Jobs {
    const KEY: &'static str = KEY;

    fn decode(value: &[u8]) -> Option<Self> {
        let stored: v1::Stored = serde_json::from_slice(value).ok()?;
        (stored.format == 1).then_some(())?;
        let list = stored.jobs.into_iter().map(v1::Job::read).collect::<Option<_>>()?;
        Some(Self { version: stored.version, begun: stored.begun, list })
    }

    fn encode(&self) -> Vec<u8> {
        let jobs = self.list.iter().map(v1::Job::of).collect();
        let stored = v1::Stored { format: 1, version: self.version, begun: self.begun, jobs };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    fn version(&self) -> u32 {
        self.version
    }
}

/// The stored form. Times are nanoseconds since 1970.
mod v1 {
    use super::{JobState, Left, Progress, Replay};
    use floodplain_types::Timestamp;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Serialize, Deserialize)]
    pub(super) struct Stored {
        pub(super) format: u32,
        pub(super) version: u32,
        pub(super) begun: u64,
        pub(super) jobs: Vec<Job>,
    }

    #[derive(Debug, Serialize, Deserialize)]
    pub(super) struct Job {
        job: String,
        kind: Kind,
        state: JobState,
        progress: Progress,
        started: i64,
        ended: Option<i64>,
        /// Partition, first and last position.
        left: Vec<(u32, String, String)>,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Range {
            binding: Option<String>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            stream: Option<String>,
            from: Option<i64>,
            to: Option<i64>,
        },
        Letters {
            ids: Option<Vec<String>>,
            reason: Option<String>,
        },
    }

    impl Job {
        pub(super) fn of(job: &super::Job) -> Self {
            let kind = match job.replay.clone() {
                Replay::Range { binding, stream, from, to } => {
                    Kind::Range { binding, stream, from: from.map(|time| time.0), to: to.map(|time| time.0) }
                }
                Replay::Letters { ids, reason } => Kind::Letters { ids, reason },
            };
            let left = job.left.iter().map(|left| (left.partition, left.from.to_string(), left.to.to_string()));
            Self {
                job: job.name.clone(),
                kind,
                state: job.state,
                progress: job.progress,
                started: job.started.0,
                ended: job.ended.map(|time| time.0),
                left: left.collect(),
            }
        }

        pub(super) fn read(self) -> Option<super::Job> {
            let replay = match self.kind {
                Kind::Range { binding, stream, from, to } => {
                    Replay::Range { binding, stream, from: from.map(Timestamp), to: to.map(Timestamp) }
                }
                Kind::Letters { ids, reason } => Replay::Letters { ids, reason },
            };
            let left = self
                .left
                .into_iter()
                .map(|(partition, from, to)| Some(Left { partition, from: from.parse().ok()?, to: to.parse().ok()? }));
            Some(super::Job {
                name: self.job,
                replay,
                state: self.state,
                progress: self.progress,
                started: Timestamp(self.started),
                ended: self.ended.map(Timestamp),
                left: left.collect::<Option<_>>()?,
            })
        }
    }
}

//! Time that passes: deadlines of questions to the cluster, and how long things took.

use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "the threads here wait for sockets of another library, not for timers")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The end of something that may not go on for ever.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(duration: Duration) -> Self {
        Self(now() + duration)
    }

    /// What is left; `None` when it has passed.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|left| !left.is_zero())
    }
}

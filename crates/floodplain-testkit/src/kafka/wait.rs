//! Waiting for other processes, with an end.

use super::error::Result;
use std::time::{Duration, Instant};

/// How long to wait before asking once more: short against what a JVM needs to start.
const STEP: Duration = Duration::from_millis(20);

/// Asks until the answer is yes, which it is at the end of `timeout` at the latest, or `false` is returned.
#[expect(clippy::disallowed_methods, reason = "other processes do not run by a clock of ours")]
pub(super) fn until(timeout: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<bool> {
    let started = Instant::now();
    while !condition()? {
        if started.elapsed() > timeout {
            return Ok(false);
        }
        std::thread::park_timeout(STEP);
    }
    Ok(true)
}

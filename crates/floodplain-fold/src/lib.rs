//! Derived state that replays exactly: folds, their owners, snapshots, and outputs that appear once.
//!
//! A [`Fold`] is a deterministic state machine over one partition: records in, state changes and
//! [`Outputs`] out, no clock and no chance but from the log. A [`Runner`] owns one fold of one
//! partition. It has no thread and does no I/O of its own: the worker that drives it asks
//! [`Runner::next`] what to do, does it, and feeds back what came of it. [`Snapshots`] keeps the
//! two newest states in a [`Folder`] or other [`Objects`], and [`DedupWindow`] drops what a writer had to repeat.

mod copying;
mod dedup;
mod fold;
mod objects;
mod position_record;
mod runner;
mod snapshots;
pub mod wire;

pub use copying::Copying;
pub use dedup::DedupWindow;
pub use fold::{
    Fold, Input, Loss, Output, Outputs, RestoreError, STEP_BYTES, STEP_ITEMS, StateHash, fold_in_steps, fold_whole,
};
pub use objects::{Folder, Objects};
pub use position_record::{Emitted, PositionRecord};
pub use runner::{Folded, Next, OpenError, Runner, RunnerConfig, RunnerError, Settled};
pub use snapshots::{Loaded, Snapshot, SnapshotError, SnapshotMeta, Snapshots};

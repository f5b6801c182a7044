//! The words every other crate speaks: identifiers, topics, positions, durability classes, time.
//!
//! Nothing here does I/O, and nothing here knows an engine or a protocol.

mod id;
mod partition;
mod position;
mod time;
mod topic;
mod wire;

pub use id::{ClientId, DeviceId, IdError, StreamName, TenantId};
pub use partition::{PartitionId, StreamId, murmur2, partition_index};
pub use position::{Class, Position};
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
pub use topic::{Topic, TopicError, TopicFilter, filter_matches, validate_filter, validate_topic};
pub use wire::{Parameter, ScramVerifier};

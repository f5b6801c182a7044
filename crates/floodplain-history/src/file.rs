//! One Parquet file of sorted rows: written once, durable before anybody hears of it, checked
//! wherever it is read. Format: `docs/formats/history-file.md`.

mod blocks;
mod entry;
mod prune;
mod read;
mod write;

pub(crate) use entry::v1;
pub use entry::{FileEntry, FileFacts, OffsetRange};
pub(crate) use read::Known;
pub use read::{FileReader, FileRows, read_entry};
pub use write::{FileSpec, FileWriter, ROW_GROUP_ROWS};

/// Version of what we add to a footer.
const FORMAT: u32 = 1;
/// Keys of the footer's metadata.
const KEY_FORMAT: &str = "floodplain.format";
const KEY_FACTS: &str = "floodplain.facts";
const KEY_BLOCKS: &str = "floodplain.blocks";

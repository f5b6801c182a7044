//! The ready file: says where the server listens, and that it accepts traffic.

use crate::Addresses;
use std::{io, io::Write, path::Path};

/// Writes `{"mqtt": ..., "http": ..., "postgres": ...}` to `path` in one step: a reader sees the
/// whole file or none.
///
/// # Errors
/// What the system says.
pub(crate) fn write(path: &Path, addresses: &Addresses) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut file = std::fs::File::create(&temporary)?;
    writeln!(file, "{}", addresses.to_json())?;
    drop(file);
    std::fs::rename(&temporary, path)
}

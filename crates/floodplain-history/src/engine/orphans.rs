//! Files that the manifest does not name: what a crash has left, unless the manifest itself has lost something.
//!
//! A manifest is a snapshot, and the records behind it that the log still has. Where both snapshots cannot be used, or
//! are older than what retention has left, it does not know all files, and then none is removed: they have rows that
//! are nowhere else.

use super::Engine;
use crate::{Error, Result, tables::Table};
use floodplain_log::Disk;
use std::{io, path::Path};
use tracing::warn;

/// Is there, empty, once a folder has had files of tables.
const HAS_FILES: &str = "has-files";

impl Engine {
    /// Has the folder say that there are files, before the first one is written.
    pub(super) fn note_files(&mut self) -> Result<()> {
        if self.has_noted_files {
            return Ok(());
        }
        let (disk, dir, path) = (&self.disk, &self.config.dir, self.config.dir.join(HAS_FILES));
        let failed = |source| Error::Io { action: "create", path: path.clone(), source };
        disk.create_dir_all(dir).map_err(failed)?;
        match disk.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => drop(created.map_err(failed)?),
        }
        disk.sync_dir(dir).map_err(failed)?;
        self.has_noted_files = true;
        Ok(())
    }

    /// Sees to it that the manifest knows all files that there are. `tables` have those that it names.
    ///
    /// # Errors
    /// [`Error::Manifest`] if it does not; nothing was changed.
    pub(super) fn check_files<'t>(&self, tables: impl Iterator<Item = &'t Table>) -> Result<()> {
        let manifest = self.manifest.fold();
        let mut has_files = files(&*self.disk, &self.config.dir)?.iter().any(|name| name == HAS_FILES);
        let (mut wrong, mut named, mut is_any_there) = (None, 0, false);
        for table in tables {
            named += table.files.len();
            is_any_there |= files(&*self.disk, &table.dir)?.iter().any(|name| table.files.contains_key(name));
            let columns = &table.columns;
            let newest = table.files.values().map(|file| file.entry().facts.schema_version).max();
            if let Some(newest) = newest.filter(|newest| *newest > columns.version()) {
                let (name, known) = (columns.table(), columns.version());
                wrong = Some(format!("schema of table {name:?} is at version {known}, and it has files of {newest}"));
            }
            let orphans = orphans(&*self.disk, table)?;
            has_files |= !table.files.is_empty() || !orphans.is_empty();
            // The name of a file begins with the version of the manifest that it was written for.
            let version = |name: &String| name.split('-').next()?.parse::<u64>().ok();
            let is_later = |name: &&String| version(name).is_some_and(|version| version > manifest.version() + 1);
            if let Some(name) = orphans.iter().find(is_later) {
                let (path, known) = (table.dir.join(name), manifest.version());
                wrong = Some(format!("it is at version {known}, and there is {}", path.display()));
            }
        }
        if manifest.lacks_records() && has_files {
            wrong = Some("records are gone from the log, so it does not know which files count".to_owned());
        }
        let dir = self.config.dir.display();
        if named > 0 && !is_any_there {
            return Err(Error::Manifest(format!(
                "it names {named} files, and none of them is in {dir}; on a log that servers share they are in the folder of the one that has kept the tables so far: start that one, or move its folder here"
            )));
        }
        let advice = |wrong| {
            format!(
                "{wrong}; no file was touched. Put {dir}/folds back from a copy. Or move {dir}/folds/manifest away, and all in {dir} but folds, to go on with what the log still has"
            )
        };
        wrong.map_or(Ok(()), |wrong| Err(Error::Manifest(advice(wrong))))
    }

    /// Removes what [`Self::check_files`] has found to be of no use.
    pub(super) fn remove_orphans<'t>(&self, tables: impl Iterator<Item = &'t Table>) -> Result<()> {
        for table in tables {
            for name in orphans(&*self.disk, table)? {
                let path = table.dir.join(name);
                // It costs space until the next start.
                if let Err(error) = self.disk.remove(&path) {
                    warn!(path = %path.display(), %error, "history file without an entry could not be removed");
                }
            }
        }
        Ok(())
    }
}

/// Files in the folder of a table that are none of it.
fn orphans(disk: &dyn Disk, table: &Table) -> Result<Vec<String>> {
    let names = files(disk, &table.dir)?;
    Ok(names.into_iter().filter(|name| !table.files.contains_key(name)).collect())
}

/// Names of the files in a folder; none if it is not there.
fn files(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    match disk.list(dir) {
        Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Io { action: "list", path: dir.to_owned(), source }),
    }
}

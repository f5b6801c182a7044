//! The order of a flush, as an owner keeps it: file, manifest, and only then the buffer. With power cuts
//! anywhere, each row is in exactly one file.

use crate::{
    buffers::{append, found},
    files::{DIR, disk},
    model::{Row, any_rows, columns, seen},
};
use floodplain_fold::Fold as _;
use floodplain_history::{
    Error,
    buffer::WindowBuffer,
    columns::Columns,
    file::{FileEntry, FileSpec, FileWriter},
    manifest::{Cause, Flushed, ManifestFold, ManifestRecord},
    run::Run,
    snapshot::{FileHandle, TableSnapshot, rewrite},
    window::Window,
};
use floodplain_log::Disk as _;
use floodplain_testkit::FaultDisk;
use floodplain_types::Position;
use proptest::prelude::*;
use std::{collections::BTreeMap, path::Path, sync::Arc};

const TABLE: &str = "plants";
const PARTITIONS: [&str; 2] = ["t.s/0", "t.s/1"];

/// The rows of a record.
type Record = (Position, Vec<Row>);

struct Owner {
    columns: Arc<Columns>,
    disk: FaultDisk,
    /// Records of both partitions, by position.
    log: [Vec<Record>; 2],
    /// How many records of each were read.
    read: [usize; 2],
    buffers: BTreeMap<Window, WindowBuffer>,
    manifest: ManifestFold,
    next_file: u32,
}

impl Owner {
    fn new(set: &[Row]) -> Self {
        let mut log: [BTreeMap<Position, Vec<Row>>; 2] = Default::default();
        for row in set {
            let position = Position::new(row.seq.0 as u32, row.seq.1 as u64);
            log[usize::from(row.device.as_str() >= "b")].entry(position).or_default().push(row.clone());
        }
        Self {
            columns: columns(),
            disk: disk(),
            log: log.map(|records| records.into_iter().collect()),
            read: [0, 0],
            buffers: BTreeMap::new(),
            manifest: ManifestFold::default(),
            next_file: 0,
        }
    }

    fn read(&mut self, partition: usize) {
        let Some((position, rows)) = self.log[partition].get(self.read[partition]) else { return };
        self.read[partition] += 1;
        for row in rows {
            let window = Window::of(row.time, row.received);
            if !self.manifest.is_flushed(TABLE, window, PARTITIONS[partition], *position) {
                let new = || WindowBuffer::new(self.columns.clone(), window);
                append(self.buffers.entry(window).or_insert_with(new), row).unwrap();
            }
        }
    }

    /// Before which position a partition has been read.
    fn position(&self, partition: usize) -> Position {
        match self.log[partition].get(self.read[partition]) {
            Some((position, _)) => *position,
            None => self.log[partition].last().map_or(Position::ZERO, |(position, _)| position.next()),
        }
    }

    fn write(&mut self, level: u8, files: &[Arc<FileHandle>], runs: &[Run]) -> Result<FileEntry, Error> {
        self.next_file += 1;
        let spec = FileSpec { name: format!("{:04}", self.next_file), level, decoder_version: 1, ranges: Vec::new() };
        let disk = Arc::new(self.disk.clone());
        let mut writer = FileWriter::create(disk, Path::new(DIR), self.columns.clone(), spec)?;
        let stats = rewrite(files, runs, &mut writer)?;
        writer.finish(stats.overwritten_values)
    }

    /// Flushes the `n`-th buffer.
    fn flush(&mut self, n: usize) -> Result<(), Error> {
        let Some(window) = self.buffers.keys().nth(n % self.buffers.len().max(1)).copied() else { return Ok(()) };
        let runs = self.buffers.get_mut(&window).unwrap().seal()?.to_vec();
        let mut record = ManifestRecord::new(self.manifest.version() + 1, Cause::Flush);
        record.adds.push(self.write(0, &[], &runs)?);
        // The record is committed: from here on the file is there and the buffer is not needed.
        self.buffers.remove(&window);
        for (partition, name) in PARTITIONS.iter().enumerate() {
            let to = self.position(partition);
            let flushed = Flushed { table: TABLE.to_owned(), window, partition: (*name).to_owned(), to };
            record.flushed.push(flushed);
            let first = self.buffers.values().filter_map(|buffer| buffer.first_position(name)).min();
            record.replay_from.push(((*name).to_owned(), first.unwrap_or(to).min(to)));
        }
        assert!(self.manifest.apply_value(&record.encode()));
        Ok(())
    }

    fn compact(&mut self) -> Result<(), Error> {
        let files = self.files();
        let mut record = ManifestRecord::new(self.manifest.version() + 1, Cause::Compact);
        if !files.is_empty() {
            record.adds.push(self.write(1, &files, &[])?);
            record.removes = files.iter().map(|file| (TABLE.to_owned(), file.entry().name.clone())).collect();
            assert!(self.manifest.apply_value(&record.encode()));
            files.iter().for_each(|file| file.replaced());
        }
        Ok(())
    }

    /// What is left of a power cut: synced files, and the manifest, from a snapshot of it.
    fn restart(&mut self, seed: u64) {
        self.disk = self.disk.power_cut(seed);
        let mut bytes = Vec::new();
        self.manifest.snapshot(&mut bytes);
        self.manifest = ManifestFold::default();
        self.manifest.restore(ManifestFold::FORMAT, &bytes).unwrap();
        self.buffers.clear();
        for entry in self.disk.list(Path::new(DIR)).unwrap() {
            if self.manifest.file(TABLE, &entry.name).is_none() {
                self.disk.remove(&Path::new(DIR).join(&entry.name)).unwrap();
            }
        }
        for (partition, name) in PARTITIONS.iter().enumerate() {
            let from = self.manifest.replay_from(name);
            self.read[partition] = self.log[partition].partition_point(|(position, _)| *position < from);
        }
    }

    fn files(&self) -> Vec<Arc<FileHandle>> {
        let disk = || Arc::new(self.disk.clone());
        let files = self.manifest.files(TABLE);
        files.map(|entry| Arc::new(FileHandle::new(disk(), Path::new(DIR), entry.clone()))).collect()
    }

    fn snapshot(&mut self) -> TableSnapshot {
        let mut runs = Vec::new();
        for buffer in self.buffers.values_mut() {
            runs.extend_from_slice(buffer.seal().unwrap());
        }
        TableSnapshot::new(self.columns.clone(), self.files(), runs).unwrap()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Read(usize),
    /// Which buffer, and at which call of the disk the power goes.
    Flush(usize, u64),
    Compact(u64),
    Restart,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn each_row_is_in_exactly_one_file(
        set in any_rows(36),
        steps in prop::collection::vec(
            prop_oneof![
                6 => (0..2_usize).prop_map(Step::Read),
                2 => (0..4_usize, 1..16_u64).prop_map(|(n, cut)| Step::Flush(n, cut)),
                1 => (1..40_u64).prop_map(Step::Compact),
                1 => Just(Step::Restart),
            ],
            0..100,
        ),
    ) {
        let mut owner = Owner::new(&set);
        for (seed, step) in steps.into_iter().enumerate() {
            let done = match step {
                Step::Read(partition) => {
                    owner.read(partition);
                    continue;
                }
                Step::Flush(n, cut) => {
                    owner.disk.cut_at_call(cut);
                    owner.flush(n)
                }
                Step::Compact(cut) => {
                    owner.disk.cut_at_call(cut);
                    owner.compact()
                }
                Step::Restart => {
                    owner.restart(seed as u64);
                    continue;
                }
            };
            // The power may also go right behind, while replaced files are removed.
            if done.is_err() || owner.disk.is_frozen() {
                owner.restart(seed as u64);
            }
            owner.disk.cancel_cut();
        }
        for partition in 0..2 {
            (0..owner.log[partition].len()).for_each(|_| owner.read(partition));
        }
        let (expected, overwritten_values) = seen(&set);
        prop_assert_eq!(&found(&owner.snapshot()), &expected);
        (0..owner.buffers.len()).for_each(|_| owner.flush(0).unwrap());
        let stored: u64 = owner.manifest.files(TABLE).map(|file| file.facts.rows).sum();
        prop_assert_eq!(stored, set.len() as u64, "none lost, none twice");
        owner.compact().unwrap();
        prop_assert_eq!(owner.manifest.overwritten_values(TABLE), overwritten_values);
        owner.restart(99);
        prop_assert_eq!(&found(&owner.snapshot()), &expected);
        prop_assert_eq!(owner.disk.files().len(), usize::from(!set.is_empty()));
    }
}

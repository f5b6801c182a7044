//! Which call fails, and how.

use super::power_is_cut;
use std::{collections::BTreeSet, io, path::Path};

/// A kind of call on a disk or on one of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    Create,
    Open,
    List,
    CreateDirAll,
    Rename,
    Remove,
    SyncDir,
    Space,
    Lock,
    Read,
    Write,
    Sync,
    Len,
}

/// The kind of a file, by its path: its folder, and its name without what tells it from others of
/// its kind (`data/log/segment-01-02.tmp` is a `log/segment.tmp`).
#[must_use]
pub fn file_kind(path: &Path) -> String {
    let text =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    let name = text(path.file_name());
    let (name, suffix) = name.strip_suffix(".tmp").map_or((name.as_str(), ""), |name| (name, ".tmp"));
    let is_number = |rest: &str| rest.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let word = name.split_once('-').filter(|(_, rest)| is_number(rest)).map_or(name, |(word, _)| word);
    format!("{}/{word}{suffix}", text(path.parent().and_then(Path::file_name)))
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`. A write may have had a part of its effect, a change of entries all of it; a failed
    /// sync drops or keeps bytes by the seed, and a later sync does not bring them back; a failed
    /// folder sync makes some entries certain (see [`super::FaultDisk::forget_failed_entries`]).
    Eio,
    /// `ENOSPC`, with the same effects.
    Enospc,
    /// A write takes only a part and says so; every other call says that it was interrupted.
    Short,
}

impl Fault {
    pub(super) fn error(self) -> io::Error {
        match self {
            // Linux: EIO, ENOSPC.
            Self::Eio => io::Error::from_raw_os_error(5),
            Self::Enospc => io::Error::from_raw_os_error(28),
            Self::Short => io::ErrorKind::Interrupted.into(),
        }
    }
}

/// Lets one call fail, or all from one on.
#[derive(Debug, Clone)]
pub struct Rule {
    op: Option<Op>,
    path_contains: Option<String>,
    kind: Option<String>,
    nth: u64,
    fault: Fault,
    for_ever: bool,
    then_all: bool,
}

impl Rule {
    /// The `nth` call of any kind fails (1 is the next one).
    #[must_use]
    pub fn nth(nth: u64, fault: Fault) -> Self {
        Self { op: None, path_contains: None, kind: None, nth, fault, for_ever: false, then_all: false }
    }

    /// Counts and fails only calls of this kind.
    #[must_use]
    pub fn of(self, op: Op) -> Self {
        Self { op: Some(op), ..self }
    }

    /// Counts and fails only calls on paths with this text in them.
    #[must_use]
    pub fn on(self, path_contains: &str) -> Self {
        Self { path_contains: Some(path_contains.to_owned()), ..self }
    }

    /// Counts and fails only calls on files of this [`file_kind`].
    #[must_use]
    pub fn on_kind(self, kind: &str) -> Self {
        Self { kind: Some(kind.to_owned()), ..self }
    }

    /// All calls from the `nth` on fail.
    #[must_use]
    pub fn for_ever(self) -> Self {
        Self { for_ever: true, ..self }
    }

    /// From the `nth` on every call fails, of whatever kind and on whatever file.
    #[must_use]
    pub fn then_all(self) -> Self {
        Self { for_ever: true, then_all: true, ..self }
    }

    pub(super) fn covers(&self, op: Op, path: &Path) -> bool {
        self.op.is_none_or(|wanted| wanted == op)
            && self.kind.as_ref().is_none_or(|kind| *kind == file_kind(path))
            && self.path_contains.as_ref().is_none_or(|part| path.to_string_lossy().contains(part.as_str()))
    }
}

/// How a call ends.
pub(super) enum Verdict {
    Pass,
    Fail(io::Error),
    Short,
    /// The power goes during this call.
    Cut(io::Error),
    /// The power went before: nothing changes any more.
    Frozen(io::Error),
}

impl Verdict {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Pass => "",
            Self::Fail(_) => "FAILED",
            Self::Short => "SHORT",
            Self::Cut(_) => "CUT",
            Self::Frozen(_) => "frozen",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<Rule>,
    fired: u64,
    /// The kinds of calls that have failed by a rule, or by which the power went.
    hit: BTreeSet<(Op, String)>,
    /// Calls until the power goes.
    cut_in: Option<u64>,
    frozen: bool,
}

impl Faults {
    pub(super) fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn fired(&self) -> u64 {
        self.fired
    }

    pub(super) fn hit(&self) -> &BTreeSet<(Op, String)> {
        &self.hit
    }

    pub(super) fn cut_in(&mut self, calls: u64) {
        self.cut_in = Some(calls.max(1));
    }

    pub(super) fn cancel_cut(&mut self) {
        self.cut_in = None;
    }

    pub(super) fn freeze(&mut self) {
        self.frozen = true;
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen
    }

    pub(super) fn judge(&mut self, op: Op, path: &Path) -> Verdict {
        if self.frozen {
            return Verdict::Frozen(power_is_cut());
        }
        if let Some(left) = &mut self.cut_in {
            *left -= 1;
            if *left == 0 {
                self.frozen = true;
                self.hit.insert((op, file_kind(path)));
                return Verdict::Cut(power_is_cut());
            }
        }
        let mut hit = None;
        for rule in &mut self.rules {
            if rule.nth > 0 && rule.covers(op, path) {
                rule.nth -= 1;
                if rule.nth == 0 {
                    hit = Some(rule.fault);
                    rule.nth = u64::from(rule.for_ever);
                    if std::mem::take(&mut rule.then_all) {
                        (rule.op, rule.path_contains, rule.kind) = (None, None, None);
                    }
                }
            }
        }
        let Some(fault) = hit else { return Verdict::Pass };
        self.fired += 1;
        self.hit.insert((op, file_kind(path)));
        if fault == Fault::Short { Verdict::Short } else { Verdict::Fail(fault.error()) }
    }
}

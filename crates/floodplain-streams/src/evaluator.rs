//! Who begins or ends to fire: rules, rows, silence and time in, transitions out. No I/O, no clock, no chance.
//!
//! What fires already is asked of [`Known`]; transitions wait here until their records are committed, and count as
//! known meanwhile.
//!
//! - A row is judged once: what comes again after a crash, up to the last cause, changes nothing.
//! - A row that is older than the newest one that was judged for the alert and the device changes nothing. A time more
//!   than [`FUTURE_MAX`] ahead of the row's receipt is a wrong clock: the receipt counts instead.
//! - What is no finite number (text, true, NaN, nothing) changes nothing.

use crate::{
    rule::Condition,
    rules::{Kept, Rules},
    states::Pair,
    transition::{Cause, Transition, ended},
};
use floodplain_types::{Position, Timestamp};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// How far ahead of its receipt the time of a row may be.
pub const FUTURE_MAX: Duration = Duration::from_secs(120);
/// Pairs of rule and device whose newest row is remembered. Rows of further ones are judged in the order of their
/// receipt, and counted.
pub const CLOCKS_MAX: usize = 1_000_000;

/// Who fires, as far as it is committed.
pub trait Known {
    /// What is known of an alert and a device.
    fn pair(&self, alert: &str, device: &str) -> Option<&Pair>;

    /// Whether so many more devices of the partition of `device` may begin to fire.
    fn has_room(&self, device: &str, more: usize) -> bool;
}

/// A row of a table.
pub struct Row<'a> {
    pub table: &'a str,
    pub device: &'a str,
    /// The time that the device gave.
    pub time: Option<Timestamp>,
    /// When the row's message was received.
    pub received: Timestamp,
    /// Where the row's message is.
    pub place: Cause,
    /// The value of a column, if it is a number.
    pub number: &'a dyn Fn(&str) -> Option<f64>,
}

impl std::fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row").field("table", &self.table).field("device", &self.device).finish_non_exhaustive()
    }
}

/// A rule that is on, with the time of the newest row of each device.
#[derive(Debug)]
struct Active {
    kept: Kept,
    clocks: HashMap<Box<str>, Timestamp>,
}

/// The state machine.
#[derive(Debug, Default)]
pub struct Evaluator {
    active: Vec<Active>,
    /// Rules of each table, by index.
    of_table: HashMap<String, Vec<usize>>,
    clocks: usize,
    /// In order; and what the pairs are after them.
    pending: Vec<Transition>,
    after: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Pair>>,
}

impl Evaluator {
    /// Takes the rules as they are now. Those that judge as before go on.
    pub fn set_rules(&mut self, rules: &Rules) {
        let mut before: HashMap<Arc<str>, Active> =
            self.active.drain(..).map(|active| (active.kept.rule.name.clone(), active)).collect();
        self.of_table.clear();
        for kept in rules.kept().iter().filter(|kept| kept.rule.enabled) {
            let same = before.remove(&kept.rule.name).filter(|active| active.kept.changed == kept.changed);
            let clocks = same.map(|active| active.clocks).unwrap_or_default();
            if let Condition::Above { table, .. } | Condition::Below { table, .. } = &kept.rule.condition {
                self.of_table.entry(table.clone()).or_default().push(self.active.len());
            }
            self.active.push(Active { kept: kept.clone(), clocks });
        }
        self.clocks = self.active.iter().map(|active| active.clocks.len()).sum();
    }

    /// Whether a rule judges rows of the table.
    #[must_use]
    pub fn watches(&self, table: &str) -> bool {
        self.of_table.contains_key(table)
    }

    /// The rules of silence that are on.
    pub fn silent(&self) -> impl Iterator<Item = &Kept> {
        self.active.iter().map(|active| &active.kept).filter(|kept| kept.rule.silence().is_some())
    }

    /// Transitions whose records are not committed yet, in order.
    #[must_use]
    pub fn pending(&self) -> &[Transition] {
        &self.pending
    }

    /// The first so many of them are committed, and [`Known`] says so.
    pub fn committed(&mut self, count: usize) {
        self.pending.drain(..count);
        if self.pending.is_empty() {
            self.after.clear();
        }
    }

    fn pair<'s>(&'s self, known: &'s impl Known, alert: &str, device: &str) -> Option<&'s Pair> {
        let after = self.after.get(alert).and_then(|devices| devices.get(device));
        after.or_else(|| known.pair(alert, device))
    }

    /// Whether the alert fires for the device.
    #[must_use]
    pub fn is_firing(&self, known: &impl Known, alert: &str, device: &str) -> bool {
        self.pair(known, alert, device).is_some_and(|pair| pair.firing)
    }

    fn push(&mut self, known: &impl Known, transition: Transition) {
        if transition.firing && !known.has_room(&transition.device, self.pending.len() + 1) {
            metrics::counter!("floodplain_alerts_refused_total").increment(1);
            return;
        }
        let before = self.pair(known, &transition.alert, &transition.device);
        let pair = Pair::after(before, &transition, Position::ZERO);
        self.after.entry(transition.alert.clone()).or_default().insert(transition.device.clone(), pair);
        self.pending.push(transition);
    }

    /// Judges a row.
    pub fn row(&mut self, known: &impl Known, row: &Row<'_>) {
        let Some(rules) = self.of_table.get(row.table) else { return };
        for index in rules.clone() {
            self.judge(known, index, row);
        }
    }

    fn judge(&mut self, known: &impl Known, index: usize, row: &Row<'_>) {
        let Kept { rule, changed, .. } = &self.active[index].kept;
        if row.received < *changed || !rule.is_for(row.device) {
            return;
        }
        let (column, limit, is_above) = match &rule.condition {
            Condition::Above { column, limit, .. } => (column, *limit, true),
            Condition::Below { column, limit, .. } => (column, *limit, false),
            Condition::Silent { .. } => return,
        };
        let Some(value) = (row.number)(column).filter(|value| value.is_finite()) else { return };
        let (name, changed) = (rule.name.clone(), *changed);
        let pair = self.pair(known, &name, row.device);
        if pair.is_some_and(|pair| pair.has_seen(row.place)) {
            return;
        }
        let was_firing = pair.is_some_and(|pair| pair.firing);
        let moved = pair.filter(|pair| pair.is_by_row && pair.rule == changed).map(|pair| pair.since);
        let time = row.time.filter(|time| *time <= row.received + FUTURE_MAX).unwrap_or(row.received);
        if !self.is_newest(index, row.device, time, moved) {
            metrics::counter!("floodplain_alerts_late_rows_total").increment(1);
            return;
        }
        let firing = if is_above { value > limit } else { value < limit };
        if firing != was_firing {
            let (device, value, cause) = (row.device.into(), Some(value), Some(row.place));
            self.push(known, Transition { alert: name, device, firing, since: time, value, rule: changed, cause });
        }
    }

    /// Whether no row of the device was newer so far.
    fn is_newest(&mut self, index: usize, device: &str, time: Timestamp, moved: Option<Timestamp>) -> bool {
        if moved.is_some_and(|moved| time < moved) {
            return false;
        }
        let clocks = &mut self.active[index].clocks;
        match clocks.get_mut(device) {
            Some(newest) if time < *newest => return false,
            Some(newest) => *newest = time,
            None if self.clocks < CLOCKS_MAX => {
                clocks.insert(device.into(), time);
                self.clocks += 1;
            }
            None => metrics::counter!("floodplain_alerts_unordered_rows_total").increment(1),
        }
        true
    }

    /// Judges the silence of a device that was last heard at `heard`, by the rule of silence `name`. Nobody was
    /// listening before `since`. Returns when it will be silent for too long, if it is not yet.
    pub fn silence(
        &mut self,
        known: &impl Known,
        name: &str,
        device: &str,
        heard: Timestamp,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let kept = self.active.iter().map(|active| &active.kept).find(|kept| &*kept.rule.name == name)?;
        let limit = kept.rule.silence()?;
        if !kept.rule.is_for(device) {
            return None;
        }
        let pair = self.pair(known, name, device);
        let firing_since = pair.filter(|pair| pair.firing).map(|pair| pair.since);
        let due = heard.max(since) + limit;
        let firing = match firing_since {
            Some(fired) if heard > fired => false,
            Some(_) => return None,
            None if now >= due => true,
            None => return Some(due),
        };
        let (alert, device, rule) = (kept.rule.name.clone(), device.into(), kept.changed);
        let transition = Transition { alert, device, firing, since: heard, value: None, rule, cause: None };
        self.push(known, transition);
        (!firing).then(|| heard.max(since) + limit)
    }

    /// Ends what fires, according to `firing`, by a rule that is gone, off, or another one now.
    pub fn end_stale(
        &mut self,
        known: &impl Known,
        firing: impl Iterator<Item = (Arc<str>, Arc<str>, Timestamp)>,
        now: Timestamp,
    ) {
        for (alert, device, rule) in firing {
            let goes_on =
                self.active.iter().any(|active| active.kept.rule.name == alert && active.kept.changed == rule);
            if !goes_on && self.is_firing(known, &alert, &device) {
                self.push(known, ended(&alert, &device, rule, now));
            }
        }
    }
}

#[cfg(test)]
mod tests;

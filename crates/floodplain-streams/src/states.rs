//! Which alert fires for which device: a fold over the transitions of stream `alerts`.

use crate::transition::{Cause, Entry, Receipt, Transition};
use floodplain_fold::{
    Fold, Input, Outputs, RestoreError,
    wire::{Get, Put, WireError},
};
use floodplain_types::{Position, Timestamp};
use std::{collections::BTreeMap, sync::Arc};

/// Pairs of alert and device of one partition. Beyond it the pair that has ended longest ago is forgotten; while all
/// are firing, no other begins to.
pub const PAIRS_MAX: usize = 65_536;

/// What is known of an alert and a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    pub firing: bool,
    pub since: Timestamp,
    pub value: Option<f64>,
    /// When the rule was changed that said so.
    pub rule: Timestamp,
    /// Whether `since` is the time of a row.
    pub is_by_row: bool,
    /// The last cause of each partition. Rows up to it have done what they could, and are read again after a crash.
    pub causes: Vec<Cause>,
    /// Position of the last transition.
    moved: Position,
    /// A webhook was to be told of it, and was not, as far as is known.
    is_owed: bool,
}

impl Pair {
    /// What the pair is after `transition`, whose record is at `moved`.
    #[must_use]
    pub fn after(before: Option<&Self>, transition: &Transition, moved: Position) -> Self {
        let mut causes = before.map(|pair| pair.causes.clone()).unwrap_or_default();
        if let Some(cause) = transition.cause {
            causes.retain(|other| other.partition != cause.partition);
            causes.push(cause);
            causes.sort_unstable();
        }
        let Transition { firing, since, value, rule, .. } = *transition;
        Self { firing, since, value, rule, is_by_row: transition.cause.is_some(), causes, moved, is_owed: false }
    }

    /// Position of the last transition.
    #[must_use]
    pub const fn moved(&self) -> Position {
        self.moved
    }

    /// Whether a row came to its end here already: it was the cause of a transition, or was before one.
    #[must_use]
    pub fn has_seen(&self, row: Cause) -> bool {
        self.causes.iter().any(|cause| cause.partition == row.partition && row <= *cause)
    }
}

/// One alert.
#[derive(Debug, Default, Clone, PartialEq)]
struct Devices {
    /// How often it began to fire.
    fired: u64,
    pairs: BTreeMap<Arc<str>, Pair>,
}

/// The states of one partition of stream `alerts`.
#[derive(Debug, Default)]
pub struct States {
    alerts: BTreeMap<Arc<str>, Devices>,
    count: usize,
    /// Records that changed nothing: none of ours, a repetition, or one too many.
    skipped: u64,
}

impl States {
    /// What is known of an alert and a device.
    #[must_use]
    pub fn get(&self, alert: &str, device: &str) -> Option<&Pair> {
        self.alerts.get(alert)?.pairs.get(device)
    }

    /// How often the alert began to fire.
    #[must_use]
    pub fn fired(&self, alert: &str) -> u64 {
        self.alerts.get(alert).map_or(0, |devices| devices.fired)
    }

    /// What fires, by alert and device.
    pub fn firing(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Pair)> {
        self.alerts.iter().flat_map(|(alert, devices)| {
            devices.pairs.iter().filter(|(_, pair)| pair.firing).map(move |(device, pair)| (alert, device, pair))
        })
    }

    /// What fires of one alert, by device.
    pub fn firing_of(&self, alert: &str) -> impl Iterator<Item = (&Arc<str>, &Pair)> {
        self.alerts.get(alert).into_iter().flat_map(|devices| devices.pairs.iter().filter(|(_, pair)| pair.firing))
    }

    /// What webhooks were to be told last and were not, as far as is known: by alert and device.
    pub fn owed(&self) -> impl Iterator<Item = (Transition, Receipt)> {
        self.alerts.iter().flat_map(|(alert, devices)| {
            devices.pairs.iter().filter(|(_, pair)| pair.is_owed).map(move |(device, pair)| {
                let (alert, device) = (alert.clone(), device.clone());
                let receipt = Receipt { alert: alert.clone(), device: device.clone(), position: pair.moved };
                let Pair { firing, since, value, rule, .. } = *pair;
                (Transition { alert, device, firing, since, value, rule, cause: None }, receipt)
            })
        })
    }

    /// Whether so many more pairs would find a place.
    #[must_use]
    pub fn has_room(&self, more: usize) -> bool {
        self.count + more <= PAIRS_MAX || self.firing().count() + more <= PAIRS_MAX
    }

    /// Takes a transition whose record is at `moved`, and of which a webhook is to be told or not; whether it changed
    /// something.
    pub fn apply_transition(&mut self, transition: &Transition, is_owed: bool, moved: Position) -> bool {
        let before = self.get(&transition.alert, &transition.device);
        let was_firing = before.is_some_and(|pair| pair.firing);
        if was_firing == transition.firing {
            return false;
        }
        if before.is_none() && self.count >= PAIRS_MAX && !self.forget_one() {
            return false;
        }
        let devices = self.alerts.entry(transition.alert.clone()).or_default();
        let before = devices.pairs.get(&*transition.device);
        self.count += usize::from(before.is_none());
        let pair = Pair { is_owed, ..Pair::after(before, transition, moved) };
        devices.pairs.insert(transition.device.clone(), pair);
        devices.fired += u64::from(transition.firing);
        true
    }

    /// Takes the end of a delivery. What was delivered is not owed any more, nor is what was before it.
    fn apply_receipt(&mut self, receipt: &Receipt) -> bool {
        let pair = self.alerts.get_mut(&receipt.alert).and_then(|devices| devices.pairs.get_mut(&receipt.device));
        let Some(pair) = pair.filter(|pair| pair.is_owed && pair.moved <= receipt.position) else { return false };
        pair.is_owed = false;
        true
    }

    /// Forgets the pair that has ended longest ago; whether there was one.
    fn forget_one(&mut self) -> bool {
        let pairs = self.alerts.iter().flat_map(|(alert, devices)| {
            devices.pairs.iter().filter(|(_, pair)| !pair.firing).map(move |(device, pair)| (pair.moved, alert, device))
        });
        let Some((_, alert, device)) = pairs.min_by_key(|(moved, ..)| *moved) else { return false };
        let (alert, device) = (alert.clone(), device.clone());
        let Some(devices) = self.alerts.get_mut(&alert) else { return false };
        devices.pairs.remove(&device);
        if devices.pairs.is_empty() {
            self.alerts.remove(&alert);
        }
        self.count -= 1;
        true
    }
}

impl Fold for States {
    const NAME: &'static str = "alerts";
    const FORMAT: u16 = 1;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        let applied = match Entry::read(input.record) {
            Some(Entry::Transition { transition, is_owed }) => {
                self.apply_transition(&transition, is_owed, input.position)
            }
            Some(Entry::Receipt(receipt)) => self.apply_receipt(&receipt),
            None => false,
        };
        self.skipped += u64::from(!applied);
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.skipped);
        out.put_u64(self.alerts.len() as u64);
        for (alert, devices) in &self.alerts {
            out.put_str(alert);
            out.put_u64(devices.fired);
            out.put_u64(devices.pairs.len() as u64);
            for (device, pair) in &devices.pairs {
                out.put_str(device);
                out.put_bool(pair.firing);
                out.put_time(pair.since);
                out.put_option(pair.value, |out, value| out.put_u64(value.to_bits()));
                out.put_time(pair.rule);
                out.put_bool(pair.is_by_row);
                out.put_u64(pair.causes.len() as u64);
                for cause in &pair.causes {
                    out.put_u64(u64::from(cause.partition));
                    out.put_position(cause.position);
                    out.put_u64(u64::from(cause.row));
                }
                out.put_position(pair.moved);
                out.put_bool(pair.is_owed);
            }
        }
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if format != Self::FORMAT {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        let mut get = Get::new(bytes);
        let skipped = get.u64()?;
        let cause = |get: &mut Get<'_>| {
            Ok::<_, WireError>(Cause { partition: get.u32()?, position: get.position()?, row: get.u32()? })
        };
        let pair = |get: &mut Get<'_>| {
            let device: Arc<str> = get.str()?.into();
            let pair = Pair {
                firing: get.bool()?,
                since: get.time()?,
                value: get.option(|get| get.u64())?.map(f64::from_bits),
                rule: get.time()?,
                is_by_row: get.bool()?,
                causes: get.list(cause)?,
                moved: get.position()?,
                is_owed: get.bool()?,
            };
            Ok::<_, WireError>((device, pair))
        };
        let alerts = get.list(|get| {
            let (alert, fired): (Arc<str>, _) = (get.str()?.into(), get.u64()?);
            Ok::<_, WireError>((alert, Devices { fired, pairs: get.list(pair)?.into_iter().collect() }))
        })?;
        get.end()?;
        let alerts: BTreeMap<_, _> = alerts.into_iter().collect();
        let count = alerts.values().map(|devices| devices.pairs.len()).sum();
        *self = Self { alerts, count, skipped };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn transition(alert: &str, device: &str, firing: bool, cause: Option<Cause>) -> Transition {
        let (alert, device) = (alert.into(), device.into());
        Transition {
            alert,
            device,
            firing,
            since: Timestamp(7),
            value: firing.then_some(1.5),
            rule: Timestamp(1),
            cause,
        }
    }

    fn cause(partition: u32, offset: u64) -> Option<Cause> {
        Some(Cause { partition, position: Position::new(0, offset), row: 0 })
    }

    #[test]
    fn a_repetition_changes_nothing() {
        let mut states = States::default();
        let mut check = |firing, offset, changes| {
            let transition = transition("a", "d", firing, cause(0, offset));
            assert_eq!(states.apply_transition(&transition, false, Position::new(0, offset)), changes);
        };
        check(false, 1, false);
        check(true, 2, true);
        check(true, 3, false);
        check(false, 4, true);
        assert_eq!((states.fired("a"), states.firing().count()), (1, 0));
    }

    #[test]
    fn the_last_cause_of_each_partition_counts() {
        let mut states = States::default();
        states.apply_transition(&transition("a", "d", true, cause(1, 10)), false, Position::new(0, 0));
        states.apply_transition(&transition("a", "d", false, cause(2, 5)), false, Position::new(0, 1));
        let pair = states.get("a", "d").unwrap();
        for (partition, offset, seen) in
            [(1, 10, true), (1, 9, true), (1, 11, false), (2, 5, true), (2, 6, false), (0, 0, false)]
        {
            assert_eq!(pair.has_seen(cause(partition, offset).unwrap()), seen, "{partition} {offset}");
        }
        let second_row = Cause { row: 1, ..cause(1, 10).unwrap() };
        assert!(!pair.has_seen(second_row), "rows of one record come one after another");
    }

    #[test]
    fn what_fires_is_never_forgotten() {
        let mut states = States::default();
        for n in 0..PAIRS_MAX {
            states.apply_transition(&transition("a", &n.to_string(), true, None), false, Position::new(0, n as u64));
        }
        assert!(!states.has_room(1));
        assert!(!states.apply_transition(&transition("a", "more", true, None), false, Position::new(1, 0)));
        states.apply_transition(&transition("a", "9", false, None), false, Position::new(1, 1));
        states.apply_transition(&transition("a", "3", false, None), false, Position::new(1, 2));
        assert!(states.has_room(2) && !states.has_room(3));
        assert!(states.apply_transition(&transition("b", "more", true, None), false, Position::new(1, 3)));
        assert!(states.get("a", "9").is_none() && states.get("a", "3").is_some() && states.get("b", "more").is_some());
        assert_eq!((states.count, states.firing().count()), (PAIRS_MAX, PAIRS_MAX - 1));
    }

    #[test]
    fn what_is_owed_is_so_until_its_receipt() {
        let mut states = States::default();
        let receipt = |offset| Receipt { alert: "a".into(), device: "d".into(), position: Position::new(0, offset) };
        states.apply_transition(&transition("a", "d", true, None), true, Position::new(0, 1));
        states.apply_transition(&transition("a", "d", false, None), true, Position::new(0, 2));
        states.apply_transition(&transition("a", "e", true, None), false, Position::new(0, 3));
        assert!(!states.apply_receipt(&receipt(1)), "that was the one before");
        let owed: Vec<_> = states.owed().collect();
        assert_eq!(owed.len(), 1);
        assert_eq!((owed[0].0.firing, &owed[0].1), (false, &receipt(2)));
        assert!(states.apply_receipt(&receipt(2)) && !states.apply_receipt(&receipt(2)));
        assert_eq!(states.owed().count(), 0);
    }

    proptest! {
        #[test]
        fn a_snapshot_and_the_rest_are_the_whole(
            moves in prop::collection::vec(("[ab]", "[cde]", any::<bool>(), prop::option::of((0..3_u32, 0..9_u64))), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(moves.len() + 1);
            let apply = |states: &mut States, from: usize, to: usize| {
                for (n, (alert, device, firing, by)) in moves.iter().enumerate().take(to).skip(from) {
                    let by = by.and_then(|(partition, offset)| cause(partition, offset));
                    states.apply_transition(&transition(alert, device, *firing, by), false, Position::new(0, n as u64));
                }
            };
            let (mut whole, mut first, mut restored) = (States::default(), States::default(), States::default());
            apply(&mut whole, 0, moves.len());
            apply(&mut first, 0, cut);
            let mut bytes = Vec::new();
            first.snapshot(&mut bytes);
            restored.restore(States::FORMAT, &bytes).unwrap();
            apply(&mut restored, cut, moves.len());
            prop_assert_eq!(restored.state_hash(), whole.state_hash());
        }
    }
}

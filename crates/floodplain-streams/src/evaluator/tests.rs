use super::*;
use crate::{
    rule::{Rule, v1},
    states::States,
};
use proptest::prelude::*;
use serde_json::json;

impl Known for States {
    fn pair(&self, alert: &str, device: &str) -> Option<&Pair> {
        self.get(alert, device)
    }

    fn has_room(&self, _device: &str, more: usize) -> bool {
        self.has_room(more)
    }
}

fn rule(json: serde_json::Value) -> Rule {
    serde_json::from_value::<v1::Alert>(json).unwrap().try_into().unwrap()
}

fn above(name: &str) -> Rule {
    rule(json!({ "name": name, "kind": "above", "table": "engine", "column": "oil", "value": 120 }))
}

const SECOND: i64 = 1_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * SECOND)
}

/// An evaluator, and the states that its transitions make.
#[derive(Default)]
struct Rig {
    rules: Rules,
    evaluator: Evaluator,
    states: States,
    offset: u64,
}

impl Rig {
    fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut rig = Self::default();
        for rule in rules {
            rig.put(rule, at(0));
        }
        rig
    }

    fn put(&mut self, rule: Rule, now: Timestamp) {
        self.rules = self.rules.with(rule, now).unwrap();
        self.evaluator.set_rules(&self.rules);
    }

    /// Commits, and says what: `alert device f 131 @ 5`.
    fn commit(&mut self) -> Vec<String> {
        let pending = self.evaluator.pending().to_vec();
        self.evaluator.committed(pending.len());
        pending
            .iter()
            .map(|transition| {
                self.offset += 1;
                assert!(
                    self.states.apply_transition(transition, false, Position::new(0, self.offset)),
                    "{transition:?}"
                );
                let Transition { alert, device, firing, since, value, .. } = transition;
                let state = if *firing { "fires" } else { "ends" };
                let value = value.map_or("-".to_owned(), |value| value.to_string());
                format!("{alert} {device} {state} {value} @{}", since.0 / SECOND)
            })
            .collect()
    }

    /// A row of `engine` with `oil`, received at its time.
    fn row(&mut self, device: &str, offset: u64, time: i64, oil: f64) -> Vec<String> {
        self.feed(device, offset, Some(time), time, Some(oil));
        self.commit()
    }

    fn feed(&mut self, device: &str, offset: u64, time: Option<i64>, received: i64, oil: Option<f64>) {
        let number = |column: &str| oil.filter(|_| column == "oil");
        let place = Cause { partition: 0, position: Position::new(0, offset), row: 0 };
        let (time, received) = (time.map(at), at(received));
        let row = Row { table: "engine", device, time, received, place, number: &number };
        self.evaluator.row(&self.states, &row);
    }

    fn silence(&mut self, device: &str, heard: i64, since: i64, now: i64) -> Vec<String> {
        self.evaluator.silence(&self.states, "quiet", device, at(heard), at(since), at(now));
        self.commit()
    }
}

#[test]
fn it_fires_once_and_ends_once() {
    let mut rig = Rig::new([above("hot")]);
    assert_eq!(rig.row("a", 1, 1, 120.0), [""; 0], "the limit itself is not above it");
    assert_eq!(rig.row("a", 2, 2, 120.5), ["hot a fires 120.5 @2"]);
    assert_eq!(rig.row("a", 3, 3, 130.0), [""; 0]);
    assert_eq!(rig.row("b", 4, 3, 121.0), ["hot b fires 121 @3"]);
    assert_eq!(rig.row("a", 5, 4, 120.0), ["hot a ends 120 @4"]);
    assert_eq!(rig.row("a", 6, 5, 1.0), [""; 0]);
    assert_eq!(rig.states.firing().count(), 1);
}

#[test]
fn below_is_the_other_way_round() {
    let low =
        json!({ "name": "low", "kind": "below", "table": "engine", "column": "oil", "value": 1, "devices": "a*" });
    let mut rig = Rig::new([rule(low)]);
    assert_eq!(rig.row("a1", 1, 1, 1.0), [""; 0]);
    assert_eq!(rig.row("a1", 2, 2, 0.5), ["low a1 fires 0.5 @2"]);
    assert_eq!(rig.row("b1", 3, 3, 0.5), [""; 0], "it is not for this device");
    assert_eq!(rig.row("a1", 4, 4, 1.0), ["low a1 ends 1 @4"]);
}

#[test]
fn without_hysteresis_each_crossing_is_told_also_within_one_read() {
    let mut rig = Rig::new([above("hot")]);
    for n in 0..6 {
        rig.feed("a", n, Some(n as i64), n as i64, Some(if n % 2 == 0 { 121.0 } else { 119.0 }));
    }
    let told = rig.commit();
    assert_eq!(told.len(), 6);
    assert_eq!((told[0].as_str(), told[5].as_str()), ("hot a fires 121 @0", "hot a ends 119 @5"));
}

#[test]
fn what_is_no_number_changes_nothing() {
    let mut rig = Rig::new([above("hot")]);
    rig.row("a", 1, 1, 121.0);
    for (offset, value) in [(2, None), (3, Some(f64::NAN)), (4, Some(f64::INFINITY)), (5, Some(f64::NEG_INFINITY))] {
        rig.feed("a", offset, Some(9), 9, value);
    }
    assert_eq!(rig.commit(), [""; 0]);
    assert_eq!(rig.row("a", 6, 2, 1.0), ["hot a ends 1 @2"], "nor does it move the time");
}

#[test]
fn an_old_row_changes_nothing() {
    let mut rig = Rig::new([above("hot")]);
    assert_eq!(rig.row("a", 1, 10, 100.0), [""; 0]);
    assert_eq!(rig.row("a", 2, 5, 200.0), [""; 0]);
    assert_eq!(rig.row("a", 3, 10, 121.0), ["hot a fires 121 @10"], "of two with one time the later one counts");
    assert_eq!(rig.row("a", 4, 9, 100.0), [""; 0]);
    assert_eq!(rig.row("b", 5, 5, 200.0), ["hot b fires 200 @5"], "each device has its own time");
    // After a restart the time of the last transition is still known.
    rig.evaluator = Evaluator::default();
    rig.evaluator.set_rules(&rig.rules);
    assert_eq!(rig.row("a", 6, 9, 100.0), [""; 0]);
    assert_eq!(rig.row("a", 7, 11, 100.0), ["hot a ends 100 @11"]);
}

#[test]
fn a_clock_that_is_ahead_does_not_silence_the_alert() {
    let mut rig = Rig::new([above("hot")]);
    rig.feed("a", 1, Some(1_000_000), 10, Some(100.0));
    rig.feed("a", 2, Some(11), 11, Some(121.0));
    assert_eq!(rig.commit(), ["hot a fires 121 @11"]);
    rig.feed("a", 3, None, 12, Some(100.0));
    assert_eq!(rig.commit(), ["hot a ends 100 @12"], "without a time of its own a row has that of its receipt");
}

#[test]
fn rows_from_before_the_rule_are_not_judged() {
    let mut rig = Rig::new([]);
    rig.put(above("hot"), at(10));
    assert_eq!(rig.row("a", 1, 9, 200.0), [""; 0]);
    assert_eq!(rig.row("a", 2, 10, 200.0), ["hot a fires 200 @10"]);
}

#[test]
fn a_rule_that_changes_ends_what_it_does_not_stand_for() {
    let mut rig = Rig::new([above("hot"), above("hotter")]);
    rig.row("a", 1, 1, 200.0);
    let stale = |rig: &mut Rig, now: i64| {
        let firing: Vec<_> =
            rig.states.firing().map(|(alert, device, pair)| (alert.clone(), device.clone(), pair.rule)).collect();
        rig.evaluator.end_stale(&rig.states, firing.into_iter(), at(now));
        rig.commit()
    };
    assert_eq!(stale(&mut rig, 2), [""; 0]);
    let mut other = above("hot");
    other.webhook = rule(json!({ "name": "x", "kind": "silent", "minutes": 1, "webhook": "http://h" })).webhook;
    rig.put(other.clone(), at(3));
    assert_eq!(stale(&mut rig, 3), [""; 0], "where it is told does not matter");
    rig.put(Rule { enabled: false, ..other.clone() }, at(4));
    assert_eq!(stale(&mut rig, 4), ["hot a ends - @4"]);
    assert_eq!(stale(&mut rig, 5), [""; 0]);
    rig.rules = rig.rules.without("hotter").unwrap();
    rig.evaluator.set_rules(&rig.rules);
    assert_eq!(stale(&mut rig, 6), ["hotter a ends - @6"]);
    rig.put(other, at(7));
    assert_eq!(rig.row("a", 2, 7, 200.0), ["hot a fires 200 @7"]);
}

#[test]
fn silence_fires_by_time_and_ends_by_a_message() {
    let mut rig = Rig::new([rule(json!({ "name": "quiet", "kind": "silent", "minutes": 1 }))]);
    assert_eq!(rig.silence("a", 100, 0, 159), [""; 0]);
    assert_eq!(rig.silence("a", 100, 0, 160), ["quiet a fires - @100"]);
    assert_eq!(rig.silence("a", 100, 0, 999), [""; 0]);
    assert_eq!(rig.silence("a", 1000, 0, 2000), ["quiet a ends - @1000"]);
    assert_eq!(rig.silence("a", 1000, 0, 2000), ["quiet a fires - @1000"], "it was heard, and is silent again");
}

#[test]
fn a_gap_in_listening_is_no_silence() {
    let mut rig = Rig::new([rule(json!({ "name": "quiet", "kind": "silent", "minutes": 1 }))]);
    assert_eq!(rig.silence("a", 100, 5000, 5059), [""; 0]);
    assert_eq!(rig.silence("a", 100, 5000, 5060), ["quiet a fires - @100"]);
    // What was silent stays so over a restart.
    assert_eq!(rig.silence("a", 100, 9000, 9001), [""; 0]);
}

#[test]
fn it_says_when_a_device_will_be_silent() {
    let mut rig = Rig::new([rule(json!({ "name": "quiet", "kind": "silent", "minutes": 1, "devices": "a" }))]);
    let mut due = |device: &str, now: i64| rig.evaluator.silence(&rig.states, "quiet", device, at(100), at(0), at(now));
    assert_eq!(due("a", 100), Some(at(160)));
    assert_eq!(due("b", 100), None);
    assert_eq!(due("a", 160), None);
}

proptest! {
    /// Killed anywhere, with any part of the rows read again: the same transitions, each once.
    #[test]
    fn rows_that_come_again_change_nothing(
        rows in prop::collection::vec((0..3_usize, 0..100_i64, 118..123_i32), 1..60),
        cut in any::<prop::sample::Index>(),
        again in any::<prop::sample::Index>(),
        committed in any::<bool>(),
    ) {
        // Rows in the order of their times: what a device without a buffer sends.
        let mut rows = rows;
        rows.sort_by_key(|(_, time, _)| *time);
        let feed = |rig: &mut Rig, range: std::ops::Range<usize>| -> Vec<String> {
            let mut told = Vec::new();
            for n in range {
                let (device, time, oil) = rows[n];
                told.extend(rig.row(["a", "b", "c"][device], n as u64, time, f64::from(oil)));
            }
            told
        };
        let expected = feed(&mut Rig::new([above("hot")]), 0..rows.len());
        let cut = cut.index(rows.len() + 1);
        let again = again.index(cut + 1);
        let mut rig = Rig::new([above("hot")]);
        let mut told = feed(&mut rig, 0..cut);
        if cut < rows.len() {
            // One more row is judged, and its transition is lost or not.
            let (device, time, oil) = rows[cut];
            rig.feed(["a", "b", "c"][device], cut as u64, Some(time), time, Some(f64::from(oil)));
            if committed {
                told.extend(rig.commit());
            }
        }
        rig.evaluator = Evaluator::default();
        rig.evaluator.set_rules(&rig.rules);
        told.extend(feed(&mut rig, again..rows.len()));
        prop_assert_eq!(told, expected);
    }
}

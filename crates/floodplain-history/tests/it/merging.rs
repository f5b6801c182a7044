//! Sorting and merging against the model.

use crate::model::{Row, any_rows, batch, columns, order, parts, redelivered, rows, seen};
use arrow::array::RecordBatch;
use floodplain_history::merge::{BATCH_ROWS, MergeStats, sort, sort_merge};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn what_is_seen_depends_on_the_set_of_rows_alone(
        (set, all) in any_rows(40).prop_flat_map(redelivered),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let columns = columns();
        let batches: Vec<RecordBatch> = parts(&all, &cuts).iter().map(|rows| batch(&columns, rows)).collect();
        let (expected, overwritten_values) = seen(&set);
        let stats = MergeStats {
            rows_in: all.len() as u64,
            rows_out: expected.len() as u64,
            duplicates: (all.len() - set.len()) as u64,
            merged_rows: expected.len() as u64,
            overwritten_values,
        };

        let merged = sort_merge(&columns, &batches).unwrap();
        prop_assert_eq!(&rows(&merged.batches), &expected);
        prop_assert_eq!(merged.stats, stats);

        // Sorting alone loses no version, so any parts of it can be sorted again and merged later.
        let sorted = sort(&columns, &batches).unwrap();
        let mut versions = set.clone();
        versions.sort_by(|a, b| order(a).cmp(&order(b)));
        prop_assert_eq!(&rows(&sorted.batches), &versions);
        prop_assert_eq!(sorted.stats, MergeStats { rows_out: set.len() as u64, ..stats });
        let runs: Vec<RecordBatch> =
            batches.iter().flat_map(|one| sort(&columns, std::slice::from_ref(one)).unwrap().batches).collect();
        let merged = sort_merge(&columns, &runs).unwrap();
        prop_assert_eq!(&rows(&merged.batches), &expected);
        prop_assert_eq!(merged.stats.overwritten_values, overwritten_values);
    }
}

fn row(device: &str, time: i64, offset: i64) -> Row {
    Row { device: device.to_owned(), time, seq: (0, offset, 0), received: 1_000_000 + offset, ..Row::default() }
}

#[test]
fn a_row_that_is_decoded_late_finds_its_place_among_its_successors() {
    let columns = columns();
    let older = Row { count: Some(1), ..row("d", 5, 1) };
    let late = Row { count: Some(3), level: Some(0.25), ..row("d", 5, 3) };
    let newer = Row { note: Some("n".to_owned()), ..row("d", 5, 9) };
    let flushed = sort(&columns, &[batch(&columns, &[older, newer])]).unwrap();
    assert_eq!(flushed.stats.rows_out, 2, "versions stay apart until they are read");
    let batches = [flushed.batches, vec![batch(&columns, &[late])]].concat();
    let merged = rows(&sort_merge(&columns, &batches).unwrap().batches);
    let expected = Row { count: Some(3), level: Some(0.25), note: Some("n".to_owned()), ..row("d", 5, 9) };
    assert_eq!(merged, [expected]);
}

#[test]
fn a_record_that_is_decoded_again_is_one_row_with_the_later_values() {
    let columns = columns();
    let first = Row { count: Some(1), flag: Some(true), ..row("d", 5, 1) };
    let again = Row { count: Some(2), ..row("d", 5, 1) };
    let batches = [&first, &again].map(|row| batch(&columns, std::slice::from_ref(row)));
    for run in [sort, sort_merge] {
        let merged = run(&columns, &batches).unwrap();
        assert_eq!(rows(&merged.batches), [Row { flag: Some(true), ..again.clone() }]);
        assert_eq!((merged.stats.duplicates, merged.stats.overwritten_values), (1, 0));
    }
}

#[test]
fn rows_without_a_time_of_their_own_are_all_there() {
    let columns = columns();
    let one = |offset| Row { received: 7, count: Some(offset), ..row("d", 7, offset) };
    let input = [one(2), one(1), one(2), Row { received: 8, count: Some(9), ..row("d", 7, 0) }];
    let merged = sort_merge(&columns, &[batch(&columns, &input)]).unwrap();
    assert_eq!(rows(&merged.batches), [input[3].clone(), one(1), one(2)]);
    assert_eq!(merged.stats.overwritten_values, 0);
}

/// What a program has stored that took a time of event, which was that of receipt, for none.
#[test]
fn a_record_that_has_a_time_of_its_own_when_it_is_decoded_again_is_one_row() {
    let columns = columns();
    let alone = |offset| Row { received: 7, count: Some(offset), ..row("d", 7, offset) };
    let again = |offset| Row { received: 8, level: Some(0.5), ..row("d", 7, offset) };
    for (first, second) in [(again(1), alone(1)), (alone(1), again(1))] {
        let batches = [vec![alone(2), first], vec![second]].map(|rows| batch(&columns, &rows));
        let both = Row { count: Some(1), ..again(1) };
        for run in [sort, sort_merge] {
            let merged = run(&columns, &batches).unwrap();
            assert_eq!(rows(&merged.batches), [both.clone(), alone(2)]);
            assert_eq!((merged.stats.duplicates, merged.stats.merged_rows), (1, 2));
        }
        // And then it is a version like others.
        let all = [batches.to_vec(), vec![batch(&columns, &[again(3)])]].concat();
        let merged = sort_merge(&columns, &all).unwrap();
        let newest = Row { count: Some(1), ..again(3) };
        assert_eq!(rows(&merged.batches), [alone(2), newest]);
    }
}

#[test]
fn many_rows_leave_in_small_batches() {
    let columns = columns();
    let devices = ["d2", "d10", "d1"];
    let input: Vec<Row> = (0..30_000).map(|i| row(devices[i % 3], (i / 3) as i64, i as i64)).collect();
    let merged = sort_merge(&columns, &[batch(&columns, &input[..9]), batch(&columns, &input[9..])]).unwrap();
    assert!(merged.batches.iter().all(|batch| batch.num_rows() <= BATCH_ROWS));
    let found = rows(&merged.batches);
    assert!(found.is_sorted_by(|a, b| order(a) < order(b)) && found.len() == 30_000);
    let again = sort_merge(&columns, &merged.batches).unwrap();
    assert_eq!(rows(&again.batches), found);
    assert_eq!(sort_merge(&columns, &[]).unwrap().batches.len(), 0);
}

#[test]
fn other_columns_are_refused() {
    let columns = columns();
    let batch = batch(&columns, &[row("d", 1, 1)]);
    let fewer = batch.project(&[0, 1, 2, 3, 4]).unwrap();
    let error = sort_merge(&columns, &[batch, fewer]).unwrap_err();
    assert!(matches!(error, floodplain_history::Error::Schema { .. }), "{error}");
}

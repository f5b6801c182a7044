//! The typed table that a binding makes of the files, as `psql` has it.

use super::{
    Series,
    broker::{Broker, LogRow},
};
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;

/// Each line is a row of its own: files repeat timestamps, so the line number belongs to the key.
pub(super) fn bind(broker: &Broker) -> Result<()> {
    let binding = ["--filter", "traffic/+", "--device-level", "2", "--table", "traffic", "--format", "json"];
    let keys = ["--time-field", "timestamp", "--key-column", "n"];
    broker.floodplain(&[&["binding", "set", "lines"], &binding[..], &keys].concat())
}

/// Compares the table with the files, row by row, and says how many rows it has.
pub(super) fn compare(broker: &Broker, series: &[Series]) -> Result<usize> {
    let csv = broker.psql("SELECT device, n, time, value FROM traffic ORDER BY device, n")?;
    let mut rows: BTreeMap<&str, Vec<(f64, &str, &str)>> = BTreeMap::new();
    for line in csv.lines().skip(1) {
        let [device, n, time, value] = line.split(',').collect::<Vec<_>>()[..] else { bail!("row {line:?}") };
        rows.entry(device).or_default().push((n.parse().with_context(|| line.to_owned())?, time, value));
    }
    let mut count = 0;
    for one in series {
        let device = one.topic.strip_prefix("traffic/").expect("topics are made here");
        let found = rows.remove(device).unwrap_or_default();
        ensure!(found.len() == one.fields.len(), "{device}: {} lines, {} rows", one.fields.len(), found.len());
        for (number, ((n, time, value), (timestamp, written))) in (1_u32..).zip(found.iter().zip(&one.fields)) {
            let is_same = *n == f64::from(number)
                && time.strip_prefix(timestamp.as_str()).is_some_and(|zone| ["", "+00", "Z"].contains(&zone))
                && value.parse::<f64>() == written.parse::<f64>();
            ensure!(is_same, "{device}: line {number} is {timestamp},{written}, the row has {n}, {time}, {value}");
        }
        count += found.len();
    }
    ensure!(rows.is_empty(), "devices that no file is of: {:?}", rows.keys());
    Ok(count)
}

/// Has the log decoded again with nothing but device and time as the key: where a file repeats a timestamp, the later
/// line overwrites the earlier one, and that is counted. Returns rows and overwritten values.
pub(super) fn merge(broker: &Broker, log: &[LogRow]) -> Result<(usize, u64)> {
    let binding = ["--filter", "traffic/+", "--device-level", "2", "--table", "merged", "--format", "json"];
    broker.floodplain(&[&["binding", "set", "lines"], &binding[..], &["--time-field", "timestamp"]].concat())?;
    broker.floodplain(&["replay", "--binding", "lines", "--output", "json"])?;

    let (mut newest, mut overwritten) = (BTreeMap::new(), 0);
    for row in log {
        if let Some((n, value)) = newest.insert((&row.topic, &row.timestamp), (row.n, row.value)) {
            overwritten += u64::from(n != row.n) + u64::from(value != row.value);
        }
    }
    let counts = broker.psql(
        "SELECT table_name, (SELECT count(*) FROM merged), overwritten_values FROM tables \
         WHERE table_name IN ('merged', 'traffic') ORDER BY table_name",
    )?;
    let expected = format!("merged,{},{overwritten}", newest.len());
    let found: Vec<&str> = counts.lines().skip(1).collect();
    ensure!(found.first() == Some(&expected.as_str()), "expected {expected}, psql has {found:?}");
    ensure!(found.get(1).is_some_and(|row| row.ends_with(",0")), "{found:?}: with `n` nothing is overwritten");
    Ok((newest.len(), overwritten))
}

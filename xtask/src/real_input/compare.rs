//! Files, log and subscriber, side by side.

use super::{
    Series,
    broker::{Delivery, LogRow},
};
use std::collections::BTreeMap;

/// The comparison of one file.
#[derive(Debug)]
pub(super) struct Row {
    topic: String,
    client: &'static str,
    lines: usize,
    /// Messages that the publisher sent more than once.
    resent: usize,
    /// Records of this topic in the log.
    pub(super) log_rows: usize,
    deliveries: usize,
    /// What QoS 1 does not allow.
    pub(super) differences: Vec<String>,
}

/// `sends`: how often the publisher sent each line.
pub(super) fn compare(
    series: &Series,
    client: &'static str,
    sends: &BTreeMap<usize, u32>,
    rows: &[LogRow],
    received: &[Delivery],
) -> Row {
    let topic = &series.topic;
    let mut differences = Vec::new();
    let mut differ = |text: String| differences.push(format!("{topic}: {text}"));
    let lines = series.payloads.len();

    let mut in_log: BTreeMap<usize, u32> = BTreeMap::new();
    let mut highest = 0;
    let mut log_rows = 0;
    for row in rows.iter().filter(|row| row.topic == *topic) {
        log_rows += 1;
        let at = row.n.wrapping_sub(1);
        let (Some(payload), Some((timestamp, value))) = (series.payloads.get(at), series.fields.get(at)) else {
            differ(format!("the log has line {} of {lines}", row.n));
            continue;
        };
        if row.payload != payload.as_bytes() || row.timestamp != *timestamp || value.parse() != Ok(row.value) {
            differ(format!("line {} is {payload} in the file, {row:?} in the log", row.n));
        }
        let copies = in_log.entry(row.n).or_default();
        *copies += 1;
        if *copies == 1 {
            if row.n != highest + 1 {
                differ(format!("the log has line {} after line {highest}", row.n));
            }
            highest = row.n;
        }
    }

    // Line number of each payload; lines differ at least in their number.
    let numbers: BTreeMap<&str, usize> =
        series.payloads.iter().enumerate().map(|(at, payload)| (payload.as_str(), at + 1)).collect();
    // Copies by connection.
    let mut at_subscriber: BTreeMap<usize, BTreeMap<usize, u32>> = BTreeMap::new();
    let mut highest = 0;
    let mut deliveries = 0;
    for delivery in received.iter().filter(|delivery| delivery.topic == *topic) {
        deliveries += 1;
        let Some(n) = numbers.get(delivery.payload.as_str()) else {
            differ(format!("the subscriber got {:?}, which is not in the file", delivery.payload));
            continue;
        };
        let copies = at_subscriber.entry(*n).or_default();
        let is_first = copies.is_empty();
        *copies.entry(delivery.connection).or_default() += 1;
        if is_first {
            if *n != highest + 1 {
                differ(format!("the subscriber got line {n} after line {highest}"));
            }
            highest = *n;
        }
    }

    for n in 1..=lines {
        let sent = sends.get(&n).copied().unwrap_or_default();
        let logged = in_log.get(&n).copied().unwrap_or_default();
        let copies = at_subscriber.remove(&n).unwrap_or_default();
        if logged == 0 || copies.is_empty() {
            differ(format!("line {n} is {logged} times in the log and came {} times", copies.values().sum::<u32>()));
        }
        if logged > sent {
            differ(format!("line {n} was sent {sent} times and is {logged} times in the log"));
        }
        // On a new connection the server may deliver again what was not acknowledged on the old one.
        for (connection, copies) in copies.into_iter().filter(|(_, copies)| *copies > logged) {
            differ(format!("line {n} is {logged} times in the log and came {copies} times on connection {connection}"));
        }
    }
    let resent = sends.values().filter(|count| **count > 1).count();
    Row { topic: topic.clone(), client, lines, resent, log_rows, deliveries, differences }
}

/// Prints the table and its sums.
pub(super) fn print(rows: &[Row]) {
    println!(
        "\n{:<32} {:<14} {:>7} {:>7} {:>9} {:>8} {:>11} {:>8} {:>11}",
        "topic", "client", "lines", "resent", "log rows", "doubles", "deliveries", "doubles", "differences"
    );
    let line = |topic: &str, client: &str, [lines, resent, log, deliveries, differences]: [usize; 5]| {
        println!(
            "{topic:<32} {client:<14} {lines:>7} {resent:>7} {log:>9} {:>8} {deliveries:>11} {:>8} {differences:>11}",
            log.saturating_sub(lines),
            deliveries.saturating_sub(lines),
        );
    };
    let mut sum = [0; 5];
    for row in rows {
        let numbers = [row.lines, row.resent, row.log_rows, row.deliveries, row.differences.len()];
        line(&row.topic, row.client, numbers);
        sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
    }
    line("sum", "", sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Differences of one line that is once in the log, with deliveries on these connections.
    fn differences(connections: &[usize]) -> Vec<String> {
        let payload = "{\"n\": 1}".to_owned();
        let series = Series {
            topic: "traffic/a".to_owned(),
            payloads: vec![payload.clone()],
            fields: vec![("now".to_owned(), "1.5".to_owned())],
        };
        let (topic, timestamp) = (series.topic.clone(), "now".to_owned());
        let rows = [LogRow { topic, n: 1, timestamp, value: 1.5, payload: payload.clone().into_bytes() }];
        let delivery = |connection: &usize| Delivery {
            topic: series.topic.clone(),
            payload: payload.clone(),
            connection: *connection,
        };
        let received: Vec<Delivery> = connections.iter().map(delivery).collect();
        compare(&series, "a client", &BTreeMap::from([(1, 1)]), &rows, &received).differences
    }

    #[test]
    fn a_record_comes_once_on_each_connection() {
        for connections in [&[1][..], &[2], &[1, 2]] {
            assert_eq!(differences(connections), [""; 0], "{connections:?}");
        }
        for connections in [&[][..], &[1, 1], &[2, 2], &[1, 2, 2]] {
            assert_eq!(differences(connections).len(), 1, "{connections:?}");
        }
    }
}

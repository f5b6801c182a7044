//! What a session was promised and does not get, as records in stream `dlq`.

use floodplain_log::{BatchBuilder, BatchError};
use floodplain_types::Position;
use std::collections::BTreeMap;

/// Ranges gathered before they are written without waiting for the next tick.
const RANGES_MAX: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Range {
    from: Position,
    to: Position,
    count: u64,
}

/// Ranges of one tick, by session, reason and partition: a thousand expired messages are one record.
#[derive(Debug, Default)]
pub(crate) struct Dlq {
    ranges: BTreeMap<(Box<str>, Box<str>, u32), Range>,
}

impl Dlq {
    /// Notes `count` messages of a data partition, the first and the last at these positions.
    pub(crate) fn note(
        &mut self,
        client: &str,
        reason: &str,
        partition: u32,
        from: Position,
        to: Position,
        count: u64,
    ) {
        let range =
            self.ranges.entry((client.into(), reason.into(), partition)).or_insert(Range { from, to, count: 0 });
        range.from = range.from.min(from);
        range.to = range.to.max(to);
        range.count += count;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.ranges.len() >= RANGES_MAX
    }

    /// Takes what was noted: session and how to write its record.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (Box<str>, Letter)> + use<> {
        std::mem::take(&mut self.ranges).into_iter().map(|((client, reason, partition), range)| {
            let json = format!(
                r#"{{"session":{},"reason":{},"stream":"telemetry","partition":{partition},"from":"{}","to":"{}","count":{}}}"#,
                quoted(&client), quoted(&reason), range.from, range.to, range.count,
            );
            (client, Letter(json))
        })
    }
}

/// One record of the dead-letter stream.
#[derive(Debug)]
pub(crate) struct Letter(String);

impl Letter {
    pub(crate) fn write(&self, client: &str, now_ms: i64, batch: &mut BatchBuilder) -> Result<u32, BatchError> {
        let headers = [("fp.c", &b"application/json"[..])];
        batch.push(now_ms, Some(client.as_bytes()), Some(self.0.as_bytes()), headers)
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_and_written_as_json() {
        let mut dlq = Dlq::default();
        let at = |offset| Position::new(0, offset);
        dlq.note("a\"b", "expired", 3, at(7), at(7), 1);
        dlq.note("a\"b", "expired", 3, at(5), at(6), 2);
        let letters: Vec<_> = dlq.take().map(|(_, letter)| letter.0).collect();
        assert_eq!(
            letters,
            [
                r#"{"session":"a\"b","reason":"expired","stream":"telemetry","partition":3,"from":"0:5","to":"0:7","count":3}"#
            ]
        );
        assert_eq!(dlq.take().count(), 0);
    }
}

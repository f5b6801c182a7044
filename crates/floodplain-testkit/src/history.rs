//! The history checker: compares what was acknowledged with what is read.
//!
//! Every message carries its client, a sequence number and a checksum in its payload, so it can
//! be checked wherever it turns up: in the log, at a subscriber, in a table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Mutex, PoisonError},
};

/// What a payload says about itself; as text `<client> <seq> <crc>[ <padding>]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Who publishes. Order is checked per client, so a client that publishes to several
    /// partitions or topics needs a name for each.
    pub client: String,
    pub seq: u64,
}

/// Why a payload is not what a client published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    #[error("payload is not of the form `client seq crc`: {payload:?}")]
    Form { payload: String },
    #[error("payload says checksum {expected:08x}, its bytes give {actual:08x}: {payload:?}")]
    Checksum { expected: u32, actual: u32, payload: String },
}

fn checksum(client: &str, seq: u64, padding: &str) -> u32 {
    crc32c::crc32c(format!("{client} {seq} {padding}").as_bytes())
}

impl Stamp {
    /// The stamp of message `seq` of `client`, whose name must have no space.
    #[must_use]
    pub fn new(client: &str, seq: u64) -> Self {
        debug_assert!(!client.contains(' '));
        Self { client: client.to_owned(), seq }
    }

    /// The payload, padded to `len_bytes` if it is shorter.
    #[must_use]
    pub fn payload(&self, len_bytes: usize) -> Vec<u8> {
        let bare = self.client.len() + self.seq.to_string().len() + 2 + 8;
        // Padding that differs between messages, so that bytes of another message do not pass.
        let padding: String = (bare + 1..len_bytes)
            .map(|i| char::from(b'a' + u8::try_from((self.seq + i as u64 * 7) % 26).unwrap_or(0)))
            .collect();
        let Self { client, seq } = self;
        let crc = checksum(client, *seq, &padding);
        if padding.is_empty() {
            format!("{client} {seq} {crc:08x}").into_bytes()
        } else {
            format!("{client} {seq} {crc:08x} {padding}").into_bytes()
        }
    }

    /// Reads a payload back and checks it.
    ///
    /// # Errors
    /// [`StampError`] if these are not the bytes that [`Self::payload`] made.
    pub fn parse(payload: &[u8]) -> Result<Self, StampError> {
        let shown = || String::from_utf8_lossy(&payload[..payload.len().min(80)]).into_owned();
        let form = || StampError::Form { payload: shown() };
        let text = std::str::from_utf8(payload).map_err(|_| form())?;
        let mut words = text.splitn(4, ' ');
        let client = words.next().filter(|client| !client.is_empty()).ok_or_else(form)?;
        let seq = words.next().and_then(|seq| seq.parse().ok()).ok_or_else(form)?;
        let expected = words.next().and_then(|crc| u32::from_str_radix(crc, 16).ok()).ok_or_else(form)?;
        let actual = checksum(client, seq, words.next().unwrap_or(""));
        if actual != expected {
            return Err(StampError::Checksum { expected, actual, payload: shown() });
        }
        Ok(Self { client: client.to_owned(), seq })
    }
}

/// How an attempt to publish ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// No answer was seen: it may or may not be there.
    Open,
    /// Acknowledged: must be there.
    Ok,
    /// Acknowledged with a promise that the fault at hand voids: may be missing, but only
    /// together with everything after it.
    Weak,
    /// Refused: must not be there.
    Fail,
    /// Allowed to be removed, by trimming: may be there or not, now and later.
    Released,
}

/// How many copies of one message may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// One for each time it was published.
    PerAttempt,
    /// Any number: the reader is sent a message again until it has acknowledged it. First copies
    /// must still come in order.
    Any,
}

/// What a read got wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("lost: {0:?} was acknowledged and is not read")]
    Lost(Stamp),
    #[error("gap: {missing:?} was accepted and is not read, but {present:?} after it is")]
    Gap { missing: Stamp, present: Stamp },
    #[error("order: {0:?} is read after a message that its client published later")]
    Order(Stamp),
    #[error("duplicate: {0:?} is read more often than it was published")]
    Duplicate(Stamp),
    #[error("refused, yet read: {0:?}")]
    Refused(Stamp),
    #[error("never published, yet read: {0:?}")]
    Phantom(Stamp),
    #[error("corrupt: {0}")]
    Corrupt(StampError),
}

/// What was compared, and what was found wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub attempts: u64,
    /// Messages with an acknowledged attempt.
    pub acked: u64,
    /// Copies that were read.
    pub read: u64,
    /// Copies beyond the first of a message.
    pub duplicates: u64,
    pub violations: Vec<Violation>,
}

impl Report {
    /// Panics with the report if anything is wrong.
    ///
    /// # Panics
    /// If there is a violation; `context` (a seed, usually) is part of the text.
    pub fn assert_clean(&self, context: impl fmt::Display) {
        assert!(self.violations.is_empty(), "{context}: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        let Self { attempts, acked, read, duplicates, violations } = self;
        let bad = violations.len();
        write!(f, "{attempts} attempts, {acked} acknowledged, {read} read, {duplicates} duplicates, {bad} violations")?;
        violations.iter().take(SHOWN).try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

/// Everything that clients tried, in the order of each client. Shared by threads.
#[derive(Debug, Default)]
pub struct History {
    clients: Mutex<BTreeMap<String, Vec<(u64, End)>>>,
}

impl Clone for History {
    fn clone(&self) -> Self {
        Self { clients: Mutex::new(self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()) }
    }
}

impl History {
    /// An empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, client: &str, act: impl FnOnce(&mut Vec<(u64, End)>) -> T) -> T {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if !clients.contains_key(client) {
            clients.insert(client.to_owned(), Vec::new());
        }
        act(clients.get_mut(client).expect("inserted above"))
    }

    /// A client is about to publish; call again for each further attempt of the same message.
    pub fn invoke(&self, stamp: &Stamp) {
        self.with(&stamp.client, |attempts| attempts.push((stamp.seq, End::Open)));
    }

    fn end(&self, stamp: &Stamp, end: End) {
        self.with(&stamp.client, |attempts| {
            let open = attempts.iter_mut().rev().find(|(seq, was)| *seq == stamp.seq && *was == End::Open);
            if let Some((_, slot)) = open {
                *slot = end;
            }
        });
    }

    /// The last attempt was acknowledged, and must survive.
    pub fn ok(&self, stamp: &Stamp) {
        self.end(stamp, End::Ok);
    }

    /// The last attempt was acknowledged with a promise that does not cover the fault at hand (class
    /// `leader` and a power cut). It may be missing, but not from the middle.
    pub fn weak_ok(&self, stamp: &Stamp) {
        self.end(stamp, End::Weak);
    }

    /// The last attempt was refused, and must not be found.
    pub fn fail(&self, stamp: &Stamp) {
        self.end(stamp, End::Fail);
    }

    /// The outcome of the last attempt is unknown; it stays as open as it is without this call.
    pub fn unknown(&self, stamp: &Stamp) {
        self.end(stamp, End::Open);
    }

    /// All messages of `client` before `seq` may be removed from now on.
    pub fn release(&self, client: &str, before_seq: u64) {
        self.with(client, |attempts| {
            for (seq, end) in attempts.iter_mut() {
                if *seq < before_seq && *end != End::Fail {
                    *end = End::Released;
                }
            }
        });
    }

    /// Messages with an acknowledged attempt so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.values().map(|attempts| acked(attempts).len() as u64).sum()
    }

    /// The attempts that were found stay as certain as an acknowledged one: what was once read
    /// after a recovery must be read after every later one. Others without a firm answer are
    /// forgotten: what a recovery did not find must never come back.
    pub fn settle<'a>(&self, read: impl IntoIterator<Item = &'a [u8]>) {
        self.keep_or(read, Some(End::Fail));
    }

    /// The attempts that were found stay as certain as an acknowledged one. Others stay as they are: whoever repeats them
    /// may bring them.
    pub fn keep<'a>(&self, read: impl IntoIterator<Item = &'a [u8]>) {
        self.keep_or(read, None);
    }

    fn keep_or<'a>(&self, read: impl IntoIterator<Item = &'a [u8]>, missing: Option<End>) {
        let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for stamp in read.into_iter().filter_map(|payload| Stamp::parse(payload).ok()) {
            found.entry(stamp.client).or_default().push(stamp.seq);
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        for (client, attempts) in clients.iter_mut() {
            let mut left = found.remove(client).unwrap_or_default().into_iter().peekable();
            for (seq, end) in attempts.iter_mut() {
                let here = left.next_if_eq(seq).is_some();
                if matches!(*end, End::Open | End::Weak) {
                    *end = if here { End::Ok } else { missing.unwrap_or(*end) };
                }
            }
        }
    }

    /// What is not among `read` was taken by damage that the test has done: it may be missing from now
    /// on, wherever it stood.
    pub fn forgive_missing<'a>(&self, read: impl IntoIterator<Item = &'a [u8]>) {
        let found: BTreeSet<Stamp> = read.into_iter().filter_map(|payload| Stamp::parse(payload).ok()).collect();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        for (client, attempts) in clients.iter_mut() {
            for (seq, end) in attempts.iter_mut() {
                if *end != End::Fail && !found.contains(&Stamp::new(client, *seq)) {
                    *end = End::Released;
                }
            }
        }
    }

    /// Compares the history with all payloads that were read, in the order of reading.
    #[must_use]
    pub fn check<'a>(&self, read: impl IntoIterator<Item = &'a [u8]>, copies: Copies) -> Report {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = Report::default();
        let mut by_client: BTreeMap<&str, Vec<u64>> = clients.keys().map(|name| (name.as_str(), Vec::new())).collect();
        for payload in read {
            report.read += 1;
            match Stamp::parse(payload) {
                Err(error) => report.violations.push(Violation::Corrupt(error)),
                Ok(stamp) => match by_client.get_mut(stamp.client.as_str()) {
                    None => report.violations.push(Violation::Phantom(stamp)),
                    Some(seqs) => seqs.push(stamp.seq),
                },
            }
        }
        for (client, seqs) in by_client {
            check_client(client, &clients[client], &seqs, copies, &mut report);
        }
        report
    }
}

fn acked(attempts: &[(u64, End)]) -> BTreeSet<u64> {
    attempts.iter().filter(|(_, end)| *end == End::Ok).map(|(seq, _)| *seq).collect()
}

/// Matches each copy with the earliest attempt after the one before it. If any matching in order
/// exists, this one does.
fn check_client(client: &str, attempts: &[(u64, End)], read: &[u64], copies: Copies, report: &mut Report) {
    let stamp = |seq| Stamp { client: client.to_owned(), seq };
    let mut of_seq: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (i, (seq, end)) in attempts.iter().enumerate() {
        let indices = of_seq.entry(*seq).or_default();
        if *end != End::Fail {
            indices.push(i);
        }
    }
    let mut next = 0;
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    for seq in read {
        let count = seen.entry(*seq).or_default();
        *count += 1;
        let repeated = *count > 1;
        report.duplicates += u64::from(repeated);
        if repeated && copies == Copies::Any {
            continue;
        }
        let Some(indices) = of_seq.get(seq) else {
            report.violations.push(Violation::Phantom(stamp(*seq)));
            continue;
        };
        if let Some(i) = indices.iter().find(|i| **i >= next) {
            next = i + 1;
        } else if indices.is_empty() {
            report.violations.push(Violation::Refused(stamp(*seq)));
        } else if *count > indices.len() {
            report.violations.push(Violation::Duplicate(stamp(*seq)));
        } else {
            report.violations.push(Violation::Order(stamp(*seq)));
        }
    }
    report.attempts += attempts.len() as u64;
    let acked = acked(attempts);
    report.acked += acked.len() as u64;
    report
        .violations
        .extend(acked.iter().filter(|seq| !seen.contains_key(seq)).map(|seq| Violation::Lost(stamp(*seq))));
    // What was accepted with a weaker promise goes from the end only.
    let last = attempts.iter().rposition(|(seq, end)| *end != End::Fail && seen.contains_key(seq)).unwrap_or(0);
    let gaps =
        attempts[..last.min(attempts.len())].iter().filter(|(seq, end)| *end == End::Weak && !seen.contains_key(seq));
    report
        .violations
        .extend(gaps.map(|(seq, _)| Violation::Gap { missing: stamp(*seq), present: stamp(attempts[last].0) }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts as `seq` + how it ended (`+` ok, `~` weak, `-` refused, `?` open); what was read.
    fn check(attempts: &str, read: &[u64], copies: Copies) -> Vec<Violation> {
        let history = History::new();
        for word in attempts.split_whitespace() {
            let (seq, end) = word.split_at(word.len() - 1);
            let stamp = Stamp::new("c", seq.parse().unwrap());
            history.invoke(&stamp);
            match end {
                "+" => history.ok(&stamp),
                "~" => history.weak_ok(&stamp),
                "-" => history.fail(&stamp),
                _ => history.unknown(&stamp),
            }
        }
        let payloads: Vec<Vec<u8>> = read.iter().map(|seq| Stamp::new("c", *seq).payload(0)).collect();
        history.check(payloads.iter().map(Vec::as_slice), copies).violations
    }

    fn stamp(seq: u64) -> Stamp {
        Stamp::new("c", seq)
    }

    #[test]
    fn good_histories_pass() {
        for (attempts, read) in [
            ("", &[][..]),
            ("1+ 2+ 3+", &[1, 2, 3]),
            ("1+ 2- 3+", &[1, 3]),
            ("1+ 2? 3+", &[1, 3]),
            ("1+ 2? 3+", &[1, 2, 3]),
            ("1? 2? 1+ 2+", &[1, 2, 1, 2]),
            ("1? 2+ 1+", &[2, 1]),
            ("1? 2+ 1+", &[1, 2]),
            ("1+ 2~ 3~", &[1, 2]),
        ] {
            assert_eq!(check(attempts, read, Copies::PerAttempt), [], "{attempts} {read:?}");
        }
        assert_eq!(check("1+ 2+ 3+", &[1, 2, 1, 2, 3], Copies::Any), []);
    }

    #[test]
    fn each_violation_is_found() {
        use Violation::{Duplicate, Gap, Lost, Order, Phantom, Refused};
        for (attempts, read, expected) in [
            ("1+ 2+", &[1][..], Lost(stamp(2))),
            ("1? 1+", &[], Lost(stamp(1))),
            ("1+ 2+", &[2, 1], Order(stamp(1))),
            ("1+ 2+", &[1, 1, 2], Duplicate(stamp(1))),
            ("1+ 2-", &[1, 2], Refused(stamp(2))),
            ("1+", &[1, 9], Phantom(stamp(9))),
            ("1~ 2~ 3+", &[1, 3], Gap { missing: stamp(2), present: stamp(3) }),
        ] {
            assert_eq!(check(attempts, read, Copies::PerAttempt), [expected], "{attempts} {read:?}");
        }
        assert_eq!(check("1+ 2+", &[2, 1, 2], Copies::Any), [Order(stamp(1))]);
    }

    #[test]
    fn what_was_released_may_be_there_or_not() {
        let history = History::new();
        for seq in 1..=3 {
            history.invoke(&stamp(seq));
            history.ok(&stamp(seq));
        }
        history.release("c", 3);
        let payloads: Vec<_> = (1..=3).map(|seq| stamp(seq).payload(0)).collect();
        for from in 0..=3 {
            let report = history.check(payloads[from..].iter().map(Vec::as_slice), Copies::PerAttempt);
            assert_eq!(report.violations.is_empty(), from < 3, "from {from}: {report}");
            history.settle(payloads[2..].iter().map(Vec::as_slice));
        }
    }

    #[test]
    fn a_payload_that_was_changed_is_found() {
        for len in [0, 100] {
            let good = Stamp::new("sensor-7", 42).payload(len);
            assert_eq!(Stamp::parse(&good), Ok(Stamp::new("sensor-7", 42)));
            assert!(good.len() >= len);
            for i in 0..good.len() {
                let mut bad = good.clone();
                bad[i] ^= 1;
                assert!(Stamp::parse(&bad).is_err(), "byte {i} of {len}");
            }
        }
        assert!(matches!(Stamp::parse(b"hello"), Err(StampError::Form { .. })));
        let history = History::new();
        assert!(matches!(history.check([&b"x"[..]], Copies::Any).violations[..], [Violation::Corrupt(_)]));
        let foreign = Stamp::new("other", 1);
        let report = history.check([foreign.payload(0).as_slice()], Copies::Any);
        assert_eq!(report.violations, [Violation::Phantom(foreign)]);
    }

    #[test]
    fn what_a_recovery_found_stays_and_what_it_did_not_find_stays_away() {
        let history = History::new();
        for seq in [1, 2] {
            history.invoke(&stamp(seq));
        }
        let first = stamp(1).payload(0);
        history.settle([first.as_slice()]);
        assert_eq!(history.check([], Copies::PerAttempt).violations, [Violation::Lost(stamp(1))]);
        let second = stamp(2).payload(0);
        let report = history.check([first.as_slice(), second.as_slice()], Copies::PerAttempt);
        assert_eq!(report.violations, [Violation::Refused(stamp(2))]);
    }

    #[test]
    fn what_a_recovery_did_not_find_may_be_published_again_where_it_is_only_kept() {
        let history = History::new();
        for seq in [1, 2] {
            history.invoke(&stamp(seq));
        }
        let (first, second) = (stamp(1).payload(0), stamp(2).payload(0));
        history.keep([first.as_slice()]);
        assert_eq!(history.check([], Copies::PerAttempt).violations, [Violation::Lost(stamp(1))]);
        // At QoS 2 a repeat is no second attempt.
        let report = history.check([first.as_slice(), second.as_slice()], Copies::PerAttempt);
        assert_eq!(report.violations, []);
        history.keep([first.as_slice(), second.as_slice()]);
        assert_eq!(history.check([first.as_slice()], Copies::PerAttempt).violations, [Violation::Lost(stamp(2))]);
    }
}

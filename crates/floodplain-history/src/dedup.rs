//! Which messages repeat an earlier one, by an id that their sender gave them.
//!
//! A message repeats another if the log has, before it in the same partition, one of the same binding, device and id
//! that was received at most the window of the binding earlier. Whether that one was a repeat itself makes no difference,
//! so the answer depends on the records of the last window alone: whoever has read them, from wherever he began, says the same.
//! The newest [`IDS_MAX`] ids of a partition count; so does whoever reads them again.
//!
//! A log that does not keep append units whole (`floodplain_log::Log::keeps_units_whole`) may have a message twice under one dedup id
//! (header `fp.x`), since its writer cannot know whether it is there. On such a log every message with one is looked for under
//! it, whatever bindings there are: it repeats one of the same record key and dedup id of the last [`WINDOW`].

use floodplain_decode::Row;
use floodplain_log::MessageRef;
use floodplain_types::{Position, Timestamp};
use std::{collections::BTreeMap, time::Duration};
use twox_hash::XxHash3_128;

/// Ids that are known of a partition, about 8 MiB; when there are more, the oldest go.
pub const IDS_MAX: usize = 65_536;
/// How long an id is known if the binding does not say it, and how long a dedup id of the log is: longer than a client that lost its
/// connection mostly takes to come back and send again. What comes later is a second row.
pub const WINDOW: Duration = Duration::from_secs(600);
/// And at most: so much of the log is read again at a start, and at each change of bindings.
pub const WINDOW_MAX: Duration = Duration::from_secs(3600);
/// Longest name of a property or a field.
pub(crate) const NAME_BYTES_MAX: usize = 256;

/// How repeats are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedup {
    pub id: Id,
    /// Of the times at which messages were received.
    pub window: Duration,
}

/// Where the id is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    /// A user property of the message; of several of one name the first.
    Property(String),
    /// A field of each row of the payload.
    Field(String),
}

impl Dedup {
    /// The id of a whole message.
    #[must_use]
    pub fn of_message<'m>(&self, message: &MessageRef<'m>) -> Option<&'m str> {
        let Id::Property(wanted) = &self.id else { return None };
        message.user_properties().find_map(|(name, value)| (name == wanted).then_some(value))
    }

    /// Writes the id of a row as JSON; false if it has none.
    pub fn of_row(&self, row: &Row<'_>, out: &mut String) -> bool {
        let Id::Field(wanted) = &self.id else { return false };
        let field = row.fields().find(|field| field.name == wanted);
        field.inspect(|field| field.value.write_json(out)).is_some()
    }

    /// Whether rows have ids, and not messages.
    #[must_use]
    pub const fn is_of_rows(&self) -> bool {
        matches!(self.id, Id::Field(_))
    }
}

/// The newest ids of a partition, as hashes of 128 bits.
#[derive(Debug)]
pub(crate) struct RecentIds {
    ids_max: usize,
    /// Older ones repeat nothing.
    kept: Duration,
    ids: BTreeMap<u128, Seen>,
    /// By the count of their newest message, oldest first.
    by_age: BTreeMap<u64, u128>,
    count: u64,
    forgotten: u64,
}

/// The newest message of an id.
#[derive(Debug, Clone, Copy)]
struct Seen {
    count: u64,
    position: Position,
    received: Timestamp,
    is_repeat: bool,
}

/// A message whose id, or ids, are looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sighting<'a> {
    pub(crate) binding: &'a str,
    pub(crate) window: Duration,
    pub(crate) position: Position,
    pub(crate) received: Timestamp,
}

impl RecentIds {
    /// None yet. They are forgotten when there are more than `ids_max`, and when they are older than `kept`.
    pub(crate) const fn new(ids_max: usize, kept: Duration) -> Self {
        Self { ids_max, kept, ids: BTreeMap::new(), by_age: BTreeMap::new(), count: 0, forgotten: 0 }
    }

    /// Whether an earlier message had this id, which is known from now on. Rows of one message do not repeat each other, and
    /// a message that is seen a second time is answered as the first time.
    pub(crate) fn is_repeat(&mut self, message: &Sighting<'_>, device: impl AsRef<[u8]>, id: &[u8]) -> bool {
        let Sighting { binding, window, position, received } = *message;
        let id = hash(binding, device.as_ref(), id);
        let known = self.ids.get(&id).copied();
        if let Some(known) = known.filter(|known| known.position >= position) {
            return known.position == position && known.is_repeat;
        }
        // A clock that was set back makes no id younger than it is.
        let is_near = |known: &Seen| u128::from(received.0.abs_diff(known.received.0)) <= window.as_nanos();
        let is_repeat = known.as_ref().is_some_and(is_near);
        self.count += 1;
        let count = self.count;
        if let Some(known) = self.ids.insert(id, Seen { count, position, received, is_repeat }) {
            self.by_age.remove(&known.count);
        }
        self.by_age.insert(count, id);
        self.forget(received);
        is_repeat
    }

    fn forget(&mut self, now: Timestamp) {
        while let Some((_, oldest)) = self.by_age.first_key_value() {
            let is_old = self.ids.get(oldest).is_none_or(|seen| now.since(seen.received) > self.kept);
            if !is_old && self.ids.len() <= self.ids_max {
                return;
            }
            self.forgotten += u64::from(!is_old);
            self.ids.remove(oldest);
            self.by_age.pop_first();
        }
    }

    /// How many ids went before their time since the last call, because there were too many.
    pub(crate) const fn take_forgotten(&mut self) -> u64 {
        std::mem::replace(&mut self.forgotten, 0)
    }
}

/// Lengths go first, so that no two ids are one text.
fn hash(binding: &str, device: &[u8], id: &[u8]) -> u128 {
    let mut text = Vec::with_capacity(16 + binding.len() + device.len() + id.len());
    for part in [binding.as_bytes(), device] {
        text.extend_from_slice(&(part.len() as u64).to_le_bytes());
        text.extend_from_slice(part);
    }
    text.extend_from_slice(id);
    XxHash3_128::oneshot(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(offset: u64, second: i64) -> Sighting<'static> {
        let (position, received) = (Position::new(0, offset), Timestamp::from_millis(second * 1000));
        Sighting { binding: "b", window: Duration::from_secs(60), position, received }
    }

    fn ids(ids_max: usize) -> RecentIds {
        RecentIds::new(ids_max, Duration::from_secs(60))
    }

    #[test]
    fn an_id_is_known_for_as_long_as_the_window() {
        let mut ids = ids(10);
        assert!(!ids.is_repeat(&at(0, 0), "d", b"1"));
        assert!(ids.is_repeat(&at(1, 60), "d", b"1"), "at the end of the window");
        assert!(ids.is_repeat(&at(2, 120), "d", b"1"), "counted from the last one that came");
        assert!(!ids.is_repeat(&at(3, 181), "d", b"1"), "behind it");
        assert!(!ids.is_repeat(&at(4, 181), "e", b"1"), "another device");
        assert!(!ids.is_repeat(&Sighting { binding: "c", ..at(5, 181) }, "d", b"1"), "another binding");
        assert!(ids.is_repeat(&at(6, 150), "d", b"1"), "a clock that was set back a little");
        assert!(!ids.is_repeat(&at(7, 10), "e", b"1"), "and by more than the window");
    }

    #[test]
    fn rows_of_one_message_do_not_repeat_each_other() {
        let mut ids = ids(10);
        let both = |ids: &mut RecentIds, message| [(); 2].map(|()| ids.is_repeat(&message, "d", b"1"));
        assert_eq!(both(&mut ids, at(0, 0)), [false, false]);
        assert_eq!(both(&mut ids, at(1, 0)), [true, true]);
        assert_eq!(both(&mut ids, at(1, 0)), [true, true], "decoded a second time");
        assert!(!ids.is_repeat(&at(0, 0), "d", b"1"), "an older one knows nothing of a younger");
    }

    #[test]
    fn when_there_are_too_many_the_oldest_go_and_are_counted() {
        let mut ids = ids(2);
        for (offset, id) in [(0, "1"), (1, "2"), (2, "1"), (3, "3")] {
            ids.is_repeat(&at(offset, 0), "d", id.as_bytes());
        }
        assert_eq!((ids.take_forgotten(), ids.take_forgotten(), ids.ids.len()), (1, 0, 2));
        assert!(ids.is_repeat(&at(4, 0), "d", b"1"), "it came again");
        assert!(!ids.is_repeat(&at(5, 0), "d", b"2"), "it has gone");
        assert!(!ids.is_repeat(&at(6, 1000), "d", b"4"));
        assert_eq!(
            (ids.take_forgotten(), ids.ids.len(), ids.by_age.len()),
            (1, 1, 1),
            "what is too old is not counted"
        );
    }

    #[test]
    fn no_two_ids_are_one_text() {
        assert_ne!(hash("a", b"bc", b"d"), hash("ab", b"c", b"d"));
        assert_ne!(hash("a", b"b", b"cd"), hash("a", b"bc", b"d"));
    }

    proptest! {
        /// Whoever begins to read a window earlier says the same as who has read all.
        #[test]
        fn what_came_before_the_window_changes_no_answer(
            ids_seen in prop::collection::vec((0..6_u8, 0..25_i64), 1..80),
            ids_max in 1..8_usize,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut second = 0;
            let messages: Vec<(u8, Sighting<'_>)> = (0..).zip(ids_seen).map(|(offset, (id, step))| {
                second += step;
                (id, at(offset, second))
            }).collect();
            let cut = cut.index(messages.len());
            let oldest = messages[cut].1.received.0 - 60_000_000_000;
            let (mut whole, mut part) = (ids(ids_max), ids(ids_max));
            for (at, (id, message)) in messages.iter().enumerate() {
                let expected = whole.is_repeat(message, "d", &[*id]);
                if message.received.0 >= oldest {
                    let found = part.is_repeat(message, "d", &[*id]);
                    prop_assert!(at < cut || found == expected, "message {at}");
                }
            }
        }
    }
}

//! Presence: who is connected, and since when. A fold over `requests`.

use super::{Close, CloseReason, Event, Gone, RunId};
use floodplain_fold::{
    Copying, Fold, Input, Outputs, RestoreError, StateHash,
    wire::{Get, Put, WireError},
};
use floodplain_types::{ClientId, Position, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

/// How long a client that is gone is remembered, in log time. As long as the log keeps messages by
/// default: afterwards nothing tells of it any more.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Clients that one record may let forget, so that no step is long: far more than one record adds.
const FORGOTTEN_MAX: usize = 64;

/// Clients that are gone and remembered in one partition; beyond that the one that is gone longest is forgotten.
const GONE_MAX: usize = 65_536;

/// What is known of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// The position of the newest Open.
    pub epoch: Position,
    pub is_connected: bool,
    /// Log time of the last change.
    pub since: Timestamp,
    /// Why the last connection has ended; `None` while there is one.
    pub closed: Option<CloseReason>,
    /// Address of the newest connection.
    pub peer: Box<str>,
    pub protocol_level: u8,
    pub keep_alive_s: u16,
    run: RunId,
    /// A hash of the dedup id of the newest Open, 0 if it has none: a log may double it, and its first position is the
    /// epoch that its Close names.
    opened: u64,
}

/// The clients of one partition of `requests`.
#[derive(Debug, Default)]
pub struct PresenceFold {
    clients: BTreeMap<ClientId, Presence>,
    /// Who is gone, by the time since when.
    gone: BTreeSet<(Timestamp, ClientId)>,
    /// Work of the record that was applied last.
    ending: Option<Ending>,
    /// A copy that is being made; no part of the state.
    copy: Option<Copying<ClientId>>,
}

impl Presence {
    fn put(&self, out: &mut Vec<u8>, client: &ClientId) {
        let Self { epoch, is_connected, since, closed, peer, protocol_level, keep_alive_s, run, opened } = self;
        out.put_str(client.as_str());
        out.put_position(*epoch);
        out.put_bool(*is_connected);
        out.put_time(*since);
        out.put_option(*closed, |out, reason| out.put_byte(reason.code()));
        out.put_str(peer);
        out.put_byte(*protocol_level);
        out.put_u64(u64::from(*keep_alive_s));
        out.put_u64(run.0);
        out.extend_from_slice(&opened.to_le_bytes());
    }
}

/// Connections of some runs end. Done up to a client.
#[derive(Debug)]
struct Ending {
    gone: Gone,
    now: Timestamp,
    done: Option<ClientId>,
}

impl PresenceFold {
    /// What is known of a client: nothing if it was never here, or is gone for a week.
    #[must_use]
    pub fn get(&self, client: &str) -> Option<&Presence> {
        self.clients.get(client)
    }

    /// All that is known, by client.
    pub fn iter(&self) -> impl Iterator<Item = (&ClientId, &Presence)> {
        self.clients.iter()
    }

    /// The clients behind `after`, or all, by client.
    pub fn after(&self, after: Option<&str>) -> impl Iterator<Item = (&ClientId, &Presence)> {
        self.clients.range::<str, _>((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// How many clients are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.clients.len() - self.gone.len()
    }

    fn close(&mut self, client: &ClientId, close: &Close, now: Timestamp) {
        if self.clients.get(client).is_some_and(|presence| presence.epoch == close.epoch) {
            self.end(client, close.reason, now);
        }
    }

    /// What is known of `client` is about to change, to come or to go.
    fn touch(&mut self, client: &ClientId) {
        if let Some(copy) = &mut self.copy {
            let presence = self.clients.get(client);
            let entry = presence.map(|presence| |out: &mut Vec<u8>| presence.put(out, client));
            copy.touch(client, || client.clone(), entry);
        }
    }

    fn end(&mut self, client: &ClientId, reason: CloseReason, now: Timestamp) {
        self.touch(client);
        if let Some(presence) = self.clients.get_mut(client).filter(|presence| presence.is_connected) {
            presence.is_connected = false;
            presence.since = now;
            presence.closed = Some(reason);
            self.gone.insert((now, client.clone()));
        }
    }

    fn end_gone(&mut self, Ending { gone, now, mut done }: Ending, out: &mut Outputs) {
        loop {
            let from = done.clone().map_or(Bound::Unbounded, Bound::Excluded);
            let mut clients = self.clients.range::<ClientId, _>((from, Bound::Unbounded));
            let lost = loop {
                let Some((client, presence)) = clients.next() else { return };
                if !out.spend() {
                    self.ending = Some(Ending { gone, now, done });
                    return;
                }
                done = Some(client.clone());
                if presence.is_connected && gone.has(presence.run) {
                    break client.clone();
                }
            };
            self.end(&lost, CloseReason::ServerDied, now);
        }
    }

    /// Ends what was remembered long enough; part of every record, so no tick is needed for it.
    fn forget(&mut self, now: Timestamp) {
        let is_over = |gone: &BTreeSet<(Timestamp, ClientId)>| {
            gone.len() > GONE_MAX || gone.first().is_some_and(|(since, _)| *since + REMEMBERED <= now)
        };
        for _ in 0..FORGOTTEN_MAX {
            if !is_over(&self.gone) {
                return;
            }
            if let Some((_, client)) = self.gone.pop_first() {
                self.touch(&client);
                self.clients.remove(&client);
            }
        }
    }
}

impl Fold for PresenceFold {
    const NAME: &'static str = "presence";
    const FORMAT: u16 = 2;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, out: &mut Outputs) {
        let now = input.log_time;
        self.forget(now);
        let Ok(event) = Event::decode(input.record.value.unwrap_or_default()) else { return };
        let key = input.record.key.and_then(|key| std::str::from_utf8(key).ok());
        let client = key.and_then(|key| ClientId::new(key).ok());
        match (event, client) {
            (Event::Open(open), Some(client)) => {
                let opened = input.dedup_id().map_or(0, |id| StateHash::of(id).0 as u64);
                if let Some(old) = self.clients.get(&client) {
                    if opened != 0 && old.opened == opened {
                        return;
                    }
                    if !old.is_connected {
                        self.gone.remove(&(old.since, client.clone()));
                    }
                }
                let presence = Presence {
                    epoch: input.position,
                    is_connected: true,
                    since: now,
                    closed: None,
                    peer: open.peer.into(),
                    protocol_level: open.protocol_level,
                    keep_alive_s: open.keep_alive_s,
                    run: open.run,
                    opened,
                };
                self.touch(&client);
                self.clients.insert(client, presence);
            }
            (Event::Close(close), Some(client)) => self.close(&client, &close, now),
            (Event::ServerStart { run }, _) => self.end_gone(Ending { gone: Gone::Others(run), now, done: None }, out),
            (Event::NodeDied { run }, _) => self.end_gone(Ending { gone: Gone::Run(run), now, done: None }, out),
            _ => {}
        }
    }

    fn has_more(&self) -> bool {
        self.ending.is_some()
    }

    fn go_on(&mut self, out: &mut Outputs) {
        if let Some(ending) = self.ending.take() {
            self.end_gone(ending, out);
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.clients.len() as u64);
        self.clients.iter().for_each(|(client, presence)| presence.put(out, client));
    }

    fn begin_copy(&mut self) {
        let mut head = Vec::new();
        head.put_u64(self.clients.len() as u64);
        self.copy = Some(Copying::new(head));
    }

    fn copy_part(&mut self, out: &mut Vec<u8>, max_len: usize) -> bool {
        let Some(copy) = &mut self.copy else { return true };
        let from = |from: Bound<&ClientId>| self.clients.range::<ClientId, _>((from, Bound::Unbounded));
        let is_done = copy.part(from, |out, client, presence| presence.put(out, client), out, max_len);
        if is_done {
            self.copy = None;
        }
        is_done
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if !(1..=Self::FORMAT).contains(&format) {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        *self = Self::default();
        let mut get = Get::new(bytes);
        for _ in 0..get.count()? {
            let client = ClientId::new(get.str()?).map_err(|_| WireError::Invalid("client id"))?;
            let mut presence = Presence {
                epoch: get.position()?,
                is_connected: get.bool()?,
                since: get.time()?,
                closed: get.option(|get| CloseReason::from_code(get.byte()?))?,
                peer: get.str()?.into(),
                protocol_level: get.byte()?,
                keep_alive_s: get.u16()?,
                run: RunId(get.u64()?),
                opened: 0,
            };
            if format >= 2 {
                let mut opened = [0; 8];
                for byte in &mut opened {
                    *byte = get.byte()?;
                }
                presence.opened = u64::from_le_bytes(opened);
            }
            if !presence.is_connected {
                self.gone.insert((presence.since, client.clone()));
            }
            self.clients.insert(client, presence);
        }
        Ok(get.end()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folds::{
        Close, Open, Progress,
        feed::{Feed, seconds},
    };

    fn open(run: u64) -> Event {
        Event::Open(Box::new(Open {
            run: RunId(run),
            takes_over: false,
            protocol_level: 5,
            clean_start: true,
            session_expiry_s: 0,
            keep_alive_s: 30,
            peer: "10.0.0.1:9".to_owned(),
            will: None,
        }))
    }

    fn close(epoch: Position, reason: CloseReason) -> Event {
        let progress = Progress::default();
        Event::Close(Box::new(Close { epoch, reason, fires_will: true, session_expiry_s: None, progress }))
    }

    /// A log may write an append twice: the copy is a little later, and means nothing.
    #[test]
    fn an_open_that_the_log_has_doubled_ends_with_its_close() {
        let mut feed = Feed::<PresenceFold>::default();
        let (epoch, _) = feed.event_with_id(1, "a", &open(7), Some("w:1"));
        feed.event_with_id(1, "a", &open(7), Some("w:1"));
        assert_eq!(feed.fold.get("a").unwrap().epoch, epoch);
        let mut restored = Feed::<PresenceFold> { next: feed.next, ..Feed::default() };
        restored.fold.restore(PresenceFold::FORMAT, &feed.bytes()).unwrap();
        for feed in [&mut feed, &mut restored] {
            feed.event_with_id(1, "a", &open(7), Some("w:1"));
            feed.event_with_id(2, "a", &close(epoch, CloseReason::Disconnect), Some("w:2"));
            assert!(!feed.fold.get("a").unwrap().is_connected);
            feed.event_with_id(3, "a", &open(7), Some("w:3"));
            assert!(feed.fold.get("a").unwrap().is_connected, "another one");
        }
    }

    /// Format 1 has no dedup ids.
    #[test]
    fn snapshots_of_format_1_are_read() {
        let mut feed = Feed::<PresenceFold>::default();
        feed.event(1, "a", &open(7));
        let mut bytes = feed.bytes();
        assert_eq!(bytes.split_off(bytes.len() - 8), [0; 8]);
        let mut restored = Feed::<PresenceFold>::default();
        restored.fold.restore(1, &bytes).unwrap();
        assert_eq!(restored.bytes(), feed.bytes());
        assert!(restored.fold.restore(PresenceFold::FORMAT, &bytes).is_err());
        assert!(restored.fold.restore(PresenceFold::FORMAT + 1, &bytes).is_err());
    }

    #[test]
    fn presence_follows_the_connections() {
        let mut feed = Feed::<PresenceFold>::default();
        let (first, _) = feed.event(1, "a", &open(7));
        let (second, _) = feed.event(2, "a", &open(7));
        feed.event(2, "b", &open(8));
        feed.event(3, "a", &close(first, CloseReason::TakenOver));
        assert!(feed.fold.get("a").unwrap().is_connected, "the older connection's end means nothing");
        feed.event(4, "a", &close(second, CloseReason::KeepAlive));
        let gone = feed.fold.get("a").unwrap();
        assert_eq!((gone.since, gone.closed, &*gone.peer), (seconds(4), Some(CloseReason::KeepAlive), "10.0.0.1:9"));
        assert_eq!(feed.fold.connected(), 1);
        feed.event(5, "", &Event::ServerStart { run: RunId(9) });
        assert_eq!(feed.fold.get("b").unwrap().closed, Some(CloseReason::ServerDied));
        feed.event(6, "a", &open(9));
        assert_eq!((feed.fold.connected(), feed.fold.iter().count()), (1, 2));
        let mut restored = Feed::<PresenceFold>::default();
        restored.fold.restore(PresenceFold::FORMAT, &feed.bytes()).unwrap();
        assert_eq!((restored.bytes(), restored.fold.connected()), (feed.bytes(), 1));
        let week = i64::try_from(REMEMBERED.as_secs()).unwrap();
        feed.event(4 + week, "", &Event::Tick);
        assert_eq!(feed.fold.iter().count(), 2);
        feed.event(5 + week, "", &Event::Tick);
        assert!(feed.fold.get("b").is_none() && feed.fold.get("a").is_some(), "who is connected is not forgotten");
    }
}

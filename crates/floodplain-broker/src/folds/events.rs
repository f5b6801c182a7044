//! What stream `requests` holds: the events that session state is made of.
//!
//! The key of a record is the client id, so all events of a client are in one partition, in
//! order. [`Event::Tick`], and what is said of servers, is for a whole partition and has no key.
//! The value is one of the forms below; `docs/formats/requests.md` has the bytes.

#[cfg(test)]
mod tests;

use super::{Letter, Lost, Positions};
use bytes::Bytes;
use floodplain_fold::wire::WireError;
use floodplain_types::{Position, Topic, TopicFilter};

/// One run of the server process, chosen at random when it starts: tells the sessions that are
/// open now from those that were open when an earlier run died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u64);

/// Whose connections are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Those of all runs but this one.
    Others(RunId),
    /// Those of this run.
    Run(RunId),
}

impl Gone {
    pub(crate) fn has(self, run: RunId) -> bool {
        match self {
            Self::Others(lives) => run != lives,
            Self::Run(died) => run == died,
        }
    }
}

/// The session expiry interval that means never (MQTT 5.0 §3.1.2.11.2).
pub const NEVER_EXPIRES: u32 = u32::MAX;

/// Something that changes session state.
///
/// Events of a session carry its epoch, the position of its [`Event::Open`]; those of an older
/// epoch change nothing, so a connection that was taken over can do no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client has connected. The position of this record is the epoch. Also ends the client's
    /// earlier connection, if there is one: no [`Event::Close`] is written for a takeover.
    Open(Box<Open>),
    /// Filters were subscribed to.
    Subscribe {
        epoch: Position,
        subscriptions: Vec<Subscription>,
        /// Of each data partition the first position that these subscriptions see. A filter that
        /// was there already keeps its own.
        start: Positions,
    },
    /// Filters were given up.
    Unsubscribe { epoch: Position, filters: Vec<TopicFilter> },
    /// What the client has been given.
    Progress { epoch: Position, progress: Progress },
    /// A QoS 2 PUBLISH with this packet identifier was taken. Its message is in the same append unit; or it is apart, comes
    /// after this was committed, and has the dedup id of this record.
    Received { epoch: Position, packet_id: u16, is_apart: bool },
    /// PUBREL came for this packet identifier: the client may use it for a new message.
    Released { epoch: Position, packet_id: u16 },
    /// The connection has ended.
    Close(Box<Close>),
    /// Time has passed.
    Tick,
    /// The server has started: connections of other runs are gone. Where servers share the log none says this, see
    /// [`Event::NodeDied`].
    ServerStart { run: RunId },
    /// This server lives. Changes nothing: whoever reads no more of these says [`Event::NodeDied`].
    NodeAlive { run: RunId },
    /// This server is gone, and with it its connections of before this record.
    NodeDied { run: RunId },
    /// The index of what waits has given up messages: those sessions that needed them are told in `dlq`.
    Lost {
        /// Index of the partition among all data partitions.
        partition: u32,
        lost: Lost,
    },
    /// What still waited for a session when it ended was found: the end of [`super::Ended`].
    Buried { epoch: Position, letters: Vec<Letter> },
}

/// A client has connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub run: RunId,
    /// Protocol level of CONNECT: 3 (MQIsdp), 4 (3.1.1) or 5.
    pub protocol_level: u8,
    /// The client was connected, and that connection ends with this. For people: the fold sees it by itself.
    pub takes_over: bool,
    /// Drop what is stored (Clean Start, or clean session in 3.1.1).
    pub clean_start: bool,
    /// How long the session lives without a connection, in seconds: 0 ends it with the
    /// connection, [`NEVER_EXPIRES`] keeps it. 3.1.1 clients have 0 or the server's maximum.
    pub session_expiry_s: u32,
    pub keep_alive_s: u16,
    /// Address of the client as text.
    pub peer: String,
    pub will: Option<Will>,
}

/// The message that tells of a client's death (MQTT 5.0 §3.1.2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    pub topic: Topic,
    pub payload: Bytes,
    pub qos: u8,
    pub retain: bool,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
    pub expiry_s: Option<u32>,
    pub payload_format: Option<u8>,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation: Option<Bytes>,
    pub user_properties: Vec<(String, String)>,
    /// Number of the data stream that takes it, as bindings had it when the client connected.
    pub stream: u32,
}

/// A filter with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub filter: TopicFilter,
    /// The QoS that was granted.
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// Subscription Identifier, 1 to 268,435,455.
    pub id: Option<u32>,
    /// Retained messages are due, until [`Progress::retained`] says that all are sent.
    pub retained_due: bool,
}

/// What a client has been given since the last event, or in all: both are right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// By data partition; those that are not named stay as they are.
    pub partitions: Vec<PartitionProgress>,
    /// By packet identifier: the new state of an outbound message, or none when it is done.
    /// Identifiers that are not named stay as they are.
    pub outbound: Vec<(u16, Option<Outbound>)>,
    /// Of filters whose retained messages are due: the topic up to which they are sent, which is to say named in
    /// `outbound` here or before; none when all are.
    pub retained: Vec<(TopicFilter, Option<String>)>,
    /// What the client does not get although it is done.
    pub letters: Vec<Letter>,
}

/// How far a session is in one data partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionProgress {
    /// Its index among all: see [`floodplain_log::DataStreams`]. So everywhere in events.
    pub partition: u32,
    /// Everything before this position is done. Never goes back.
    pub cursor: Position,
    /// What is done at or after the cursor, sorted; replaces what was known.
    pub done: Vec<Position>,
}

/// A message that was sent under a packet identifier and is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outbound {
    pub partition: u32,
    pub position: Position,
    pub state: OutboundState,
}

/// What the client owes for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundState {
    /// QoS 1 PUBLISH was sent. May be written late or never: a repeat is allowed.
    AwaitsPuback,
    /// QoS 2 PUBLISH was sent. Written before it is.
    AwaitsPubrec,
    /// PUBREL was sent. Written before it is.
    AwaitsPubcomp,
}

/// A connection has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    pub epoch: Position,
    pub reason: CloseReason,
    /// Whether there is a will that is to be sent (after its delay): only DISCONNECT 0x00, and any
    /// DISCONNECT of 3.1.1, make it void [MQTT-3.14.4-3; 3:3.14.4-3].
    pub fires_will: bool,
    /// The new Session Expiry Interval of DISCONNECT. Not from zero (MQTT 5.0 §3.14.2.2.2).
    pub session_expiry_s: Option<u32>,
    pub progress: Progress,
}

/// Why a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client sent DISCONNECT.
    Disconnect,
    /// The socket was closed or broke.
    ConnectionLost,
    /// Nothing came for 1.5 times the keep-alive.
    KeepAlive,
    /// The client broke the protocol.
    ProtocolError,
    /// Removed by an operator, a limit or a policy.
    Administrative,
    /// The server stopped in order.
    ServerStop,
    /// The server died; found at its next start.
    ServerDied,
    /// The same client connected again.
    TakenOver,
}

impl CloseReason {
    /// The number that is stored.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Disconnect => 0,
            Self::ConnectionLost => 1,
            Self::KeepAlive => 2,
            Self::ProtocolError => 3,
            Self::Administrative => 4,
            Self::ServerStop => 5,
            Self::ServerDied => 6,
            Self::TakenOver => 7,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, WireError> {
        let all = [
            Self::Disconnect,
            Self::ConnectionLost,
            Self::KeepAlive,
            Self::ProtocolError,
            Self::Administrative,
            Self::ServerStop,
            Self::ServerDied,
            Self::TakenOver,
        ];
        let found = all.into_iter().find(|reason| reason.code() == code);
        found.ok_or(WireError::Unknown { what: "close reason", value: u64::from(code) })
    }
}

impl Event {
    /// The value of the record, in the newest form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        v1::encode(self)
    }

    /// Reads the value of a record, in any form that was ever shipped.
    ///
    /// # Errors
    /// [`WireError`] for a newer form or damaged bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        match bytes.split_first() {
            Some((&v1::VERSION, body)) => v1::decode(body),
            Some((version, _)) => {
                Err(WireError::Unknown { what: "version of a session event", value: u64::from(*version) })
            }
            None => Err(WireError::Short),
        }
    }
}

pub(crate) mod v1 {
    //! The first stored form. Its bytes are fixed: change them by adding `mod v2`.

    use super::{
        Close, CloseReason, Event, Open, Outbound, OutboundState, PartitionProgress, Progress, RunId, Subscription,
        Will,
    };
    use crate::folds::{Letter, Lost, LostReason, Positions};
    use bytes::Bytes;
    use floodplain_fold::wire::{Get, Put, WireError};
    use floodplain_types::{Topic, TopicFilter};

    pub(crate) const VERSION: u8 = 1;

    const OPEN: u8 = 1;
    const SUBSCRIBE: u8 = 2;
    const UNSUBSCRIBE: u8 = 3;
    const PROGRESS: u8 = 4;
    const RECEIVED: u8 = 5;
    const RELEASED: u8 = 6;
    const CLOSE: u8 = 7;
    const TICK: u8 = 8;
    const SERVER_START: u8 = 9;
    const PROGRESS_RETAINED: u8 = 10;
    const CLOSE_RETAINED: u8 = 11;
    const PROGRESS_LETTERS: u8 = 12;
    const CLOSE_LETTERS: u8 = 13;
    const LOST: u8 = 14;
    const BURIED: u8 = 15;
    const OPEN_TAKEOVER: u8 = 16;
    const RECEIVED_APART: u8 = 17;
    const NODE_ALIVE: u8 = 18;
    const NODE_DIED: u8 = 19;

    pub(crate) fn encode(event: &Event) -> Vec<u8> {
        let mut out = vec![VERSION];
        match event {
            Event::Open(open) => {
                out.put_byte(if open.takes_over { OPEN_TAKEOVER } else { OPEN });
                put_open(&mut out, open);
            }
            Event::Subscribe { epoch, subscriptions, start } => {
                out.put_byte(SUBSCRIBE);
                out.put_position(*epoch);
                out.put_u64(subscriptions.len() as u64);
                for subscription in subscriptions {
                    put_subscription(&mut out, subscription);
                }
                start.put(&mut out);
            }
            Event::Unsubscribe { epoch, filters } => {
                out.put_byte(UNSUBSCRIBE);
                out.put_position(*epoch);
                out.put_u64(filters.len() as u64);
                for filter in filters {
                    out.put_str(filter.as_str());
                }
            }
            Event::Progress { epoch, progress } => {
                out.put_byte(match Parts::of(progress) {
                    Parts::Plain => PROGRESS,
                    Parts::Retained => PROGRESS_RETAINED,
                    Parts::Letters => PROGRESS_LETTERS,
                });
                out.put_position(*epoch);
                put_progress(&mut out, progress);
            }
            Event::Received { epoch, packet_id, is_apart } => {
                out.put_byte(if *is_apart { RECEIVED_APART } else { RECEIVED });
                out.put_position(*epoch);
                out.put_u64(u64::from(*packet_id));
            }
            Event::Released { epoch, packet_id } => {
                out.put_byte(RELEASED);
                out.put_position(*epoch);
                out.put_u64(u64::from(*packet_id));
            }
            Event::Close(close) => {
                out.put_byte(match Parts::of(&close.progress) {
                    Parts::Plain => CLOSE,
                    Parts::Retained => CLOSE_RETAINED,
                    Parts::Letters => CLOSE_LETTERS,
                });
                put_close(&mut out, close);
            }
            Event::Tick => out.put_byte(TICK),
            Event::ServerStart { run } => {
                out.put_byte(SERVER_START);
                out.put_u64(run.0);
            }
            Event::NodeAlive { run } => {
                out.put_byte(NODE_ALIVE);
                out.put_u64(run.0);
            }
            Event::NodeDied { run } => {
                out.put_byte(NODE_DIED);
                out.put_u64(run.0);
            }
            Event::Lost { partition, lost } => {
                out.put_byte(LOST);
                out.put_u64(u64::from(*partition));
                put_lost(&mut out, lost);
            }
            Event::Buried { epoch, letters } => {
                out.put_byte(BURIED);
                out.put_position(*epoch);
                put_letters(&mut out, letters);
            }
        }
        out
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Event, WireError> {
        let mut get = Get::new(body);
        let kind = get.byte()?;
        let parts = match kind {
            PROGRESS_RETAINED | CLOSE_RETAINED => Parts::Retained,
            PROGRESS_LETTERS | CLOSE_LETTERS => Parts::Letters,
            _ => Parts::Plain,
        };
        let event = match kind {
            OPEN | OPEN_TAKEOVER => Event::Open(Box::new(take_open(&mut get, kind == OPEN_TAKEOVER)?)),
            SUBSCRIBE => Event::Subscribe {
                epoch: get.position()?,
                subscriptions: get.list(take_subscription)?,
                start: Positions::take(&mut get)?,
            },
            UNSUBSCRIBE => Event::Unsubscribe { epoch: get.position()?, filters: get.list(take_filter)? },
            PROGRESS | PROGRESS_RETAINED | PROGRESS_LETTERS => {
                Event::Progress { epoch: get.position()?, progress: take_progress(&mut get, parts)? }
            }
            RECEIVED | RECEIVED_APART => {
                let is_apart = kind == RECEIVED_APART;
                Event::Received { epoch: get.position()?, packet_id: get.u16()?, is_apart }
            }
            RELEASED => Event::Released { epoch: get.position()?, packet_id: get.u16()? },
            CLOSE | CLOSE_RETAINED | CLOSE_LETTERS => Event::Close(Box::new(take_close(&mut get, parts)?)),
            TICK => Event::Tick,
            SERVER_START => Event::ServerStart { run: RunId(get.u64()?) },
            NODE_ALIVE => Event::NodeAlive { run: RunId(get.u64()?) },
            NODE_DIED => Event::NodeDied { run: RunId(get.u64()?) },
            LOST => Event::Lost { partition: get.u32()?, lost: take_lost(&mut get)? },
            BURIED => Event::Buried { epoch: get.position()?, letters: get.list(take_letter)? },
            other => return Err(WireError::Unknown { what: "session event", value: u64::from(other) }),
        };
        get.end()?;
        Ok(event)
    }

    fn put_open(out: &mut Vec<u8>, open: &Open) {
        out.put_u64(open.run.0);
        out.put_byte(open.protocol_level);
        out.put_bool(open.clean_start);
        out.put_u64(u64::from(open.session_expiry_s));
        out.put_u64(u64::from(open.keep_alive_s));
        out.put_str(&open.peer);
        out.put_option(open.will.as_ref(), put_will);
    }

    fn take_open(get: &mut Get<'_>, takes_over: bool) -> Result<Open, WireError> {
        Ok(Open {
            takes_over,
            run: RunId(get.u64()?),
            protocol_level: get.byte()?,
            clean_start: get.bool()?,
            session_expiry_s: get.u32()?,
            keep_alive_s: get.u16()?,
            peer: get.str()?.to_owned(),
            will: get.option(take_will)?,
        })
    }

    pub(crate) fn put_will(out: &mut Vec<u8>, will: &Will) {
        out.put_str(will.topic.as_str());
        out.put_bytes(&will.payload);
        // Bit 3: the stream is at the end. Without it the bytes are those of before there were others than telemetry.
        out.put_byte(will.qos | u8::from(will.retain) << 2 | u8::from(will.stream != 0) << 3);
        out.put_u64(u64::from(will.delay_s));
        out.put_option(will.expiry_s, |out, seconds| out.put_u64(u64::from(seconds)));
        out.put_option(will.payload_format, Vec::put_byte);
        out.put_option(will.content_type.as_deref(), Vec::put_str);
        out.put_option(will.response_topic.as_deref(), Vec::put_str);
        out.put_option(will.correlation.as_deref(), Vec::put_bytes);
        out.put_u64(will.user_properties.len() as u64);
        for (name, value) in &will.user_properties {
            out.put_str(name);
            out.put_str(value);
        }
        if will.stream != 0 {
            out.put_u64(u64::from(will.stream));
        }
    }

    pub(crate) fn take_will(get: &mut Get<'_>) -> Result<Will, WireError> {
        let topic = Topic::new(get.str()?).map_err(|_| WireError::Invalid("will topic"))?;
        let payload = Bytes::copy_from_slice(get.bytes()?);
        let flags = get.byte()?;
        if flags & 3 == 3 || flags > 15 {
            return Err(WireError::Unknown { what: "will flags", value: u64::from(flags) });
        }
        let owned = |get: &mut Get<'_>| get.str().map(str::to_owned);
        Ok(Will {
            topic,
            payload,
            qos: flags & 3,
            retain: flags & 4 != 0,
            delay_s: get.u32()?,
            expiry_s: get.option(Get::u32)?,
            payload_format: get.option(Get::byte)?,
            content_type: get.option(owned)?,
            response_topic: get.option(owned)?,
            correlation: get.option(|get| get.bytes().map(Bytes::copy_from_slice))?,
            user_properties: get.list(|get| Ok((get.str()?.to_owned(), get.str()?.to_owned())))?,
            stream: if flags & 8 == 0 { 0 } else { get.u32()? },
        })
    }

    pub(crate) fn put_subscription(out: &mut Vec<u8>, subscription: &Subscription) {
        out.put_str(subscription.filter.as_str());
        out.put_byte(
            subscription.qos
                | u8::from(subscription.no_local) << 2
                | u8::from(subscription.retain_as_published) << 3
                | u8::from(subscription.id.is_some()) << 4
                | u8::from(subscription.retained_due) << 5,
        );
        if let Some(id) = subscription.id {
            out.put_u64(u64::from(id));
        }
    }

    pub(crate) fn take_subscription(get: &mut Get<'_>) -> Result<Subscription, WireError> {
        let filter = take_filter(get)?;
        let flags = get.byte()?;
        if flags & 3 == 3 || flags > 0x3f {
            return Err(WireError::Unknown { what: "subscription flags", value: u64::from(flags) });
        }
        Ok(Subscription {
            filter,
            qos: flags & 3,
            no_local: flags & 4 != 0,
            retain_as_published: flags & 8 != 0,
            id: if flags & 16 != 0 { Some(get.u32()?) } else { None },
            retained_due: flags & 32 != 0,
        })
    }

    pub(crate) fn take_filter(get: &mut Get<'_>) -> Result<TopicFilter, WireError> {
        TopicFilter::new(get.str()?).map_err(|_| WireError::Invalid("topic filter"))
    }

    fn put_progress(out: &mut Vec<u8>, progress: &Progress) {
        out.put_u64(progress.partitions.len() as u64);
        for PartitionProgress { partition, cursor, done } in &progress.partitions {
            out.put_u64(u64::from(*partition));
            out.put_position(*cursor);
            out.put_u64(done.len() as u64);
            for position in done {
                out.put_position(*position);
            }
        }
        out.put_u64(progress.outbound.len() as u64);
        for (packet_id, outbound) in &progress.outbound {
            out.put_u64(u64::from(*packet_id));
            match outbound {
                None => out.put_byte(0),
                Some(outbound) => put_outbound(out, outbound),
            }
        }
        let parts = Parts::of(progress);
        if parts >= Parts::Retained {
            out.put_u64(progress.retained.len() as u64);
            for (filter, after) in &progress.retained {
                out.put_str(filter.as_str());
                out.put_option(after.as_deref(), Vec::put_str);
            }
        }
        if parts >= Parts::Letters {
            put_letters(out, &progress.letters);
        }
    }

    /// How much of a progress there is: each has what the one before it has.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Parts {
        Plain,
        Retained,
        Letters,
    }

    impl Parts {
        const fn of(progress: &Progress) -> Self {
            match (progress.letters.is_empty(), progress.retained.is_empty()) {
                (false, _) => Self::Letters,
                (true, false) => Self::Retained,
                (true, true) => Self::Plain,
            }
        }
    }

    pub(crate) fn put_letters(out: &mut Vec<u8>, letters: &[Letter]) {
        out.put_u64(letters.len() as u64);
        for Letter { reason, partition, from, to, count } in letters {
            out.put_str(reason);
            out.put_u64(u64::from(*partition));
            out.put_position(*from);
            out.put_position(*to);
            out.put_u64(*count);
        }
    }

    pub(crate) fn take_letter(get: &mut Get<'_>) -> Result<Letter, WireError> {
        Ok(Letter {
            reason: get.str()?.into(),
            partition: get.u32()?,
            from: get.position()?,
            to: get.position()?,
            count: get.u64()?,
        })
    }

    fn put_lost(out: &mut Vec<u8>, lost: &Lost) {
        out.put_str(lost.filter.as_str());
        out.put_position(lost.first);
        out.put_position(lost.last);
        out.put_u64(lost.count);
        out.put_byte(match lost.reason {
            LostReason::QueueFull => 0,
            LostReason::Retention => 1,
            LostReason::Damage => 2,
        });
    }

    fn take_lost(get: &mut Get<'_>) -> Result<Lost, WireError> {
        Ok(Lost {
            filter: take_filter(get)?,
            first: get.position()?,
            last: get.position()?,
            count: get.u64()?,
            reason: match get.byte()? {
                0 => LostReason::QueueFull,
                1 => LostReason::Retention,
                2 => LostReason::Damage,
                other => return Err(WireError::Unknown { what: "reason of a loss", value: u64::from(other) }),
            },
        })
    }

    fn take_progress(get: &mut Get<'_>, parts: Parts) -> Result<Progress, WireError> {
        Ok(Progress {
            partitions: get.list(|get| {
                Ok(PartitionProgress { partition: get.u32()?, cursor: get.position()?, done: get.list(Get::position)? })
            })?,
            outbound: get.list(|get| Ok((get.u16()?, take_outbound(get)?)))?,
            retained: if parts >= Parts::Retained { get.list(take_retained)? } else { Vec::new() },
            letters: if parts >= Parts::Letters { get.list(take_letter)? } else { Vec::new() },
        })
    }

    fn take_retained(get: &mut Get<'_>) -> Result<(TopicFilter, Option<String>), WireError> {
        Ok((take_filter(get)?, get.option(|get| get.str().map(str::to_owned))?))
    }

    pub(crate) fn put_outbound(out: &mut Vec<u8>, outbound: &Outbound) {
        out.put_byte(match outbound.state {
            OutboundState::AwaitsPuback => 1,
            OutboundState::AwaitsPubrec => 2,
            OutboundState::AwaitsPubcomp => 3,
        });
        out.put_u64(u64::from(outbound.partition));
        out.put_position(outbound.position);
    }

    /// `None` for state 0: the message is done.
    pub(crate) fn take_outbound(get: &mut Get<'_>) -> Result<Option<Outbound>, WireError> {
        let state = match get.byte()? {
            0 => return Ok(None),
            1 => OutboundState::AwaitsPuback,
            2 => OutboundState::AwaitsPubrec,
            3 => OutboundState::AwaitsPubcomp,
            other => return Err(WireError::Unknown { what: "outbound state", value: u64::from(other) }),
        };
        Ok(Some(Outbound { partition: get.u32()?, position: get.position()?, state }))
    }

    fn put_close(out: &mut Vec<u8>, close: &Close) {
        out.put_position(close.epoch);
        out.put_byte(close.reason.code());
        out.put_bool(close.fires_will);
        out.put_option(close.session_expiry_s, |out, seconds| out.put_u64(u64::from(seconds)));
        put_progress(out, &close.progress);
    }

    fn take_close(get: &mut Get<'_>, parts: Parts) -> Result<Close, WireError> {
        Ok(Close {
            epoch: get.position()?,
            reason: CloseReason::from_code(get.byte()?)?,
            fires_will: get.bool()?,
            session_expiry_s: get.option(Get::u32)?,
            progress: take_progress(get, parts)?,
        })
    }
}

//! The state of [`SessionFold`] as bytes. Described in `docs/formats/fold-snapshot.md`.

use super::{EndReason, Ended, Session, SessionFold, Subscribed};
use crate::folds::{Letters, Positions, RunId, events::v1};
use floodplain_fold::{
    Copying,
    wire::{Get, Put, WireError},
};
use floodplain_types::{ClientId, Position};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

pub(super) fn put(fold: &SessionFold, out: &mut Vec<u8>) {
    out.put_u64(fold.sessions.len() as u64);
    for (client, session) in &fold.sessions {
        put_client(out, client, session);
    }
    out.put_u64(fold.ended.len() as u64);
    for (key, ended) in &fold.ended {
        put_ended_client(out, key, ended);
    }
    fold.seen.snapshot(out);
}

fn put_client(out: &mut Vec<u8>, client: &ClientId, session: &Session) {
    out.put_str(client.as_str());
    put_session(out, session);
}

fn put_ended_client(out: &mut Vec<u8>, (client, epoch): &(ClientId, Position), ended: &Ended) {
    out.put_str(client.as_str());
    out.put_position(*epoch);
    put_ended(out, ended);
}

/// A copy that is being made of the state, see [`Copying`].
#[derive(Debug)]
pub(super) struct Copy {
    sessions: Copying<ClientId>,
    ended: Copying<(ClientId, Position)>,
}

impl Copy {
    pub(super) fn new(fold: &mut SessionFold) -> Self {
        let count = |count: usize| {
            let mut head = Vec::new();
            head.put_u64(count as u64);
            head
        };
        fold.seen.begin_copy();
        Self { sessions: Copying::new(count(fold.sessions.len())), ended: Copying::new(count(fold.ended.len())) }
    }

    /// The session of `client` is about to change.
    pub(super) fn touch(&mut self, client: &ClientId, session: Option<&Session>) {
        let entry = session.map(|session| |out: &mut Vec<u8>| put_client(out, client, session));
        self.sessions.touch(client, || client.clone(), entry);
    }

    /// The same of one that has ended.
    pub(super) fn touch_ended(&mut self, key: &(ClientId, Position), ended: Option<&Ended>) {
        let entry = ended.map(|ended| |out: &mut Vec<u8>| put_ended_client(out, key, ended));
        self.ended.touch(key, || key.clone(), entry);
    }

    pub(super) fn part(&mut self, fold: &mut SessionFold, out: &mut Vec<u8>, max_len: usize) -> bool {
        let sessions = |from: Bound<&ClientId>| fold.sessions.range::<ClientId, _>((from, Bound::Unbounded));
        let ended =
            |from: Bound<&(ClientId, Position)>| fold.ended.range::<(ClientId, Position), _>((from, Bound::Unbounded));
        self.sessions.part(sessions, |out, client, session| put_client(out, client, session), out, max_len)
            && self.ended.part(ended, put_ended_client, out, max_len)
            && fold.seen.copy_part(out, max_len)
    }
}

pub(super) fn restore(fold: &mut SessionFold, format: u16, bytes: &[u8]) -> Result<(), WireError> {
    let mut get = Get::new(bytes);
    (fold.sessions, fold.timers, fold.filters) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    (fold.ended, fold.many, fold.copy) = (BTreeMap::new(), None, None);
    for _ in 0..get.count()? {
        let client = take_client(&mut get)?;
        let mut session = Box::new(take_session(&mut get, format)?);
        let Session { subscriptions, cursor, .. } = &mut *session;
        for held in subscriptions.iter_mut().filter(|held| held.keeps_messages()) {
            // Usual after a sleep from the beginning, and then there is one copy of both.
            if held.start == *cursor {
                held.start = cursor.clone();
            }
            let filter = &mut held.subscription.filter;
            if let Some((shared, _)) = fold.filters.get_key_value(filter) {
                *filter = shared.clone();
            }
            fold.filters.entry(filter.clone()).or_default().add(client.clone());
        }
        fold.insert(client, session);
    }
    if format > 1 {
        for _ in 0..get.count()? {
            let (client, epoch) = (take_client(&mut get)?, get.position()?);
            let ended = take_ended(&mut get)?;
            for (filter, _) in &ended.wanted {
                fold.filters.entry(filter.clone()).or_default().retired();
            }
            fold.ended.insert((client, epoch), ended);
        }
    }
    fold.seen.restore(&mut get)?;
    get.end()
}

fn put_session(out: &mut Vec<u8>, session: &Session) {
    let Session {
        epoch,
        is_resumed,
        is_connected,
        run,
        protocol_level,
        expiry_s,
        closed_at,
        will,
        will_at,
        subscriptions,
        cursor,
        done,
        outbound,
        inbound,
        apart,
        letters,
        letters_at,
    } = session;
    out.put_position(*epoch);
    out.put_bool(*is_resumed);
    out.put_bool(*is_connected);
    out.put_u64(run.0);
    out.put_byte(*protocol_level);
    out.put_u64(u64::from(*expiry_s));
    out.put_option(*closed_at, Vec::put_time);
    out.put_option(will.as_deref(), v1::put_will);
    out.put_option(*will_at, Vec::put_time);
    out.put_u64(subscriptions.len() as u64);
    for held in subscriptions {
        v1::put_subscription(out, &held.subscription);
        held.start.put(out);
        if held.subscription.retained_due {
            out.put_option(held.retained_after.as_deref(), Vec::put_str);
        }
    }
    cursor.put(out);
    out.put_u64(done.len() as u64);
    for (partition, position) in done {
        out.put_u64(u64::from(*partition));
        out.put_position(*position);
    }
    out.put_u64(outbound.len() as u64);
    for (packet_id, state) in outbound {
        out.put_u64(u64::from(*packet_id));
        v1::put_outbound(out, state);
    }
    out.put_u64(inbound.len() as u64);
    for packet_id in inbound {
        out.put_u64(u64::from(*packet_id));
    }
    v1::put_letters(out, letters.as_slice());
    out.put_option(*letters_at, Vec::put_time);
    out.put_u64(apart.len() as u64);
    for (packet_id, id) in apart {
        out.put_u64(u64::from(*packet_id));
        out.put_str(id);
    }
}

fn take_client(get: &mut Get<'_>) -> Result<ClientId, WireError> {
    ClientId::new(get.str()?).map_err(|_| WireError::Invalid("client id"))
}

fn put_ended(out: &mut Vec<u8>, ended: &Ended) {
    let Ended { at, reason, wanted, done } = ended;
    out.put_time(*at);
    out.put_byte(match reason {
        EndReason::Expired => 0,
        EndReason::CleanStart => 1,
        EndReason::NoExpiry => 2,
    });
    out.put_u64(wanted.len() as u64);
    for (filter, from) in wanted {
        out.put_str(filter.as_str());
        from.put(out);
    }
    out.put_u64(done.len() as u64);
    for (partition, position) in done {
        out.put_u64(u64::from(*partition));
        out.put_position(*position);
    }
}

fn take_ended(get: &mut Get<'_>) -> Result<Ended, WireError> {
    Ok(Ended {
        at: get.time()?,
        reason: match get.byte()? {
            0 => EndReason::Expired,
            1 => EndReason::CleanStart,
            2 => EndReason::NoExpiry,
            other => return Err(WireError::Unknown { what: "end of a session", value: u64::from(other) }),
        },
        wanted: get.list(|get| Ok((v1::take_filter(get)?, Positions::take(get)?)))?,
        done: get.list(|get| Ok((get.u32()?, get.position()?)))?,
    })
}

fn take_session(get: &mut Get<'_>, format: u16) -> Result<Session, WireError> {
    Ok(Session {
        epoch: get.position()?,
        is_resumed: get.bool()?,
        is_connected: get.bool()?,
        run: RunId(get.u64()?),
        protocol_level: get.byte()?,
        expiry_s: get.u32()?,
        closed_at: get.option(Get::time)?,
        will: get.option(v1::take_will)?.map(Box::new),
        will_at: get.option(Get::time)?,
        subscriptions: get.list(take_subscribed)?,
        cursor: Positions::take(get)?,
        done: get.list(|get| Ok((get.u32()?, get.position()?)))?,
        outbound: get.list(|get| {
            let packet_id = get.u16()?;
            let state = v1::take_outbound(get)?.ok_or(WireError::Invalid("outbound message"))?;
            Ok((packet_id, state))
        })?,
        inbound: get.list(Get::u16)?,
        letters: if format > 1 { get.list(v1::take_letter)?.into() } else { Letters::default() },
        letters_at: if format > 1 { get.option(Get::time)? } else { None },
        apart: if format > 2 { get.list(|get| Ok((get.u16()?, get.str()?.into())))? } else { Vec::new() },
    })
}

fn take_subscribed(get: &mut Get<'_>) -> Result<Subscribed, WireError> {
    let subscription = v1::take_subscription(get)?;
    let start = Positions::take(get)?;
    let after = if subscription.retained_due { get.option(Get::str)? } else { None };
    Ok(Subscribed { subscription, start, retained_after: after.map(Into::into) })
}

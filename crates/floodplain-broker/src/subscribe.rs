//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5.0 §3.8 to §3.11).

use crate::{
    ConnId, Worker,
    acks::What,
    append::Waiter,
    connection::Refusal,
    folds::{self, Event, Positions},
    metrics::Why,
    retained::RetainedWish,
    router::Wanted,
    session::{Session, Subscribed},
};
use floodplain_mqtt::{
    DisconnectCode, Packet, RetainHandling, Suback, SubackCode, SubackCodes, Subscribe, Unsuback, UnsubackCode,
    UnsubackCodes, Unsubscribe, UserProperties,
};
use floodplain_types::{Class, TopicFilter};
use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// Longer than anything committed is on its way to a worker.
const FRESH: Duration = Duration::from_secs(5);

impl Worker {
    pub(crate) fn subscribe(&mut self, conn: ConnId, subscribe: &Subscribe<'_>) -> Result<(), Refusal> {
        let shared = self.shared.clone();
        if subscribe.subscriptions.iter().nth(shared.config.subscriptions_max).is_some() {
            // Each filter is looked for among those that are held.
            return Err(Refusal::new(DisconnectCode::QuotaExceeded, "more filters in a packet than in a session"));
        }
        let mut codes = Vec::new();
        let mut wish = RetainedWish::default();
        let mut stored = Vec::new();
        let mut why: Option<Cow<'static, str>> = None;
        let id = subscribe.subscription_id.map_or(0, std::num::NonZeroU32::get);
        // Before anything is routed here: what is committed from now on is seen.
        let start = self.watermarks();
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return Ok(()) };
        session.began = session.began.upper(&start);
        let count = subscribe.subscriptions.iter().count();
        let room = shared.config.subscriptions_max.saturating_sub(session.subscriptions.len());
        session.subscriptions.reserve_exact(count.min(room));
        let mut places = Places::new(session, count);
        for asked in subscribe.subscriptions.iter() {
            let fits = self.topic_fits(asked.filter);
            let Some(session) = self.get(conn).and_then(|c| c.session.as_deref()) else { return Ok(()) };
            let options = asked.options;
            let known = places.find(session, asked.filter);
            let refused = |code, why: &'static str, reason| Err((code, Cow::Borrowed(why), reason));
            let filter = if asked.filter.starts_with("$share/") {
                let text = "shared subscriptions are not supported";
                refused(SubackCode::SharedSubscriptionsNotSupported, text, Why::Invalid)
            } else if !fits {
                refused(SubackCode::TopicFilterInvalid, "topic filter is longer than the limit", Why::Invalid)
            } else if known.is_none() && session.subscriptions.len() >= shared.config.subscriptions_max {
                refused(SubackCode::QuotaExceeded, "too many subscriptions in one session", Why::Quota)
            } else if let Err(denied) = shared.access.policy.subscribe(&session.principal, asked.filter) {
                Err((denied.suback(), denied.words("subscribe"), denied.into()))
            } else {
                let invalid = || (SubackCode::TopicFilterInvalid, "topic filter is not valid".into(), Why::Invalid);
                TopicFilter::new(asked.filter).map_err(|_| invalid())
            };
            let filter = match filter {
                Ok(filter) => filter,
                Err((code, text, reason)) => {
                    self.metrics.refused_subscriptions.count(reason);
                    codes.push(code);
                    why = why.or(Some(text));
                    continue;
                }
            };
            codes.push(SubackCode::granted(options.qos));
            let wanted = Wanted {
                qos: options.qos as u8,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                id,
            };
            let wants_retained = match options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => known.is_none(),
                RetainHandling::DoNotSend => false,
            };
            if wants_retained {
                wish.filters.push((filter.clone(), wanted));
            }
            stored.push(folds::Subscription {
                filter: filter.clone(),
                qos: wanted.qos,
                no_local: wanted.no_local,
                retain_as_published: wanted.retain_as_published,
                id: (id != 0).then_some(id),
                retained_due: wants_retained && wanted.qos > 0,
            });
            self.router.subscribe(&shared.routes, conn.slot, filter.as_str(), wanted);
            let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return Ok(()) };
            match known {
                Some(at) => {
                    let held = &mut session.subscriptions[at];
                    if held.wanted.qos == 0 {
                        // Nothing was kept that could be lost.
                        held.start = start.clone();
                    }
                    held.wanted = wanted;
                }
                None => {
                    places.add(&filter, session.subscriptions.len());
                    session.subscriptions.push(Subscribed { filter: filter.clone(), wanted, start: start.clone() });
                }
            }
            if wanted.qos > 0 && !session.out.lags.is_empty() {
                self.widen_lags(conn, &filter, &start);
            }
        }
        if stored.iter().any(|subscription| subscription.qos > 0) {
            self.track_all(conn, &start);
        }
        if !stored.is_empty()
            && let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut())
        {
            session.fresh += 1;
            self.owner.fresh.push_back((self.steady + FRESH, conn));
        }
        if !wish.filters.is_empty() {
            // After all is routed here: what is committed from now on comes live for certain.
            wish.live_from = self.watermarks();
            if let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) {
                session.retained_due += 1;
            }
        }
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref()) else { return Ok(()) };
        let (client, partition, encoder) = (session.client.clone(), session.partition, session.encoder);
        let epoch = session.epoch.filter(|_| session.is_lasting() && !stored.is_empty());
        let suback = Suback {
            packet_id: subscribe.packet_id,
            codes: SubackCodes::from(&codes[..]),
            reason_string: why.as_deref(),
            user_properties: UserProperties::default(),
        };
        let mut bytes = Vec::new();
        if let Err(error) = encoder.encode(&Packet::Suback(suback), &mut bytes) {
            tracing::debug!(%error, "SUBACK does not fit the client");
            return Err(Refusal::new(DisconnectCode::PacketTooLarge, "SUBACK is larger than the client accepts"));
        }
        let what = What::Bytes(bytes.into(), (!wish.filters.is_empty()).then(|| Box::new(wish)));
        match epoch {
            Some(epoch) => {
                // From its SUBACK on the client relies on the queue: so it must be in the log.
                let event = Event::Subscribe { epoch, subscriptions: stored, start };
                self.append_event(Class::All, &client, partition, &event);
                let seq = self.owe(conn, what);
                self.appends.wait(Class::All, Waiter::Ack { conn, seq });
            }
            None => self.answer_now(conn, what),
        }
        Ok(())
    }

    /// Sends what waits for nothing: not even for the acknowledgements before it.
    fn answer_now(&mut self, conn: ConnId, what: What) {
        if let What::Bytes(bytes, wish) = what {
            if self.get(conn).is_some() {
                self.out(conn.slot).extend_from_slice(&bytes);
            }
            if let Some(wish) = wish {
                self.ask_retained(conn, *wish);
            }
        }
    }

    /// Forgets where subscriptions began, once all that was committed before has reached this worker.
    pub(crate) fn age_subscriptions(&mut self) {
        while self.owner.fresh.front().is_some_and(|(due, _)| *due <= self.steady) {
            let Some((_, conn)) = self.owner.fresh.pop_front() else { return };
            let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { continue };
            session.fresh -= 1;
            if session.fresh == 0 && !session.is_lasting() {
                session.subscriptions.iter_mut().for_each(|held| held.start = Positions::default());
                session.began = Positions::default();
            }
        }
    }

    pub(crate) fn unsubscribe(&mut self, conn: ConnId, unsubscribe: &Unsubscribe<'_>) {
        let shared = self.shared.clone();
        if unsubscribe.filters.iter().nth(shared.config.subscriptions_max).is_some() {
            let why = "more filters in a packet than in a session";
            self.refuse_with(conn, Refusal::new(DisconnectCode::QuotaExceeded, why));
            return;
        }
        let mut codes = Vec::new();
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let places = Places::new(session, unsubscribe.filters.iter().count());
        let mut gone = BTreeSet::new();
        for filter in unsubscribe.filters.iter() {
            // Compared byte for byte [MQTT-3.10.4-1].
            let is_held = places.find(session, filter).is_some_and(|at| gone.insert(at));
            codes.push(if is_held { UnsubackCode::Success } else { UnsubackCode::NoSubscriptionExisted });
        }
        // From behind: what takes the place of one that is gone stays.
        let gone = gone.into_iter().rev().map(|at| session.subscriptions.swap_remove(at).filter);
        let gone: BTreeSet<TopicFilter> = gone.collect();
        session.out.retained.retain(|due| !gone.contains(&due.filter));
        for filter in &gone {
            self.router.unsubscribe(&shared.routes, conn.slot, filter.as_str());
        }
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref()) else { return };
        let (client, partition, encoder) = (session.client.clone(), session.partition, session.encoder);
        let epoch = session.epoch.filter(|_| session.is_lasting() && !gone.is_empty());
        let unsuback = Unsuback {
            packet_id: unsubscribe.packet_id,
            codes: UnsubackCodes::from(&codes[..]),
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        let mut bytes = Vec::new();
        if let Err(error) = encoder.encode(&Packet::Unsuback(unsuback), &mut bytes) {
            tracing::debug!(%error, "UNSUBACK does not fit the client");
            let why = "UNSUBACK is larger than the client accepts";
            self.refuse_with(conn, Refusal::new(DisconnectCode::PacketTooLarge, why));
            return;
        }
        let what = What::Bytes(bytes.into(), None);
        match epoch {
            Some(epoch) => {
                self.append_event(
                    Class::All,
                    &client,
                    partition,
                    &Event::Unsubscribe { epoch, filters: gone.into_iter().collect() },
                );
                let seq = self.owe(conn, what);
                self.appends.wait(Class::All, Waiter::Ack { conn, seq });
            }
            None => self.answer_now(conn, what),
        }
    }

    /// Where each data partition stands: what a subscription sees starts here.
    fn watermarks(&self) -> Positions {
        let watermark = |(index, partition)| (index, self.shared.log.watermark(partition));
        self.shared.data.all().map(watermark).collect()
    }
}

/// Filters of a packet that are looked for one by one among those of the session.
const FEW: usize = 16;

/// Where the subscriptions of a session are, so that a packet with many filters is not compared with all of them for each.
struct Places(Option<HashMap<TopicFilter, usize>>);

impl Places {
    /// For a packet with so many filters.
    fn new(session: &Session, filters: usize) -> Self {
        let all = || {
            crate::work::done(session.subscriptions.len());
            session.subscriptions.iter().enumerate().map(|(at, held)| (held.filter.clone(), at)).collect()
        };
        Self((filters > FEW).then(all))
    }

    fn find(&self, session: &Session, filter: &str) -> Option<usize> {
        match &self.0 {
            Some(places) => {
                crate::work::done(1);
                places.get(filter).copied()
            }
            None => {
                crate::work::done(session.subscriptions.len());
                session.subscriptions.iter().position(|held| held.filter.as_str() == filter)
            }
        }
    }

    fn add(&mut self, filter: &TopicFilter, at: usize) {
        if let Some(places) = &mut self.0 {
            places.insert(filter.clone(), at);
        }
    }
}

/// Delivered QoS: the smaller of published and granted [MQTT-3.8.4-8].
pub(crate) const fn effective(published: u8, granted: u8) -> u8 {
    if published < granted { published } else { granted }
}

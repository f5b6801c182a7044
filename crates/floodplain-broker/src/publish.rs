//! PUBLISH from a client, and the rest of its QoS 2 (MQTT 5.0 §3.3, §4.3).

use crate::{
    ConnId, Worker, acks::What, append::Waiter, connect::asked_class, connection::Refusal, folds::Event, metrics::Why,
    publication::Publication, seams::Denied,
};
use floodplain_log::{BatchBuilder, Correlation, MessageRef};
use floodplain_mqtt::{Ack, DisconnectCode, PubackCode, Publish, PubrelCode, QoS};
use floodplain_types::{Class, DeviceId};
use std::sync::Arc;

/// Why a message is not taken.
#[derive(Debug, Clone, Copy)]
enum Unwanted {
    LongTopic,
    Denied(Denied),
}

impl Worker {
    /// Whether a topic name or filter is within the limits.
    pub(crate) fn topic_fits(&self, topic: &str) -> bool {
        let config = &self.shared.config;
        topic.len() <= config.topic_bytes_max
            && topic.bytes().filter(|byte| *byte == b'/').count() < config.topic_levels_max
    }

    /// Handles PUBLISH.
    pub(crate) fn publish(&mut self, conn: ConnId, publish: &Publish<'_>) -> Result<(), Refusal> {
        let shared = self.shared.clone();
        let config = &shared.config;
        let Some(connection) = self.connections.get_mut(conn.slot as usize) else { return Ok(()) };
        let Some(session) = connection.session.as_deref_mut() else { return Ok(()) };
        let v5 = session.is_v5();

        if let Some(alias) = publish.properties.topic_alias() {
            let at = usize::from(alias.get()) - 1;
            if alias.get() > config.topic_alias_maximum {
                // [MQTT-3.3.2-8]
                return Err(Refusal::new(DisconnectCode::TopicAliasInvalid, "topic alias is above the maximum"));
            }
            if !publish.topic.is_empty() {
                if session.aliases.len() <= at {
                    session.aliases.resize(at + 1, None);
                }
                session.aliases[at] = Some(publish.topic.into());
            }
        }
        let aliased = publish.properties.topic_alias().filter(|_| publish.topic.is_empty());
        let aliased: Option<Box<str>> = match aliased {
            None => None,
            Some(alias) => match session.aliases.get(usize::from(alias.get()) - 1) {
                Some(Some(topic)) => Some(topic.clone()),
                _ => return Err(Refusal::protocol("topic alias is unknown (§3.3.2.3.4)")),
            },
        };
        let topic = aliased.as_deref().unwrap_or(publish.topic);

        // The dedup id of a message that came before and may not have been stored.
        let mut again = None;
        if let Some(id) = publish.packet_id {
            let is_known = publish.qos == QoS::ExactlyOnce && session.received.binary_search(&id.get()).is_ok();
            let apart = session.apart.iter().position(|(apart, _)| is_known && *apart == id.get());
            again = apart.map(|at| session.apart.swap_remove(at).1);
            if is_known && again.is_none() {
                // Came before and was stored: PUBREC again, and not delivered again [MQTT-4.3.3-10].
                self.owe_ready(conn, What::Pubrec(id, PubackCode::Success));
                return Ok(());
            }
            if v5 && session.inbound >= config.receive_maximum {
                self.metrics.receive_maximum_exceeded.increment(1);
                return Err(Refusal::new(DisconnectCode::ReceiveMaximumExceeded, "receive maximum exceeded (§3.3.4)"));
            }
        }

        let refused = if !self.topic_fits(topic) {
            Some(Unwanted::LongTopic)
        } else {
            let Some(session) = self.get(conn).and_then(|c| c.session.as_deref()) else { return Ok(()) };
            shared.access.policy.publish(&session.principal, topic).err().map(Unwanted::Denied)
        };
        if let Some(unwanted) = refused {
            return self.refuse_publish(conn, publish, v5, unwanted);
        }

        let qos = publish.qos as u8;
        // A message that could be found without its `Received`, or the other way round, is only submitted behind it, and has
        // its dedup id: should it come again, it is known by that.
        let is_apart = qos == 2 && again.is_none() && !shared.log.keeps_units_whole();
        let received_as = is_apart.then(|| self.event_id());
        let Some(session) = self.connections[conn.slot as usize].session.as_deref_mut() else { return Ok(()) };
        let received_as = received_as.filter(|_| session.is_lasting() && session.epoch.is_some());
        let dedup_id = received_as.clone().or(again);
        let users = publish.properties.user_properties();
        let bound = shared.access.bindings.bound(topic);
        let class = match publish.qos {
            QoS::AtMostOnce => Class::None,
            _ => {
                let policy = || shared.access.policy.class(&session.principal, topic).min(config.ack_class);
                let least = bound.class.unwrap_or_else(policy);
                let asked = if users.is_empty() { Class::None } else { asked_class(&users).unwrap_or(Class::None) };
                least.max(session.asked_class).max(asked)
            }
        };
        // The record is of the device that the topic names: all of one device are in one partition, in one order.
        let access = &shared.access;
        let named = bound.device.filter(|device| {
            device.len() <= DeviceId::MAX_BYTES && access.policy.speaks_for(&session.principal, device)
        });
        let device = named.unwrap_or(session.principal.device.as_str());
        let home = match named {
            Some(device) => shared.data.index_of_key(bound.stream, device.as_bytes()),
            None => shared.data.index(bound.stream, session.partition),
        };
        let mut message = MessageRef {
            topic,
            payload: publish.payload,
            key: device.as_bytes(),
            qos,
            retain: publish.retain,
            listener: shared.listener.as_deref().filter(|_| qos == 0),
            dedup_id: dedup_id.as_deref(),
            // Of two retained messages from two partitions the later counts, and a millisecond is long.
            ingest_time_ns: publish.retain.then_some(self.now.0),
            ..MessageRef::default()
        };
        if !publish.properties.is_empty() {
            let properties = &publish.properties;
            message.expiry_seconds = properties.message_expiry_secs();
            message.content_type = properties.content_type();
            message.response_topic = properties.response_topic();
            message.correlation = properties.correlation_data().map(Correlation::Raw);
            message.payload_format = properties.payload_is_utf8().map(u8::from);
        }
        if *session.client != *device {
            message.publisher = Some(&session.client);
        }
        let (partition, client) = (session.partition, session.client.clone());
        let is_lasting = session.is_lasting();
        let epoch = session.epoch;
        let publication = Arc::new(Publication::new(&message, users.iter(), home, self.now, client.clone()));
        let ingest_ms = self.now.as_millis();
        // Another worker that owns it reads it from the log.
        let kept = (qos > 0 && shared.owner_of(home) == self.idx).then(|| publication.clone());
        let (place, write) =
            (shared.data.partition(home), |batch: &mut BatchBuilder| message.write(batch, ingest_ms, users.iter()));
        let place = match &received_as {
            Some(_) => self.appends.push_after(place, write, kept),
            None => self.appends.push(class, place, write, kept),
        };
        if place.is_err() {
            self.metrics.refused_messages.count(Why::TooLarge);
            return Err(Refusal::new(DisconnectCode::PacketTooLarge, "message is too large for a record"));
        }
        self.metrics.received[usize::from(qos)].increment(1);
        self.metrics.received_bytes.increment(publish.payload.len() as u64);

        match publish.packet_id {
            None => {
                self.appends.unanswered();
                self.route_at_once(&publication);
            }
            Some(id) => {
                let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return Ok(()) };
                // Only 5.0 is held to a maximum; a client of 3.1.1 may leave as many flows open as there are ids.
                session.inbound = session.inbound.saturating_add(1);
                let what = if publish.qos == QoS::ExactlyOnce {
                    if let Err(at) = session.received.binary_search(&id.get()) {
                        session.received.insert(at, id.get());
                    }
                    if let Some(epoch) = epoch.filter(|_| is_lasting && dedup_id.is_none()) {
                        let received = Event::Received { epoch, packet_id: id.get(), is_apart: false };
                        self.append_with_it(class, &client, partition, &received);
                    }
                    What::Pubrec(id, PubackCode::Success)
                } else {
                    What::Puback(id, PubackCode::Success)
                };
                let waiter = Waiter::Ack { conn, seq: self.owe(conn, what) };
                match (received_as, epoch) {
                    (Some(received_as), Some(epoch)) => {
                        let received = Event::Received { epoch, packet_id: id.get(), is_apart: true };
                        self.append_as(&received_as, Class::All, &client, partition, &received);
                        self.appends.wait_after(waiter);
                    }
                    _ => self.appends.wait(class, waiter),
                }
            }
        }
        if self.appends.is_full() {
            self.submit();
        }
        Ok(())
    }

    fn refuse_publish(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        v5: bool,
        unwanted: Unwanted,
    ) -> Result<(), Refusal> {
        let (why, code, disconnect) = match unwanted {
            Unwanted::LongTopic => {
                let disconnect = Refusal::new(DisconnectCode::TopicNameInvalid, "topic name is too long");
                (Why::Invalid, PubackCode::TopicNameInvalid, disconnect)
            }
            Unwanted::Denied(denied @ (Denied::BadCredential | Denied::NotAuthorized)) => {
                let disconnect = Refusal::new(DisconnectCode::NotAuthorized, "not authorized to publish");
                (denied.into(), PubackCode::NotAuthorized, disconnect)
            }
            Unwanted::Denied(denied @ (Denied::Unavailable | Denied::Busy { .. })) => {
                self.metrics.refused_messages.count(denied);
                if publish.packet_id.is_some() {
                    // It passes, but a code of 0x80 and more is final for the message [MQTT-4.4.0-2]: so there is none,
                    // and the client sends it again on its next connection. QoS 0 is dropped.
                    self.refuse_because(conn, DisconnectCode::ServerBusy, Some(&denied.words("publish")));
                }
                return Ok(());
            }
        };
        self.metrics.refused_messages.count(why);
        match (v5, publish.packet_id) {
            (true, Some(id)) => {
                if let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) {
                    session.inbound = session.inbound.saturating_add(1);
                }
                let what = match publish.qos {
                    QoS::ExactlyOnce => What::Pubrec(id, code),
                    _ => What::Puback(id, code),
                };
                self.owe_ready(conn, what);
                Ok(())
            }
            // 3.1.1 acknowledges or closes, nothing else [3:3.3.5-2]; QoS 0 has no answer.
            _ => Err(disconnect),
        }
    }

    /// PUBREL: the client may use the id for a new message once we have said PUBCOMP.
    pub(crate) fn pubrel(&mut self, conn: ConnId, ack: &Ack<'_, PubrelCode>) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let id = ack.packet_id;
        let Ok(at) = session.received.binary_search(&id.get()) else {
            // 3.1.1 knows no such code and writes it as success.
            let code = if session.is_v5() { PubrelCode::PacketIdentifierNotFound } else { PubrelCode::Success };
            self.owe_ready(conn, What::Pubcomp(id, code));
            return;
        };
        session.received.remove(at);
        let (client, partition) = (session.client.clone(), session.partition);
        match session.epoch.filter(|_| session.is_lasting()) {
            Some(epoch) => {
                // Else a crash would leave the id in use, and the client's next message under it
                // would be taken for a repetition.
                let released = Event::Released { epoch, packet_id: id.get() };
                self.append_event(Class::All, &client, partition, &released);
                let seq = self.owe(conn, What::Pubcomp(id, PubrelCode::Success));
                self.appends.wait(Class::All, Waiter::Ack { conn, seq });
            }
            None => self.owe_ready(conn, What::Pubcomp(id, PubrelCode::Success)),
        }
    }
}

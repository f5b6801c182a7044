//! CONNECT to CONNACK (MQTT 5.0 §3.1, §3.2).

use crate::{
    CloseKind, ConnId, Effect, Handoff, Worker,
    append::Waiter,
    connection::{Blocked, Phase, keep_alive_quarters},
    folds::{self, Event},
    seams::{Credentials, Denied},
    session::{Outbound, OutboundAliases, Session},
    worker::quarter,
};
use bytes::Bytes;
use floodplain_mqtt::{
    Connack, ConnackCode, ConnackProperties, Connect, DisconnectCode, Encoder, Packet, UserProperties, Version,
};
use floodplain_types::{Class, ClientId, Position, Topic, partition_index};
use std::{num::NonZeroU16, num::NonZeroU32, sync::Arc};

/// User property by which a client asks for a class, and by which CONNACK says what it got.
pub(crate) const ACK_PROPERTY: &str = "floodplain-ack";
/// User property of CONNACK that says in words what an acknowledgement means here.
const MEANS_PROPERTY: &str = "floodplain-ack-means";

/// The class that user properties ask for, if they do.
pub(crate) fn asked_class(properties: &UserProperties<'_>) -> Option<Class> {
    let asked = properties.iter().filter(|(name, _)| *name == ACK_PROPERTY);
    asked.filter_map(|(_, class)| class.parse().ok()).max()
}

const fn meaning(class: Class) -> &'static str {
    match class {
        Class::None => "nothing is promised",
        Class::Leader => "handed to the operating system: survives a crash of the server, not a power cut",
        Class::All => "synced: survives a power cut, unless a binding promises less",
    }
}

/// Whether this is an id as the server gives it to a client that has none (`Worker::assign_id`).
#[must_use]
pub fn is_assigned_id(client: &str) -> bool {
    let digits = client.strip_prefix("fp-").unwrap_or_default();
    digits.len() == 32 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// What came of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeted {
    Yes,
    /// Refused, or moved to another worker.
    Gone,
    /// It must be given again once the connection is no longer blocked.
    Later,
}

impl Worker {
    /// Handles CONNECT; `bytes` start with it.
    pub(crate) fn connect(&mut self, conn: ConnId, connect: &Connect<'_>, bytes: &[u8]) -> Greeted {
        let version = connect.version;
        let encoder = Encoder {
            version,
            max_packet_size: connect.properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get),
            problem_information: connect.properties.request_problem_information.unwrap_or(true),
        };
        let assigned;
        let (client_id, is_assigned) = if connect.client_id.is_empty() {
            // 3.1.1 gives an empty id to clean sessions only [3:3.1.3-8], level 3 to none.
            if version == Version::V311 && (!connect.clean_start || connect.level3) {
                return self.refuse_connect(conn, encoder, ConnackCode::ClientIdentifierNotValid, None);
            }
            assigned = self.assign_id();
            (assigned.as_str(), true)
        } else {
            (connect.client_id, false)
        };
        if ClientId::new(client_id).is_err() {
            let why = "client id is longer than 256 bytes";
            return self.refuse_connect(conn, encoder, ConnackCode::ClientIdentifierNotValid, Some(why));
        }
        if connect.properties.authentication_method.is_some() {
            // [MQTT-4.12.0-1]
            return self.refuse_connect(conn, encoder, ConnackCode::BadAuthenticationMethod, None);
        }
        let Some(peer) = self.get(conn).map(|connection| connection.peer) else { return Greeted::Gone };
        let credentials = Credentials { client_id, username: connect.username, password: connect.password, peer };
        let shared = self.shared.clone();
        let access = &shared.access;
        let principal = match access.identity.identify(&credentials) {
            Ok(principal) => principal,
            Err(denied) => return self.deny_connect(conn, encoder, denied),
        };
        let partition = partition_index(principal.device.as_str().as_bytes(), self.shared.requests.partitions);
        let owner = self.shared.owner_of(partition);
        if owner != self.idx {
            let handoff = Handoff { peer, bytes: bytes.to_vec() };
            self.hand_off(conn, owner as u8, handoff);
            return Greeted::Gone;
        }
        // What the client has said on its old connection counts, above all DISCONNECT: it said it before this.
        let old = self.clients.get(client_id).copied();
        if let (Some(old), Some(connection)) = (old, self.get(conn).filter(|connection| !connection.has_drained)) {
            connection.has_drained = true;
            connection.blocked.add(Blocked::TAKEOVER);
            self.effects.push_back(Effect::Drain(old, conn));
            return Greeted::Later;
        }
        if self.stopping.is_some() {
            return self.refuse_connect(conn, encoder, ConnackCode::ServerUnavailable, Some("server is stopping"));
        }
        if self.appends.is_dead() {
            // Not the client's fault, and not a bad credential: it may try again.
            let why = "the log takes nothing until it has recovered";
            return self.refuse_connect(conn, encoder, ConnackCode::ServerUnavailable, Some(why));
        }
        if self.appends.is_crowded() {
            let why = "the log takes nothing at the moment";
            return self.refuse_connect(conn, encoder, ConnackCode::ServerBusy, Some(why));
        }
        if let Err(denied) = access.admission.connect(peer) {
            return self.deny_connect(conn, encoder, denied);
        }
        if let Some(will) = &connect.will {
            if let Err(denied) = access.policy.publish(&principal, will.topic) {
                return self.deny_connect(conn, encoder, denied);
            }
            if !self.topic_fits(will.topic) {
                return self.refuse_connect(
                    conn,
                    encoder,
                    ConnackCode::TopicNameInvalid,
                    Some("will topic is too long"),
                );
            }
        }

        let config = &self.shared.config;
        let expiry_max = u32::try_from(config.session_expiry_max.as_secs()).unwrap_or(u32::MAX);
        let asked = match version {
            Version::V5 => connect.properties.session_expiry_interval_secs.unwrap_or(0),
            Version::V311 if connect.clean_start => 0,
            Version::V311 => expiry_max,
        };
        let expiry_s = asked.min(expiry_max);
        let sessions_max = config.sessions_max.div_ceil(self.shared.requests.partitions as usize);
        if expiry_s > 0 && !self.owner.has_room_for(partition, client_id, sessions_max) {
            self.metrics.refused_sessions.increment(1);
            let why = "too many sessions are stored";
            return self.refuse_connect(conn, encoder, ConnackCode::QuotaExceeded, Some(why));
        }
        let keep_alive_max = config.keep_alive_max.and_then(|max| u16::try_from(max.as_secs()).ok());
        let keep_alive = match keep_alive_max {
            // Only 5.0 can be told another value than its own [MQTT-3.2.2-22].
            Some(max) if version == Version::V5 && (connect.keep_alive_secs == 0 || connect.keep_alive_secs > max) => {
                max
            }
            _ => connect.keep_alive_secs,
        };
        let properties = &connect.properties;
        let receive_maximum = properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get);
        let asked_class = asked_class(&properties.user_properties).unwrap_or(Class::None);
        let window = receive_maximum.min(config.outbound_window);
        let outbound_aliases = properties.topic_alias_maximum.unwrap_or(0).min(config.outbound_aliases);
        let client: Arc<str> = client_id.into();
        let session = Box::new(Session {
            client: client.clone(),
            principal,
            partition,
            encoder,
            epoch: None,
            ended: None,
            expiry_s,
            has_will: connect.will.is_some(),
            assigned: is_assigned,
            keep_alive_told: (keep_alive != connect.keep_alive_secs).then_some(keep_alive),
            expiry_told: (expiry_s != asked && version == Version::V5).then_some(expiry_s),
            asked_class,
            aliases: Vec::new(),
            outbound_aliases: OutboundAliases::new(outbound_aliases),
            subscriptions: Vec::new(),
            fresh: 0,
            began: folds::Positions::default(),
            received: Vec::new(),
            apart: Vec::new(),
            inbound: 0,
            out: Outbound { window, queue_bytes: self.held.part(), ..Outbound::default() },
            lookups: std::collections::VecDeque::new(),
            retained_due: 0,
            came_live: std::collections::HashSet::new(),
        });
        let is_lasting = session.is_lasting();
        let mut takes_over = false;

        // The old connection's last words go before the new one's first.
        if let Some(old) = self.clients.insert(client.clone(), conn) {
            takes_over = true;
            self.metrics.takeovers.increment(1);
            self.send_disconnect(old, DisconnectCode::SessionTakenOver, None);
            self.close_taken_over(old);
            self.clients.insert(client.clone(), conn);
        }
        self.closing.forget(&client);
        let now = quarter(self.steady);
        self.greeted(conn);
        let Some(connection) = self.get(conn) else { return Greeted::Gone };
        connection.decoder.set_version(version);
        if connect.level3 {
            connection.decoder.set_level3();
        }
        connection.keep_alive = keep_alive;
        connection.phase = Phase::Opening;
        connection.session = Some(session);
        let due = now + keep_alive_quarters(keep_alive);
        if keep_alive > 0 && due < connection.due {
            self.due_at(conn, due);
        }

        let open = Event::Open(Box::new(folds::Open {
            run: self.shared.run,
            takes_over,
            protocol_level: match (version, connect.level3) {
                (Version::V5, _) => 5,
                (Version::V311, false) => 4,
                (Version::V311, true) => 3,
            },
            clean_start: connect.clean_start,
            session_expiry_s: expiry_s,
            keep_alive_s: keep_alive,
            peer: peer.to_string(),
            will: connect
                .will
                .as_ref()
                .and_then(|will| stored_will(will, shared.data.known(access.bindings.bound(will.topic).stream))),
        }));
        // A session that is stored, or was, is known only once its Open is folded; a will must be stored
        // with it [MQTT-3.1.2-7], and what the client says next must find it: else a DISCONNECT and a
        // new CONNECT could come to the log in the wrong order, and the will fire.
        let waits = is_lasting || !connect.clean_start || connect.will.is_some();
        if let Some(place) = self.append_event(Class::All, &client, partition, &open) {
            let partition = self.shared.requests.partition(partition);
            let crate::append::Place { batch, delta } = place;
            self.appends.wait(Class::All, Waiter::Open { conn, partition, batch, delta, is_told: false });
        }
        if waits {
            if let Some(connection) = self.get(conn) {
                connection.blocked.add(Blocked::OPENING);
            }
        } else {
            self.welcome(conn, false);
        }
        Greeted::Yes
    }

    /// An id that nobody uses, owned by this worker so that its connection need not move.
    fn assign_id(&mut self) -> String {
        loop {
            let id = format!("fp-{:016x}{:016x}", self.random(), self.random());
            let partition = partition_index(id.as_bytes(), self.shared.requests.partitions);
            if self.shared.owner_of(partition) == self.idx {
                return id;
            }
        }
    }

    /// SplitMix64, seeded by the run: unique, not secret.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn hand_off(&mut self, conn: ConnId, to: u8, handoff: Handoff) {
        let Some(connection) = self.get(conn) else { return };
        connection.phase = Phase::Closed;
        connection.input = Vec::new();
        self.greeted(conn);
        self.effects.push_back(Effect::Move(conn, to, handoff));
    }

    fn deny_connect(&mut self, conn: ConnId, encoder: Encoder, denied: Denied) -> Greeted {
        self.refuse_connect(conn, encoder, denied.connack(), denied.hint().as_deref())
    }

    fn refuse_connect(&mut self, conn: ConnId, encoder: Encoder, code: ConnackCode, why: Option<&str>) -> Greeted {
        self.send_connack_refusal(conn, encoder, code, why);
        self.end(conn, CloseKind::ByUs);
        Greeted::Gone
    }

    /// The old connection has been read to its end: now the new one may take over.
    pub fn drained(&mut self, conn: ConnId) {
        self.unblock(conn, Blocked::TAKEOVER);
    }

    /// The fold has come past `at_least`, where the `Open` of a connection lies, or behind it. False: it is not yet there.
    pub(crate) fn open_folded(&mut self, conn: ConnId, at: usize, at_least: Position) -> bool {
        let connection = self.connections.get(conn.slot as usize).filter(|c| c.id == conn);
        let session = connection.and_then(|connection| connection.session.as_deref());
        let Some(client) = session.map(|session| &session.client).or_else(|| self.closing.client(conn)) else {
            return true;
        };
        let ended = session.and_then(|session| session.ended).or_else(|| self.closing.has_ended(conn));
        if let Some(ended) = ended.filter(|ended| ended.epoch >= at_least) {
            self.closing.remove(conn);
            self.end_by_the_log(conn, ended.why);
            return true;
        }
        // Of this connection: a newer one would have taken over, and this one would be closed, or forgotten. What is of another
        // server lies before it, or it would have ended.
        let stored = self.owner.requests[at].sessions.fold().session(client);
        let stored = stored.filter(|stored| stored.epoch >= at_least && stored.run == self.shared.run);
        let Some(epoch) = stored.map(|stored| stored.epoch) else { return false };
        let Some(connection) = self.get(conn) else {
            self.say_unsaid(conn, epoch);
            return true;
        };
        let is_opening = connection.phase == Phase::Opening;
        let Some(session) = &mut connection.session else {
            self.say_unsaid(conn, epoch);
            return true;
        };
        session.epoch = Some(epoch);
        if is_opening {
            self.opened(conn, at, epoch);
        }
        true
    }

    /// The `Open` will not be confirmed in time, or not at all.
    pub(crate) fn open_failed(&mut self, conn: ConnId, may_come: bool) {
        self.refuse_opening(conn);
        if !may_come {
            self.closing.remove(conn);
        }
    }

    fn refuse_opening(&mut self, conn: ConnId) {
        let Some(connection) = self.get(conn) else { return };
        if connection.phase != Phase::Opening {
            return;
        }
        let Some(encoder) = connection.session.as_ref().map(|session| session.encoder) else { return };
        self.send_connack_refusal(conn, encoder, ConnackCode::ServerUnavailable, Some("the log does not answer"));
        self.close_refused(conn);
    }

    /// CONNACK, and then what was sent behind CONNECT.
    pub(crate) fn welcome(&mut self, conn: ConnId, session_present: bool) {
        let shared = self.shared.clone();
        let config = &shared.config;
        let Some(connection) = self.get(conn) else { return };
        connection.phase = Phase::Live;
        // Level 3 knows no such flag: the byte is reserved there.
        let session_present = session_present && !connection.decoder.is_level3();
        let Some(session) = &connection.session else { return };
        let class = config.ack_class.max(session.asked_class);
        let words = [(ACK_PROPERTY, class.as_str()), (MEANS_PROPERTY, meaning(class))];
        let client = session.client.clone();
        let properties = match session.encoder.version {
            Version::V311 => ConnackProperties::default(),
            Version::V5 => ConnackProperties {
                session_expiry_interval_secs: session.expiry_told,
                receive_maximum: NonZeroU16::new(config.receive_maximum),
                maximum_packet_size: NonZeroU32::new(config.maximum_packet_size),
                assigned_client_identifier: session.assigned.then_some(&*client),
                topic_alias_maximum: Some(config.topic_alias_maximum),
                user_properties: UserProperties::from(&words[..]),
                shared_subscription_available: Some(false),
                server_keep_alive_secs: session.keep_alive_told,
                ..ConnackProperties::default()
            },
        };
        let connack = Connack { properties, ..Connack::new(ConnackCode::Success, session_present) };
        self.send(conn, &Packet::Connack(connack));
        if let Some(connection) = self.get(conn)
            && connection.blocked.has(Blocked::OPENING)
        {
            self.unblock(conn, Blocked::OPENING);
        }
    }
}

fn stored_will(will: &floodplain_mqtt::Will<'_>, stream: u32) -> Option<folds::Will> {
    let properties = &will.properties;
    Some(folds::Will {
        // Checked by the decoder.
        topic: Topic::new(will.topic).ok()?,
        payload: Bytes::copy_from_slice(will.payload),
        qos: will.qos as u8,
        retain: will.retain,
        delay_s: will.delay_secs,
        expiry_s: properties.message_expiry_secs(),
        payload_format: properties.payload_is_utf8().map(u8::from),
        content_type: properties.content_type().map(str::to_owned),
        response_topic: properties.response_topic().map(str::to_owned),
        correlation: properties.correlation_data().map(Bytes::copy_from_slice),
        user_properties: properties.user_properties().iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        stream,
    })
}

//! Where identity, policy and admission are asked: one call each at connect, subscribe and publish.
//!
//! Only the open provider exists so far: on a loopback listener everybody is who the client id says,
//! and may do everything. It is a provider like any other, so nothing else knows that it is open.

use floodplain_types::{Class, DeviceId, TenantId};
use std::{fmt, net::SocketAddr, time::Duration};

/// What a CONNECT brings to prove who it is.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The client id, assigned by us if the client gave none.
    pub client_id: &'a str,
    pub username: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    pub peer: SocketAddr,
}

/// Who a connection speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub tenant: TenantId,
    /// Key of the records of this connection; decides its partition and its worker.
    pub device: DeviceId,
    /// Whether a credential proved it. Never so on an open listener.
    pub trusted: bool,
}

/// Why a connection or an action is refused. Protocols translate it into their own codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The credential is wrong.
    BadCredential,
    /// The identity is known and may not do this.
    NotAuthorized,
    /// Whoever decides cannot be asked: not the client's fault, it may try again.
    Unavailable,
    /// Too much at once; try again after this time.
    Busy { retry_after: Duration },
}

/// Decides who a client is.
pub trait Identity: Send + Sync + fmt::Debug {
    /// Decides once per CONNECT, before anything of it is stored.
    ///
    /// # Errors
    /// [`Denied`].
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied>;
}

/// Decides what an identity may do.
pub trait Policy: Send + Sync + fmt::Debug {
    /// Whether messages may be published to `topic`. Asked once per message.
    ///
    /// # Errors
    /// [`Denied`]. What passes, [`Denied::Unavailable`] and [`Denied::Busy`], ends the connection at QoS 1 and 2: there is
    /// no answer that is not final for the message.
    fn publish(&self, principal: &Principal, topic: &str) -> Result<(), Denied>;

    /// Whether `filter` may be subscribed.
    ///
    /// # Errors
    /// [`Denied`].
    fn subscribe(&self, principal: &Principal, filter: &str) -> Result<(), Denied>;

    /// Whether messages of `device` may be published by this identity. Where it may not, a message is of the identity's
    /// own device, whatever its topic says.
    fn speaks_for(&self, principal: &Principal, device: &str) -> bool;

    /// The least class that QoS 1 and 2 of this topic get; clients may ask for more.
    fn class(&self, principal: &Principal, topic: &str) -> Class;
}

/// What bindings say of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bound<'t> {
    /// The device that the topic names, if it names one: key of the record.
    pub device: Option<&'t str>,
    /// The least class that QoS 1 and 2 get, if it is not that of the server.
    pub class: Option<Class>,
    /// Number of the data stream that takes it: see [`floodplain_log::DataStreams`]. One that there is not counts as 0,
    /// `telemetry`.
    pub stream: u32,
}

/// Decides where messages go, by their topic alone.
pub trait Bindings: Send + Sync + fmt::Debug {
    /// Asked once per message.
    fn bound<'t>(&self, topic: &'t str) -> Bound<'t>;
}

/// Decides whether there is room.
pub trait Admission: Send + Sync + fmt::Debug {
    /// Whether one more session may be opened now.
    ///
    /// # Errors
    /// [`Denied::Busy`] with a hint for the client.
    fn connect(&self, peer: SocketAddr) -> Result<(), Denied>;
}

/// The seams together, as the broker uses them.
#[derive(Debug)]
pub struct Access {
    pub identity: Box<dyn Identity>,
    pub policy: Box<dyn Policy>,
    pub admission: Box<dyn Admission>,
    pub bindings: Box<dyn Bindings>,
}

impl Access {
    /// Everybody may do everything. Only for listeners that nobody else can reach.
    #[must_use]
    pub fn open_loopback() -> Self {
        Self {
            identity: Box::new(OpenLoopback),
            policy: Box::new(OpenLoopback),
            admission: Box::new(OpenLoopback),
            bindings: Box::new(DefaultBinding),
        }
    }
}

/// The provider of an open listener: the client id is the device, unproven.
#[derive(Debug, Clone, Copy)]
pub struct OpenLoopback;

impl Identity for OpenLoopback {
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied> {
        let device = DeviceId::new(credentials.client_id).map_err(|_| Denied::BadCredential)?;
        Ok(Principal { tenant: TenantId::default_tenant(), device, trusted: false })
    }
}

impl Policy for OpenLoopback {
    fn publish(&self, _: &Principal, _: &str) -> Result<(), Denied> {
        Ok(())
    }
    fn subscribe(&self, _: &Principal, _: &str) -> Result<(), Denied> {
        Ok(())
    }
    fn speaks_for(&self, _: &Principal, _: &str) -> bool {
        true
    }
    fn class(&self, _: &Principal, _: &str) -> Class {
        Class::All
    }
}

/// `devices/{device}/...`; all other messages are of the device that publishes them.
#[derive(Debug, Clone, Copy)]
pub struct DefaultBinding;

impl Bindings for DefaultBinding {
    fn bound<'t>(&self, topic: &'t str) -> Bound<'t> {
        let device = topic.strip_prefix("devices/").and_then(|rest| rest.split_once('/'));
        let device = device.map(|(device, _)| device).filter(|device| !device.is_empty());
        Bound { device, ..Bound::default() }
    }
}

impl Admission for OpenLoopback {
    fn connect(&self, _: SocketAddr) -> Result<(), Denied> {
        Ok(())
    }
}

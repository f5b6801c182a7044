//! Who keeps the messages of a filter.

use floodplain_types::ClientId;
use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Unbounded},
};

/// The sessions that keep messages of one filter. Most filters have one.
#[derive(Debug, Default)]
pub(super) struct Kept {
    live: Clients,
    /// Sessions that have ended and are not buried.
    ended: u32,
}

#[derive(Debug, Default)]
enum Clients {
    #[default]
    None,
    One(ClientId),
    Many(BTreeSet<ClientId>),
}

impl Kept {
    pub(super) fn add(&mut self, client: ClientId) {
        self.live = match std::mem::take(&mut self.live) {
            Clients::None => Clients::One(client),
            Clients::One(first) => Clients::Many([first, client].into()),
            Clients::Many(mut all) => {
                all.insert(client);
                Clients::Many(all)
            }
        };
    }

    pub(super) fn remove(&mut self, client: &ClientId) {
        match &mut self.live {
            Clients::One(only) if only == client => self.live = Clients::None,
            Clients::Many(all) => {
                all.remove(client);
            }
            Clients::None | Clients::One(_) => {}
        }
    }

    /// The session has ended.
    pub(super) fn retire(&mut self, client: &ClientId) {
        self.remove(client);
        self.ended += 1;
    }

    pub(super) fn retired(&mut self) {
        self.ended += 1;
    }

    /// One that has ended is buried.
    pub(super) fn bury(&mut self) {
        self.ended = self.ended.saturating_sub(1);
    }

    pub(super) fn len(&self) -> u32 {
        let live = match &self.live {
            Clients::None => 0,
            Clients::One(_) => 1,
            Clients::Many(all) => all.len() as u32,
        };
        live + self.ended
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether some have ended.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended > 0
    }

    /// Of those that have not ended the first behind `client`, or of all.
    pub(super) fn after(&self, client: Option<&ClientId>) -> Option<ClientId> {
        match &self.live {
            Clients::None => None,
            Clients::One(only) => Some(only).filter(|only| client.is_none_or(|client| *only > client)).cloned(),
            Clients::Many(all) => {
                all.range::<ClientId, _>((client.map_or(Unbounded, Excluded), Unbounded)).next().cloned()
            }
        }
    }
}

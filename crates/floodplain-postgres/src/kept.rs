//! What a connection keeps between messages, within bounds.

use crate::QueryError;
use pgwire::api::{ClientInfo, store::PortalStore};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Prepared statements of a connection, and portals.
const NAMES_MAX: usize = 1_000;

/// Texts, values and descriptions of both together: the longest message, twice.
const BYTES_MAX: usize = 2 * crate::frame::MESSAGE_BYTES_MAX;

/// What each one takes besides.
const OVERHEAD_BYTES: usize = 1 << 10;

#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    Statement,
    Portal,
}

/// Names and bytes, those of the statements first.
///
/// The lock is there because pgwire keeps it for the connection, whose task alone asks.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<[HashMap<String, usize>; 2]>);

impl Kept {
    pub(crate) fn of(client: &impl ClientInfo) -> Arc<Self> {
        client.session_extensions().get_or_insert_with(Self::default)
    }

    /// Counts one; another of that name is no more.
    ///
    /// # Errors
    /// SQLSTATE 53400; then nothing has changed.
    pub(crate) fn keep(&self, what: What, name: &str, bytes: usize) -> Result<(), QueryError> {
        let full = |message| QueryError { sqlstate: "53400", message, position: None };
        let mut kept = self.lock();
        let before = kept[what as usize].get(name).copied();
        if before.is_none() && kept[what as usize].len() >= NAMES_MAX {
            let what = match what {
                What::Statement => "prepared statements",
                What::Portal => "portals",
            };
            return Err(full(format!("a connection can have {NAMES_MAX} {what}: close some")));
        }
        let bytes = bytes + name.len() + OVERHEAD_BYTES;
        let others: usize = kept.iter().flat_map(HashMap::values).sum::<usize>() - before.unwrap_or(0);
        if others + bytes > BYTES_MAX {
            let message =
                format!("prepared statements and portals of a connection can have {BYTES_MAX} bytes: close some");
            return Err(full(message));
        }
        kept[what as usize].insert(name.to_owned(), bytes);
        Ok(())
    }

    pub(crate) fn forget(&self, what: What, name: &str) {
        self.lock()[what as usize].remove(name);
    }

    /// Forgets all portals, here and in `store`; their queries end.
    pub(crate) fn clear_portals(&self, store: &impl PortalStore) {
        self.lock()[What::Portal as usize].clear();
        store.clear_portals();
    }

    /// Forgets all statements, here and in `store`.
    pub(crate) fn clear_statements(&self, store: &impl PortalStore) {
        for (name, _) in self.lock()[What::Statement as usize].drain() {
            store.rm_statement(&name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, [HashMap<String, usize>; 2]> {
        // Every change is whole, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bytes_are_bounded() {
        let kept = Kept::default();
        for n in 0..NAMES_MAX {
            kept.keep(What::Portal, &n.to_string(), 0).unwrap();
        }
        assert_eq!(kept.keep(What::Portal, "more", 0).unwrap_err().sqlstate, "53400");
        kept.keep(What::Portal, "7", 1).unwrap();
        kept.forget(What::Portal, "7");
        kept.keep(What::Portal, "more", 0).unwrap();

        let kept = Kept::default();
        kept.keep(What::Statement, "a", BYTES_MAX / 2).unwrap();
        assert!(kept.keep(What::Portal, "a", BYTES_MAX / 2).is_err());
        kept.keep(What::Statement, "a", BYTES_MAX / 4).unwrap();
        kept.keep(What::Portal, "a", BYTES_MAX / 2).unwrap();
    }
}

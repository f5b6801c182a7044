//! The bindings of the moment.

use super::Bindings;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

/// Bindings that change while others look: those of the engine that decodes by them, or of a server that only follows them.
#[derive(Debug, Default)]
pub struct CurrentBindings {
    bindings: Mutex<Arc<Bindings>>,
    /// Of `bindings`.
    version: AtomicU32,
}

impl CurrentBindings {
    /// Those that count now.
    #[must_use]
    pub fn get(&self) -> Arc<Bindings> {
        Arc::clone(&self.bindings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is these that count now. Takes no lock.
    #[must_use]
    pub fn are(&self, bindings: &Bindings) -> bool {
        bindings.version() == self.version.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, bindings: Arc<Bindings>) {
        let mut current = self.bindings.lock().unwrap_or_else(PoisonError::into_inner);
        self.version.store(bindings.version(), Ordering::Release);
        *current = bindings;
    }
}

//! What waits in memory for clients, counted by worker.

use std::{cell::Cell, rc::Rc};

/// Bytes that wait for all clients of a worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldTotal(Rc<Cell<usize>>);

impl HeldTotal {
    pub(crate) fn bytes(&self) -> usize {
        self.0.get()
    }

    /// A part of it, still empty.
    pub(crate) fn part(&self) -> Held {
        Held { bytes: 0, total: self.clone() }
    }
}

/// Bytes that wait for one client. Dropped, they count no more.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: usize,
    total: HeldTotal,
}

impl Held {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn set(&mut self, bytes: usize) {
        let Self { bytes: before, total } = self;
        total.0.set(total.0.get() - *before + bytes);
        *before = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

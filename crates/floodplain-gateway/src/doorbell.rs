//! Wakes a thread once, however many sockets and mailboxes have something for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Wake, Waker},
};

/// What a thread sleeps on. Shared with whatever may wake it: its sockets' wakers on the same
/// thread, the mailboxes of other threads and the commit thread.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    root: Option<Waker>,
    /// Sockets that may be read or written, each at most a few times.
    ready: Vec<u32>,
    rung: bool,
}

impl Doorbell {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread; further rings before it looks cost nothing.
    pub(crate) fn ring(&self) {
        let waker = {
            let mut state = self.lock();
            if std::mem::replace(&mut state.rung, true) {
                return;
            }
            state.root.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Marks a socket and wakes the thread.
    pub(crate) fn mark(&self, slot: u32) {
        self.lock().ready.push(slot);
        self.ring();
    }

    /// Takes the marked sockets; from now on a ring wakes `root` again.
    pub(crate) fn answer(&self, root: &Waker, ready: &mut Vec<u32>) {
        let mut state = self.lock();
        state.rung = false;
        if !state.root.as_ref().is_some_and(|waker| waker.will_wake(root)) {
            state.root = Some(root.clone());
        }
        ready.append(&mut state.ready);
    }
}

/// The waker of one socket.
#[derive(Debug)]
struct Mark {
    bell: Arc<Doorbell>,
    slot: u32,
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        self.bell.mark(self.slot);
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.mark(self.slot);
    }
}

/// A waker that marks `slot` at `bell`.
pub(crate) fn socket_waker(bell: &Arc<Doorbell>, slot: u32) -> Waker {
    Waker::from(Arc::new(Mark { bell: bell.clone(), slot }))
}

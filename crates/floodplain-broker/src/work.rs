//! Counts work that must not grow with the square of what a client asks for; only tests look at it.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// So many things were looked at.
pub(crate) fn done(count: usize) {
    #[cfg(test)]
    DONE.set(DONE.get() + count as u64);
    #[cfg(not(test))]
    let _ = count;
}

/// How many things this thread has looked at since the last call.
#[cfg(test)]
pub(crate) fn take() -> u64 {
    DONE.take()
}

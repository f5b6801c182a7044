//! What the bindings of the moment say of a topic.

use floodplain_broker::seams::{self, Bound, DefaultBinding};
use floodplain_history::{Handle, bindings::Bindings};
use std::{cell::RefCell, sync::Arc};

thread_local! {
    /// The bindings that this thread knows: each message asks, and only a change takes the lock of the others.
    static KNOWN: RefCell<Arc<Bindings>> = RefCell::default();
}

/// Key of the records of a topic (all messages of a device are in one partition, in one order), and their class.
#[derive(Debug, Clone)]
pub(crate) struct TopicDevices(pub(crate) Handle);

impl seams::Bindings for TopicDevices {
    fn bound<'t>(&self, topic: &'t str) -> Bound<'t> {
        KNOWN.with_borrow_mut(|known| {
            if !self.0.is_current(known) {
                *known = self.0.bindings();
            }
            match known.bound(topic) {
                Some(floodplain_history::bindings::Bound { device, class }) => Bound { device, class },
                None => DefaultBinding.bound(topic),
            }
        })
    }
}

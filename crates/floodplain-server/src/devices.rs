//! What the bindings of the moment say of a topic.

use floodplain_broker::seams::{self, Bound, DefaultBinding};
use floodplain_history::bindings::{Bindings, CurrentBindings};
use floodplain_log::DataStreams;
use std::{cell::RefCell, sync::Arc};

thread_local! {
    /// The bindings that this thread knows: each message asks, and only a change takes the lock of the others.
    static KNOWN: RefCell<Arc<Bindings>> = RefCell::default();
}

/// Key of the records of a topic (all messages of a device are in one partition, in one order), their class and stream.
#[derive(Debug, Clone)]
pub(crate) struct TopicDevices {
    pub(crate) bindings: Arc<CurrentBindings>,
    pub(crate) streams: DataStreams,
}

impl seams::Bindings for TopicDevices {
    fn bound<'t>(&self, topic: &'t str) -> Bound<'t> {
        KNOWN.with_borrow_mut(|known| {
            if !self.bindings.are(known) {
                *known = self.bindings.get();
            }
            match known.bound(topic) {
                Some(floodplain_history::bindings::Bound { device, class, stream }) => {
                    let stream = stream.and_then(|name| self.streams.number_of(name)).unwrap_or(0);
                    Bound { device, class, stream }
                }
                None => DefaultBinding.bound(topic),
            }
        })
    }
}

//! When each device was last heard: a fold over its messages.

use crate::transition::is_of_alerts;
use floodplain_fold::{
    Fold, Input, Outputs, RestoreError,
    wire::{Get, Put, WireError},
};
use floodplain_log::MessageRef;
use floodplain_types::{DeviceId, Timestamp};
use std::collections::BTreeMap;

/// Devices of one partition. Others are not watched for silence; their messages are counted.
pub const DEVICES_MAX: usize = 65_536;

/// The devices of one data partition, with the times at which their last messages were received.
#[derive(Debug, Default)]
pub struct Heard {
    devices: BTreeMap<Box<str>, Timestamp>,
}

impl Heard {
    /// When the device was last heard.
    #[must_use]
    pub fn get(&self, device: &str) -> Option<Timestamp> {
        self.devices.get(device).copied()
    }

    /// All devices, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        self.devices.iter().map(|(device, time)| (&**device, *time))
    }

    /// How many devices there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether no device was heard.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    fn hear(&mut self, device: &str, time: Timestamp) {
        let has_room = self.devices.len() < DEVICES_MAX;
        match self.devices.get_mut(device) {
            Some(last) => *last = time.max(*last),
            None if has_room => drop(self.devices.insert(device.into(), time)),
            None => metrics::counter!("floodplain_alerts_unwatched_messages_total").increment(1),
        }
    }
}

impl Fold for Heard {
    const NAME: &'static str = "heard";
    const FORMAT: u16 = 1;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        let is_of_alerts = MessageRef::parse(input.record).is_ok_and(|message| is_of_alerts(message.topic));
        let device = input.record.key.and_then(|key| std::str::from_utf8(key).ok());
        let is_device = |device: &&str| !device.is_empty() && device.len() <= DeviceId::MAX_BYTES;
        if let Some(device) = device.filter(is_device).filter(|_| !is_of_alerts) {
            self.hear(device, input.ingest_time());
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.devices.len() as u64);
        for (device, time) in &self.devices {
            out.put_str(device);
            out.put_time(*time);
        }
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if format != Self::FORMAT {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        let mut get = Get::new(bytes);
        let devices = get.list(|get| Ok::<(Box<str>, _), WireError>((get.str()?.into(), get.time()?)))?;
        get.end()?;
        self.devices = devices.into_iter().collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_time_counts_and_devices_have_a_bound() {
        let mut heard = Heard::default();
        heard.hear("a", Timestamp(5));
        heard.hear("a", Timestamp(3));
        assert_eq!(heard.get("a"), Some(Timestamp(5)));
        for n in 0..DEVICES_MAX {
            heard.hear(&n.to_string(), Timestamp(1));
        }
        assert_eq!((heard.len(), heard.is_empty()), (DEVICES_MAX, false));
        heard.hear("a", Timestamp(9));
        assert_eq!(heard.get("a"), Some(Timestamp(9)));
        let mut bytes = Vec::new();
        heard.snapshot(&mut bytes);
        let mut again = Heard::default();
        again.restore(Heard::FORMAT, &bytes).unwrap();
        assert!(again.iter().eq(heard.iter()));
    }
}

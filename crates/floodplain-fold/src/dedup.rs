//! Dropping what a writer had to repeat.

use crate::{
    Copying,
    wire::{Get, Put, WireError},
};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

/// The newest dedup ids of each device, bounded per device and in all.
///
/// A writer that does not know whether its append was committed sends it again with the same id
/// (`fp.x`); the copy may come much later than the first, but only a window of the device's own
/// traffic later. When the window of a device is full its oldest id goes; when there are too many ids in all the
/// device that has been silent longest goes. Both rules follow the order of the records, so they
/// replay alike.
///
/// Ids are kept as hashes of 128 bits.
#[derive(Debug, Clone)]
pub struct DedupWindow {
    ids_per_device: usize,
    ids_max: usize,
    /// In all windows.
    ids: usize,
    devices: BTreeMap<Box<[u8]>, Device>,
    /// Devices by the count of their newest id, oldest first.
    by_use: BTreeMap<u64, Box<[u8]>>,
    /// Counts the ids that were new.
    count: u64,
    /// A copy that is being made; no part of the state.
    copying: Option<Copying<Box<[u8]>>>,
}

impl PartialEq for DedupWindow {
    fn eq(&self, other: &Self) -> bool {
        let fields = |window: &Self| (window.ids_per_device, window.ids_max, window.count);
        fields(self) == fields(other) && self.devices == other.devices
    }
}

impl Eq for DedupWindow {}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Device {
    ids: VecDeque<u128>,
    used: u64,
}

impl Device {
    fn put(&self, out: &mut Vec<u8>, name: &[u8]) {
        out.put_bytes(name);
        out.put_u64(self.used);
        out.put_u64(self.ids.len() as u64);
        for id in &self.ids {
            out.extend_from_slice(&id.to_le_bytes());
        }
    }
}

impl DedupWindow {
    /// A window of `ids_per_device` ids for each device, and of `ids_max` in all, which is not less.
    #[must_use]
    pub fn new(ids_per_device: usize, ids_max: usize) -> Self {
        let ids_per_device = ids_per_device.max(1);
        Self {
            ids_per_device,
            ids_max: ids_max.max(ids_per_device),
            ids: 0,
            devices: BTreeMap::new(),
            by_use: BTreeMap::new(),
            count: 0,
            copying: None,
        }
    }

    /// Whether `id` of `device` is new; it is remembered if so.
    pub fn is_new(&mut self, device: &[u8], id: &[u8]) -> bool {
        let hash = twox_hash::XxHash3_128::oneshot(id);
        if let Some(entry) = self.devices.get_mut(device) {
            // Newest first: a repetition comes soon after its original.
            if entry.ids.iter().rev().any(|known| *known == hash) {
                return false;
            }
            self.count += 1;
            if let Some(copying) = &mut self.copying {
                copying.touch(device, || device.into(), Some(|out: &mut Vec<u8>| entry.put(out, device)));
            }
            let name = self.by_use.remove(&entry.used).unwrap_or_else(|| device.into());
            self.by_use.insert(self.count, name);
            entry.used = self.count;
            entry.ids.push_back(hash);
            if entry.ids.len() > self.ids_per_device {
                entry.ids.pop_front();
            } else {
                self.ids += 1;
            }
        } else {
            self.count += 1;
            self.touch(device);
            self.devices.insert(device.into(), Device { ids: VecDeque::from([hash]), used: self.count });
            self.by_use.insert(self.count, device.into());
            self.ids += 1;
        }
        while self.ids > self.ids_max {
            // Never that of this device: all of its ids have room.
            let Some((_, silent)) = self.by_use.pop_first() else { break };
            self.touch(&silent);
            self.ids -= self.devices.remove(&silent).map_or(0, |device| device.ids.len());
        }
        true
    }

    /// How many devices are remembered.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Appends the window in its canonical form: devices by name.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        self.put_head(out);
        self.devices.iter().for_each(|(name, device)| device.put(out, name));
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        out.put_u64(self.count);
        out.put_u64(self.devices.len() as u64);
    }

    /// Begins to copy the window as it is now.
    pub fn begin_copy(&mut self) {
        let mut head = Vec::new();
        self.put_head(&mut head);
        self.copying = Some(Copying::new(head));
    }

    /// Appends a part of what [`Self::snapshot`] would have when the copy began, until `out` has `max_len` bytes; true
    /// when that is all.
    pub fn copy_part(&mut self, out: &mut Vec<u8>, max_len: usize) -> bool {
        let Some(copying) = &mut self.copying else { return true };
        let from = |from: Bound<&Box<[u8]>>| self.devices.range::<Box<[u8]>, _>((from, Bound::Unbounded));
        let is_done = copying.part(from, |out, name, device| device.put(out, name), out, max_len);
        if is_done {
            self.copying = None;
        }
        is_done
    }

    /// The device is about to change.
    fn touch(&mut self, name: &[u8]) {
        if let Some(copying) = &mut self.copying {
            let device = self.devices.get(name);
            copying.touch(name, || name.into(), device.map(|device| |out: &mut Vec<u8>| device.put(out, name)));
        }
    }

    /// Replaces what is remembered; the bounds stay as they are.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not what [`Self::snapshot`] wrote.
    pub fn restore(&mut self, get: &mut Get<'_>) -> Result<(), WireError> {
        let (mut devices, mut by_use) = (BTreeMap::new(), BTreeMap::new());
        self.count = get.u64()?;
        for _ in 0..get.count()? {
            let name: Box<[u8]> = get.bytes()?.into();
            let used = get.u64()?;
            let mut ids = VecDeque::new();
            for _ in 0..get.count()? {
                let mut id = [0; 16];
                for byte in &mut id {
                    *byte = get.byte()?;
                }
                ids.push_back(u128::from_le_bytes(id));
            }
            by_use.insert(used, name.clone());
            devices.insert(name, Device { ids, used });
        }
        self.ids = devices.values().map(|device| device.ids.len()).sum();
        (self.devices, self.by_use, self.copying) = (devices, by_use, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_within_the_window() {
        let mut window = DedupWindow::new(2, 10);
        assert!(window.is_new(b"d", b"1") && window.is_new(b"d", b"2"));
        assert!(!window.is_new(b"d", b"1"), "repeated");
        assert!(window.is_new(b"e", b"1"), "another device");
        assert!(window.is_new(b"d", b"3"), "pushes out the first id");
        assert!(window.is_new(b"d", b"1"), "forgotten");
        assert!(!window.is_new(b"d", b"3"));
    }

    #[test]
    fn the_device_that_was_silent_longest_goes_first() {
        let mut window = DedupWindow::new(3, 4);
        assert!(window.is_new(b"a", b"1") && window.is_new(b"b", b"1") && window.is_new(b"b", b"2"));
        assert!(window.is_new(b"a", b"2") && window.is_new(b"c", b"1"), "b goes");
        assert_eq!((window.devices(), window.ids), (2, 3));
        assert!(!window.is_new(b"a", b"1"));
        assert!(window.is_new(b"b", b"1"), "forgotten");
    }

    #[test]
    fn a_copy_in_parts_is_of_the_moment_it_began() {
        let mut window = DedupWindow::new(3, 5);
        for i in 0..20_u8 {
            window.is_new(&[b'a' + i % 7], &[i]);
        }
        let (mut expected, mut copy) = (Vec::new(), Vec::new());
        window.snapshot(&mut expected);
        window.begin_copy();
        for i in 20..90_u8 {
            let len = copy.len() + 1;
            if window.copy_part(&mut copy, len) {
                assert!(i > 24);
                break;
            }
            window.is_new(&[b'a' + i % 9], &[i]);
        }
        assert_eq!(copy, expected);
    }

    #[test]
    fn a_restored_window_goes_on_alike() {
        let mut window = DedupWindow::new(3, 7);
        for i in 0..20_u8 {
            window.is_new(&[b'a' + i % 4], &[i % 7]);
        }
        let mut bytes = Vec::new();
        window.snapshot(&mut bytes);
        let mut restored = DedupWindow::new(3, 7);
        let mut get = Get::new(&bytes);
        restored.restore(&mut get).unwrap();
        assert_eq!(get.end(), Ok(()));
        assert_eq!((restored.ids, &restored), (window.ids, &window));
        for i in 0..40_u8 {
            let (device, id) = ([b'a' + i % 5], [i % 6]);
            assert_eq!(restored.is_new(&device, &id), window.is_new(&device, &id), "{i}");
        }
        assert_eq!(restored, window);
    }
}

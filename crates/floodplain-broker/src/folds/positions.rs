//! A position for each of some partitions.

use floodplain_fold::wire::{Get, Put, WireError};
use floodplain_types::Position;
use std::{fmt, sync::Arc};

/// Positions by partition index, sorted: the cursor of a session, the start of a subscription.
///
/// Kept as its encoded bytes, because there are two of these per sleeping session, which share
/// them where they are equal. A partition that is not named has position zero.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Positions(Arc<[u8]>);

impl Positions {
    /// The position of `partition`: [`Position::ZERO`] if it is not named.
    #[must_use]
    pub fn get(&self, partition: u32) -> Position {
        self.iter().find(|(index, _)| *index == partition).map_or(Position::ZERO, |(_, position)| position)
    }

    /// Partitions and positions, by partition.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Position)> + '_ {
        let mut get = Get::new(&self.0);
        std::iter::from_fn(move || Some((get.u32().ok()?, get.position().ok()?)))
    }

    /// Whether all positions are zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same with another position for one partition.
    #[must_use]
    pub fn with(&self, partition: u32, position: Position) -> Self {
        self.iter().filter(|(index, _)| *index != partition).chain([(partition, position)]).collect()
    }

    /// Of each partition the earlier position.
    #[must_use]
    pub fn lower(&self, other: &Self) -> Self {
        if self == other { self.clone() } else { self.combine(other, Position::min) }
    }

    /// Of each partition the later position.
    #[must_use]
    pub fn upper(&self, other: &Self) -> Self {
        if self == other || other.is_empty() {
            self.clone()
        } else if self.is_empty() {
            other.clone()
        } else {
            self.combine(other, Position::max)
        }
    }

    fn combine(&self, other: &Self, choose: impl Fn(Position, Position) -> Position) -> Self {
        let (mut left, mut right) = (self.iter().peekable(), other.iter().peekable());
        Self::from_sorted(std::iter::from_fn(|| {
            let partition = match (left.peek(), right.peek()) {
                (Some((l, _)), Some((r, _))) => *l.min(r),
                (Some((only, _)), None) | (None, Some((only, _))) => *only,
                (None, None) => return None,
            };
            let l = left.next_if(|(p, _)| *p == partition).map_or(Position::ZERO, |(_, position)| position);
            let r = right.next_if(|(p, _)| *p == partition).map_or(Position::ZERO, |(_, position)| position);
            Some((partition, choose(l, r)))
        }))
    }

    /// From items with growing partitions.
    fn from_sorted(items: impl Iterator<Item = (u32, Position)>) -> Self {
        let mut bytes = Vec::new();
        for (partition, position) in items.filter(|(_, position)| *position != Position::ZERO) {
            bytes.put_u64(u64::from(partition));
            bytes.put_position(position);
        }
        Self(bytes.into())
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_bytes(&self.0);
    }

    pub(crate) fn take(get: &mut Get<'_>) -> Result<Self, WireError> {
        let bytes = get.bytes()?;
        let mut items = Get::new(bytes);
        let mut before = None;
        while items.end().is_err() {
            let (partition, position) = (items.u32()?, items.position()?);
            if before >= Some(partition) || position == Position::ZERO {
                return Err(WireError::Invalid("position vector"));
            }
            before = Some(partition);
        }
        Ok(Self(bytes.into()))
    }
}

impl FromIterator<(u32, Position)> for Positions {
    /// Of two positions for one partition the later counts.
    fn from_iter<I: IntoIterator<Item = (u32, Position)>>(items: I) -> Self {
        let mut items: Vec<_> = items.into_iter().collect();
        items.sort_unstable();
        items.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = later.1;
            }
            same
        });
        Self::from_sorted(items.into_iter())
    }
}

impl fmt::Debug for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (partition, position) in self.iter() {
            map.entry(&partition, &format_args!("{position}"));
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position::new(0, offset)
    }

    #[test]
    fn positions_are_sorted_and_zero_is_left_out() {
        let positions: Positions = [(3, at(7)), (1, at(9)), (2, at(0)), (3, at(5))].into_iter().collect();
        assert_eq!(positions.iter().collect::<Vec<_>>(), [(1, at(9)), (3, at(7))]);
        assert_eq!((positions.get(1), positions.get(2)), (at(9), at(0)));
        assert_eq!(positions.with(2, at(4)).get(2), at(4));
        assert_eq!(positions.with(1, at(0)).iter().count(), 1);
        let mut bytes = Vec::new();
        positions.put(&mut bytes);
        assert_eq!(Positions::take(&mut Get::new(&bytes)), Ok(positions));
    }

    #[test]
    fn lower_and_upper_go_by_partition() {
        let a: Positions = [(0, at(5)), (1, at(5))].into_iter().collect();
        let b: Positions = [(1, at(3)), (2, at(8))].into_iter().collect();
        assert_eq!(a.lower(&b).iter().collect::<Vec<_>>(), [(1, at(3))]);
        assert_eq!(a.upper(&b).iter().collect::<Vec<_>>(), [(0, at(5)), (1, at(5)), (2, at(8))]);
        assert_eq!(b.upper(&a), a.upper(&b));
    }

    #[test]
    fn unsorted_bytes_are_refused() {
        for bytes in [&[6, 1, 0, 5, 1, 0, 6][..], &[3, 1, 0, 0], &[2, 1, 0], &[6, 2, 0, 5, 1, 0, 6]] {
            assert!(Positions::take(&mut Get::new(bytes)).is_err(), "{bytes:?}");
        }
    }
}

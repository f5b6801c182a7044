use super::*;
use crate::{Batch, BatchBuilder, Compression, Disk, OsDisk};
use proptest::prelude::*;
use std::sync::Arc;

fn batch(value: &str) -> Batch {
    let mut builder = BatchBuilder::new();
    // Long enough for partitions with several blocks.
    let value = value.repeat(300);
    builder.push(7, None, Some(value.as_bytes()), []).unwrap();
    builder.finish(Compression::None).unwrap()
}

/// Frames as a journal holds them: partition, offset gap in front of it, ingest time.
fn source(dir: &std::path::Path, frames: &[(u32, u64, i64)]) -> Source {
    let file = OsDisk.create(&dir.join("source")).unwrap();
    let mut ends = std::collections::BTreeMap::<u32, (u64, u64)>::new();
    let mut bytes = Vec::new();
    let mut list = Vec::new();
    for (idx, (index, gap, ingest_ms)) in frames.iter().enumerate() {
        let batch = batch(&idx.to_string());
        let (end, end_at) = ends.entry(*index).or_default();
        let frame = Frame {
            partition: Partition { stream: 1, index: *index },
            base_offset: *end + gap,
            at: *end_at + gap * 1_000 + FRAME_HEADER as u64,
            ingest_ms: *ingest_ms,
            batch_len: batch.as_bytes().len() as u32,
            last_delta: 0,
        };
        list.push((frame.partition, FrameAt::of(&frame, bytes.len() as u64)));
        frame.write(&mut bytes, batch.as_bytes());
        (*end, *end_at) = (frame.base_offset + 1, frame.at + u64::from(frame.batch_len));
    }
    crate::files::write_all_at(&*file, &bytes, 0).unwrap();
    Source { name: "source".into(), file, frames: list }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every frame is found by partition and offset, by byte position, and by time; a scan without
    /// the index finds the same frames.
    #[test]
    fn all_frames_are_found(
        frames in proptest::collection::vec((0_u32..70, prop_oneof![8 => Just(0_u64), 1 => 1..5_u64], 0_i64..50), 1..400),
        cached_pages in prop_oneof![Just(100_u32), Just(1), Just(0)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path(), &frames);
        let wanted = source.frames.clone();
        let file = OsDisk.create(&dir.path().join("segment")).unwrap();
        let written = write_segment(&*file, 3, 5, &[source]).unwrap();
        prop_assert_eq!(written.damaged.len(), 0);
        let segment = Segment::open(&*file, 3, 5).unwrap();
        prop_assert_eq!((segment.len, segment.frame_count), (written.bytes, frames.len() as u64));
        prop_assert_eq!(segment.max_ingest_ms, frames.iter().map(|frame| frame.2).max().unwrap());
        // Room for all pages, for one, for none.
        let cache = PageCache::new(u64::from(cached_pages) * PAGE as u64, metrics::Counter::noop());
        for (partition, frame) in &wanted {
            let part = segment.find(&*file, &cache, *partition).unwrap().unwrap();
            prop_assert!(part.base <= frame.base && frame.base < part.end);
            let by_offset = segment.block(&*file, &cache, &part, |block| block.base <= frame.base).unwrap();
            prop_assert!(by_offset.base <= frame.base && by_offset.pos < part.end_pos);
            let place = segment.place(&*file, &cache, &part, frame.at).unwrap();
            let mut head = [0; FRAME_HEADER];
            read_exact_at(&*file, &mut head, place - FRAME_HEADER as u64).unwrap();
            prop_assert_eq!(Frame::parse(&head).map(|found| (found.partition, found.base_offset)), Some((*partition, frame.base)));
            prop_assert!(segment.offset_at(&*file, &cache, &part, frame.ingest_ms).unwrap() <= frame.base);
            // A hole behind another frame of the partition is what makes an index necessary.
            let of_part = || wanted.iter().filter(|(of, _)| of == partition).map(|(_, frame)| frame);
            let is_whole = of_part().zip(of_part().skip(1)).all(|(frame, next)| next.at == frame.end_at() + FRAME_HEADER as u64);
            prop_assert_eq!(part.place_without_index(frame.at), is_whole.then_some(place));
        }
        let missing = Partition { stream: 1, index: 1_000 };
        prop_assert!(segment.find(&*file, &cache, missing).unwrap().is_none());
        let before = Partition { stream: 0, index: 0 };
        prop_assert!(segment.find(&*file, &cache, before).unwrap().is_none());

        let (scanned, bad) = Segment::scan(&*file, segment.frames_end()).unwrap();
        prop_assert_eq!((scanned.len(), bad.len()), (wanted.len(), 0));
        // Written again from itself, it is the same file.
        let again = OsDisk.create(&dir.path().join("again")).unwrap();
        let source = Source { name: "segment".into(), file: Arc::clone(&file), frames: scanned };
        write_segment(&*again, 3, 5, &[source]).unwrap();
        let whole = |name| std::fs::read(dir.path().join(name)).unwrap();
        prop_assert_eq!(whole("segment"), whole("again"));
    }

    #[test]
    fn noise_is_no_segment(bytes in proptest::collection::vec(any::<u8>(), 0..500), hit: prop::sample::Index) {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("noise")).unwrap();
        crate::files::write_all_at(&*file, &bytes, 0).unwrap();
        prop_assert!(Segment::open(&*file, 0, 0).is_err());

        let file = OsDisk.create(&dir.path().join("segment")).unwrap();
        let written = write_segment(&*file, 3, 5, &[source(dir.path(), &[(0, 0, 0), (1, 0, 0)])]).unwrap();
        let at = hit.index(written.bytes as usize) as u64;
        crate::files::write_all_at(&*file, &[0xa5], at).unwrap();
        if let Ok(segment) = Segment::open(&*file, 3, 5) {
            let cache = PageCache::new(1 << 20, metrics::Counter::noop());
            let part = segment.find(&*file, &cache, Partition { stream: 1, index: 1 });
            prop_assert!(part.is_err() || part.unwrap().unwrap().base == 0);
        }
    }
}

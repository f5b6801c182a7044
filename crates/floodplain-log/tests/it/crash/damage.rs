//! Bits flip on the disk.

//! Checksums that devices put into their frames.

use crc::{CRC_16_IBM_3740, CRC_16_KERMIT, CRC_16_MODBUS, CRC_16_XMODEM, CRC_32_ISCSI, CRC_32_ISO_HDLC, Crc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Sum of all bytes, modulo 256.
    Sum8,
    Xor8,
    Crc16Modbus,
    /// Polynomial 1021, start FFFF: what most data sheets call CRC-CCITT.
    Crc16Ccitt,
    /// Polynomial 1021, start 0.
    Crc16Xmodem,
    /// Polynomial 1021, reflected, start 0.
    Crc16Kermit,
    /// Of Ethernet and zip.
    Crc32,
    Crc32c,
}

impl Algorithm {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Sum8, "sum8"),
        (Self::Xor8, "xor8"),
        (Self::Crc16Modbus, "crc16-modbus"),
        (Self::Crc16Ccitt, "crc16-ccitt"),
        (Self::Crc16Xmodem, "crc16-xmodem"),
        (Self::Crc16Kermit, "crc16-kermit"),
        (Self::Crc32, "crc32"),
        (Self::Crc32c, "crc32c"),
    ];

    /// Bytes that the checksum takes in the payload.
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Sum8 | Self::Xor8 => 1,
            Self::Crc16Modbus | Self::Crc16Ccitt | Self::Crc16Xmodem | Self::Crc16Kermit => 2,
            Self::Crc32 | Self::Crc32c => 4,
        }
    }

    pub(crate) fn of(self, bytes: &[u8]) -> u32 {
        const MODBUS: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
        const CCITT: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_3740);
        const XMODEM: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
        const KERMIT: Crc<u16> = Crc::<u16>::new(&CRC_16_KERMIT);
        const ISO_HDLC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
        match self {
            Self::Sum8 => u32::from(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte))),
            Self::Xor8 => u32::from(bytes.iter().fold(0, |sum, byte| sum ^ byte)),
            Self::Crc16Modbus => u32::from(MODBUS.checksum(bytes)),
            Self::Crc16Ccitt => u32::from(CCITT.checksum(bytes)),
            Self::Crc16Xmodem => u32::from(XMODEM.checksum(bytes)),
            Self::Crc16Kermit => u32::from(KERMIT.checksum(bytes)),
            Self::Crc32 => ISO_HDLC.checksum(bytes),
            Self::Crc32c => crc32c(bytes),
        }
    }
}

/// Also names definitions.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    const ISCSI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    ISCSI.checksum(bytes)
}

impl std::str::FromStr for Algorithm {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().find(|(_, name)| *name == s).map(|(algorithm, _)| *algorithm).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(_, name)| *name).collect();
            format!("unknown checksum {s:?}: use one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the catalogue of parametrised CRC algorithms.
    #[test]
    fn check_values() {
        for (name, expected) in [
            ("sum8", 0xDD),
            ("xor8", 0x31),
            ("crc16-modbus", 0x4B37),
            ("crc16-ccitt", 0x29B1),
            ("crc16-xmodem", 0x31C3),
            ("crc16-kermit", 0x2189),
            ("crc32", 0xCBF4_3926),
            ("crc32c", 0xE306_9283),
        ] {
            assert_eq!(name.parse::<Algorithm>().unwrap().of(b"123456789"), expected, "{name}");
        }
        assert!("crc16".parse::<Algorithm>().is_err());
    }
}

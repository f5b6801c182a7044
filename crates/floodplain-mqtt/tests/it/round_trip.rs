//! What is written is read as the same packet, and written again as the same bytes.

use floodplain_mqtt::Encoder;
use proptest::prelude::*;

use crate::packets::{case, decoder};

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_survive((version, receiver, packet) in case()) {
        let encoder = Encoder::new(version);
        let mut bytes = Vec::new();
        encoder.encode(&packet, &mut bytes).unwrap();
        let decoder = decoder(version, receiver, bytes[0]);
        let (found, len) = decoder.next(&bytes).unwrap().unwrap();
        prop_assert_eq!(found, packet);
        prop_assert_eq!(len, bytes.len());
        let mut again = Vec::new();
        encoder.encode(&found, &mut again).unwrap();
        prop_assert_eq!(again, bytes);
    }
}

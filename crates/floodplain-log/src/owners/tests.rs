use super::*;
use std::collections::HashMap;

#[test]
fn partitions_with_one_index_share_a_slot_and_neighbours_do_not() {
    let tenant = |name: &str| TenantId::new(name).unwrap();
    // Every node computes the same, whatever its release: 1.x of Kafka's Java client gives this hash for "21".
    assert_eq!(slot_of(&tenant("21"), 3, 64), Slot(((-973_932_308_i32 as u32 & 0x7fff_ffff) + 3) % 64));
    let all: Vec<u32> = (0..64).map(|index| slot_of(&tenant("acme"), index, 64).0).collect();
    let mut sorted = all.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..64).collect::<Vec<_>>(), "all of a tenant with as many partitions as slots");
    assert!(all.windows(2).all(|pair| (pair[0] + 1) % 64 == pair[1]));
    assert_eq!(slot_of(&tenant("acme"), u32::MAX, 1), Slot(0));
    // Tenants with one partition are spread.
    let mut counts: HashMap<Slot, u32> = HashMap::new();
    for number in 0..640 {
        *counts.entry(slot_of(&tenant(&format!("tenant-{number}")), 0, 16)).or_default() += 1;
    }
    assert!(counts.len() == 16 && counts.values().all(|count| (20..=60).contains(count)), "{counts:?}");
}

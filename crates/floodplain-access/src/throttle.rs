//! Failed logins make the next ones wait: longer with each, per user and per address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Users and addresses that are remembered; beyond it, the one that failed longest ago is forgotten.
const ENTRIES_MAX: usize = 16_384;

/// A failure is forgotten when none followed it for so long.
const MEMORY: Duration = Duration::from_secs(15 * 60);

const FIRST_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    User(String),
    Address(IpAddr),
}

impl Key {
    fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            // One machine has a whole /64 to choose from.
            IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::V6(Ipv6Addr::from(u128::from(ip) >> 64 << 64)),
            ip => ip,
        })
    }

    /// Failures that cost nothing.
    const fn free(&self) -> u32 {
        match self {
            Self::User(_) => 5,
            Self::Address(_) => 20,
        }
    }

    fn delay_max(&self) -> Duration {
        match self {
            Self::User(_) => Duration::from_secs(60),
            // All of this machine share it, proxies and tunnels too: one program with a wrong password must not shut out
            // the rest.
            Self::Address(ip) if ip.is_loopback() => FIRST_DELAY,
            Self::Address(_) => Duration::from_secs(60),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    failures: u32,
    last: Instant,
    blocked_until: Instant,
}

/// Counts failed logins of HTTP and of the PostgreSQL wire together.
///
/// Memory is bounded. What is refused is not counted as a failure, so waiting as told is always enough.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<Key, Entry>>);

impl Throttle {
    /// Whether `user` may try to log in from `address`; to be asked before a password or proof is checked.
    ///
    /// # Errors
    /// How long to wait, at least one second.
    pub fn check(&self, user: &str, address: IpAddr) -> Result<(), Duration> {
        self.check_at(Instant::now(), user, address)
    }

    fn check_at(&self, now: Instant, user: &str, address: IpAddr) -> Result<(), Duration> {
        let entries = self.entries();
        let wait = |key: &Key| entries.get(key).map_or(Duration::ZERO, |entry| entry.blocked_until - now);
        let left = wait(&user_key(user)).max(wait(&Key::address(address)));
        if left.is_zero() { Ok(()) } else { Err(Duration::from_secs(left.as_secs_f64().ceil() as u64)) }
    }

    /// A password or proof was wrong, or nobody has that name.
    pub fn failed(&self, user: &str, address: IpAddr) {
        self.failed_at(Instant::now(), user, address);
    }

    fn failed_at(&self, now: Instant, user: &str, address: IpAddr) {
        let mut entries = self.entries();
        for key in [user_key(user), Key::address(address)] {
            if entries.len() >= ENTRIES_MAX && !entries.contains_key(&key) {
                make_room(&mut entries, now);
            }
            let (free, delay_max) = (key.free(), key.delay_max());
            let entry = entries.entry(key).or_insert(Entry { failures: 0, last: now, blocked_until: now });
            if now - entry.last > MEMORY {
                entry.failures = 0;
            }
            entry.failures = entry.failures.saturating_add(1);
            entry.last = now;
            if let Some(doublings) = entry.failures.checked_sub(free) {
                entry.blocked_until = now + (FIRST_DELAY * 2_u32.pow(doublings.min(10))).min(delay_max);
            }
        }
    }

    /// `user` has logged in. The address keeps its failures: who has one password must not guess others with it.
    pub fn succeeded(&self, user: &str) {
        self.entries().remove(&user_key(user));
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // Every change is whole, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All names that no user can have are one.
fn user_key(user: &str) -> Key {
    Key::User(crate::name::user_name(user).unwrap_or_default())
}

fn make_room(entries: &mut HashMap<Key, Entry>, now: Instant) {
    entries.retain(|_, entry| now - entry.last <= MEMORY);
    if entries.len() >= ENTRIES_MAX {
        let oldest = entries.iter().min_by_key(|(_, entry)| entry.last).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn seconds(wait: Result<(), Duration>) -> u64 {
        wait.map_or_else(|wait| wait.as_secs(), |()| 0)
    }

    #[test]
    fn waits_double_and_are_forgotten() {
        let (throttle, mut now) = (Throttle::default(), Instant::now());
        for expected in [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60] {
            throttle.failed_at(now, "Anna", FAR);
            assert_eq!(seconds(throttle.check_at(now, "anna", HERE)), expected);
            now += Duration::from_secs(expected);
            assert_eq!(throttle.check_at(now, "anna", HERE), Ok(()));
        }
        throttle.succeeded("anna");
        throttle.failed_at(now, "anna", FAR);
        assert_eq!(throttle.check_at(now, "anna", HERE), Ok(()));
        for _ in 0..9 {
            throttle.failed_at(now, "bert", HERE);
        }
        now += MEMORY + Duration::from_secs(1);
        throttle.failed_at(now, "bert", HERE);
        assert_eq!(throttle.check_at(now, "bert", FAR), Ok(()));
    }

    #[test]
    fn one_address_cannot_try_all_users() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..30 {
            throttle.failed_at(now, &format!("user-{n}"), FAR);
            throttle.succeeded(&format!("user-{n}"));
        }
        assert_eq!(seconds(throttle.check_at(now, "another", FAR)), 60);
        assert_eq!(throttle.check_at(now, "another", IpAddr::from([192, 0, 2, 2])), Ok(()));
    }

    #[test]
    fn loopback_waits_for_a_second_at_most() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..100 {
            throttle.failed_at(now, &format!("user-{n}"), HERE);
        }
        assert_eq!(seconds(throttle.check_at(now, "another", HERE)), 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let key = |text: &str| Key::address(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert!(matches!(key("::1"), Key::Address(ip) if ip.is_loopback()));
    }

    #[test]
    fn memory_is_bounded() {
        let (throttle, mut now) = (Throttle::default(), Instant::now());
        for n in 0..ENTRIES_MAX as u32 + 10 {
            throttle.failed_at(now, &format!("user-{n}"), IpAddr::from(n.to_be_bytes()));
        }
        assert_eq!(throttle.entries().len(), ENTRIES_MAX);
        now += MEMORY + Duration::from_secs(1);
        throttle.failed_at(now, "one-more", FAR);
        assert_eq!(throttle.entries().len(), 2);
    }

    proptest! {
        /// Whatever was tried, who waits as told may try again.
        #[test]
        fn a_wait_is_enough(tries in prop::collection::vec((0_u8..4, 0_u8..3, any::<bool>()), 0..200)) {
            let (throttle, mut now) = (Throttle::default(), Instant::now());
            for (user, address, right) in tries {
                let (user, address) = (user.to_string(), IpAddr::from([10, 0, 0, address]));
                if let Err(wait) = throttle.check_at(now, &user, address) {
                    prop_assert!((1..=60).contains(&wait.as_secs()));
                    now += wait;
                    prop_assert_eq!(throttle.check_at(now, &user, address), Ok(()));
                }
                if right { throttle.succeeded(&user) } else { throttle.failed_at(now, &user, address) }
            }
        }
    }
}

//! Newtypes for names. All are cheap to clone: they share one allocation.

use std::{borrow::Borrow, fmt, sync::Arc};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Names must have at least one byte.
    #[error("{kind} is empty")]
    Empty { kind: &'static str },
    /// The limit is given in bytes of UTF-8.
    #[error("{kind} has {len} bytes, the limit is {max}")]
    TooLong { kind: &'static str, len: usize, max: usize },
    /// Tenants and streams become Kafka topic names, so they share their alphabet.
    #[error("{kind} {name:?} may only hold letters, digits, '_', '-' and '.'")]
    Alphabet { kind: &'static str, name: String },
}

fn kafka_safe(kind: &'static str, name: &str) -> Result<(), IdError> {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.bytes().all(safe) { Ok(()) } else { Err(IdError::Alphabet { kind, name: name.to_owned() }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $max:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Longer names are refused.
            pub const MAX_BYTES: usize = $max;

            /// Checks length and alphabet.
            ///
            /// # Errors
            /// [`IdError`] names the rule that was broken.
            pub fn new(name: &str) -> Result<Self, IdError> {
                if name.is_empty() {
                    return Err(IdError::Empty { kind: $kind });
                }
                if name.len() > Self::MAX_BYTES {
                    return Err(IdError::TooLong { kind: $kind, len: name.len(), max: Self::MAX_BYTES });
                }
                let check: fn(&'static str, &str) -> Result<(), IdError> = $check;
                check($kind, name)?;
                Ok(Self(name.into()))
            }

            /// The name as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// The owner of everything: streams, devices, users. At most 64 bytes of `[A-Za-z0-9._-]`.
    TenantId, "tenant", 64, kafka_safe
);
name!(
    /// A stream of a tenant. At most 128 bytes of `[A-Za-z0-9._-]`.
    StreamName, "stream", 128, kafka_safe
);
name!(
    /// A device: the key of its records. At most 256 bytes of UTF-8.
    DeviceId, "device", 256, |_, _| Ok(())
);
name!(
    /// An MQTT client identifier. At most 256 bytes of UTF-8.
    ClientId, "client id", 256, |_, _| Ok(())
);

impl TenantId {
    /// The one tenant of an installation that does not use tenants.
    #[must_use]
    pub fn default_tenant() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(TenantId::new("acme-1.eu").unwrap().as_str(), "acme-1.eu");
        assert!(matches!(TenantId::new(""), Err(IdError::Empty { .. })));
        assert!(matches!(StreamName::new("a/b"), Err(IdError::Alphabet { .. })));
        assert!(matches!(ClientId::new(&"x".repeat(257)), Err(IdError::TooLong { len: 257, .. })));
        assert_eq!(ClientId::new("ü/+#").unwrap().as_str(), "ü/+#");
    }
}

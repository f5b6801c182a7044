//! Topic names and topic filters (MQTT 5.0 §4.7, 3.1.1 §4.7).

use std::{borrow::Borrow, fmt, sync::Arc};

/// Why a topic name or filter was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// [MQTT-4.7.3-1]
    #[error("topic is empty")]
    Empty,
    /// [MQTT-4.7.3-3]; operators set a lower limit.
    #[error("topic has {len} bytes, the limit is {max}")]
    TooLong { len: usize, max: usize },
    /// [MQTT-4.7.3-2]
    #[error("topic holds U+0000")]
    Nul,
    /// [MQTT-3.3.2-2]
    #[error("topic name holds a wildcard")]
    WildcardInName,
    /// [MQTT-4.7.1-1], [MQTT-4.7.1-2]
    #[error("wildcard does not fill its level, or '#' is not the last one")]
    MisplacedWildcard,
}

fn common(s: &str) -> Result<(), TopicError> {
    if s.is_empty() {
        return Err(TopicError::Empty);
    }
    if s.len() > 65_535 {
        return Err(TopicError::TooLong { len: s.len(), max: 65_535 });
    }
    if s.as_bytes().contains(&0) {
        return Err(TopicError::Nul);
    }
    Ok(())
}

/// Checks a topic name: 1 to 65,535 bytes, no NUL, no wildcard.
///
/// # Errors
/// [`TopicError`] names the clause.
pub fn validate_topic(s: &str) -> Result<(), TopicError> {
    common(s)?;
    if s.bytes().any(|b| b == b'+' || b == b'#') {
        return Err(TopicError::WildcardInName);
    }
    Ok(())
}

/// Checks a topic filter: like a name, with `+` as a whole level and `#` as the whole last level.
///
/// # Errors
/// [`TopicError`] names the clause.
pub fn validate_filter(s: &str) -> Result<(), TopicError> {
    common(s)?;
    let mut levels = s.split('/').peekable();
    while let Some(level) = levels.next() {
        let ok = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            other => !other.bytes().any(|b| b == b'+' || b == b'#'),
        };
        if !ok {
            return Err(TopicError::MisplacedWildcard);
        }
    }
    Ok(())
}

/// Whether `filter` matches `topic`; both must be valid.
///
/// `a/#` also matches `a`; a filter that starts with a wildcard matches no topic that starts
/// with `$` [MQTT-4.7.2-1]. Levels are compared byte for byte [MQTT-4.7.3-4].
#[must_use]
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        // Also when no level is left: `a/#` matches its parent `a`.
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

macro_rules! topic {
    ($(#[$doc:meta])* $type:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and keeps `s`.
            ///
            /// # Errors
            /// [`TopicError`] names the clause.
            pub fn new(s: &str) -> Result<Self, TopicError> {
                $check(s)?;
                Ok(Self(s.into()))
            }

            /// The levels joined by `/`.
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

topic!(
    /// A topic name: what a message is published to.
    Topic, validate_topic
);
topic!(
    /// A topic filter: what a subscription asks for. Shared by all subscriptions that name it.
    TopicFilter, validate_filter
);

impl TopicFilter {
    /// Whether this filter matches `topic`; see [`filter_matches`].
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        filter_matches(&self.0, topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("+/#", "a", true),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("+", "/a", false),
            ("#", "a/b", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("$SYS/+", "$SYS/a", true),
            ("a/+/c/#", "a/b/c", true),
            ("a/+/c/#", "a/b", false),
            ("ä/b", "ä/b", true),
        ] {
            assert_eq!(filter_matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn names_and_filters_are_checked() {
        assert_eq!(validate_topic("a/+"), Err(TopicError::WildcardInName));
        assert_eq!(validate_topic(""), Err(TopicError::Empty));
        assert_eq!(validate_topic("a\0"), Err(TopicError::Nul));
        assert!(validate_topic("/").is_ok());
        assert!(validate_filter("+/a/#").is_ok());
        for bad in ["a/#/b", "a#", "a+/b", "#a", "a/b+"] {
            assert_eq!(validate_filter(bad), Err(TopicError::MisplacedWildcard), "{bad}");
        }
        assert!(validate_topic(&"x".repeat(65_536)).is_err());
    }
}

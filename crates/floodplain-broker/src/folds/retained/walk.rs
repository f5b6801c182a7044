//! Finding the topics that match a filter in a sorted map, without looking at all others.
//!
//! Topics with a common prefix are neighbours in the order of bytes. So where a topic does not
//! match, its levels up to the first that differs say where the next one that may match can be.

/// What to do after looking at one topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Match,
    /// No match; the next topic may be one.
    Next,
    /// No match, and none before this string.
    Seek(String),
    /// No match, and none after.
    End,
}

/// The least topic that can match.
pub(super) fn first(filter: &[&str]) -> String {
    let wild = filter.iter().position(|level| matches!(*level, "+" | "#")).unwrap_or(filter.len());
    let mut first = filter[..wild].join("/");
    // `a/#` matches `a` too, `a/+` only what is longer.
    if wild > 0 && filter.get(wild) == Some(&"+") {
        first.push('/');
    }
    first
}

/// Compares `topic` with the levels of a filter.
pub(super) fn step(filter: &[&str], topic: &str) -> Step {
    if topic.starts_with('$') && matches!(filter[0], "+" | "#") {
        // [MQTT-4.7.2-1]; the character after '$' is '%'.
        return Step::Seek("%".to_owned());
    }
    // Where the level that is looked at starts.
    let mut at = 0;
    let mut rest = Some(topic);
    for (idx, wanted) in filter.iter().enumerate() {
        if *wanted == "#" {
            return Step::Match;
        }
        let Some(here) = rest else {
            // Too short; what follows may be longer.
            return Step::Next;
        };
        let (level, after) = match here.split_once('/') {
            Some((level, after)) => (level, Some(after)),
            None => (here, None),
        };
        if *wanted != "+" && *wanted != level {
            return other_level(&topic[..at], wanted, filter.get(idx + 1), topic);
        }
        at += level.len() + 1;
        rest = after;
    }
    match rest {
        None => Step::Match,
        // Too long, and so is all that starts like this.
        Some(_) => beyond(&topic[..at]),
    }
}

/// Below `prefix` (empty, or ending in '/') only the level `wanted` can match.
fn other_level(prefix: &str, wanted: &str, next: Option<&&str>, topic: &str) -> Step {
    let target = format!("{prefix}{wanted}");
    if topic < target.as_str() {
        return Step::Seek(target);
    }
    // Between a level and what is below it there may be others: `a-b` is between `a` and `a/b`.
    let below = format!("{target}/");
    if next.is_some() && topic < below.as_str() {
        return Step::Seek(below);
    }
    beyond(prefix)
}

/// The first string after all that start with `prefix`, which is empty or ends in '/'.
fn beyond(prefix: &str) -> Step {
    match prefix.strip_suffix('/') {
        // '0' is the character after '/'.
        Some(levels) => Step::Seek(format!("{levels}0")),
        None => Step::End,
    }
}

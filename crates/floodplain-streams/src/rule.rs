//! What an alert watches for.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};
use utoipa::ToSchema;

/// Longest name: it is a level of a topic.
const NAME_BYTES_MAX: usize = 64;
/// Longest table, column or pattern of devices.
const TEXT_BYTES_MAX: usize = 256;
const URL_BYTES_MAX: usize = 2048;
/// A shorter silence could not be told from the time that a commit takes.
const MINUTES_MIN: f64 = 0.01;
/// A year.
const MINUTES_MAX: f64 = 525_600.0;

/// An alert that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Lower-case letters, digits, `-` and `_`.
    pub name: Arc<str>,
    pub condition: Condition,
    /// Which devices it is for, `*` stands for any text; all if it is not here.
    pub devices: Option<String>,
    pub webhook: Option<Webhook>,
    pub enabled: bool,
}

/// What makes an alert fire for a device.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// No message of the device for so long.
    Silent { minutes: f64 },
    /// A value of the column is greater.
    Above { table: String, column: String, limit: f64 },
    /// A value of the column is less.
    Below { table: String, column: String, limit: f64 },
}

/// Where changes are told, by HTTP. What is behind the host may be a secret: `Debug` leaves it out.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook(String);

impl Webhook {
    /// The whole URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0
    }

    /// Scheme and host.
    #[must_use]
    pub fn origin(&self) -> &str {
        let host_at = self.0.find("://").map_or(0, |at| at + 3);
        let end = self.0[host_at..].find(['/', '?', '#']).map_or(self.0.len(), |at| host_at + at);
        &self.0[..end]
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…", self.origin())
    }
}

impl Rule {
    /// Whether the rule is for this device.
    #[must_use]
    pub fn is_for(&self, device: &str) -> bool {
        self.devices.as_ref().is_none_or(|pattern| matches(pattern, device))
    }

    /// How long a device may be silent; `None` for rules of another kind.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        match self.condition {
            Condition::Silent { minutes } => Some(Duration::from_secs_f64(minutes * 60.0)),
            Condition::Above { .. } | Condition::Below { .. } => None,
        }
    }

    /// Whether the other one fires for the same devices at the same times.
    #[must_use]
    pub fn judges_like(&self, other: &Self) -> bool {
        (&self.condition, &self.devices, self.enabled) == (&other.condition, &other.devices, other.enabled)
    }
}

/// `*` in `pattern` stands for any text, an empty one too.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and where in the text what is there was tried last.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((behind, tried)) = star {
            (p, t) = (behind, tried + 1);
            star = Some((behind, tried + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// As it is written in JSON and TOML.
pub mod v1 {
    use super::*;

    /// When an alert fires for a device: `silent`, no message for `minutes`; `above` or `below`, a newer value of `column` in
    /// `table` is greater or less than `value`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
    #[schema(as = AlertKind)]
    #[serde(rename_all = "lowercase")]
    pub enum Kind {
        Silent,
        Above,
        Below,
    }

    // `Debug` is left out: a webhook may be a secret.
    /// What an alert watches for.
    #[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
    #[schema(as = AlertRule)]
    #[serde(deny_unknown_fields)]
    pub struct Alert {
        /// A level of the topic that says when it fires: `alerts/{name}/{device}`.
        #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$")]
        pub name: String,
        pub kind: Kind,
        /// The table that is watched, of `above` and `below`.
        #[serde(default)]
        pub table: Option<String>,
        /// The column of it, of `above` and `below`.
        #[serde(default)]
        pub column: Option<String>,
        /// The limit, of `above` and `below`.
        #[serde(default)]
        pub value: Option<f64>,
        /// How long without a message is too long, of `silent`.
        #[serde(default)]
        #[schema(minimum = 0.01, maximum = 525_600)]
        pub minutes: Option<f64>,
        /// Only these devices; `*` stands for any text. All of them if it is null.
        #[serde(default)]
        pub devices: Option<String>,
        /// A URL of http or https that is told of changes.
        #[serde(default)]
        pub webhook: Option<String>,
        /// Whether it fires at all.
        #[serde(default = "yes")]
        #[schema(default = true)]
        pub enabled: bool,
    }

    const fn yes() -> bool {
        true
    }

    impl fmt::Debug for Alert {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Alert").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
        }
    }

    impl From<&Rule> for Alert {
        fn from(rule: &Rule) -> Self {
            let (kind, table, column, value, minutes) = match &rule.condition {
                Condition::Silent { minutes } => (Kind::Silent, None, None, None, Some(*minutes)),
                Condition::Above { table, column, limit } => {
                    (Kind::Above, Some(table), Some(column), Some(*limit), None)
                }
                Condition::Below { table, column, limit } => {
                    (Kind::Below, Some(table), Some(column), Some(*limit), None)
                }
            };
            Self {
                name: rule.name.to_string(),
                kind,
                table: table.cloned(),
                column: column.cloned(),
                value,
                minutes,
                devices: rule.devices.clone(),
                webhook: rule.webhook.as_ref().map(|webhook| webhook.0.clone()),
                enabled: rule.enabled,
            }
        }
    }

    impl TryFrom<Alert> for Rule {
        type Error = Error;

        /// # Errors
        /// [`Error::Invalid`] says what would make sense.
        fn try_from(alert: Alert) -> Result<Self, Error> {
            let Alert { name, kind, table, column, value, minutes, devices, webhook, enabled } = alert;
            check_name(&name)?;
            let condition = match kind {
                Kind::Silent => {
                    if table.is_some() || column.is_some() || value.is_some() {
                        return Err(invalid("a silent alert has minutes, and no table, column or value"));
                    }
                    let is_fine = |minutes: &f64| (MINUTES_MIN..=MINUTES_MAX).contains(minutes);
                    let expected = "a silent alert needs minutes, from 0.01 to 525600";
                    Condition::Silent { minutes: minutes.filter(is_fine).ok_or_else(|| invalid(expected))? }
                }
                Kind::Above | Kind::Below => {
                    if minutes.is_some() {
                        return Err(invalid("minutes are of silent alerts only"));
                    }
                    let (Some(table), Some(column)) = (table, column) else {
                        return Err(invalid("an alert of values needs table and column"));
                    };
                    check_text("table", &table)?;
                    check_text("column", &column)?;
                    let limit = value.filter(|value| value.is_finite());
                    let limit = limit.ok_or_else(|| invalid("an alert of values needs value, a number"))?;
                    if kind == Kind::Above {
                        Condition::Above { table, column, limit }
                    } else {
                        Condition::Below { table, column, limit }
                    }
                }
            };
            if let Some(devices) = &devices {
                check_text("devices", devices)?;
            }
            let webhook = webhook.map(checked_url).transpose()?;
            Ok(Self { name: name.into(), condition, devices, webhook, enabled })
        }
    }
}

fn invalid(says: impl Into<String>) -> Error {
    Error::Invalid(says.into())
}

fn check_name(name: &str) -> Result<(), Error> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let is_fine = name.len() <= NAME_BYTES_MAX
        // It would be the path that tries a rule.
        && name != "test"
        && name.bytes().all(inner)
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    let says = "name has 1 to 64 lower-case letters, digits, - and _, starts with a letter or digit, and is not test";
    if is_fine { Ok(()) } else { Err(invalid(says)) }
}

fn check_text(what: &str, text: &str) -> Result<(), Error> {
    let is_fine = !text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control);
    if is_fine {
        Ok(())
    } else {
        Err(invalid(format!("{what} has 1 to {TEXT_BYTES_MAX} bytes, and no control character")))
    }
}

fn checked_url(url: String) -> Result<Webhook, Error> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let is_fine = url.len() <= URL_BYTES_MAX && url.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || host.starts_with(':') || host.contains('@') || !is_fine {
        let says = "webhook is a URL of http:// or https:// without a user, at most 2048 bytes of printable ASCII";
        return Err(invalid(says));
    }
    Ok(Webhook(url))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(json: serde_json::Value) -> Result<Rule, String> {
        let alert: v1::Alert = serde_json::from_value(json).map_err(|error| error.to_string())?;
        Rule::try_from(alert).map_err(|error| error.to_string())
    }

    #[test]
    fn a_rule_reads_back() {
        for json in [
            json!({ "name": "quiet", "kind": "silent", "minutes": 0.02 }),
            json!({ "name": "hot-1", "kind": "above", "table": "engine", "column": "oil.temp", "value": 120,
                "devices": "truck-*", "webhook": "http://127.0.0.1:9000/hook", "enabled": false }),
            json!({ "name": "low", "kind": "below", "table": "t", "column": "c", "value": -1.5 }),
        ] {
            let rule = parse(json).unwrap();
            let again = serde_json::to_value(v1::Alert::from(&rule)).unwrap();
            assert_eq!(parse(again).unwrap(), rule);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_says_why() {
        let above = |with: serde_json::Value| {
            let mut json = json!({ "name": "a", "kind": "above", "table": "t", "column": "c", "value": 1.0 });
            json.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            parse(json).unwrap_err()
        };
        for (with, says) in [
            (json!({ "name": "" }), "name has"),
            (json!({ "name": "A" }), "name has"),
            (json!({ "name": "-a" }), "name has"),
            (json!({ "name": "a/b" }), "name has"),
            (json!({ "name": "test" }), "name has"),
            (json!({ "name": "a".repeat(65) }), "name has"),
            (json!({ "kind": "odd" }), "unknown variant"),
            (json!({ "kind": "silent" }), "no table"),
            (json!({ "table": null }), "needs table and column"),
            (json!({ "column": "" }), "column has"),
            (json!({ "value": null }), "needs value"),
            (json!({ "minutes": 1 }), "minutes are"),
            (json!({ "devices": "" }), "devices has"),
            (json!({ "webhook": "ftp://host/" }), "webhook is"),
            (json!({ "webhook": "http://" }), "webhook is"),
            (json!({ "webhook": "http:///path" }), "webhook is"),
            (json!({ "webhook": "http://user:secret@host/" }), "webhook is"),
            (json!({ "webhook": "http://host/a b" }), "webhook is"),
            (json!({ "more": 1 }), "unknown field"),
        ] {
            let error = above(with.clone());
            assert!(error.contains(says), "{with}: {error}");
        }
        for minutes in [json!(null), json!(0), json!(-1), json!(1e9), json!("1")] {
            assert!(parse(json!({ "name": "a", "kind": "silent", "minutes": minutes })).is_err(), "{minutes}");
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("truck-*", "truck-7", true),
            ("truck-*", "truck-", true),
            ("truck-*", "a truck-7", false),
            ("*-7", "truck-7-7", true),
            ("*-7", "truck-7-8", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1c", false),
            ("*", "", true),
            ("**", "x/y", true),
            ("truck", "truck", true),
            ("truck", "truck7", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_behind_the_host_is_not_shown() {
        let rule =
            parse(json!({ "name": "a", "kind": "silent", "minutes": 1, "webhook": "https://hooks.example/T0/secret" }));
        let text = format!("{:?}", rule.unwrap());
        assert!(text.contains("https://hooks.example/…") && !text.contains("secret"), "{text}");
    }
}

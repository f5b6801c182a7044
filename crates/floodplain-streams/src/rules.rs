//! All rules: one document in stream `state`, key `alerts`. Format: `docs/formats/alerts.md`.

use crate::{
    Error, Result,
    rule::{Rule, v1},
};
use floodplain_fold::{
    Fold, Input, Outputs, RestoreError,
    wire::{Get, Put, WireError},
};
use floodplain_types::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Key of the document's records.
pub const KEY: &str = "alerts";
/// There are no more rules.
pub const RULES_MAX: usize = 256;

/// Who made a rule: somebody, while the server ran (`api`), or the configuration file (`config`), which alone changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AlertOrigin)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Somebody, while the server ran.
    Api,
    /// The configuration file; it is as the file says.
    Config,
}

/// A rule as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub rule: Rule,
    pub origin: Origin,
    /// When it began to judge as it does: it judges no row that was received before.
    pub changed: Timestamp,
}

/// The rules by name, and how often they have changed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    version: u64,
    kept: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRules {
    version: u64,
    alerts: Vec<StoredRule>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRule {
    alert: v1::Alert,
    origin: Origin,
    changed: i64,
}

impl Rules {
    /// All rules, by name.
    #[must_use]
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// The rule of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Kept> {
        self.kept.iter().find(|kept| &*kept.rule.name == name)
    }

    /// These rules with `rule`, in the place of the one with its name.
    ///
    /// # Errors
    /// [`Error::FromConfig`], [`Error::TooMany`].
    pub fn with(&self, rule: Rule, now: Timestamp) -> Result<Self> {
        match self.get(&rule.name) {
            Some(Kept { origin: Origin::Config, .. }) => Err(Error::FromConfig { name: rule.name.to_string() }),
            None if self.kept.len() >= RULES_MAX => Err(Error::TooMany),
            _ => Ok(self.changed(|kept| put(kept, rule, Origin::Api, now))),
        }
    }

    /// These rules without one.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::FromConfig`].
    pub fn without(&self, name: &str) -> Result<Self> {
        match self.get(name) {
            None => Err(Error::Unknown { name: name.to_owned() }),
            Some(Kept { origin: Origin::Config, .. }) => Err(Error::FromConfig { name: name.to_owned() }),
            Some(_) => Ok(self.changed(|kept| kept.retain(|other| &*other.rule.name != name))),
        }
    }

    /// These rules with those of the configuration file, which take the place of others of their names, and without
    /// those that were in it before.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn with_config(&self, config: &[Rule], now: Timestamp) -> Result<Self> {
        let is_in_config = |name: &str| config.iter().any(|rule| &*rule.name == name);
        let next = self.changed(|kept| {
            kept.retain(|other| other.origin == Origin::Api || is_in_config(&other.rule.name));
            for rule in config {
                put(kept, rule.clone(), Origin::Config, now);
            }
        });
        if next.kept.len() > RULES_MAX { Err(Error::TooMany) } else { Ok(next) }
    }

    fn changed(&self, change: impl FnOnce(&mut Vec<Kept>)) -> Self {
        let mut next = Self { version: self.version + 1, kept: self.kept.clone() };
        change(&mut next.kept);
        next
    }

    /// The value of the record.
    #[must_use]
    pub fn to_stored(&self) -> Vec<u8> {
        let stored = |Kept { rule, origin, changed }: &Kept| StoredRule {
            alert: rule.into(),
            origin: *origin,
            changed: changed.0,
        };
        let alerts = self.kept.iter().map(stored).collect();
        serde_json::to_vec(&StoredRules { version: self.version, alerts }).expect("rules hold only texts and numbers")
    }

    /// Reads the value of a record; `None` if it is no document of rules.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let StoredRules { version, alerts } = serde_json::from_slice(value).ok()?;
        let kept = alerts.into_iter().map(|StoredRule { alert, origin, changed }| {
            Some(Kept { rule: alert.try_into().ok()?, origin, changed: Timestamp(changed) })
        });
        Some(Self { version, kept: kept.collect::<Option<_>>()? })
    }
}

fn put(kept: &mut Vec<Kept>, rule: Rule, origin: Origin, now: Timestamp) {
    // Times of records have milliseconds.
    let now = Timestamp::from_millis(now.as_millis());
    let at = kept.partition_point(|other| other.rule.name < rule.name);
    match kept.get_mut(at).filter(|other| other.rule.name == rule.name) {
        Some(other) => {
            let changed = if rule.judges_like(&other.rule) { other.changed } else { now };
            *other = Kept { rule, origin, changed };
        }
        None => kept.insert(at, Kept { rule, origin, changed: now }),
    }
}

/// The newest document: a fold over its partition of `state`. Of two that were made from one the first counts.
#[derive(Debug, Default)]
pub struct RulesFold {
    rules: Arc<Rules>,
    refused: u64,
}

impl RulesFold {
    /// The rules.
    #[must_use]
    pub const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }
}

impl Fold for RulesFold {
    const NAME: &'static str = "alert_rules";
    const FORMAT: u16 = 1;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        if input.record.key != Some(KEY.as_bytes()) {
            return;
        }
        match input.record.value.and_then(Rules::read).filter(|rules| rules.version > self.rules.version) {
            Some(rules) => self.rules = Arc::new(rules),
            None => self.refused += 1,
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.refused);
        out.put_bytes(&self.rules.to_stored());
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> std::result::Result<(), RestoreError> {
        if format != Self::FORMAT {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        let mut get = Get::new(bytes);
        let (refused, rules) = (get.u64()?, get.bytes()?);
        get.end()?;
        let rules = Rules::read(rules).ok_or(WireError::Invalid("document of alerts"))?;
        *self = Self { rules: Arc::new(rules), refused };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Condition;

    fn rule(name: &str, minutes: f64) -> Rule {
        let condition = Condition::Silent { minutes };
        Rule { name: name.into(), condition, devices: None, webhook: None, enabled: true }
    }

    const T1: Timestamp = Timestamp(1_000_000);
    const T2: Timestamp = Timestamp(2_000_999);

    #[test]
    fn rules_are_put_and_taken_by_name() {
        let rules = Rules::default().with(rule("b", 1.0), T1).unwrap().with(rule("a", 1.0), T1).unwrap();
        let names: Vec<&str> = rules.kept().iter().map(|kept| &*kept.rule.name).collect();
        assert_eq!((names, rules.version), (vec!["a", "b"], 2));
        let same = rules.with(rule("a", 1.0), T2).unwrap();
        assert_eq!(same.get("a").unwrap().changed, T1, "what judges alike goes on");
        let other = rules.with(rule("a", 2.0), T2).unwrap();
        assert_eq!(other.get("a").unwrap().changed, Timestamp(2_000_000));
        assert!(rules.without("a").unwrap().get("a").is_none());
        assert!(matches!(rules.without("c"), Err(Error::Unknown { .. })));
        assert_eq!(Rules::read(&other.to_stored()), Some(other));
        assert_eq!(Rules::read(b"{}"), None);
    }

    #[test]
    fn there_is_a_bound() {
        let mut rules = Rules::default();
        for n in 0..RULES_MAX {
            rules = rules.with(rule(&format!("r{n}"), 1.0), T1).unwrap();
        }
        assert!(matches!(rules.with(rule("more", 1.0), T1), Err(Error::TooMany)));
        assert!(matches!(rules.with_config(&[rule("more", 1.0)], T1), Err(Error::TooMany)));
        rules.with(rule("r7", 2.0), T1).unwrap();
    }

    #[test]
    fn rules_of_the_file_are_as_the_file_says() {
        let api = Rules::default().with(rule("api", 1.0), T1).unwrap().with(rule("both", 1.0), T1).unwrap();
        let rules = api.with_config(&[rule("file", 1.0), rule("both", 1.0)], T2).unwrap();
        assert_eq!(rules.get("both").unwrap().origin, Origin::Config);
        assert_eq!(rules.get("both").unwrap().changed, T1, "it judges as before");
        assert!(matches!(rules.with(rule("file", 2.0), T2), Err(Error::FromConfig { .. })));
        assert!(matches!(rules.without("file"), Err(Error::FromConfig { .. })));
        let next = rules.with_config(&[rule("file", 1.0)], T2).unwrap();
        let names: Vec<&str> = next.kept().iter().map(|kept| &*kept.rule.name).collect();
        assert_eq!(names, ["api", "file"]);
    }
}

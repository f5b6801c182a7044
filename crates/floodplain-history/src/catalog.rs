//! Which schema each table has: a fold over the stream `state`.
//!
//! Whoever meets a new field proposes the whole next document of its table, key `table/<name>`. Several may
//! do so at once, so a document applies only if it has all of the one before and a greater version: the
//! first that was committed wins, and who lost places its rows anew with what has won.

use floodplain_fold::{
    Fold, Input, Outputs, RestoreError,
    wire::{Get, Put, WireError},
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Before the name of a table, in the keys of its documents.
pub const KEY_PREFIX: &str = "table/";

/// The schema of a table, as it is proposed in a record.
pub trait Document: fmt::Debug + Send + Sync + Sized {
    /// Reads the value of a record; `None` if it is no document of this table.
    fn decode(table: &str, value: &[u8]) -> Option<Self>;

    /// Version of the schema, greater with each document.
    fn version(&self) -> u32;

    /// Whether this may come after `before`, versions aside: every column is still there with its field
    /// id, and none is narrower.
    fn follows(&self, before: &Self) -> bool;
}

/// The schemas of the tables of one partition of `state`.
#[derive(Debug)]
pub struct CatalogFold<D> {
    tables: BTreeMap<String, Table<D>>,
    refused: u64,
}

#[derive(Debug)]
struct Table<D> {
    document: Arc<D>,
    /// As it was in the record.
    value: Box<[u8]>,
}

impl<D> Default for CatalogFold<D> {
    fn default() -> Self {
        Self { tables: BTreeMap::new(), refused: 0 }
    }
}

impl<D: Document> CatalogFold<D> {
    /// The key of the records of a table.
    #[must_use]
    pub fn key(table: &str) -> Vec<u8> {
        format!("{KEY_PREFIX}{table}").into_bytes()
    }

    /// The schema of a table.
    #[must_use]
    pub fn get(&self, table: &str) -> Option<&Arc<D>> {
        self.tables.get(table).map(|table| &table.document)
    }

    /// All tables with their schemas, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<D>)> {
        self.tables.iter().map(|(name, table)| (name.as_str(), &table.document))
    }

    /// How many tables there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// Whether there is no table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// How many documents did not apply: another was first, or they do not follow the one before.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Folds a record; returns whether a schema has changed. Records of other keys change nothing.
    pub fn apply_record(&mut self, key: &[u8], value: &[u8]) -> bool {
        let name = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(KEY_PREFIX));
        let Some(name) = name.filter(|name| !name.is_empty()) else { return false };
        let before = self.tables.get(name).map(|table| &*table.document);
        let document = D::decode(name, value).filter(|document| match before {
            None => true,
            Some(before) => before.version() < document.version() && document.follows(before),
        });
        let applies = document.is_some();
        match document {
            Some(document) => {
                let table = Table { document: Arc::new(document), value: value.into() };
                self.tables.insert(name.to_owned(), table);
            }
            None => self.refused += 1,
        }
        applies
    }
}

impl<D: Document> Fold for CatalogFold<D> {
    const NAME: &'static str = "catalog";
    const FORMAT: u16 = 1;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        self.apply_record(input.record.key.unwrap_or_default(), input.record.value.unwrap_or_default());
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.refused);
        out.put_u64(self.tables.len() as u64);
        for (name, table) in &self.tables {
            out.put_str(name);
            out.put_bytes(&table.value);
        }
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if format != Self::FORMAT {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        let mut get = Get::new(bytes);
        let refused = get.u64()?;
        let tables = get.list(|get| {
            let (name, value) = (get.str()?.to_owned(), get.bytes()?);
            let document = D::decode(&name, value).ok_or(WireError::Invalid("schema document"))?;
            Ok((name, Table { document: Arc::new(document), value: value.into() }))
        })?;
        get.end()?;
        *self = Self { tables: tables.into_iter().collect(), refused };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Version and columns: `2:ab`.
    #[derive(Debug, PartialEq)]
    struct Letters(u32, String);

    impl Document for Letters {
        fn decode(_table: &str, value: &[u8]) -> Option<Self> {
            let (version, letters) = std::str::from_utf8(value).ok()?.split_once(':')?;
            Some(Self(version.parse().ok()?, letters.to_owned()))
        }

        fn version(&self) -> u32 {
            self.0
        }

        fn follows(&self, before: &Self) -> bool {
            self.1.starts_with(&before.1)
        }
    }

    #[test]
    fn the_first_that_was_committed_wins() {
        let mut fold = CatalogFold::<Letters>::default();
        let mut check = |key: &str, value: &str, applies: bool| {
            assert_eq!(fold.apply_record(key.as_bytes(), value.as_bytes()), applies, "{key} {value}");
        };
        check("table/t", "1:a", true);
        check("table/t", "1:b", false);
        check("table/t", "1:ab", false);
        check("table/t", "2:ab", true);
        check("table/t", "2:ac", false);
        check("table/t", "3:ac", false);
        check("table/t", "9:abc", true);
        check("table/t", "8:abcd", false);
        check("table/t", "nonsense", false);
        check("table/u/v", "1:", true);
        check("table/", "1:a", false);
        check("device/t", "1:a", false);
        assert_eq!(**fold.get("t").unwrap(), Letters(9, "abc".to_owned()));
        assert_eq!(fold.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["t", "u/v"]);
        assert_eq!((fold.refused(), fold.len(), fold.is_empty()), (6, 2, false));
        assert_eq!(CatalogFold::<Letters>::key("u/v"), b"table/u/v");
    }

    proptest! {
        #[test]
        fn a_snapshot_and_the_rest_are_the_whole(
            records in prop::collection::vec((prop_oneof![Just("table/t"), Just("table/u"), Just("x")], 1..4_u32, "[ab]{0,3}"), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(records.len() + 1);
            let apply = |fold: &mut CatalogFold<Letters>, records: &[(&str, u32, String)]| {
                for (key, version, letters) in records {
                    fold.apply_record(key.as_bytes(), format!("{version}:{letters}").as_bytes());
                }
            };
            let (mut whole, mut first, mut restored) = <(CatalogFold<Letters>, CatalogFold<Letters>, CatalogFold<Letters>)>::default();
            apply(&mut whole, &records);
            apply(&mut first, &records[..cut]);
            let mut bytes = Vec::new();
            first.snapshot(&mut bytes);
            restored.restore(CatalogFold::<Letters>::FORMAT, &bytes).unwrap();
            apply(&mut restored, &records[cut..]);
            prop_assert_eq!(restored.state_hash(), whole.state_hash());
        }
    }
}

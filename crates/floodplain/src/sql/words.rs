//! What can be completed, and where a statement ends.

use std::collections::{BTreeMap, BTreeSet};

const KEYWORDS: [&str; 54] = [
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COUNT",
    "CROSS",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXISTS",
    "EXPLAIN",
    "EXTRACT",
    "FALSE",
    "FILTER",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INTERVAL",
    "IS",
    "JOIN",
    "LATEST",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "NULLS",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "RIGHT",
    "SELECT",
    "SHOW",
    "TABLES",
    "THEN",
    "TIMESTAMP",
    "TIME_BUCKET",
    "TRUE",
    "UNION",
    "USING",
    "WHEN",
    "WHERE",
];
pub(super) const COMMANDS: [&str; 6] = ["\\?", "\\d", "\\dt", "\\h", "\\q", "\\timing"];

/// Tables of the server, with their columns.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) tables: BTreeMap<String, BTreeSet<String>>,
}

impl Names {
    /// Where the last word of `before` begins, in bytes, and what it could become.
    pub(super) fn candidates(&self, before: &str) -> (usize, Vec<String>) {
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '\\' | '?');
        let start = before.char_indices().rev().find(|(_, c)| !is_word(*c)).map_or(0, |(at, c)| at + c.len_utf8());
        let word = &before[start..];
        if word.is_empty() {
            return (start, Vec::new());
        }
        if word.starts_with('\\') {
            let fits = |command: &&str| command.starts_with(word);
            return (start, COMMANDS.into_iter().filter(fits).map(str::to_owned).collect());
        }
        let lower = word.to_lowercase();
        let fits = |name: &str| name.to_lowercase().starts_with(&lower);
        let tables = self.tables.keys();
        let mut found: BTreeSet<String> = tables.clone().filter(|name| fits(name)).map(|name| quoted(name)).collect();
        if !before.starts_with('\\') {
            let columns = self.tables.values().flatten().filter(|name| fits(name));
            found.extend(columns.map(|name| quoted(name)));
            let is_lower = word.chars().all(char::is_lowercase);
            let keyword = |word: &str| if is_lower { word.to_lowercase() } else { word.to_owned() };
            found.extend(KEYWORDS.into_iter().filter(|word| fits(word)).map(keyword));
        }
        (start, found.into_iter().collect())
    }
}

/// A name as SQL must write it.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Whether the input is nothing, a command, or ends with a semicolon that is neither in quotes nor in a comment.
pub(super) fn is_complete(input: &str) -> bool {
    let text = input.trim();
    if text.is_empty() || text.starts_with('\\') {
        return true;
    }
    let (mut rest, mut ends) = (text, false);
    while let Some(c) = rest.chars().next() {
        let after = |mark: &str, from: usize| rest[from..].find(mark).map(|at| &rest[from + at + mark.len()..]);
        let skipped = match c {
            '\'' => after("'", 1),
            '"' => after("\"", 1),
            '-' if rest.starts_with("--") => Some(after("\n", 2).unwrap_or_default()),
            '/' if rest.starts_with("/*") => after("*/", 2),
            _ => {
                if !c.is_whitespace() {
                    ends = c == ';';
                }
                rest = &rest[c.len_utf8()..];
                continue;
            }
        };
        if matches!(c, '\'' | '"') {
            ends = false;
        }
        match skipped {
            Some(after) => rest = after,
            // It is still open.
            None => return false,
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_with_a_semicolon_of_its_own() {
        for complete in [
            "",
            "\\d engine",
            "SELECT 1;",
            "SELECT ';' ; ",
            "SELECT 1; -- done",
            "SELECT 'it''s';",
            "/* ; */ SELECT 1;",
        ] {
            assert!(is_complete(complete), "{complete}");
        }
        for open in ["SELECT 1", "SELECT ';", "SELECT \";\"", "SELECT 1 -- ;", "SELECT /* ;", "SELECT 1;\nFROM"] {
            assert!(!is_complete(open), "{open}");
        }
    }

    #[test]
    fn words_are_completed() {
        let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let names = Names {
            tables: BTreeMap::from([
                ("engine".to_owned(), columns(&["rpm", "Gear"])),
                ("events".to_owned(), columns(&[])),
            ]),
        };
        let found = |line: &str| names.candidates(line);
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(found("SELECT * FROM en"), (14, words(&["end", "engine"])));
        assert_eq!(found("SEL"), (0, words(&["SELECT"])));
        assert_eq!(found("SELECT avg(r"), (11, words(&["right", "rpm"])));
        assert_eq!(found("SELECT ge"), (7, words(&["\"Gear\""])));
        assert_eq!(found("\\d e"), (3, words(&["engine", "events"])));
        assert_eq!(found("\\t"), (0, words(&["\\timing"])));
        assert_eq!(found("SELECT "), (7, words(&[])));
    }
}

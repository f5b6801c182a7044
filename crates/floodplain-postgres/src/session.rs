//! Statements about the session, which are answered here: they change nothing of what a query sees.

/// What a statement does to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    Begin,
    /// With the tag of its completion.
    End(&'static str),
    /// Is said to be done.
    Done(&'static str),
    /// One row: name of the column, value.
    Show(&'static str, &'static str),
}

/// What `SHOW` answers besides what the database knows.
const SETTINGS: [(&str, &str); 8] = [
    ("server_version", crate::handler::SERVER_VERSION),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("transaction_isolation", "repeatable read"),
    ("transaction_read_only", "on"),
    ("timezone", "UTC"),
    ("search_path", "public"),
];

/// `None` if the statement is for the database.
pub(crate) fn statement(text: &str) -> Option<Session> {
    let mut words = text.trim().trim_end_matches(';').split_whitespace().map(str::to_ascii_lowercase);
    let (first, second) = (words.next()?, words.next().unwrap_or_default());
    Some(match (first.as_str(), second.as_str()) {
        ("begin", _) | ("start", "transaction") => Session::Begin,
        ("commit" | "end", _) => Session::End("COMMIT"),
        ("rollback" | "abort", _) => Session::End("ROLLBACK"),
        ("set", _) => Session::Done("SET"),
        ("reset", _) => Session::Done("RESET"),
        ("discard", _) => Session::Done("DISCARD ALL"),
        ("deallocate", _) => Session::Done("DEALLOCATE"),
        ("show", "transaction") => Session::Show("transaction_isolation", "repeatable read"),
        ("show", name) => {
            let (name, value) = SETTINGS.into_iter().find(|(known, _)| *known == name)?;
            Session::Show(name, value)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_session_is_known_by_its_first_words() {
        assert_eq!(statement(" BEGIN READ ONLY; "), Some(Session::Begin));
        assert_eq!(statement("start  Transaction"), Some(Session::Begin));
        assert_eq!(statement("rollback"), Some(Session::End("ROLLBACK")));
        assert_eq!(statement("SET extra_float_digits = 3"), Some(Session::Done("SET")));
        assert_eq!(
            statement("show server_version"),
            Some(Session::Show("server_version", crate::handler::SERVER_VERSION))
        );
        for query in ["SELECT 1", "SHOW TABLES", "start", "", "settle"] {
            assert_eq!(statement(query), None, "{query}");
        }
    }
}

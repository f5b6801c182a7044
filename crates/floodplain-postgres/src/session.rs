//! Statements about the session, which are answered here: they change nothing of what a query sees.

/// What a statement does to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// No statement at all: some ask so whether the server is there.
    Empty,
    Begin,
    /// With the tag of its completion.
    End(&'static str),
    /// Is said to be done.
    Done(&'static str),
}

/// `None` if the statement is for the database.
pub(crate) fn statement(text: &str) -> Option<Session> {
    let text = without_comments(text).trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let mut words = text.split_whitespace().map(str::to_ascii_lowercase);
    let Some(first) = words.next() else { return Some(Session::Empty) };
    let second = words.next().unwrap_or_default();
    Some(match (first.as_str(), second.as_str()) {
        ("begin", _) | ("start", "transaction") => Session::Begin,
        ("commit" | "end", _) => Session::End("COMMIT"),
        // Each query sees the present, so there is nothing to go back to.
        ("savepoint", _) => Session::Done("SAVEPOINT"),
        ("release", _) => Session::Done("RELEASE"),
        ("rollback", "to") => Session::Done("ROLLBACK"),
        ("rollback" | "abort", _) => Session::End("ROLLBACK"),
        ("set", _) => Session::Done("SET"),
        ("reset", _) => Session::Done("RESET"),
        ("discard", _) => Session::Done("DISCARD ALL"),
        ("deallocate", _) => Session::Done("DEALLOCATE"),
        _ => return None,
    })
}

/// The text from its first word on.
fn without_comments(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        let after = if let Some(line) = rest.strip_prefix("--") {
            line.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(block) = rest.strip_prefix("/*") {
            let mut depth = 1;
            let mut from = block;
            while depth > 0 {
                let (open, close) = (from.find("/*"), from.find("*/"));
                from = match (open, close) {
                    (Some(open), Some(close)) if open < close => {
                        depth += 1;
                        &from[open + 2..]
                    }
                    (_, Some(close)) => {
                        depth -= 1;
                        &from[close + 2..]
                    }
                    // It never ends: the parser says so.
                    (_, None) => return rest,
                };
            }
            from
        } else {
            return rest;
        };
        rest = after.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_session_is_known_by_its_first_words() {
        assert_eq!(statement(" BEGIN READ ONLY; "), Some(Session::Begin));
        assert_eq!(statement("start  Transaction"), Some(Session::Begin));
        assert_eq!(statement("rollback"), Some(Session::End("ROLLBACK")));
        assert_eq!(statement("ROLLBACK TO SAVEPOINT a"), Some(Session::Done("ROLLBACK")));
        assert_eq!(statement("SET extra_float_digits = 3"), Some(Session::Done("SET")));
        for nothing in ["", " ; ", "-- ping", "/* a /* b */ */ -- c\n;"] {
            assert_eq!(statement(nothing), Some(Session::Empty), "{nothing}");
        }
        assert_eq!(statement("/* one */ -- two\n COMMIT"), Some(Session::End("COMMIT")));
        for query in ["SELECT 1", "SHOW search_path", "start", "settle", "-- a\nSELECT 1", "/* BEGIN"] {
            assert_eq!(statement(query), None, "{query}");
        }
    }
}

//! A text cut into its statements.

/// The statements of `text` and where each begins in it, in bytes, without those that are empty or comments only.
///
/// `;` ends a statement outside of quotes, dollar quotes and comments (PostgreSQL 16, "Lexical Structure").
pub(crate) fn statements(text: &str) -> Vec<(usize, &str)> {
    let (mut found, mut start, mut at, mut is_empty) = (Vec::new(), 0, 0, true);
    while let Some(byte) = text.as_bytes().get(at) {
        let next = at + token(text, at);
        if *byte == b';' {
            if !is_empty {
                found.push((start, &text[start..at]));
            }
            (start, is_empty) = (next, true);
        } else if !byte.is_ascii_whitespace() && !is_comment(&text[at..]) {
            is_empty = false;
        }
        at = next;
    }
    if !is_empty {
        found.push((start, &text[start..]));
    }
    found
}

fn is_comment(rest: &str) -> bool {
    rest.starts_with("--") || rest.starts_with("/*")
}

/// Bytes of the quoted text, comment, word or other character at `at`; what is never closed goes to the end.
fn token(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    let to = |end: Option<usize>| end.unwrap_or(rest.len());
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || !c.is_ascii();
    let first = rest.chars().next().unwrap_or_default();
    match first {
        // A doubled quote is the end of one text and the beginning of the next.
        '\'' | '"' => to(rest[1..].find(first).map(|end| end + 2)),
        'e' | 'E' if rest[1..].starts_with('\'') => to(escaped(&rest[2..]).map(|end| end + 3)),
        '-' if rest.starts_with("--") => to(rest.find('\n').map(|end| end + 1)),
        '/' if rest.starts_with("/*") => to(comment(rest)),
        '$' => match rest[1..].split_once('$') {
            Some((tag, after)) if tag.chars().all(is_word) && !tag.starts_with(|c: char| c.is_ascii_digit()) => {
                let delimiter = &rest[..tag.len() + 2];
                to(after.find(delimiter).map(|end| end + 2 * delimiter.len()))
            }
            _ => 1,
        },
        // A `$` inside of a word begins no quote.
        _ if is_word(first) => to(rest.find(|c: char| !is_word(c) && c != '$')),
        _ => first.len_utf8().max(1),
    }
}

/// Where the quote is that closes a text with backslash escapes.
fn escaped(rest: &str) -> Option<usize> {
    let mut is_escape = false;
    rest.bytes().position(|byte| {
        let closes = byte == b'\'' && !is_escape;
        is_escape = byte == b'\\' && !is_escape;
        closes
    })
}

/// Bytes of a comment, which may have others inside.
fn comment(rest: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match rest.as_bytes().get(at..at + 2)? {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_that_are_no_text() {
        for (text, expected) in [
            ("", &[][..]),
            (" ; ;\n", &[]),
            ("-- one; two\n/* ; /* ; */ ; */", &[]),
            ("SELECT 1", &["SELECT 1"]),
            ("BEGIN; SELECT 1;COMMIT ;", &["BEGIN", " SELECT 1", "COMMIT "]),
            ("SELECT ';', 'it''s; ', \"a;\"\"b\"; x", &["SELECT ';', 'it''s; ', \"a;\"\"b\"", " x"]),
            (r"SELECT E'\';', e'\\'; x", &[r"SELECT E'\';', e'\\'", " x"]),
            (r"SELECT '\'; x", &[r"SELECT '\'", " x"]),
            ("SELECT type'a;'; x", &["SELECT type'a;'", " x"]),
            ("SELECT $$;$$, $a$;$b$;$a$; x", &["SELECT $$;$$, $a$;$b$;$a$", " x"]),
            ("SELECT $1;$2", &["SELECT $1", "$2"]),
            ("SELECT a$b;c$b", &["SELECT a$b", "c$b"]),
            ("SELECT 1 -- ;\n; /* ; */ SELECT 2", &["SELECT 1 -- ;\n", " /* ; */ SELECT 2"]),
            ("SELECT 'ä;ö;", &["SELECT 'ä;ö;"]),
            ("/* ;", &[]),
            ("SELECT 1 $;", &["SELECT 1 $"]),
            ("größe;e", &["größe", "e"]),
        ] {
            let found = statements(text);
            assert_eq!(found.iter().map(|(_, one)| *one).collect::<Vec<_>>(), expected, "{text}");
            assert!(found.iter().all(|(at, one)| text[*at..].starts_with(one)), "{text}");
        }
    }
}

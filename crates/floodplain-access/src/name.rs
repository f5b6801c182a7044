//! Names of users and tokens.

use crate::Error;

/// Longest name of a user or a token.
pub const NAME_CHARS_MAX: usize = 64;

/// `text` as the name of a user: lower case, one spelling for one user.
///
/// A name is 1 to 64 ASCII letters, digits and `. _ - @`, and starts with a letter or a digit. So it needs no quoting in
/// HTTP Basic (no colon, RFC 7617 §2) and no preparation in SCRAM (RFC 5802 §5.1).
///
/// # Errors
/// [`Error::NameInvalid`].
pub fn user_name(text: &str) -> Result<String, Error> {
    let fits = (1..=NAME_CHARS_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte));
    if fits {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Error::NameInvalid {
        what: "user",
        rule: "1 to 64 letters a-z, digits and . _ - @, the first a letter or digit",
    })
}

/// Checks the name of a token, which is for people only.
pub(crate) fn token_name(text: &str) -> Result<String, Error> {
    let text = text.trim();
    if (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.contains(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(Error::NameInvalid { what: "token", rule: "1 to 64 characters, none of them a control character" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_user_has_one_spelling() {
        assert_eq!(user_name("Anna.B@example").unwrap(), "anna.b@example");
        assert_eq!(user_name(&"x".repeat(64)).unwrap().len(), 64);
        for bad in ["", " anna", "an na", "anna\n", "-anna", ".", "änna", "a:b", "a/b", "a\0", &"x".repeat(65)] {
            assert!(user_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_tokens_are_for_people() {
        assert_eq!(token_name(" Grafana im Büro ").unwrap(), "Grafana im Büro");
        for bad in ["", "  ", "a\nb", "a\u{7f}", &"ü".repeat(65)] {
            assert!(token_name(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_its_own_name(text in "\\PC{0,70}|[A-Za-z0-9._@-]{1,64}") {
            if let Ok(name) = user_name(&text) {
                prop_assert!(name.len() <= NAME_CHARS_MAX && !name.contains(':'));
                prop_assert_eq!(user_name(&name).unwrap(), name.clone());
                prop_assert_eq!(user_name(&name.to_ascii_uppercase()).unwrap(), name);
            }
        }
    }
}

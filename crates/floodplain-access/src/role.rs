//! What somebody may do, and who it is.

use std::{fmt, str::FromStr};

/// What somebody may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Also publishes, and changes what becomes of messages.
    Editor,
    /// Also decides who may come in.
    Admin,
}

impl Role {
    /// All of them, from the least.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Editor, Self::Admin];

    /// `viewer`, `editor` or `admin`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is viewer, editor or admin")]
pub struct NoRole;

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(NoRole)
    }
}

/// Whose request it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user; `None` for a token, and while no user exists.
    pub user: Option<String>,
    /// Id of the API token that was shown, if one was. An id is no secret.
    pub token: Option<String>,
    pub role: Role,
}

impl Caller {
    /// Whoever reaches a loopback listener while no user exists.
    #[must_use]
    pub const fn unclaimed() -> Self {
        Self { user: None, token: None, role: Role::Admin }
    }

    pub(crate) fn user(name: String, role: Role) -> Self {
        Self { user: Some(name), token: None, role }
    }

    /// Whether this caller's role is `role` or one that may do more.
    #[must_use]
    pub fn may(&self, role: Role) -> bool {
        self.role >= role
    }
}

/// For logs: `anna`, `token t-3f…`, `nobody`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, &self.token) {
            (Some(user), _) => f.write_str(user),
            (None, Some(token)) => write!(f, "token {token}"),
            (None, None) => f.write_str("nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_names_and_an_order() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        for text in ["", "Admin", "root", "viewer "] {
            assert_eq!(text.parse::<Role>(), Err(NoRole), "{text}");
        }
        let editor = Caller::user("a".to_owned(), Role::Editor);
        assert!(editor.may(Role::Viewer) && editor.may(Role::Editor) && !editor.may(Role::Admin));
    }
}

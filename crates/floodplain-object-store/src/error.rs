//! What keeps a store from doing what it should, and what to do about it.

use std::{error::Error, fmt, io, path::PathBuf};

/// Why a store cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot read the secret access key in {path}")]
    Secret { path: PathBuf, source: io::Error },
    #[error("object storage cannot be used as it is configured")]
    Store(#[source] Box<dyn Error + Send + Sync>),
    #[error("cannot start the thread for object storage")]
    Thread(#[source] io::Error),
}

/// Why a call has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("there is no such object, or not any more")]
    NoObject(#[source] Said),
    #[error("the bucket of {url} does not exist: make it, or correct its name")]
    NoBucket { url: String, source: Said },
    #[error(
        "{url} refuses access: the access key and its secret must be right, and their owner may list, read, write and delete there"
    )]
    Access { url: String, source: Said },
    #[error("{url} does not answer as it should: is its address right, and is it running?")]
    Other { url: String, source: Said },
}

/// What the library said. Its errors have their causes and their text, too; here each is told once.
#[derive(Debug)]
pub(crate) struct Said(String);

impl Said {
    fn of(error: &object_store::Error) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            let told = cause.to_string();
            if !text.contains(&told) {
                text = format!("{text}: {told}");
            }
            next = cause.source();
        }
        Self(text)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Said {}

impl Refused {
    pub(crate) fn of(error: &object_store::Error, url: &str) -> Self {
        use object_store::Error as E;
        let (source, url) = (Said::of(error), url.to_owned());
        let says = |word| source.0.contains(word);
        match error {
            // Only the text of the answer tells it from an object that is not there, and only the text has the status of what was no
            // request for one object.
            E::NotFound { .. } | E::Generic { .. } if says("NoSuchBucket") => Self::NoBucket { url, source },
            // The other: it was replaced while its parts were read.
            E::NotFound { .. } | E::Precondition { .. } => Self::NoObject(source),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Access { url, source },
            E::Generic { .. } if says("status code: 401") || says("status code: 403") => Self::Access { url, source },
            _ => Self::Other { url, source },
        }
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        let kind = match refused {
            Refused::NoObject(_) => io::ErrorKind::NotFound,
            Refused::Access { .. } => io::ErrorKind::PermissionDenied,
            Refused::NoBucket { .. } | Refused::Other { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, refused)
    }
}

//! Where snapshots of folds are, as the configuration says it.

use crate::{
    server::StartError,
    settings::{ConfigError, Settings},
};
use floodplain_fold::{Folder, Objects};
use floodplain_log::OsDisk;
use floodplain_object_store::{AccessKey, ObjectStore, Patience, S3Config};
use floodplain_types::{Clock as _, SystemClock};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const URL: &str = "snapshots.url";

/// Where snapshots of folds are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snapshots {
    /// Where the log is, too.
    DataFolder,
    /// A folder that several servers reach.
    Folder(PathBuf),
    /// A bucket that they reach.
    S3(S3Config),
}

impl Snapshots {
    /// What the configuration says.
    pub(crate) fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let url = settings.text(URL);
        let snapshots = if url == "none" {
            return Ok(Self::DataFolder);
        } else if let Some(path) = url.strip_prefix("file://").filter(|path| path.starts_with('/')) {
            Self::Folder(PathBuf::from(path))
        } else if let Some(place) = url.strip_prefix("s3://") {
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            let prefix = prefix.trim_end_matches('/');
            // What needs no escapes anywhere.
            let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            let is_name = |text: &str| is_plain(text) && !matches!(text, "" | "." | "..");
            if !is_name(bucket) || !(prefix.is_empty() || prefix.split('/').all(is_name)) {
                return Err(settings.bad(URL, "s3://BUCKET/PREFIX of letters, digits, dots, lines and hyphens"));
            }
            Self::S3(s3(settings, bucket, prefix)?)
        } else {
            return Err(settings.bad(URL, "none, file:///FOLDER or s3://BUCKET/PREFIX"));
        };
        if settings.text("log.engine") == "embedded" {
            // Of two servers with logs of their own one would start from what the other has folded.
            return Err(settings.bad(URL, "none, because log.engine is embedded: snapshots stay with their log"));
        }
        Ok(snapshots)
    }

    /// The store; nothing is asked of it yet.
    pub(crate) fn open(&self, data_dir: &Path) -> Result<Arc<dyn Objects>, StartError> {
        match self {
            Self::DataFolder => Ok(Arc::new(Folder::new(Arc::new(OsDisk), data_dir))),
            Self::Folder(path) => {
                // It would be made, which is no help where a mount is missing.
                let found = std::fs::read_dir(path).map(drop);
                found.map_err(|source| StartError::SnapshotsFolder { path: path.clone(), source })?;
                let run = SystemClock.now().0.unsigned_abs().rotate_left(20) ^ u64::from(std::process::id());
                Ok(Arc::new(Folder::shared(Arc::new(OsDisk), path, run)))
            }
            Self::S3(config) => Ok(Arc::new(ObjectStore::s3(config).map_err(StartError::Snapshots)?)),
        }
    }

    /// Whether a server can write, list, read and remove an object there; where that was, or what has failed, in words. Blocks.
    ///
    /// # Errors
    /// The latter.
    pub fn probe(&self, data_dir: &Path) -> Result<String, String> {
        let store = self.open(data_dir).map_err(|error| told(&error))?;
        probe(&*store)
    }
}

fn probe(store: &dyn Objects) -> Result<String, String> {
    let (name, bytes) = (format!("probe-{}", std::process::id()), b"floodplain doctor".to_vec());
    let key = format!("doctor/{name}");
    let failed = |action: &str, error| format!("cannot {action} {}: {}", store.place(&key), told(&error));
    store.put(&key, bytes.clone()).map_err(|error| failed("write", error))?;
    let names = store.list("doctor").map_err(|error| failed("list", error));
    let read = store.get(&key).map_err(|error| failed("read", error));
    // It is not left there, whatever the others say.
    store.delete(&key).map_err(|error| failed("remove", error))?;
    if names?.contains(&name) && read? == bytes {
        Ok(store.place("doctor"))
    } else {
        Err(format!("{} does not give back what was written", store.place(&key)))
    }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn s3(settings: &Settings, bucket: &str, prefix: &str) -> Result<S3Config, ConfigError> {
    let word = |name| Some(settings.text(name)).filter(|word| *word != "none").map(str::to_owned);
    let allow_http = settings.text("s3.allow_http") == "on";
    let endpoint = word("s3.endpoint");
    if let Some(url) = &endpoint {
        let has_host = |rest: &str| !rest.is_empty() && !rest.starts_with('/');
        match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(host), _) if has_host(host) => {}
            (_, Some(host)) if has_host(host) && allow_http => {}
            (_, Some(host)) if has_host(host) => {
                return Err(settings.bad("s3.endpoint", "an https:// URL while s3.allow_http is off"));
            }
            _ => return Err(settings.bad("s3.endpoint", "none, or a URL such as \"https://s3.example.com\"")),
        }
    }
    let access_key = match (word("s3.access_key_id"), settings.path_or_none("s3.secret_access_key_file")) {
        (None, None) => None,
        (Some(id), Some(secret_file)) => Some(AccessKey { id, secret_file }),
        (Some(_), None) => {
            return Err(settings.bad("s3.secret_access_key_file", "a path, because s3.access_key_id names a key"));
        }
        (None, Some(_)) => {
            return Err(settings.bad("s3.access_key_id", "a name, because s3.secret_access_key_file has its secret"));
        }
    };
    Ok(S3Config {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint,
        region: word("s3.region"),
        access_key,
        allow_http,
        patience: Patience::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Sources};

    fn load(settings: &[(&str, &str)]) -> Result<Snapshots, String> {
        let flag = |(key, value): &(&str, &str)| ("--set".to_owned(), (*key).to_owned(), (*value).to_owned());
        let flags = settings.iter().map(flag).collect();
        let config = Config::load(&Sources { flags, ..Sources::default() });
        config.map(|config| config.snapshots).map_err(|error| error.to_string())
    }

    #[test]
    fn each_wrong_setting_is_named() {
        assert_eq!(load(&[]), Ok(Snapshots::DataFolder));
        let there = ("snapshots.url", "s3://fleet/site-1");
        for (settings, told) in [
            (
                &[("snapshots.url", "/mnt/x")][..],
                "snapshots.url = \"/mnt/x\" (flag --set) must be none, file:///FOLDER or s3",
            ),
            (&[("snapshots.url", "file://mnt/x")], "must be none, file:///FOLDER or s3://BUCKET/PREFIX"),
            (&[("snapshots.url", "gs://x")], "must be none, file:///FOLDER or s3://BUCKET/PREFIX"),
            (&[("snapshots.url", "s3://")], "of letters, digits"),
            (&[("snapshots.url", "s3://fleet//a")], "of letters, digits"),
            (&[("snapshots.url", "s3://fleet/../a")], "of letters, digits"),
            (&[("snapshots.url", "s3://fleet/a b")], "of letters, digits"),
            (
                &[there, ("s3.endpoint", "s3.example.com")],
                "s3.endpoint = \"s3.example.com\" (flag --set) must be none, or a URL",
            ),
            (&[there, ("s3.endpoint", "https:///x")], "must be none, or a URL"),
            (&[there, ("s3.endpoint", "http://x:9000")], "must be an https:// URL while s3.allow_http is off"),
            (&[there, ("s3.access_key_id", "x")], "s3.secret_access_key_file = \"none\" (default) must be a path"),
            (&[there, ("s3.secret_access_key_file", "x")], "s3.access_key_id = \"none\" (default) must be a name"),
            (&[there], "must be none, because log.engine is embedded"),
            (&[("snapshots.url", "file:///mnt/x")], "must be none, because log.engine is embedded"),
        ] {
            let error = load(settings).unwrap_err();
            assert!(error.contains(told), "{settings:?}: {error}");
        }
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn a_log_that_is_shared_may_have_its_snapshots_elsewhere() {
        let kafka = ("log.engine", "kafka");
        let folder = load(&[kafka, ("snapshots.url", "file:///mnt/x")]);
        assert_eq!(folder, Ok(Snapshots::Folder("/mnt/x".into())));
        let all = [
            kafka,
            ("snapshots.url", "s3://fleet/site-1/a/"),
            ("s3.endpoint", "http://x:9000"),
            ("s3.allow_http", "on"),
            ("s3.access_key_id", "k"),
            ("s3.secret_access_key_file", "/run/secret"),
        ];
        let config = S3Config {
            bucket: "fleet".to_owned(),
            prefix: "site-1/a".to_owned(),
            endpoint: Some("http://x:9000".to_owned()),
            region: None,
            access_key: Some(AccessKey { id: "k".to_owned(), secret_file: "/run/secret".into() }),
            allow_http: true,
            patience: Patience::default(),
        };
        assert_eq!(load(&all), Ok(Snapshots::S3(config)));
    }

    #[test]
    fn a_probe_says_where_or_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let there = Snapshots::Folder(dir.path().to_owned());
        assert_eq!(there.probe(Path::new("/none")), Ok(dir.path().join("doctor").display().to_string()));
        assert_eq!(std::fs::read_dir(dir.path().join("doctor")).unwrap().count(), 0, "nothing is left");
        let nowhere = Snapshots::Folder(dir.path().join("x"));
        let error = nowhere.probe(Path::new("/none")).unwrap_err();
        assert!(error.contains("it must be there") && error.contains("No such file"), "{error}");
    }
}

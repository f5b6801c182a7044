//! The keys of the configuration, and what each part of the server is told.

use crate::{
    settings::{ConfigError, Key, Kind, Origin, Setting, Settings, Sources},
    telemetry,
};
use std::{net::SocketAddr, path::PathBuf};

/// Every key. The order is that of the guide; `config show` sorts by name.
pub static KEYS: &[Key] = &[
    Key {
        name: "data_dir",
        kind: Kind::Path,
        default: "floodplain-data",
        help: "folder of everything that is kept; one server at a time",
    },
    Key {
        name: "workers",
        kind: Kind::Count,
        default: "0",
        help: "threads that own connections and partitions; 0 is one per core",
    },
    Key {
        name: "mqtt.address",
        kind: Kind::Address,
        default: "127.0.0.1:1883",
        help: "listener for MQTT 3.1.1 and 5.0; loopback only",
    },
    Key {
        name: "http.address",
        kind: Kind::Address,
        default: "127.0.0.1:8080",
        help: "listener for the HTTP API, /metrics, /healthz and /readyz; loopback only",
    },
    Key {
        name: "postgres.address",
        kind: Kind::Address,
        default: "127.0.0.1:5433",
        help: "listener for the PostgreSQL wire (not built yet: clients are told so); loopback only",
    },
    Key {
        name: "tracing.level",
        kind: Kind::Text,
        default: "info",
        help: "filter of the logs: error, warn, info, debug, trace, also per crate: info,floodplain_log=debug",
    },
    Key {
        name: "tracing.format",
        kind: Kind::OneOf(&["text", "json"]),
        default: "text",
        help: "form of the logs on standard error",
    },
];

/// The checked configuration of a server.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub mqtt_address: SocketAddr,
    pub http_address: SocketAddr,
    pub postgres_address: SocketAddr,
    /// Threads that own connections and partitions, at least 1.
    pub workers: usize,
    /// Filter of the logs.
    pub tracing_level: String,
    /// `text` or `json`.
    pub tracing_format: String,
    settings: Settings,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the place and what would be right.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let settings = Settings::load(KEYS, sources)?;
        let workers = match settings.count("workers") {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count as usize,
        };
        let level = settings.get("tracing.level");
        if telemetry::filter(&level.value).is_none() {
            let expected = "error, warn, info, debug, trace or off, also per crate: info,floodplain_log=debug";
            return Err(bad(level, expected));
        }
        Ok(Self {
            data_dir: PathBuf::from(&settings.get("data_dir").value),
            mqtt_address: loopback(&settings, "mqtt.address")?,
            http_address: loopback(&settings, "http.address")?,
            postgres_address: loopback(&settings, "postgres.address")?,
            workers,
            tracing_level: settings.get("tracing.level").value.clone(),
            tracing_format: settings.get("tracing.format").value.clone(),
            settings,
        })
    }

    /// Every key with its value and its origin, by name.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter()
    }

    /// The file that was read, if any value came from one.
    #[must_use]
    pub fn file(&self) -> Option<&PathBuf> {
        self.settings.iter().find_map(|setting| match &setting.origin {
            Origin::File(path) => Some(path),
            _ => None,
        })
    }
}

/// There is no identity and no policy yet, so nobody but this machine may connect.
fn loopback(settings: &Settings, name: &'static str) -> Result<SocketAddr, ConfigError> {
    let address = settings.address(name);
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(bad(settings.get(name), "a loopback address: other machines may connect once identities and TLS are built"))
}

fn bad(setting: &Setting, expected: &str) -> ConfigError {
    let (value, origin) = (setting.value.clone(), setting.origin.clone());
    ConfigError::BadValue { key: setting.key.name, value, origin, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_name_every_key_once() {
        let config = Config::load(&Sources::default()).unwrap();
        assert_eq!(config.mqtt_address, "127.0.0.1:1883".parse().unwrap());
        assert_eq!(config.http_address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(config.postgres_address, "127.0.0.1:5433".parse().unwrap());
        assert!(config.workers > 0);
        assert_eq!(config.settings().count(), KEYS.len());
        for key in KEYS {
            assert!(!key.help.is_empty() && key.name == key.name.to_lowercase(), "{}", key.name);
        }
    }

    #[test]
    fn listening_beyond_this_machine_is_refused() {
        let flags = vec![("--mqtt-address".to_owned(), "mqtt.address".to_owned(), "0.0.0.0:1883".to_owned())];
        let error = Config::load(&Sources { flags, ..Sources::default() }).unwrap_err().to_string();
        assert!(error.contains("must be a loopback address"), "{error}");
    }

    #[test]
    fn a_level_that_would_log_nothing_is_refused() {
        let load = |level: &str| {
            let flags = vec![("--set".to_owned(), "tracing.level".to_owned(), level.to_owned())];
            Config::load(&Sources { flags, ..Sources::default() })
        };
        for level in ["info", "warn,floodplain_log=debug", "off"] {
            load(level).unwrap();
        }
        for level in ["inof", "info,floodplain_log=loud", ""] {
            assert!(matches!(load(level), Err(ConfigError::BadValue { .. })), "{level}");
        }
    }
}

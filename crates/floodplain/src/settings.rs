//! Flags that override the configuration, and `floodplain config`.

use crate::output::{self, Output, OutputArgs, write_table};
use anyhow::Result;
use clap::{Args, Subcommand};
use floodplain_server::{Config, ConfigError, Sources};
use std::{io::Write as _, path::PathBuf};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "floodplain.toml";

/// Flattened into every command that reads the configuration.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Configuration (flag beats environment beats file beats default)")]
pub(crate) struct ConfigArgs {
    /// Configuration file [env: FLOODPLAIN_CONFIG] [default: floodplain.toml, if it exists]
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of everything that is kept [env: FLOODPLAIN_DATA_DIR]
    #[arg(long, value_name = "PATH")]
    pub(crate) data_dir: Option<String>,
    /// Listener for MQTT; port 0 takes a free port [env: FLOODPLAIN_MQTT__ADDRESS]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) mqtt_address: Option<String>,
    /// Listener for HTTP [env: FLOODPLAIN_HTTP__ADDRESS]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http_address: Option<String>,
    /// Listener for the PostgreSQL wire [env: FLOODPLAIN_POSTGRES__ADDRESS]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) postgres_address: Option<String>,
    /// Where the log is: embedded or kafka [env: FLOODPLAIN_LOG__ENGINE]
    #[arg(long, value_name = "ENGINE")]
    pub(crate) log: Option<String>,
    /// Some brokers of Apache Kafka, for --log kafka [env: FLOODPLAIN_KAFKA__BROKERS]
    #[arg(long, value_name = "HOST:PORT,...")]
    pub(crate) kafka: Option<String>,
    /// Any key of the configuration, for example `--set tracing.format=json`
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(crate) set: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl ConfigArgs {
    /// Reads file, environment and flags.
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        let named = self.config.clone().or_else(|| std::env::var_os("FLOODPLAIN_CONFIG").map(PathBuf::from));
        let found = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
        let flags = [
            ("--data-dir", "data_dir", &self.data_dir),
            ("--mqtt-address", "mqtt.address", &self.mqtt_address),
            ("--http-address", "http.address", &self.http_address),
            ("--postgres-address", "postgres.address", &self.postgres_address),
            ("--log", "log.engine", &self.log),
            ("--kafka", "kafka.brokers", &self.kafka),
        ];
        let flags = flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key.to_owned(), value.clone()?)));
        let set = self.set.iter().map(|(key, value)| ("--set", key.clone(), value.clone()));
        Config::load(&Sources {
            file: named.or_else(found),
            environment: std::env::vars_os().collect(),
            flags: flags.chain(set).map(|(flag, key, value)| (flag.to_owned(), key, value)).collect(),
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check file, environment and flags, and say what is wrong
    Check {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print every key with its value
    Show {
        /// Also say where each value comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

pub(crate) fn run(command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check { output, config } => {
            let config = config.load()?;
            let mut out = output::stdout();
            match (output.output, config.file()) {
                (Output::Json, file) => writeln!(out, "{}", serde_json::json!({ "valid": true, "file": file }))?,
                (Output::Table, Some(path)) => writeln!(out, "the configuration is valid ({})", path.display())?,
                (Output::Table, None) => writeln!(out, "the configuration is valid (no file)")?,
            }
        }
        ConfigCommand::Show { origin, output, config } => show(&config.load()?, *origin, output.output)?,
    }
    Ok(())
}

fn show(config: &Config, origin: bool, output: Output) -> Result<()> {
    match output {
        Output::Table => {
            let header: &[&str] = if origin { &["key", "value", "origin"] } else { &["key", "value"] };
            let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
            let rows: Vec<Vec<String>> = config
                .settings()
                .map(|setting| vec![setting.key.name.to_owned(), setting.value.clone(), setting.origin.to_string()])
                .collect();
            write_table(&mut output::stdout(), &header, &rows)?;
        }
        Output::Json => {
            let settings: serde_json::Map<_, _> = config
                .settings()
                .map(|setting| {
                    let mut entry = serde_json::json!({ "value": setting.value });
                    if origin {
                        entry["origin"] = setting.origin.to_string().into();
                    }
                    (setting.key.name.to_owned(), entry)
                })
                .collect();
            writeln!(output::stdout(), "{}", serde_json::to_string_pretty(&settings)?)?;
        }
    }
    Ok(())
}

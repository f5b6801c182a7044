//! Alerts, put together: rows from history, requests to webhooks.

use crate::Config;
use floodplain_decode::Value;
use floodplain_history::observe::{Observed, Observer};
use floodplain_log::{Log, OsDisk, Stream};
use floodplain_streams::{
    Alerts, AlertsConfig, Service,
    evaluator::Row,
    rule::Webhook,
    transition::Cause,
    webhook::{Patience, Post, Webhooks},
};
use floodplain_types::SystemClock;
use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// What one request may take, from the look-up of the name to the last byte of the answer.
const POST_TIME_MAX: Duration = Duration::from_secs(10);
/// Where systems keep the certificates that they trust, if `SSL_CERT_FILE` does not say so.
const CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Opens alerts and starts their thread.
pub(crate) fn start(
    config: &Config,
    log: Arc<dyn Log>,
    telemetry: Stream,
    state: Stream,
    alerts: Stream,
) -> floodplain_streams::Result<Service> {
    let clock = Arc::new(SystemClock);
    let post = Arc::new(Poster::default());
    let webhooks =
        Webhooks::start(post, clock.clone(), Patience::default()).map_err(floodplain_streams::Error::Thread)?;
    let config =
        AlertsConfig { dir: config.data_dir.join("alerts"), telemetry, state, alerts, rules: config.alerts.clone() };
    Alerts::open(config, &(Arc::new(OsDisk) as _), log, clock, webhooks)?.start()
}

/// Brings the rows of history to the alerts.
#[derive(Debug)]
pub(crate) struct Rows(pub(crate) Alerts);

impl Observer for Rows {
    fn row(&self, observed: &Observed<'_>) {
        let Observed { topic, partition, position, number, received, time, row } = *observed;
        let place = Cause { partition, position, row: number };
        let value = |column: &str| {
            let field = row.fields().find(|field| field.name == column)?;
            match field.value {
                Value::Int(value) => Some(value as f64),
                Value::Float(value) => Some(value),
                Value::Bool(_) | Value::Text(_) | Value::Bytes(_) | Value::List(_) | Value::Rest(_) => None,
            }
        };
        let (table, device) = (row.table(), row.device());
        self.0.row(topic, &Row { table, device, time, received, place, number: &value });
    }

    fn settle(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.settle()?)
    }
}

/// The client of webhooks.
#[derive(Debug, Default)]
struct Poster(OnceLock<ureq::Agent>);

impl Poster {
    fn agent(&self) -> &ureq::Agent {
        self.0.get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder().root_certs(trusted()).unversioned_rustls_crypto_provider(provider).build();
            let config = ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(POST_TIME_MAX))
                // Whoever is told is whom the rule names.
                .max_redirects(0)
                .max_redirects_will_error(false)
                .proxy(None)
                .user_agent(concat!("floodplain/", env!("CARGO_PKG_VERSION")))
                .tls_config(tls)
                .build();
            config.into()
        })
    }
}

impl Post for Poster {
    fn post(&self, webhook: &Webhook, body: &str) -> Result<u16, String> {
        let sent = self.agent().post(webhook.url()).content_type("application/json").send(body);
        sent.map(|response| response.status().as_u16()).map_err(|error| match error {
            // It would quote the URL, which may be a secret.
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => "the URL is not valid".to_owned(),
            error => error.to_string(),
        })
    }
}

/// The certificates that this machine trusts. Without any, no server of https is trusted.
fn trusted() -> RootCerts {
    let file = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let files = file.into_iter().chain(CERTIFICATES.iter().map(|path| Path::new(path).to_owned()));
    let pem = files.filter_map(|path| std::fs::read(path).ok()).next().unwrap_or_default();
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    RootCerts::from(certificates.collect::<Vec<Certificate<'static>>>())
}

//! Alerts, put together: rows from history, requests to webhooks.

use crate::Config;
use floodplain_decode::Value;
use floodplain_fold::Objects;
use floodplain_history::observe::{Observed, Observer};
use floodplain_log::{DataStreams, Log, Stream};
use floodplain_streams::{
    Alerts, AlertsConfig, Service,
    evaluator::Row,
    rule::Webhook,
    transition::Cause,
    webhook::{Patience, Post},
};
use floodplain_types::SystemClock;
use std::{
    path::{Path, PathBuf},
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
    snapshots: Arc<dyn Objects>,
    log: Arc<dyn Log>,
    data: DataStreams,
    state: Stream,
    alerts: Stream,
) -> floodplain_streams::Result<Service> {
    let clock = Arc::new(SystemClock);
    let post = Arc::new(Poster::new(std::env::var_os("SSL_CERT_FILE").map(PathBuf::from)));
    let config =
        AlertsConfig { snapshots, data, state, alerts, rules: config.alerts.clone(), patience: Patience::default() };
    Alerts::open(config, log, clock, post)?.start()
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
#[derive(Debug)]
struct Poster {
    /// File of the certificates that are trusted, if not the system's.
    certificates: Option<PathBuf>,
    agent: OnceLock<ureq::Agent>,
}

impl Poster {
    const fn new(certificates: Option<PathBuf>) -> Self {
        Self { certificates, agent: OnceLock::new() }
    }

    /// Made for the first webhook.
    fn agent(&self) -> &ureq::Agent {
        self.agent.get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder()
                .root_certs(trusted(self.certificates.as_deref()))
                .unversioned_rustls_crypto_provider(provider)
                .build();
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

/// The certificates of `file`, or else those that this machine trusts. Without any, no server of https is trusted.
fn trusted(file: Option<&Path>) -> RootCerts {
    let files = match file {
        Some(file) => vec![file],
        None => CERTIFICATES.iter().map(Path::new).collect(),
    };
    let pem = files.into_iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    RootCerts::from(certificates.collect::<Vec<Certificate<'static>>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_streams::rule::{Rule, v1};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    use std::{
        io::{BufRead as _, BufReader, Read, Write},
        net::{SocketAddr, TcpListener},
        process::Command,
    };

    fn webhook(url: &str) -> Webhook {
        let json = serde_json::json!({ "name": "a", "kind": "silent", "minutes": 1, "webhook": url });
        Rule::try_from(serde_json::from_value::<v1::Alert>(json).unwrap()).unwrap().webhook.unwrap()
    }

    /// Reads one request and answers it; the request line and the body.
    fn serve(stream: impl Read + Write, answer: &str) -> (String, String) {
        let mut stream = BufReader::new(stream);
        let (mut first, mut length) = (String::new(), 0);
        stream.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        stream.get_mut().write_all(answer.as_bytes()).unwrap();
        stream.get_mut().flush().unwrap();
        (first.trim().to_owned(), String::from_utf8(body).unwrap())
    }

    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[test]
    fn a_redirect_is_an_answer_and_is_not_followed() {
        let ((listener, address), (other, elsewhere)) = (listen(), listen());
        let answer = format!("HTTP/1.1 307 x\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n");
        let served = std::thread::spawn(move || serve(listener.accept().unwrap().0, &answer));
        let status = Poster::new(None).post(&webhook(&format!("http://{address}/hook?x=1")), r#"{"a":1}"#);
        assert_eq!(status, Ok(307));
        assert_eq!(served.join().unwrap(), ("POST /hook?x=1 HTTP/1.1".to_owned(), r#"{"a":1}"#.to_owned()));
        other.set_nonblocking(true).unwrap();
        assert!(other.accept().is_err(), "nobody asks there");
    }

    #[test]
    fn an_error_says_what_it_is_and_not_where() {
        let (listener, address) = listen();
        drop(listener);
        let error = Poster::new(None).post(&webhook(&format!("http://{address}/secret")), "{}").unwrap_err();
        assert!(error.to_ascii_lowercase().contains("refused") && !error.contains("secret"), "{error}");
    }

    /// Makes a certificate in `folder` with these arguments of `openssl req`.
    fn certificate(folder: &Path, args: &[&str]) {
        let openssl = Command::new("openssl")
            .current_dir(folder)
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"])
            .args(args)
            .output()
            .unwrap();
        assert!(openssl.status.success(), "{}", String::from_utf8_lossy(&openssl.stderr));
    }

    #[test]
    fn https_is_spoken_with_whom_the_certificates_trust_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        certificate(folder.path(), &["-subj", "/CN=test root", "-keyout", "root.key", "-out", "root.pem"]);
        let leaf =
            ["-subj", "/CN=hook", "-keyout", "hook.key", "-out", "hook.pem", "-CA", "root.pem", "-CAkey", "root.key"];
        let names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
        certificate(folder.path(), &[&leaf[..], &names].concat());
        let chain = CertificateDer::from_pem_file(folder.path().join("hook.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.path().join("hook.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![chain], key).unwrap());
        let (listener, address) = listen();
        let served = std::thread::spawn(move || {
            // The first one ends with the handshake.
            let refused = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut refused = rustls::StreamOwned::new(refused, listener.accept().unwrap().0);
            assert!(refused.read(&mut [0]).is_err());
            drop(refused);
            let stream = rustls::ServerConnection::new(config).unwrap();
            let stream = rustls::StreamOwned::new(stream, listener.accept().unwrap().0);
            serve(stream, "HTTP/1.1 204 x\r\n\r\n").1
        });
        let webhook = webhook(&format!("https://{address}/hook"));
        let error = Poster::new(None).post(&webhook, "{}").unwrap_err();
        assert!(error.contains("certificate"), "{error}");
        assert_eq!(Poster::new(Some(folder.path().join("root.pem"))).post(&webhook, "{}"), Ok(204));
        assert_eq!(served.join().unwrap(), "{}");
    }
}

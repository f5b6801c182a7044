//! What the commands that ask a running server over HTTP have in common.

use crate::settings::ConfigArgs;
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::{
    fmt,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use ureq::http::{Request, Response};

/// Longer than any query may run: the server ends those that take too long, and says so.
const PATIENCE: Duration = Duration::from_secs(3_600);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Flattened into each command that asks a server.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// Server, for example http://127.0.0.1:8080 [default: http.address of the configuration]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// API token; others on this machine do not see it in the variable [env: FLOODPLAIN_TOKEN]
    #[arg(long, value_name = "TOKEN", conflicts_with = "login")]
    token: Option<Hidden>,
    /// Log in as this user instead of by a token
    #[arg(long, value_name = "USER", requires = "login_password_file")]
    login: Option<String>,
    /// File with the password of --login; `-` is standard input
    #[arg(long, value_name = "PATH", requires = "login")]
    login_password_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// A text that `Debug` does not show.
#[derive(Clone)]
struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl FromStr for Hidden {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl ServerArgs {
    /// Whether the password comes from standard input.
    pub(crate) fn reads_stdin(&self) -> bool {
        self.login_password_file.as_deref() == Some(Path::new("-"))
    }

    pub(crate) fn open(&self) -> Result<Http> {
        let url = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.config.load()?.http_address),
        };
        let mut http = Http::new(&url);
        if let Some(Hidden(token)) = &self.token {
            http.authorization = Some(Hidden(format!("Bearer {token}")));
        }
        if let (Some(user), Some(file)) = (&self.login, &self.login_password_file) {
            let credentials = STANDARD.encode(format!("{user}:{}", read_password(file)?));
            http.authorization = Some(Hidden(format!("Basic {credentials}")));
        }
        Ok(http)
    }
}

/// The first line of a file.
pub(crate) fn read_password(file: &Path) -> Result<String> {
    let text = if file == Path::new("-") {
        io::read_to_string(io::stdin()).context("cannot read the password from standard input")?
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    let line = text.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "{} has no password in its first line", file.display());
    Ok(line.to_owned())
}

/// A server, and how to log in there.
#[derive(Debug)]
pub(crate) struct Http {
    url: String,
    authorization: Option<Hidden>,
    agent: ureq::Agent,
}

impl Http {
    /// With the token of the environment, if there is one.
    pub(crate) fn new(url: &str) -> Self {
        let token = std::env::var("FLOODPLAIN_TOKEN").ok().filter(|token| !token.is_empty());
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_PATIENCE))
            .timeout_global(Some(PATIENCE))
            // The server is this machine's or a named one; a proxy would only hide it.
            .proxy(None)
            .build();
        let authorization = token.map(|token| Hidden(format!("Bearer {}", token.trim())));
        Self { url: url.to_owned(), authorization, agent: agent.into() }
    }

    /// Sends a request to `path` below `/api/v1`; the body of the answer, if it is a success.
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<impl Read + use<>> {
        let url = &self.url;
        let mut request = Request::builder().method(method).uri(format!("{url}/api/v1/{path}"));
        if let Some(Hidden(authorization)) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        request = request.header("Accept", "application/json").header("Content-Type", "application/json");
        let sent = match body {
            Some(body) => self.agent.run(request.body(body.to_string())?),
            None => self.agent.run(request.body(())?),
        };
        answer(url, sent.with_context(|| format!("cannot ask {url}; is the server running there?"))?)
    }

    /// The same, with the whole answer as JSON; `null` if it is empty.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut text = String::new();
        self.send(method, path, body)?.read_to_string(&mut text).context("the answer broke off")?;
        if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text).context("the answer is not JSON") }
    }
}

fn answer(url: &str, response: Response<ureq::Body>) -> Result<impl Read + use<>> {
    let status = response.status();
    let mut body = response.into_body().into_reader();
    if status.is_success() {
        return Ok(body);
    }
    let mut text = String::new();
    body.read_to_string(&mut text).context("the answer broke off")?;
    // RFC 9457, problem details.
    let problem: Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(detail) = problem["detail"].as_str().or(problem["title"].as_str()) else {
        bail!("{url} answered {status}: {}", text.trim());
    };
    match problem["code"].as_str() {
        // Mistakes in a query explain themselves.
        Some(code) if !code.starts_with("sql_") => bail!("{detail} (floodplain errors {code})"),
        _ => bail!("{detail}"),
    }
}

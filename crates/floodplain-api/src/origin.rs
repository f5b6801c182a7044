//! Who may speak to a listener on loopback: programs on this machine, and pages that it served itself.
//!
//! A page from elsewhere can make a browser on this machine send requests here. Its name in `Host` gives away one that
//! points its own name at 127.0.0.1 (DNS rebinding); its name in `Origin` gives away the others.

use crate::problem::Problem;
use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use std::net::{IpAddr, Ipv6Addr};

/// Refuses requests that a foreign page may have caused.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    match problem(request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn problem(headers: &HeaderMap) -> Option<Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    // HTTP/1.0 has no Host, and no browser speaks it.
    let host = text(header::HOST);
    if let Some(host) = host.filter(|host| !is_loopback(host)) {
        let detail = format!("{host:?} is not this server: use 127.0.0.1 or localhost");
        return Some(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "foreign_host",
            "the request is not for us",
            detail,
        ));
    }
    let origin = text(header::ORIGIN)?;
    let same = origin.strip_prefix("http://").zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host));
    let detail = format!("pages of {origin:?} may not use this server");
    (!same).then(|| Problem::new(StatusCode::FORBIDDEN, "foreign_origin", "the page is not ours", detail))
}

/// Whether `host`, with or without a port, is this machine by a name that nobody else can point here.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => return address.parse().is_ok_and(|ip: Ipv6Addr| ip.is_loopback()),
        Some((address, port)) => {
            return port.starts_with(':') && address.parse().is_ok_and(|ip: Ipv6Addr| ip.is_loopback());
        }
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_loopback() {
        for host in ["localhost", "LocalHost:8080", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:8080"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
            "10.0.0.1",
            "[::2]:80",
            "[::1]x",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn an_origin_must_be_ours() {
        let headers = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            headers
        };
        let code = |headers| problem(&headers).map(|problem| problem.to_json());
        assert_eq!(code(headers("localhost:8080", None)), None);
        assert_eq!(code(headers("localhost:8080", Some("http://localhost:8080"))), None);
        for origin in
            ["http://evil.example", "null", "http://localhost:3000", "https://localhost:8080", "localhost:8080"]
        {
            let json = code(headers("localhost:8080", Some(origin))).unwrap();
            assert!(json.contains("foreign_origin"), "{origin}: {json}");
        }
    }
}

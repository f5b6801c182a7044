//! Who asks, and whether they may.
//!
//! [`check`] stands before all routes: it finds the [`Caller`] by session cookie, `Authorization: Bearer` or Basic. Strangers
//! are stopped at everything below `/api`, at `/metrics`, and wherever something may change; who may only read is stopped
//! where something may change. So a route that is forgotten is closed. Handlers that need more say so in their arguments:
//! `async fn remove(Admin(caller): Admin, …)`; who only wants to know who asks takes `Extension<Caller>`.

use crate::{
    influx::{self, InfluxError},
    problem::Problem,
    router::Api,
};
use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use floodplain_access::{Caller, Role};
use std::{net::IpAddr, sync::Arc};

/// The cookie of a browser's session.
pub(crate) const COOKIE: &str = "floodplain_session";

/// What strangers may ask although it is below `/api` or no GET.
const OPEN: [&str; 4] = ["/api/v1/me", "/api/v1/setup", "/api/v1/login", "/api/v1/logout"];

/// What is a POST and changes nothing.
const READS: [&str; 3] = ["/api/v1/sql", "/api/v1/alerts/test", "/api/v1/bindings/test"];

/// The role that a request needs before its handler is asked; `None` is open to strangers: health, and the files of the
/// console.
pub(crate) fn needs(method: &Method, path: &str) -> Option<Role> {
    let is_data = path == "/metrics" || path == "/api" || path.starts_with("/api/");
    match method.is_safe() {
        _ if OPEN.contains(&path) => None,
        true if is_data => Some(Role::Viewer),
        true => None,
        false if READS.contains(&path) => Some(Role::Viewer),
        false => Some(Role::Editor),
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Stops strangers, and hands the [`Caller`] on to the handlers.
pub(crate) async fn check(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    if let Some(role) = needs(request.method(), request.uri().path()) {
        let (method, mut headers) = (request.method().clone(), request.headers().clone());
        let is_influx = influx::is_path(request.uri().path());
        if is_influx && !headers.contains_key(header::AUTHORIZATION) {
            headers.extend(influx::authorization(request.uri()).map(|value| (header::AUTHORIZATION, value)));
        }
        let caller = identify(&api, &method, &headers, peer(request.extensions())).await;
        let caller = caller.and_then(|caller| caller.ok_or_else(login_needed));
        match caller.and_then(|caller| require(&caller, role).map(|()| caller)) {
            Ok(caller) => request.extensions_mut().insert(caller),
            Err(problem) if is_influx && problem.status() == StatusCode::TOO_MANY_REQUESTS => {
                return InfluxError::of(&problem).into_response();
            }
            Err(problem) => return problem.into_response(),
        };
    }
    next.run(request).await
}

/// Who asks; `None` for a stranger.
///
/// # Errors
/// What was shown is wrong, or the registry cannot tell.
pub(crate) async fn identify(
    api: &Api,
    method: &Method,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Option<Caller>, Problem> {
    let registry = &api.registry;
    if !registry.is_claimed() {
        // Whoever reaches a loopback listener is on this machine, and `origin` keeps pages from elsewhere out.
        return if peer.is_loopback() {
            Ok(Some(Caller::unclaimed()))
        } else {
            Err(floodplain_access::Error::SetupNeeded.into())
        };
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().unwrap_or_default();
        let (scheme, credentials) = value.split_once(' ').unwrap_or((value, ""));
        // Clients of InfluxDB say Token.
        if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") {
            let caller = registry.by_token(credentials.trim()).await?;
            return caller
                .map(Some)
                .ok_or_else(|| Problem::of("token_invalid", "the token is none, was removed or has expired"));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let (user, password) = basic(credentials)
                .ok_or_else(|| Problem::of("login_failed", "the Authorization header is not RFC 7617"))?;
            return Ok(Some(registry.login(&user, &password, peer).await?));
        }
        return Err(Problem::of("login_needed", "Authorization takes Bearer and Basic"));
    }
    let Some(session) = session(headers) else { return Ok(None) };
    let Some(caller) = registry.by_session(session).await? else { return Ok(None) };
    // `origin` has compared the header if there is one; a browser sends it with everything that changes something.
    if !method.is_safe() && !headers.contains_key(header::ORIGIN) {
        return Err(Problem::of(
            "origin_missing",
            format!("{method} with a session cookie needs the Origin header that browsers send"),
        ));
    }
    Ok(Some(caller))
}

pub(crate) fn peer(extensions: &axum::http::Extensions) -> IpAddr {
    // Each connection has one; without it nobody is taken for a neighbour.
    extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0)
}

/// RFC 7617 §2: the user is what stands before the first colon.
fn basic(credentials: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// The value of our cookie (RFC 6265 §4.2.1).
pub(crate) fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(name, value)| (name == COOKIE && !value.is_empty()).then_some(value))
}

fn login_needed() -> Problem {
    Problem::of("login_needed", "log in, or send an API token: Authorization: Bearer fp_…")
}

/// Somebody who may also decide who comes in.
#[derive(Debug, Clone)]
pub(crate) struct Admin(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>().ok_or_else(login_needed)?;
        require(caller, Role::Admin)?;
        Ok(Self(caller.clone()))
    }
}

fn require(caller: &Caller, role: Role) -> Result<(), Problem> {
    if caller.may(role) {
        return Ok(());
    }
    Err(Problem::of("role_missing", format!("this needs role {role}; {caller} has role {}", caller.role)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_cookie_is_found_among_others() {
        let find = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::COOKIE, value.parse().unwrap());
            }
            session(&headers).map(str::to_owned)
        };
        assert_eq!(find(&["floodplain_session=abc"]).as_deref(), Some("abc"));
        assert_eq!(find(&["a=b; floodplain_session=abc; c=d=e"]).as_deref(), Some("abc"));
        assert_eq!(find(&["a=b", "floodplain_session=abc"]).as_deref(), Some("abc"));
        for none in [&[][..], &[""], &["floodplain_session="], &["xfloodplain_session=abc"], &["floodplain_session"]] {
            assert_eq!(find(none), None, "{none:?}");
        }
    }

    #[test]
    fn basic_credentials_are_split_at_the_first_colon() {
        // RFC 7617 §2.
        let expected = Some(("Aladdin".to_owned(), "open sesame".to_owned()));
        assert_eq!(basic("QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), expected);
        let colons = Some(("a".to_owned(), "b:c".to_owned()));
        assert_eq!(basic(&STANDARD.encode("a:b:c")), colons);
        for noise in ["", "%%%", "QWxhZGRpbg==", "/w=="] {
            assert_eq!(basic(noise), None, "{noise}");
        }
    }

    #[test]
    fn what_is_not_listed_is_closed() {
        for (method, path, role) in [
            (Method::GET, "/", None),
            (Method::GET, "/a/index.js", None),
            (Method::GET, "/healthz", None),
            (Method::POST, "/api/v1/login", None),
            (Method::GET, "/api/v1/me", None),
            (Method::GET, "/metrics", Some(Role::Viewer)),
            (Method::HEAD, "/api/v1/anything", Some(Role::Viewer)),
            (Method::GET, "/api/v1/me/", Some(Role::Viewer)),
            (Method::POST, "/api/v1/sql", Some(Role::Viewer)),
            (Method::POST, "/api/v1/alerts/test", Some(Role::Viewer)),
            (Method::PUT, "/api/v1/alerts/a", Some(Role::Editor)),
            (Method::POST, "/api/v1/sql/", Some(Role::Editor)),
            (Method::POST, "/write", Some(Role::Editor)),
            (Method::DELETE, "/", Some(Role::Editor)),
            (Method::from_bytes(b"MERGE").unwrap(), "/api/v1/anything", Some(Role::Editor)),
        ] {
            assert_eq!(needs(&method, path), role, "{method} {path}");
        }
    }

    #[test]
    fn a_role_may_what_lesser_ones_may() {
        let caller = |role| Caller { user: Some("anna".to_owned()), token: None, role };
        for (has, needs, fine) in [
            (Role::Viewer, Role::Viewer, true),
            (Role::Viewer, Role::Editor, false),
            (Role::Editor, Role::Viewer, true),
            (Role::Editor, Role::Admin, false),
            (Role::Admin, Role::Admin, true),
        ] {
            assert_eq!(require(&caller(has), needs).is_ok(), fine, "{has} {needs}");
        }
    }
}

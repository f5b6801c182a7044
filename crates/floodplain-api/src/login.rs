//! `me`, `setup`, `login`, `logout`: open to strangers.

use crate::{
    access::{self, COOKIE},
    body,
    problem::Problem,
    router::Api,
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use floodplain_access::{SESSION_TIME_MAX, Secret};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/me", get(me))
        .route("/api/v1/setup", post(setup))
        .route("/api/v1/login", post(login))
        .route("/api/v1/logout", post(logout))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Setup {
    token: String,
    user: String,
    password: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    user: String,
    password: String,
}

async fn me(State(api): State<Arc<Api>>, request: Request) -> Result<Json<Value>, Problem> {
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let caller = access::identify(&api, &method, &headers, access::peer(request.extensions())).await?;
    let (user, role) = caller.map_or((None, None), |caller| (caller.user, Some(caller.role.as_str())));
    let claimed = api.registry.is_claimed();
    Ok(Json(json!({ "user": user, "role": role, "claimed": claimed, "version": env!("CARGO_PKG_VERSION") })))
}

async fn setup(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let Setup { token, user, password } = body::json(&headers, body, api.limits.body_time_max).await?;
    let caller = api.registry.setup(&token, &user, &password).await?;
    Ok(with_session(&api.registry.start_session(&caller).await?))
}

async fn login(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let peer = access::peer(request.extensions());
    let (parts, body) = request.into_parts();
    let Login { user, password } = body::json(&parts.headers, body, api.limits.body_time_max).await?;
    Ok(with_session(&api.registry.login_session(&user, &password, peer).await?))
}

async fn logout(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(session) = access::session(&headers) {
        api.registry.end_session(session).await?;
    }
    Ok(with_cookie("", 0))
}

fn with_session(session: &Secret) -> Response {
    with_cookie(session.reveal(), SESSION_TIME_MAX.as_secs())
}

/// Scripts do not see it, and no other site's page makes a browser send it.
fn with_cookie(value: &str, max_age_seconds: u64) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let cookie = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age_seconds}");
    let mut cookie = HeaderValue::try_from(cookie).expect("base64url and numbers");
    cookie.set_sensitive(true);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

//! `me`, `setup`, `login`, `logout`: open to strangers.

use crate::{
    access::{self, COOKIE},
    body::Json,
    problem::Problem,
    router::Api,
    users::role_or_null,
};
use axum::{
    extract::{Request, State},
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use floodplain_access::{SESSION_TIME_MAX, Secret};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(me)).routes(routes!(setup)).routes(routes!(login)).routes(routes!(logout))
}

/// Who asks.
#[derive(Serialize, ToSchema)]
struct Me {
    /// Null for strangers, for tokens, and for whoever is on this machine while there are no users.
    #[schema(required)]
    user: Option<String>,
    #[schema(schema_with = role_or_null, required)]
    role: Option<&'static str>,
    /// Whether there is a user.
    claimed: bool,
    /// Of the server.
    version: &'static str,
}

/// The first admin to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Setup {
    /// From the link that the server printed at its start.
    token: String,
    user: String,
    /// At least 12 characters.
    password: String,
}

/// Who wants to come in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    user: String,
    password: String,
}

/// Who asks
#[utoipa::path(get, path = "/api/v1/me", responses((status = 200, description = "null for strangers", body = Me), Problem))]
async fn me(State(api): State<Arc<Api>>, request: Request) -> Result<Json<Me>, Problem> {
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let caller = access::identify(&api, &method, &headers, access::peer(request.extensions())).await?;
    let (user, role) = caller.map_or((None, None), |caller| (caller.user, Some(caller.role.as_str())));
    Ok(Json(Me { user, role, claimed: api.registry.is_claimed(), version: env!("CARGO_PKG_VERSION") }))
}

/// Makes the first user, an admin
#[utoipa::path(post, path = "/api/v1/setup",
    responses((status = 204, description = "done; a session has begun, whose cookie comes back"), Problem))]
async fn setup(
    State(api): State<Arc<Api>>,
    Json(Setup { token, user, password }): Json<Setup>,
) -> Result<Response, Problem> {
    let caller = api.registry.setup(&token, &user, &password).await?;
    Ok(with_session(&api.registry.start_session(&caller).await?))
}

/// Starts a session, whose cookie comes back
#[utoipa::path(post, path = "/api/v1/login", responses((status = 204, description = "done"), Problem))]
async fn login(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    Json(Login { user, password }): Json<Login>,
) -> Result<Response, Problem> {
    Ok(with_session(&api.registry.login_session(&user, &password, access::peer(&extensions)).await?))
}

/// Ends the session
#[utoipa::path(post, path = "/api/v1/logout", responses((status = 204, description = "done"), Problem))]
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

//! `tokens`: for admins.

use crate::{
    access::Admin,
    body,
    paging::{Paging, Segment, rfc3339},
    problem::Problem,
    router::Api,
    users::role_of,
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{delete, get},
};
use chrono::DateTime;
use floodplain_access::Token;
use floodplain_types::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/api/v1/tokens", get(list).post(add)).route("/api/v1/tokens/{id}", delete(remove))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: String,
    role: String,
    expires: Option<String>,
}

async fn list(_: Admin, State(api): State<Arc<Api>>, paging: Paging) -> Result<Json<Value>, Problem> {
    let mut tokens = api.registry.tokens(paging.page()).await?;
    let next = paging.next(&mut tokens, |token| token.id.clone());
    Ok(Json(json!({ "tokens": tokens.iter().map(to_json).collect::<Vec<_>>(), "next": next })))
}

async fn add(
    Admin(by): Admin,
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let New { name, role, expires } = body::json(&headers, body, api.limits.body_time_max).await?;
    let expires = expires.as_deref().map(time).transpose()?;
    let (token, secret) = api.registry.add_token(&by, &name, role_of(&role)?, expires).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": token.id, "token": secret.reveal() }))))
}

async fn remove(Admin(by): Admin, State(api): State<Arc<Api>>, Segment(id): Segment) -> Result<StatusCode, Problem> {
    api.registry.remove_token(&by, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn time(text: &str) -> Result<Timestamp, Problem> {
    let parsed = DateTime::parse_from_rfc3339(text).ok().and_then(|time| time.timestamp_nanos_opt());
    parsed
        .map(Timestamp)
        .ok_or_else(|| Problem::of("expiry_invalid", "expires is no time of RFC 3339, such as 2027-01-31T00:00:00Z"))
}

fn to_json(token: &Token) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "role": token.role.as_str(),
        "created": rfc3339(token.created),
        "last_used": token.last_used.map(rfc3339),
        "expires": token.expires.map(rfc3339),
    })
}

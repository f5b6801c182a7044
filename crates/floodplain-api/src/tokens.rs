//! `tokens`: for admins.

use crate::{
    access::Admin,
    body::Json,
    paging::Paging,
    problem::Problem,
    request::Path,
    router::Api,
    time::Time,
    users::{role, role_of},
};
use axum::{extract::State, http::StatusCode};
use chrono::DateTime;
use floodplain_types::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(list_tokens, add_token)).routes(routes!(remove_token))
}

/// An API token, without its secret.
#[derive(Serialize, ToSchema)]
struct Token {
    id: String,
    name: String,
    #[schema(schema_with = role)]
    role: &'static str,
    created: Time,
    /// Null: never.
    #[schema(required)]
    last_used: Option<Time>,
    /// Null: never.
    #[schema(required)]
    expires: Option<Time>,
}

impl From<floodplain_access::Token> for Token {
    fn from(token: floodplain_access::Token) -> Self {
        Self {
            id: token.id,
            name: token.name,
            role: token.role.as_str(),
            created: Time(token.created),
            last_used: token.last_used.map(Time),
            expires: token.expires.map(Time),
        }
    }
}

/// Some API tokens.
#[derive(Serialize, ToSchema)]
struct Tokens {
    tokens: Vec<Token>,
    /// What to send as `after` for more; null: these were the last.
    #[schema(required)]
    next: Option<String>,
}

/// A token to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewToken {
    /// For people: what it is for.
    name: String,
    #[schema(schema_with = role)]
    role: String,
    /// Until when it counts; for ever without it.
    #[schema(format = DateTime)]
    expires: Option<String>,
}

/// A token with its secret.
#[derive(Serialize, ToSchema)]
struct MadeToken {
    id: String,
    /// What to send as `Authorization: Bearer`; nobody can say it again.
    token: String,
}

/// API tokens, for admins
#[utoipa::path(get, path = "/api/v1/tokens", params(Paging),
    responses((status = 200, description = "by id", body = Tokens), Problem))]
async fn list_tokens(_: Admin, State(api): State<Arc<Api>>, paging: Paging) -> Result<Json<Tokens>, Problem> {
    let mut tokens = api.registry.tokens(paging.page()).await?;
    let next = paging.next(&mut tokens, |token| token.id.clone());
    Ok(Json(Tokens { tokens: tokens.into_iter().map(Token::from).collect(), next }))
}

/// Makes a token, shown once
#[utoipa::path(post, path = "/api/v1/tokens", responses((status = 201, description = "made", body = MadeToken), Problem))]
async fn add_token(
    Admin(by): Admin,
    State(api): State<Arc<Api>>,
    Json(NewToken { name, role, expires }): Json<NewToken>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let expires = expires.as_deref().map(time).transpose()?;
    let (token, secret) = api.registry.add_token(&by, &name, role_of(&role)?, expires).await?;
    Ok((StatusCode::CREATED, Json(MadeToken { id: token.id, token: secret.reveal().to_owned() })))
}

/// Removes a token
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", responses((status = 204, description = "done"), Problem))]
async fn remove_token(
    Admin(by): Admin,
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    api.registry.remove_token(&by, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn time(text: &str) -> Result<Timestamp, Problem> {
    let parsed = DateTime::parse_from_rfc3339(text).ok().and_then(|time| time.timestamp_nanos_opt());
    parsed
        .map(Timestamp)
        .ok_or_else(|| Problem::of("expiry_invalid", "expires is no time of RFC 3339, such as 2027-01-31T00:00:00Z"))
}

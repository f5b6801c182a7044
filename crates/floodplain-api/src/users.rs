//! `users`: for admins.

use crate::{
    access::Admin,
    body,
    paging::{Paging, Segment, rfc3339},
    problem::Problem,
    router::Api,
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{get, patch},
};
use floodplain_access::{Change, Role, User};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/users", get(list).post(add))
        .route("/api/v1/users/{user}", patch(change).delete(remove))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    user: String,
    password: String,
    role: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    role: Option<String>,
    password: Option<String>,
}

async fn list(_: Admin, State(api): State<Arc<Api>>, paging: Paging) -> Result<Json<Value>, Problem> {
    let mut users = api.registry.users(paging.page()).await?;
    let next = paging.next(&mut users, |user| user.name.clone());
    Ok(Json(json!({ "users": users.iter().map(to_json).collect::<Vec<_>>(), "next": next })))
}

async fn add(
    Admin(by): Admin,
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let New { user, password, role } = body::json(&headers, body, api.limits.body_time_max).await?;
    let user = api.registry.add_user(&by, &user, &password, role_of(&role)?).await?;
    Ok((StatusCode::CREATED, Json(to_json(&user))))
}

async fn change(
    Admin(by): Admin,
    State(api): State<Arc<Api>>,
    Segment(user): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let Changed { role, password } = body::json(&headers, body, api.limits.body_time_max).await?;
    let role = role.as_deref().map(role_of).transpose()?;
    api.registry.change_user(&by, &user, Change { role, password: password.as_deref() }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(Admin(by): Admin, State(api): State<Arc<Api>>, Segment(user): Segment) -> Result<StatusCode, Problem> {
    api.registry.remove_user(&by, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) fn role_of(text: &str) -> Result<Role, Problem> {
    text.parse().map_err(|error: floodplain_access::NoRole| Problem::of("role_invalid", error.to_string()))
}

fn to_json(user: &User) -> Value {
    json!({
        "user": user.name,
        "role": user.role.as_str(),
        "created": rfc3339(user.created),
        "last_login": user.last_login.map(rfc3339),
    })
}

//! `users`: for admins.

use crate::{
    access::Admin, body::Json, openapi::one_of, paging::Paging, problem::Problem, request::Path, router::Api,
    time::Time,
};
use axum::{extract::State, http::StatusCode};
use floodplain_access::{Change, Role};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{ToSchema, openapi::Object};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(list_users, add_user)).routes(routes!(change_user, remove_user))
}

/// Somebody who may come in.
#[derive(Serialize, ToSchema)]
struct User {
    user: String,
    #[schema(schema_with = role)]
    role: &'static str,
    created: Time,
    /// Null: never.
    #[schema(required)]
    last_login: Option<Time>,
}

impl From<floodplain_access::User> for User {
    fn from(user: floodplain_access::User) -> Self {
        Self {
            user: user.name,
            role: user.role.as_str(),
            created: Time(user.created),
            last_login: user.last_login.map(Time),
        }
    }
}

/// Some users, by name.
#[derive(Serialize, ToSchema)]
struct Users {
    users: Vec<User>,
    /// What to send as `after` for more; null: these were the last.
    #[schema(required)]
    next: Option<String>,
}

/// A user to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewUser {
    /// 1 to 64 characters; upper and lower case are the same.
    user: String,
    /// At least 12 characters.
    password: String,
    #[schema(schema_with = role)]
    role: String,
}

/// What changes of a user; what is not here stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangedUser {
    #[schema(schema_with = role_or_null, required = false)]
    role: Option<String>,
    /// At least 12 characters.
    password: Option<String>,
}

const ROLE: &str = "What somebody may do: `viewer` reads, `editor` also publishes and changes what becomes of messages, `admin` \
                    also decides who comes in.";

pub(crate) fn role() -> Object {
    one_of(ROLE, Role::ALL.map(Role::as_str))
}

pub(crate) fn role_or_null() -> Object {
    one_of(ROLE, Role::ALL.map(|role| Some(role.as_str())).into_iter().chain([None]))
}

/// Users, for admins
#[utoipa::path(get, path = "/api/v1/users", params(Paging),
    responses((status = 200, description = "by name", body = Users), Problem))]
async fn list_users(_: Admin, State(api): State<Arc<Api>>, paging: Paging) -> Result<Json<Users>, Problem> {
    let mut users = api.registry.users(paging.page()).await?;
    let next = paging.next(&mut users, |user| user.name.clone());
    Ok(Json(Users { users: users.into_iter().map(User::from).collect(), next }))
}

/// Adds a user
#[utoipa::path(post, path = "/api/v1/users", responses((status = 201, description = "added", body = User), Problem))]
async fn add_user(
    Admin(by): Admin,
    State(api): State<Arc<Api>>,
    Json(NewUser { user, password, role }): Json<NewUser>,
) -> Result<(StatusCode, Json<User>), Problem> {
    let user = api.registry.add_user(&by, &user, &password, role_of(&role)?).await?;
    Ok((StatusCode::CREATED, Json(user.into())))
}

/// Changes role or password
#[utoipa::path(patch, path = "/api/v1/users/{user}", responses((status = 204, description = "done"), Problem))]
async fn change_user(
    Admin(by): Admin,
    State(api): State<Arc<Api>>,
    Path(user): Path<String>,
    Json(ChangedUser { role, password }): Json<ChangedUser>,
) -> Result<StatusCode, Problem> {
    let role = role.as_deref().map(role_of).transpose()?;
    api.registry.change_user(&by, &user, Change { role, password: password.as_deref() }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a user
#[utoipa::path(delete, path = "/api/v1/users/{user}", responses((status = 204, description = "done"), Problem))]
async fn remove_user(
    Admin(by): Admin,
    State(api): State<Arc<Api>>,
    Path(user): Path<String>,
) -> Result<StatusCode, Problem> {
    api.registry.remove_user(&by, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) fn role_of(text: &str) -> Result<Role, Problem> {
    text.parse().map_err(|error: floodplain_access::NoRole| Problem::of("role_invalid", error.to_string()))
}

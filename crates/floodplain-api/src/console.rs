//! The console: the built files of `ui/`, which are part of the program.

use axum::{
    body::Body,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use crate::problem::Problem;

#[derive(Debug)]
struct File {
    /// Path below `dist`, without a slash before it.
    name: &'static str,
    /// Strong ETag: a hash of the content.
    tag: &'static str,
    bytes: &'static [u8],
}

static FILES: &[File] = &include!(concat!(env!("OUT_DIR"), "/console.rs"));

/// No page of ours has scripts or styles in its text, or anything from elsewhere, or is shown in another page.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// `/` and `/setup`: everything else of a view is behind the `#`, which no server sees.
pub(crate) async fn index(headers: HeaderMap) -> Response {
    answer("index.html", &headers)
}

/// `/a/{name}`: scripts and styles.
pub(crate) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    answer(&format!("a/{name}"), &headers)
}

/// `/icon.svg`.
pub(crate) async fn icon(headers: HeaderMap) -> Response {
    answer("icon.svg", &headers)
}

/// `/licenses.txt`: of what the console is built from.
pub(crate) async fn licenses(headers: HeaderMap) -> Response {
    answer("licenses.txt", &headers)
}

fn answer(name: &str, headers: &HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        let detail = format!("the console has no file {name:?}");
        return Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here", detail).into_response();
    };
    let asked = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_known = asked.is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == file.tag));
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Response::new(Body::from(file.bytes)),
    };
    let content_type = match file.name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::ETAG, file.tag),
        // Names stay the same from version to version: the browser asks whether it has the newest.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

//! What the server answers is what its OpenAPI document says: status, content type and, of JSON, each member.

use serde_json::{Map, Value};
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../floodplain-api/openapi.json")).unwrap());

/// Compares an answer with the document. What is no part of the interface (files of the console) or is not there is not in it.
///
/// # Panics
/// If the document does not describe the answer.
pub(crate) fn check(method: &str, target: &str, status: u16, head: &str, body: &str) {
    let path = target.split('?').next().unwrap();
    let Some((template, operations)) = described(path) else { return };
    let Some(operation) = operations.get(&method.to_ascii_lowercase()) else {
        assert_eq!(status, 405, "{method} {template} is not described: {body}");
        return;
    };
    let responses = &operation["responses"];
    let response = responses.get(status.to_string()).or_else(|| responses.get("default"));
    let what = format!("{method} {target}: {status}");
    let response = resolve(response.unwrap_or_else(|| panic!("{what} is not described: {body}")));
    let Some(content) = response["content"].as_object() else {
        assert_eq!(body, "", "{what} has no content");
        return;
    };
    let media_type = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-type").then(|| value.split(';').next().unwrap().trim())
    });
    let schema = media_type.and_then(|media_type| content.get(media_type));
    let schema = schema.unwrap_or_else(|| panic!("{what} is not described as {media_type:?}: {body}"));
    if media_type.is_some_and(|media_type| media_type.ends_with("json")) {
        let value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{what}: {error}: {body}"));
        if let Err(wrong) = fits(&value, &schema["schema"], "answer") {
            panic!("{what}: {wrong}, says openapi.json: {body}");
        }
    }
}

/// The path of the document that a path is of: the one with the fewest parameters.
fn described(path: &str) -> Option<(&'static str, &'static Map<String, Value>)> {
    let fits = |template: &str| {
        let mut segments = path.split('/');
        let mut parts = template.split('/').peekable();
        while let Some(part) = parts.next() {
            let Some(segment) = segments.next() else { return false };
            if part == "{topic}" && parts.peek().is_none() {
                return true;
            }
            if !part.starts_with('{') && part != segment {
                return false;
            }
        }
        segments.next().is_none()
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let found = paths.iter().filter(|(template, _)| fits(template));
    let (template, operations) = found.min_by_key(|(template, _)| template.matches('{').count())?;
    Some((template, operations.as_object().unwrap()))
}

fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').unwrap();
            resolve(DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("{reference} is not there")))
        }
        None => value,
    }
}

/// The part of JSON Schema that the document uses; members that it does not name are wrong, unless it says that there are others.
fn fits(value: &Value, schema: &'static Value, at: &str) -> Result<(), String> {
    let schema = resolve(schema);
    if let Some(choices) = schema["oneOf"].as_array() {
        let wrong: Vec<String> = choices.iter().filter_map(|choice| fits(value, choice, at).err()).collect();
        return if wrong.len() < choices.len() { Ok(()) } else { Err(wrong.join(" and ")) };
    }
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other} at {at}"),
    };
    let types = match &schema["type"] {
        Value::Null => Vec::new(),
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        other => panic!("type {other} at {at}"),
    };
    if !types.is_empty() && !types.iter().any(|name| is(name)) {
        return Err(format!("{at} is {value}, not {}", types.join(" or ")));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return Err(format!("{at} is {value}, not one of {allowed:?}"));
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().enumerate().try_for_each(|(index, value)| fits(value, items, &format!("{at}[{index}]")))?;
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            return Err(format!("{at} has no {name}"));
        }
    }
    let (named, others) = (schema["properties"].as_object(), schema.get("additionalProperties"));
    for (name, value) in members {
        let at = format!("{at}.{name}");
        match (named.and_then(|named| named.get(name)), others) {
            (Some(schema), _) => fits(value, schema, &at)?,
            (None, Some(schema)) if schema.is_object() => fits(value, schema, &at)?,
            (None, Some(Value::Bool(true))) => {}
            (None, None) if named.is_none() => {}
            (None, _) => return Err(format!("{at} is not described")),
        }
    }
    Ok(())
}

#[test]
fn what_is_not_described_is_found() {
    let described = |target: &str, status: u16, body: &str| {
        let head = "HTTP/1.0 200 OK\r\nContent-Type: application/json";
        std::panic::catch_unwind(|| check("GET", target, status, head, body)).is_ok()
    };
    assert!(described("/api/v1/tables?x=1", 200, r#"{"tables":[]}"#));
    for wrong in ["{}", r#"{"tables":{}}"#, r#"{"tables":[{}]}"#, r#"{"tables":[],"more":1}"#, "no JSON"] {
        assert!(!described("/api/v1/tables", 200, wrong), "{wrong}");
    }
    assert!(!described("/api/v1/tables", 404, r#"{"tables":[]}"#), "a problem has another content type");
    assert!(described("/no/such", 404, "whatever"));
}

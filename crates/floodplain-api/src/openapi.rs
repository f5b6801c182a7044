//! The description of the API, which is derived: paths and methods from the routes, parameters and bodies from what handlers
//! take and answer. `openapi.json` is the same, checked in, so that a change of the API is seen as one.

use crate::{access, influx::InfluxError, problem::Problem, router};
use axum::http::Method;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{KnownFormat, Object, ObjectBuilder, RefOr, Schema, SchemaFormat, Type, schema::SchemaType},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Floodplain",
        description = "Messages, SQL and health over HTTP. Errors are application/problem+json (RFC 9457) with a code that does \
                       not change; /write and /api/v2/write answer in the form of InfluxDB.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Problem, InfluxError), responses(Problem, InfluxError))
)]
pub(crate) struct Document;

/// The document as it is served.
pub(crate) static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let document = router::routes().into_openapi();
    let mut document = serde_json::to_value(document).expect("a document holds only texts and numbers");
    complete(&mut document);
    // So utoipa 6.0 writes the formats of unsigned integers.
    format!("{document:#}\n").replace("\"u-int", "\"uint")
});

/// Says what utoipa does not know.
fn complete(document: &mut Value) {
    let components = &mut document["components"];
    components["securitySchemes"] = json!({
        "token": { "type": "http", "scheme": "bearer", "description": "an API token" },
        "password": { "type": "http", "scheme": "basic", "description": "user and password" },
        "session": { "type": "apiKey", "in": "cookie", "name": access::COOKIE, "description": "from login or setup" },
    });
    merge(members(&mut components["schemas"]));
    document["security"] = json!([{ "token": [] }, { "password": [] }, { "session": [] }]);
    let mut paths = Map::new();
    for (path, mut item) in std::mem::take(members(&mut document["paths"])) {
        for (method, operation) in members(&mut item) {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method of the router");
            if access::needs(&method, &path).is_none() {
                operation["security"] = json!([]);
            }
            // What is no JSON may be empty.
            if let Some(body) = operation.get_mut("requestBody")
                && body["content"].get("application/json").is_none()
            {
                body["required"] = false.into();
            }
            // There is no null in an address.
            let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten() {
                let types = &mut parameter["schema"]["type"];
                if types.is_array() {
                    *types = types[0].take();
                }
            }
        }
        // The rest of a path is a variable as others are.
        paths.insert(path.replace("{*", "{"), item);
    }
    document["paths"] = paths.into();
}

/// Makes one object of what is flattened: as `allOf`, the parts would refuse each other's members. What is flattened is
/// answered, so all members are there.
fn merge(schemas: &mut Map<String, Value>) {
    let parts = schemas.clone();
    for schema in schemas.values_mut() {
        let Some(Value::Array(all)) = members(schema).remove("allOf") else { continue };
        let mut properties = Map::new();
        for part in &all {
            let name = part["$ref"].as_str().and_then(|name| name.rsplit('/').next());
            let part = name.map_or(part, |name| &parts[name]);
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
        }
        schema["type"] = "object".into();
        schema["required"] = properties.keys().cloned().collect();
        schema["properties"] = properties.into();
    }
}

fn members(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().expect("an object of the document")
}

/// The schema of a text that is one of these, or null if that is among them.
pub(crate) fn one_of(description: &str, values: impl IntoIterator<Item = impl Into<Value>>) -> Object {
    let values: Vec<Value> = values.into_iter().map(Into::into).collect();
    let types = match values.contains(&Value::Null) {
        true => SchemaType::from_iter([Type::String, Type::Null]),
        false => Type::String.into(),
    };
    ObjectBuilder::new().schema_type(types).description(Some(description)).enum_values(Some(values)).build()
}

/// The same of a parameter, which is described where it is declared.
pub(crate) fn choice(default: &str, values: impl IntoIterator<Item = &'static str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).default(Some(default.into())).enum_values(Some(values)).build()
}

/// The schema of `next` in a list that has all in one page.
pub(crate) fn no_next() -> Object {
    ObjectBuilder::new().schema_type(Type::Null).description(Some("Always null: the page has all of them.")).build()
}

/// Bytes as they are.
pub(crate) struct Raw;

impl PartialSchema for Raw {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Raw {}

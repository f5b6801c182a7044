//! The served document and the router say the same.

use crate::{client::Server, topics::publish};
use serde_json::Value;
use std::collections::BTreeSet;

/// Files of the console are no interface.
const CONSOLE: [&str; 5] = ["/", "/setup", "/a/{name}", "/icon.svg", "/licenses.txt"];
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The paths that the router's source names, as OpenAPI writes them.
fn routes() -> BTreeSet<String> {
    let source = [
        include_str!("../../src/router.rs"),
        include_str!("../../src/login.rs"),
        include_str!("../../src/users.rs"),
        include_str!("../../src/tokens.rs"),
        include_str!("../../src/devices.rs"),
        include_str!("../../src/alerts.rs"),
        include_str!("../../src/bindings.rs"),
        include_str!("../../src/dlq.rs"),
        include_str!("../../src/tables.rs"),
    ]
    .concat();
    let paths = source.split(".route(\"").skip(1).filter_map(|rest| rest.split_once('"'));
    paths.map(|(path, _)| path.replace("{*", "{")).filter(|path| !CONSOLE.contains(&path.as_str())).collect()
}

async fn document(server: &Server) -> Value {
    let answer = server.get("/api/v1/openapi.json").await;
    assert!(answer.status == 200 && answer.head.contains("content-type: application/json"), "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn every_path_and_method_is_described_and_no_other() {
    let server = Server::start().await;
    let document = document(&server).await;
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.keys().cloned().collect::<BTreeSet<_>>(), routes());
    for (path, operations) in paths {
        let real = path.replace('{', "x").replace('}', "");
        for method in METHODS {
            let answer = server.request(&method.to_uppercase(), &real, "", "").await;
            // What is missing may be a user; a path without a route has another code.
            let is_there = answer.status != 405 && !answer.body.contains(r#""code":"not_found""#);
            assert_eq!(is_there, operations.get(method).is_some(), "{method} {path}: {answer:?}");
        }
    }
}

/// A handler that takes parameters says which when there is another.
#[tokio::test]
async fn every_query_parameter_is_described_and_no_other() {
    let server = Server::start().await;
    let document = document(&server).await;
    let mut compared = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        // InfluxDB's clients send what is not looked at.
        if path.ends_with("/write") || path == "/query" {
            continue;
        }
        for (method, operation) in
            operations.as_object().unwrap().iter().filter(|(name, _)| METHODS.contains(&name.as_str()))
        {
            let named = |parameter: &Value| {
                let reference = parameter["$ref"].as_str().map(|to| document.pointer(to.strip_prefix('#').unwrap()));
                let parameter = reference.flatten().unwrap_or(parameter);
                (parameter["in"] == "query").then(|| parameter["name"].as_str().unwrap().to_owned())
            };
            let described: BTreeSet<_> =
                operation["parameters"].as_array().into_iter().flatten().filter_map(named).collect();
            let real = format!("{}?no_such=1", path.replace('{', "x").replace('}', ""));
            let answer = server.request(&method.to_uppercase(), &real, "", "").await;
            let taken: BTreeSet<_> = match answer.body.split_once("unknown field `no_such`, expected ") {
                Some((_, names)) => names.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
                None => BTreeSet::new(),
            };
            assert_eq!(taken, described, "{method} {path}: {answer:?}");
            compared += described.len();
            if !described.is_empty() {
                answer.assert_problem(400, "query_invalid");
            }
        }
    }
    assert!(compared >= 20, "only {compared} parameters were found");
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_ids_are_unique() {
    fn walk<'d>(value: &'d Value, visit: &mut impl FnMut(&str, &'d Value)) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| {
                visit(name, value);
                walk(value, visit);
            }),
            Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
            _ => {}
        }
    }
    let server = Server::start().await;
    let document = document(&server).await;
    let (mut references, mut ids) = (0, BTreeSet::new());
    walk(&document, &mut |name, value| match (name, value) {
        ("$ref", Value::String(to)) => {
            references += 1;
            let pointer = to.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{to}");
        }
        ("operationId", Value::String(id)) => assert!(ids.insert(id.clone()), "{id} twice"),
        _ => {}
    });
    assert!(references > 10 && ids.len() > 10, "{references} references, {} operations", ids.len());
}

/// What the schema requires is there, and what is there is in the schema.
#[tokio::test]
async fn answers_have_the_members_that_are_described() {
    let server = Server::start().await;
    let document = document(&server).await;
    let check = |schema: &str, value: &Value| {
        let schema = &document["components"]["schemas"][schema];
        for name in schema["required"].as_array().unwrap() {
            assert!(value.get(name.as_str().unwrap()).is_some(), "{name} is missing: {value}");
        }
        for name in value.as_object().unwrap().keys() {
            assert!(schema["properties"].get(name).is_some(), "{name} is not described");
        }
    };
    check("Overview", &server.get("/api/v1/overview").await.json());
    assert_eq!(publish(&server, "a", "1").await.status, 200);
    let mut events = crate::events::Events::open(&server, "/api/v1/topics/%23?follow").await;
    events.follows().await;
    assert_eq!(publish(&server, "a", "1").await.status, 200);
    check("Message", &events.next().await.unwrap().1);
    check("Topics", &server.get("/api/v1/topics").await.json());
    check("Problem", &server.get("/nowhere").await.json());
}

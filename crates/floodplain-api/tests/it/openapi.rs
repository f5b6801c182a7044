//! The document is derived; here it is compared with what is checked in, and with what the server does.

use crate::{client::Server, topics::publish};
use serde_json::Value;
use std::{collections::BTreeSet, path::Path};

/// Files of the console are no interface.
const CONSOLE: [&str; 5] = ["/", "/setup", "/a/{name}", "/icon.svg", "/licenses.txt"];
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// With `FLOODPLAIN_WRITE_OPENAPI=1` it is written instead.
#[tokio::test]
async fn what_is_checked_in_is_what_is_derived() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let derived = Server::start().await.get("/api/v1/openapi.json").await.body;
    if std::env::var_os("FLOODPLAIN_WRITE_OPENAPI").is_some() {
        std::fs::write(&file, &derived).unwrap();
    }
    let checked_in = std::fs::read_to_string(file).unwrap();
    let line = derived.lines().zip(checked_in.lines()).position(|(one, other)| one != other);
    assert!(
        derived == checked_in,
        "openapi.json is not what the handlers say, from line {} on: see CONTRIBUTING.md",
        line.map_or(0, |line| line + 1)
    );
}

/// Routes without a description, which are those of the console.
#[test]
fn only_the_console_is_not_described() {
    let source = include_str!("../../src/router.rs");
    let paths = source.split(".route(\"").skip(1).filter_map(|rest| rest.split_once('"'));
    assert_eq!(paths.map(|(path, _)| path).collect::<Vec<_>>(), CONSOLE);
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("router.rs") {
            assert!(!std::fs::read_to_string(&path).unwrap().contains(".route("), "{path:?}: use routes!");
        }
    }
}

async fn document(server: &Server) -> Value {
    let answer = server.get("/api/v1/openapi.json").await;
    assert!(answer.status == 200 && answer.head.contains("content-type: application/json"), "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn every_method_is_described_and_no_other() {
    let server = Server::start().await;
    let document = document(&server).await;
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 30, "{} paths", paths.len());
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
async fn every_variable_of_a_path_is_described_and_no_other() {
    let document = document(&Server::start().await).await;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let variables: BTreeSet<_> = path.split('{').skip(1).map(|rest| rest.split_once('}').unwrap().0).collect();
        for (method, operation) in operations.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let described = parameters.filter(|parameter| parameter["in"] == "path");
            let described: BTreeSet<_> = described.map(|parameter| parameter["name"].as_str().unwrap()).collect();
            assert_eq!(described, variables, "{method} {path}");
        }
    }
}

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

/// What is null in an answer is there: clients need not tell absent from null. What can be absent is never null.
#[tokio::test]
async fn what_is_answered_is_there_or_never_null() {
    let document = document(&Server::start().await).await;
    let mut references = BTreeSet::new();
    let mut due = Vec::new();
    walk(&document["paths"], &mut |name, value| {
        if name == "responses" {
            due.push(value);
        }
    });
    due.push(&document["components"]["responses"]);
    let mut compared = 0;
    while let Some(value) = due.pop() {
        walk(value, &mut |name, value| match (name, value) {
            ("$ref", Value::String(to)) if references.insert(to) => {
                due.push(document.pointer(to.strip_prefix('#').unwrap()).unwrap());
            }
            _ => {}
        });
        let mut objects = Vec::new();
        walk(value, &mut |_, value| objects.push(value));
        objects.push(value);
        for object in objects.into_iter().filter(|object| object["properties"].is_object()) {
            let required = object["required"].as_array().cloned().unwrap_or_default();
            for (name, property) in object["properties"].as_object().unwrap() {
                let is_null = |schema: &Value| schema["type"] == "null";
                let is_nullable = property["type"].as_array().is_some_and(|types| types.contains(&"null".into()))
                    || property["oneOf"].as_array().is_some_and(|choices| choices.iter().any(is_null));
                let is_required = required.contains(&name.as_str().into());
                assert!(is_required || !is_nullable, "{name} is nullable and not required: {object}");
                compared += usize::from(is_nullable);
            }
        }
    }
    assert!(compared > 30, "only {compared} were found");
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_ids_are_unique() {
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

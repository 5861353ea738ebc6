//! The OpenAPI 3.1 document, made from the table of routes and the types that are read and written.

use std::collections::BTreeMap;

use schemars::{
    Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use crate::{
    route::Verb,
    routes::{ANY_STATUSES, BODY_STATUSES, Body, ROUTES, Route, SchemaOf},
};

const SCHEMAS: &str = "/components/schemas";

/// The document, with the server's version.
pub(crate) fn document(version: &str) -> Value {
    let mut writer = Writer {
        taken: generator(Contract::Deserialize),
        given: generator(Contract::Serialize),
        paths: BTreeMap::new(),
    };
    ROUTES.iter().for_each(|route| writer.route(route));
    let Writer { mut taken, mut given, paths } = writer;
    let mut schemas = given.take_definitions(true);
    schemas.extend(taken.take_definitions(true));
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Mizzen",
            "version": version,
            "description": "The Open Inference Protocol V2 with Triton's extensions, and V1 predict.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn generator(contract: Contract) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = SCHEMAS.into();
        settings.meta_schema = None;
        settings.contract = contract;
    });
    settings.into_generator()
}

struct Writer {
    /// Of types that are read.
    taken: SchemaGenerator,
    /// Of types that are written.
    given: SchemaGenerator,
    paths: BTreeMap<&'static str, Map<String, Value>>,
}

impl Writer {
    fn route(&mut self, route: &Route) {
        for (nth, path) in route.paths.iter().enumerate() {
            let mut operation = self.operation(route);
            let name = match nth {
                0 => route.operation.to_owned(),
                nth => format!("{}{}", route.operation, nth + 1), // names are unique
            };
            operation.insert("operationId".to_owned(), name.into());
            operation.insert("parameters".to_owned(), parameters(path, route).into());
            let method = match route.verb {
                Verb::Get => "get",
                Verb::Post => "post",
            };
            self.paths.entry(path).or_default().insert(method.to_owned(), operation.into());
        }
    }

    fn operation(&mut self, route: &Route) -> Map<String, Value> {
        let mut operation = Map::new();
        operation.insert("summary".to_owned(), route.says.into());
        operation.insert("tags".to_owned(), json!([route.api.as_str()]));
        let request = content(route.takes, &mut self.taken);
        if let Some(content) = request {
            let required = !matches!(route.takes, Body::OptionalJson(_));
            operation.insert(
                "requestBody".to_owned(),
                json!({"content": content, "required": required}),
            );
        }
        let mut done = json!({"description": "Done"});
        if let Some(content) = content(route.gives, &mut self.given) {
            done["content"] = content;
        }
        let mut responses = Map::from_iter([("200".to_owned(), done)]);
        let error = route.dialect.schema(&mut self.given);
        for status in statuses(route) {
            let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
            responses.insert(
                status.to_string(),
                json!({
                    "description": reason.unwrap_or("The client withdrew"),
                    "content": {"application/json": {"schema": error}},
                }),
            );
        }
        operation.insert("responses".to_owned(), responses.into());
        operation
    }
}

/// Statuses of errors that a route may answer with.
fn statuses(route: &Route) -> Vec<u16> {
    let body: &[u16] = if matches!(route.takes, Body::None) { &[] } else { &BODY_STATUSES };
    let mut all: Vec<u16> = [&ANY_STATUSES, body, route.fails].concat();
    all.sort_unstable();
    all.dedup();
    all
}

fn content(body: Body, generator: &mut SchemaGenerator) -> Option<Value> {
    let json = |schema: Schema| json!({"application/json": {"schema": schema}});
    match body {
        Body::None => None,
        Body::Json(of) | Body::OptionalJson(of) => Some(json(of(generator))),
        Body::Events(of) => Some(events(of, generator)),
        Body::JsonOrEvents(whole, piece) => {
            let mut both = json(whole(generator));
            both["text/event-stream"] = events(piece, generator)["text/event-stream"].take();
            Some(both)
        }
        Body::Tensors(of) => {
            let mut both = json(of(generator));
            both["application/octet-stream"] = json!({"schema": {"type": "string", "format": "binary",
                "description": "The JSON, then the binary tensors in the order in which it names them"}});
            Some(both)
        }
    }
}

fn events(of: SchemaOf, generator: &mut SchemaGenerator) -> Value {
    // Before OpenAPI 3.2, which has a word for it, the schema of a stream is that of an event.
    let data = json!({"type": "string", "contentMediaType": "application/json",
        "contentSchema": of(generator)});
    let event = json!({"type": "object", "required": ["data"], "properties": {"data": data}});
    json!({"text/event-stream": {"schema": event}})
}

fn parameters(path: &str, route: &Route) -> Vec<Value> {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let mut parameters: Vec<Value> = names
        .map(|(name, _)| {
            let schema = match name {
                "version" => json!({"type": "string", "pattern": "^[0-9]+$"}),
                _ => json!({"type": "string", "minLength": 1}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    if matches!(route.takes, Body::Tensors(_)) {
        parameters.push(json!({
            "name": "Inference-Header-Content-Length", "in": "header", "required": false,
            "description": "Bytes of JSON before the binary tensors",
            "schema": {"type": "integer", "minimum": 0},
        }));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_the_table_is_in_the_document() {
        let document = document("1.2.3");
        assert_eq!(document["info"]["version"], "1.2.3");
        let mut operations = Vec::new();
        for route in ROUTES {
            let verb = if route.verb == Verb::Get { "get" } else { "post" };
            for path in route.paths {
                let operation = &document["paths"][path][verb];
                operations.push(operation["operationId"].as_str().unwrap().to_owned());
                assert_eq!(operation["summary"], route.says, "{path}");
                for status in route.fails {
                    let said = &operation["responses"][status.to_string()];
                    assert!(said.is_object(), "{path} {status}");
                }
                for name in path.split('{').skip(1).filter_map(|s| s.split('}').next()) {
                    let parameters = operation["parameters"].as_array().unwrap();
                    assert!(parameters.iter().any(|p| p["name"] == name), "{path} {name}");
                }
            }
        }
        let count = operations.len();
        operations.sort_unstable();
        operations.dedup();
        assert_eq!(operations.len(), count, "names of operations are unique");
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|v| references(v, found));
                }
                Value::Array(list) => list.iter().for_each(|v| references(v, found)),
                _ => {}
            }
        }
        let document = document("1");
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > ROUTES.len(), "errors alone are one a route");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}

//! The OpenAPI 3.1 document, made from the table of routes and the types that are read and written.

use http::StatusCode;
use schemars::{
    SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::{
    routes::{ROUTES, Route},
    wire::Refusal,
};

/// What any call may be refused with: something that cannot be read or be so, that is not there, that
/// stands in the way, that is too large; and a fault.
const STATUSES: [u16; 5] = [400, 404, 409, 413, 500];

/// The document.
pub(super) fn document() -> Value {
    let (mut taken, mut given) = (generator(Contract::Deserialize), generator(Contract::Serialize));
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operation(route, &mut taken, &mut given);
        let path = paths.entry(route.full_path()).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut schemas = given.take_definitions(true);
    schemas.extend(taken.take_definitions(true));
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Mizzen studies",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Ask and tell: searches whose trials run wherever the caller likes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn generator(contract: Contract) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.contract = contract;
    });
    settings.into_generator()
}

fn operation(route: &Route, taken: &mut SchemaGenerator, given: &mut SchemaGenerator) -> Value {
    let content = |schema: Value| json!({"application/json": {"schema": schema}});
    let done = json!({"description": "Done", "content": content(json!((route.gives)(given)))});
    let mut responses = Map::from_iter([("200".to_owned(), done)]);
    let refusal = json!(given.subschema_for::<Refusal>());
    for status in STATUSES {
        let reason = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
        let answer = json!({"description": reason, "content": content(refusal.clone())});
        responses.insert(status.to_string(), answer);
    }
    let mut operation = json!({
        "operationId": route.operation,
        "summary": route.says,
        "parameters": parameters(route),
        "responses": responses,
    });
    if let Some(takes) = route.takes {
        let schema = json!((takes.schema)(taken));
        operation["requestBody"] = json!({"content": content(schema), "required": takes.required});
    }
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let of_path = names.map(|name| {
        let schema = match name {
            "number" => json!({"type": "integer", "minimum": 0}),
            _ => json!({"type": "string", "minLength": 1}),
        };
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    });
    let of_query = route.query.iter().map(|(name, says)| {
        let schema = json!({"type": "integer", "minimum": 0});
        json!({"name": name, "in": "query", "description": says, "schema": schema})
    });
    of_path.chain(of_query).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_every_reference_leads_somewhere() {
        let document = document();
        for route in ROUTES {
            let method = route.method.as_str().to_ascii_lowercase();
            let operation = &document["paths"][route.full_path()][method];
            assert_eq!(operation["operationId"], route.operation);
        }
        let text = document.to_string();
        let references =
            text.split("\"$ref\":\"").skip(1).filter_map(|rest| rest.split('"').next());
        for reference in references {
            let place = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(place).is_some(), "{reference}");
        }
    }
}

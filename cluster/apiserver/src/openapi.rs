//! OpenAPI: what `kubectl explain` prints, and how kubectl learns what patches may carry.
//!
//! Version 3 has one document per group and version, with the schemas it needs and the operations
//! of each resource. Version 2, which only old clients ask for, has the schemas alone.

use std::collections::BTreeSet;

use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    ApiError,
    http::{self as wire, Reply},
    resource::{Resource, Snapshot, Source, api_version},
    schema::definitions,
};

const REF: &str = "#/components/schemas/";

/// `/openapi/v3`: which documents there are.
pub(crate) fn index(served: &Snapshot) -> Reply {
    let mut paths = Map::new();
    for r in served.iter() {
        let path = document_path(&r.group, &r.version);
        paths.entry(path.clone()).or_insert_with(|| {
            // The hash lets clients keep a document until its resources change.
            let hash = hash(served, &r.group, &r.version);
            json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")})
        });
    }
    wire::value(StatusCode::OK, &json!({"paths": paths}))
}

/// `/openapi/v3/apis/GROUP/VERSION`.
pub(crate) fn document(served: &Snapshot, group: &str, version: &str) -> Result<Reply, ApiError> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for r in of_group_version(served, group, version) {
        add_paths(&mut paths, r);
        add_schemas(&mut schemas, r);
    }
    if paths.is_empty() {
        return Err(ApiError::UnknownResource);
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    });
    Ok(wire::value(StatusCode::OK, &document))
}

/// `/openapi/v2`, as JSON; kubectl asks for protobuf first and copes without.
pub(crate) fn v2(headers: &HeaderMap) -> Result<Reply, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !accept.is_empty() && !accept.contains("json") && !accept.contains("*/*") {
        return Err(ApiError::NotAcceptable("application/json"));
    }
    let definitions = Value::Object(definitions::JSON.clone()).to_string();
    let definitions = definitions.replace(REF, "#/definitions/");
    let text = format!(
        "{{\"swagger\":\"2.0\",\"info\":{{\"title\":\"Kubernetes\",\"version\":\"v1.33.0\"}},\"paths\":{{}},\"definitions\":{definitions}}}"
    );
    Ok(wire::json(StatusCode::OK, text))
}

fn of_group_version<'s>(
    served: &'s Snapshot,
    group: &'s str,
    version: &'s str,
) -> impl Iterator<Item = &'s Resource> {
    served.iter().map(|r| &**r).filter(move |r| r.group == group && r.version == version)
}

fn document_path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

fn hash(served: &Snapshot, group: &str, version: &str) -> String {
    let mut sha = Sha256::new();
    sha.update(env!("CARGO_PKG_VERSION"));
    for r in of_group_version(served, group, version) {
        sha.update(&r.plural);
        sha.update(&r.kind);
        if let Source::Custom(custom) = &r.source {
            sha.update(custom.schema_json.to_string());
        }
    }
    sha.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The name under which a kind's schema stands in its document.
fn schema_name(r: &Resource) -> String {
    match &r.source {
        Source::Builtin(name) => (*name).to_owned(),
        Source::Custom(_) => {
            let mut parts: Vec<_> = r.group.split('.').collect();
            parts.reverse();
            format!("{}.{}.{}", parts.join("."), r.version, r.kind)
        }
    }
}

fn gvk(r: &Resource) -> Value {
    json!({"group": r.group, "version": r.version, "kind": r.kind})
}

fn add_paths(paths: &mut Map<String, Value>, r: &Resource) {
    let root = match r.group.as_str() {
        "" => format!("/api/{}", r.version),
        group => format!("/apis/{group}/{}", r.version),
    };
    let scoped = match r.namespaced {
        true => format!("{root}/namespaces/{{namespace}}/{}", r.plural),
        false => format!("{root}/{}", r.plural),
    };
    let operation = |action: &str, params: &[&str]| operation(r, action, params);
    let writes: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
    let lists: &[&str] = &[
        "labelSelector",
        "fieldSelector",
        "limit",
        "continue",
        "resourceVersion",
        "resourceVersionMatch",
        "watch",
        "allowWatchBookmarks",
        "sendInitialEvents",
        "timeoutSeconds",
    ];
    if !r.stored {
        paths.insert(scoped, json!({"post": operation("post", writes)}));
        return;
    }
    if r.namespaced {
        paths.insert(format!("{root}/{}", r.plural), json!({"get": operation("list", lists)}));
    }
    let collection = json!({
        "get": operation("list", lists), "post": operation("post", writes),
        "delete": operation("deletecollection", lists),
    });
    paths.insert(scoped.clone(), collection);
    let patches = &["dryRun", "fieldManager", "fieldValidation", "force"];
    let object = json!({
        "get": operation("get", &[]), "put": operation("put", writes),
        "patch": operation("patch", patches),
        "delete": operation("delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
    });
    let mut status = object.clone();
    paths.insert(format!("{scoped}/{{name}}"), object);
    if r.has_status
        && let Some(map) = status.as_object_mut()
    {
        map.remove("delete");
        paths.insert(format!("{scoped}/{{name}}/status"), status);
    }
}

fn operation(r: &Resource, action: &str, params: &[&str]) -> Value {
    let parameters: Vec<_> = params
        .iter()
        .map(|name| {
            let kind = match *name {
                "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
                "watch" | "allowWatchBookmarks" | "sendInitialEvents" | "force" => "boolean",
                _ => "string",
            };
            json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
        })
        .collect();
    let schema = json!({"$ref": format!("{REF}{}", schema_name(r))});
    let mut operation = json!({
        "operationId": format!("{action}{}{}", r.kind, api_version(&r.group, &r.version)),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(r),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
    });
    let body = |types: &[&str]| {
        let content: Map<_, _> =
            types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
        json!({"content": content})
    };
    match action {
        "post" | "put" => {
            operation["requestBody"] = body(&["application/json", "application/yaml"])
        }
        // Without the strategic type here, kubectl uses the merge keys it was compiled with, which
        // is what it needs: the definitions carry none.
        "patch" => {
            operation["requestBody"] = body(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
            ]);
        }
        _ => {}
    }
    operation
}

/// Adds a kind's schema, and the definitions it refers to.
fn add_schemas(schemas: &mut Map<String, Value>, r: &Resource) {
    let mut wanted = BTreeSet::new();
    let mut schema = match &r.source {
        Source::Builtin(name) => definitions::JSON.get(*name).cloned().unwrap_or_default(),
        Source::Custom(custom) => {
            let mut schema = custom.schema_json.clone();
            let meta = json!({"allOf": [{"$ref": format!("{REF}{}", definitions::OBJECT_META)}],
                              "description": "Standard object's metadata."});
            schema["properties"]["metadata"] = meta;
            for (field, text) in [
                ("apiVersion", "Version of the API that this object is in."),
                ("kind", "Kind of this object."),
            ] {
                schema["properties"][field] = json!({"type": "string", "description": text});
            }
            schema
        }
    };
    schema["x-kubernetes-group-version-kind"] = json!([gvk(r)]);
    references(&schema, &mut wanted);
    schemas.insert(schema_name(r), schema);
    while let Some(name) = wanted.pop_first() {
        if schemas.contains_key(&name) {
            continue;
        }
        if let Some(definition) = definitions::JSON.get(&name) {
            references(definition, &mut wanted);
            schemas.insert(name, definition.clone());
        }
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value.as_str().and_then(|text| text.strip_prefix(REF)) {
                    Some(target) if name == "$ref" => drop(found.insert(target.to_owned())),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Registry;

    #[test]
    fn every_reference_in_a_document_resolves() {
        let registry = Registry::new();
        let mut schemas = Map::new();
        for r in registry.snapshot().iter() {
            add_schemas(&mut schemas, r);
        }
        assert!(schemas.len() > 150, "{}", schemas.len());
        let mut found = BTreeSet::new();
        references(&Value::Object(schemas.clone()), &mut found);
        for name in found {
            assert!(schemas.contains_key(&name), "{name}");
        }
    }
}

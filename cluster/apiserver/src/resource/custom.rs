//! Resources that CustomResourceDefinitions declare.
//!
//! Understood: names, scope, versions with conversion `None`, the status and scale subresources,
//! printer columns and the structural schema. Not understood: conversion webhooks and CEL rules
//! (`x-kubernetes-validations`), which are kept in the definition and not run.

use serde_json::{Value, json};

use super::{Resource, ScalePaths, Source, table_name, text};
use crate::{error::Cause, schema::Schema, table::jsonpath::JsonPath};

/// What a definition says about one version.
#[derive(Debug)]
pub(crate) struct CustomVersion {
    pub(crate) schema: Option<Schema>,
    /// The schema as it was written, for OpenAPI.
    pub(crate) schema_json: Value,
    pub(crate) columns: Vec<Column>,
}

/// An additional printer column.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    /// 0 is shown always, more only with `-o wide`.
    pub(crate) priority: i64,
    pub(crate) path: JsonPath,
}

/// The served resources of a definition; it has been checked by [`check`].
pub(crate) fn resources(definition: &Value) -> Vec<Resource> {
    let group = text(definition, "/spec/group");
    let names = &definition["spec"]["names"];
    let strings = |field: &str| -> Vec<String> {
        let list = names[field].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let kind = text(names, "/kind");
    let plural = text(names, "/plural");
    versions(definition)
        .filter(|v| v["served"].as_bool().unwrap_or(false))
        .map(|version| Resource {
            group: group.into(),
            version: text(version, "/name").into(),
            kind: kind.into(),
            list_kind: or(text(names, "/listKind"), &format!("{kind}List")),
            plural: plural.into(),
            singular: or(text(names, "/singular"), &kind.to_lowercase()),
            short_names: strings("shortNames"),
            categories: strings("categories"),
            namespaced: text(definition, "/spec/scope") != "Cluster",
            has_status: version.pointer("/subresources/status").is_some_and(Value::is_object),
            scale: version.pointer("/subresources/scale").map(scale_paths),
            table: table_name(group, plural),
            source: Source::Custom(Box::new(custom_version(version))),
            stored: true,
        })
        .collect()
}

/// Fills in what the real server fills in: names, and the status that says it is established.
pub(crate) fn complete(definition: &mut Value, now: &str) {
    let kind = text(definition, "/spec/names/kind").to_owned();
    if let Some(names) = definition.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        names.entry("singular").or_insert_with(|| json!(kind.to_lowercase()));
        names.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
    }
    if let Some(spec) = definition["spec"].as_object_mut() {
        spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    }
    let storage: Vec<_> = versions(definition)
        .filter(|v| v["storage"].as_bool().unwrap_or(false))
        .map(|v| v["name"].clone())
        .collect();
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": message,
               "lastTransitionTime": now})
    };
    definition["status"] = json!({
        "acceptedNames": definition["spec"]["names"],
        "storedVersions": storage,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
}

/// What is wrong with a definition, beyond its types.
pub(crate) fn check(definition: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let want =
        format!("{}.{}", text(definition, "/spec/names/plural"), text(definition, "/spec/group"));
    let name = text(definition, "/metadata/name");
    for (field, pointer) in [
        ("spec.group", "/spec/group"),
        ("spec.names.plural", "/spec/names/plural"),
        ("spec.names.kind", "/spec/names/kind"),
        ("spec.scope", "/spec/scope"),
    ] {
        if text(definition, pointer).is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    if name != want && causes.is_empty() {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", format!("\"{name}\""), why));
    }
    let scope = text(definition, "/spec/scope");
    if !matches!(scope, "" | "Cluster" | "Namespaced") {
        let allowed = ["Cluster".to_owned(), "Namespaced".to_owned()];
        causes.push(Cause::unsupported("spec.scope", format!("\"{scope}\""), &allowed));
    }
    if versions(definition).filter(|v| v["storage"] == json!(true)).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", "[…]", why));
    }
    for (i, version) in versions(definition).enumerate() {
        let field = format!("spec.versions[{i}]");
        match version.pointer("/schema/openAPIV3Schema") {
            None => causes.push(Cause::required(
                format!("{field}.schema.openAPIV3Schema"),
                "schemas are required",
            )),
            Some(schema) => {
                if let Err(why) = Schema::parse(schema) {
                    let field = format!("{field}.schema.openAPIV3Schema");
                    causes.push(Cause::invalid(field, "{…}", why));
                }
            }
        }
        for (j, column) in columns_json(version).enumerate() {
            let path = text(column, "/jsonPath");
            if let Err(why) = JsonPath::parse(path) {
                let field = format!("{field}.additionalPrinterColumns[{j}].jsonPath");
                causes.push(Cause::invalid(field, format!("\"{path}\""), why));
            }
        }
    }
    causes
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten()
}

fn columns_json(version: &Value) -> impl Iterator<Item = &Value> {
    version["additionalPrinterColumns"].as_array().into_iter().flatten()
}

fn custom_version(version: &Value) -> CustomVersion {
    let schema_json = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or(json!({}));
    let columns = columns_json(version)
        .filter_map(|column| {
            Some(Column {
                name: text(column, "/name").into(),
                kind: text(column, "/type").into(),
                format: text(column, "/format").into(),
                description: text(column, "/description").into(),
                priority: column["priority"].as_i64().unwrap_or(0),
                path: JsonPath::parse(text(column, "/jsonPath")).ok()?,
            })
        })
        .collect();
    CustomVersion { schema: Schema::parse(&schema_json).ok(), schema_json, columns }
}

fn scale_paths(scale: &Value) -> ScalePaths {
    let pointer = |path: &str| path.replace('.', "/");
    let selector = text(scale, "/labelSelectorPath");
    ScalePaths {
        spec: pointer(text(scale, "/specReplicasPath")),
        status: pointer(text(scale, "/statusReplicasPath")),
        selector: (!selector.is_empty()).then(|| pointer(selector)),
    }
}

fn or(given: &str, otherwise: &str) -> String {
    if given.is_empty() { otherwise.to_owned() } else { given.to_owned() }
}

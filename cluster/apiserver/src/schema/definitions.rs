//! The OpenAPI definitions of the built-in kinds, as `k8s-openapi` carries them.
//!
//! They are made once, on first use: some 300 definitions, a few milliseconds.

use std::{collections::HashMap, sync::LazyLock};

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

use super::{Kind, Schema};
use crate::resource::builtin;

/// The definition of `metadata`, of every kind.
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Definitions that hold arbitrary JSON, or one of several shapes: anything goes there.
const OPEN: &[&str] = &[
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
];

/// The definitions as JSON, by name; references are `#/components/schemas/NAME`.
pub(crate) static JSON: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let mut settings = SchemaSettings::openapi3();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = SchemaGenerator::new(settings);
    builtin::describe_all(&mut generator);
    generator.take_definitions(true)
});

static PARSED: LazyLock<HashMap<String, Schema>> = LazyLock::new(|| {
    JSON.iter()
        .filter_map(|(name, value)| {
            if OPEN.contains(&name.as_str()) {
                let open = Schema { preserve_unknown: true, ..Schema::default() };
                return Some((name.clone(), open));
            }
            let mut schema = Schema::parse(value).ok()?;
            // apiVersion and kind may stand in any embedded object.
            if schema.properties.contains_key("metadata") {
                for name in ["apiVersion", "kind"] {
                    let text = Schema { kind: Some(Kind::String), ..Schema::default() };
                    schema.properties.entry(name.into()).or_insert(text);
                }
            }
            Some((name.clone(), schema))
        })
        .collect()
});

/// A built-in definition by its name, as `io.k8s.api.batch.v1.Job`.
pub(crate) fn get(name: &str) -> Option<&'static Schema> {
    PARSED.get(name)
}

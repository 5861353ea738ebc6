//! What every write goes through: shape, admission, metadata, checks, and the answer to refusals.

use serde_json::{Map, Value, json};

use crate::{
    AdmissionRequest, ApiError, Cause, Operation,
    resource::{
        Resource, Source,
        builtin::{CRDS, NAMESPACES},
        custom, text,
    },
    schema::{conform, validate},
    select::{is_label_key, is_label_value},
    server::{Call, Server},
    state::{Key, Refusal},
};

/// What to do about fields that a schema does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The parameters that all writes share.
#[derive(Debug)]
pub(super) struct WriteParams {
    pub(super) dry_run: bool,
    pub(super) validation: FieldValidation,
    /// Whether the write has settled managed fields itself, as an apply does.
    pub(super) applied: bool,
}

impl WriteParams {
    pub(super) fn of(call: &Call) -> Result<Self, ApiError> {
        let dry_run = match call.params.get("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "query parameter `dryRun` is `{other}`; it takes All"
                )));
            }
        };
        let validation = match call.params.get("fieldValidation") {
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            None | Some("Warn") => FieldValidation::Warn,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "query parameter `fieldValidation` is `{other}`; it takes Ignore, Warn or Strict"
                )));
            }
        };
        Ok(Self { dry_run, validation, applied: false })
    }
}

/// Checks that a body is of the kind that the path addresses, and fills in what it left out.
pub(super) fn identify(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let resource = &call.target.resource;
    let want = resource.api_version();
    for (field, want) in [("apiVersion", want.as_str()), ("kind", resource.kind.as_str())] {
        match &object[field] {
            Value::Null => object[field] = json!(want),
            Value::String(got) if got == want => {}
            got => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({got}) does not match the expected {field} ({want})"
                )));
            }
        }
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let given = text(object, "/metadata/namespace");
    if !given.is_empty() && given != call.namespace() {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: `{given}` is not `{}`",
            call.namespace()
        )));
    }
    if resource.namespaced {
        object["metadata"]["namespace"] = json!(call.namespace());
    } else {
        metadata(object).remove("namespace");
    }
    Ok(())
}

/// Brings an object into its schema's shape. Returns what the client is to be warned of.
pub(super) fn shape(
    resource: &Resource,
    object: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let Some(schema) = resource.schema() else { return Ok(Vec::new()) };
    let findings = conform(schema, object, !resource.is_custom());
    let refuse = |what: &str| {
        let (kind, version) = (&resource.kind, &resource.version);
        let text = format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {what}");
        Err(ApiError::bad_request(text))
    };
    if let Some(first) = findings.mistyped.first() {
        return refuse(first);
    }
    let unknown: Vec<_> =
        findings.unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match validation {
        FieldValidation::Strict if !unknown.is_empty() => {
            refuse(&format!("strict decoding error: {}", unknown.join(", ")))
        }
        FieldValidation::Ignore => Ok(Vec::new()),
        _ => Ok(unknown),
    }
}

/// `metadata` of an object that went through [`identify`].
pub(super) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("made an object just above")
}

impl Server {
    /// Runs the admission chain.
    pub(super) fn admit(
        &self,
        call: &Call,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let resource = &call.target.resource;
        let name = match call.name() {
            "" => text(object, "/metadata/name").to_owned(),
            name => name.to_owned(),
        };
        for plugin in &self.options.admission {
            let mut request = AdmissionRequest {
                operation,
                group: &resource.group,
                version: &resource.version,
                kind: &resource.kind,
                subresource: call.target.subresource.as_deref(),
                namespace: call.target.namespace.as_deref(),
                name: Some(name.as_str()).filter(|name| !name.is_empty()),
                object: &mut *object,
                old,
            };
            plugin.admit(&mut request).map_err(|error| {
                error.into_api(&resource.kind, &resource.plural, &resource.group, &name)
            })?;
        }
        Ok(())
    }

    /// The key of an object of this call.
    pub(super) fn key(call: &Call, name: &str) -> Key {
        Key {
            table: call.target.resource.table.clone(),
            namespace: call.namespace().into(),
            name: name.into(),
        }
    }
}

/// The error a client sees for a write that did not go through.
pub(super) fn refused(resource: &Resource, key: &Key, refusal: Refusal) -> ApiError {
    let subject = || resource.subject(&key.name);
    let namespace = || crate::Subject {
        group: String::new(),
        resource: NAMESPACES.to_owned(),
        name: key.namespace.to_string(),
    };
    match refusal {
        Refusal::Exists => ApiError::AlreadyExists(subject()),
        Refusal::Missing => ApiError::NotFound(subject()),
        Refusal::Stale => conflict(resource, &key.name),
        Refusal::NoNamespace => ApiError::NotFound(namespace()),
        Refusal::NamespaceTerminating => ApiError::Forbidden {
            subject: subject(),
            why: format!(
                "unable to create new content in namespace {} because it is being terminated",
                key.namespace
            ),
        },
        Refusal::Failed(error) => error,
    }
}

/// Someone else wrote in between.
pub(super) fn conflict(resource: &Resource, name: &str) -> ApiError {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    ApiError::Conflict { subject: resource.subject(name), why: why.into() }
}

/// Everything that must hold of an object before it is stored.
pub(super) fn check(
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let name = text(object, "/metadata/name");
    let mut causes = check_metadata(resource, object);
    match &resource.source {
        Source::Custom(version) => {
            if let Some(schema) = &version.schema {
                causes.extend(validate(schema, object, None));
            }
        }
        Source::Builtin(_) => {
            // The status of built-in kinds is written by controllers and not checked, as in Go.
            if let (Some(schema), Some(spec)) = (resource.schema(), object.get("spec"))
                && let Some(field) = schema.field("spec")
                && old.is_none_or(|old| old.get("spec") != Some(spec))
            {
                causes.extend(validate(field, spec, Some("spec")));
            }
            if &*resource.table == CRDS {
                causes.extend(custom::check(object));
            }
        }
    }
    // Metadata was type-checked while the object was brought into shape.
    causes.retain(|c| c.field != "metadata");
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid { subject: resource.kind_subject(name), causes })
}

fn check_metadata(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = text(object, "/metadata/name");
    if let Some(why) = bad_name(resource, name) {
        causes.push(match name {
            "" => Cause::required("metadata.name", "name or generateName is required"),
            name => Cause::invalid("metadata.name", format!("\"{name}\""), why),
        });
    }
    let pairs = |field: &str| {
        object["metadata"][field]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
    };
    for (key, value) in pairs("labels") {
        if !is_label_key(&key) {
            let why = "a label key is an optional DNS prefix and a name of letters, digits, '-', '_' or '.'";
            causes.push(Cause::invalid("metadata.labels", format!("\"{key}\""), why));
        }
        let value = value.as_str().unwrap_or_default().to_owned();
        if !is_label_value(&value) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
            causes.push(Cause::invalid("metadata.labels", format!("\"{value}\""), why));
        }
    }
    for (key, _) in pairs("annotations") {
        // Annotation keys may have capitals in their prefix, unlike labels.
        if !is_label_key(&key.to_lowercase()) {
            let why = "an annotation key is an optional DNS prefix and a name of letters, digits, '-', '_' or '.'";
            causes.push(Cause::invalid("metadata.annotations", format!("\"{key}\""), why));
        }
    }
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    for (i, owner) in owners.enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                let path = format!("metadata.ownerReferences[{i}].{field}");
                causes.push(Cause::required(path, format!("{field} must not be empty")));
            }
        }
    }
    causes
}

/// Why a name is not acceptable for this kind.
fn bad_name(resource: &Resource, name: &str) -> Option<&'static str> {
    if resource.group == "rbac.authorization.k8s.io" {
        let bad = name.is_empty() || name.contains(['/', '%']) || name == "." || name == "..";
        return bad.then_some("may not be empty, '.', '..' or contain '/' or '%'");
    }
    let label = matches!(&*resource.table, NAMESPACES | "services");
    let (limit, allowed) = if label { (63, "-") } else { (253, "-.") };
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || allowed.contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let good = (1..=limit).contains(&name.len())
        && name.chars().all(ok)
        && name.split('.').all(|part| edge(part.chars().next()) && edge(part.chars().next_back()));
    (!good).then_some(if label {
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character"
    } else {
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
    })
}

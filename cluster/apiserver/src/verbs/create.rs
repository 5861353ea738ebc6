//! create.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::prepare::{self, WriteParams, metadata};
use crate::{
    ApiError, Operation, convert,
    http::{Reply, body},
    present::View,
    resource::{
        Resource,
        builtin::{CRDS, NAMESPACES, PODS},
        custom, text,
    },
    server::{Call, Server, warn},
    state::{Change, Expect, Key, Refusal},
};

/// `generateName` draws a new suffix this often before the clash is the client's to solve.
const NAME_DRAWS: usize = 8;

/// Generated names leave room for the suffix within a label's 63 characters.
const GENERATED_PREFIX_MAX: usize = 58;

impl Server {
    pub(crate) async fn create(&self, call: &Call, bytes: &Bytes) -> Result<Reply, ApiError> {
        let object = body::object(body::media_type(&call.headers), bytes)?;
        self.create_object(call, object).await
    }

    /// Creates what a POST or a first apply brings.
    pub(super) async fn create_object(
        &self,
        call: &Call,
        mut object: Value,
    ) -> Result<Reply, ApiError> {
        let params = WriteParams::of(call)?;
        let resource = &call.target.resource;
        prepare::identify(call, &mut object)?;
        let warnings = prepare::shape(resource, &mut object, params.validation)?;
        start_metadata(resource, &mut object, &call.timestamp())?;
        start_status(resource, &mut object);
        for draw in 1.. {
            let mut object = object.clone();
            name(&mut object);
            self.admit(call, Operation::Create, &mut object, None)?;
            finish(resource, &mut object, &call.timestamp());
            prepare::check(resource, &object, None)?;
            let key = Self::key(call, text(&object, "/metadata/name"));
            let generated = !text(&object, "/metadata/generateName").is_empty();
            match self.store_new(call, &params, key.clone(), object).await {
                Ok(reply) => return Ok(warn(reply, &warnings)),
                Err(Refusal::Exists) if generated && draw < NAME_DRAWS => {}
                Err(refusal) => return Err(prepare::refused(resource, &key, refusal)),
            }
        }
        unreachable!("the last draw returns")
    }

    async fn store_new(
        &self,
        call: &Call,
        params: &WriteParams,
        key: Key,
        object: Value,
    ) -> Result<Reply, Refusal> {
        let view = View::of(call).map_err(Refusal::Failed)?;
        if params.dry_run {
            let exists = self.state.get(&key.table, &key.namespace, &key.name).is_some();
            let homeless = !key.namespace.is_empty()
                && self.state.get(NAMESPACES, "", &key.namespace).is_none();
            return match (exists, homeless) {
                (true, _) => Err(Refusal::Exists),
                (_, true) => Err(Refusal::NoNamespace),
                _ => Ok(view.reply_value(StatusCode::CREATED, object)),
            };
        }
        let change = Change::Put(convert::to_storage(object));
        let stored = self.state.write(key, Expect::Absent, change).await?;
        Ok(view.reply(StatusCode::CREATED, &stored))
    }
}

/// The metadata that the server alone sets.
fn start_metadata(resource: &Resource, object: &mut Value, now: &str) -> Result<(), ApiError> {
    let given = text(object, "/metadata/resourceVersion");
    if !matches!(given, "" | "0") {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let metadata = metadata(object);
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".into(), json!(now));
    if resource.has_generation() {
        metadata.insert("generation".into(), json!(1));
    }
    Ok(())
}

/// Status belongs to controllers: a new object has none, or its kind's first.
fn start_status(resource: &Resource, object: &mut Value) {
    if !resource.has_status {
        return;
    }
    let first = match &*resource.table {
        PODS => json!({"phase": "Pending", "qosClass": "BestEffort"}),
        NAMESPACES => json!({"phase": "Active"}),
        "persistentvolumeclaims" => json!({"phase": "Pending"}),
        // Nodes register themselves, status and all.
        "nodes" => return,
        _ if resource.is_custom() => {
            object.as_object_mut().map(|o| o.remove("status"));
            return;
        }
        _ => json!({}),
    };
    object["status"] = first;
}

fn name(object: &mut Value) {
    let prefix = text(object, "/metadata/generateName");
    if !text(object, "/metadata/name").is_empty() || prefix.is_empty() {
        return;
    }
    let end = prefix.char_indices().nth(GENERATED_PREFIX_MAX).map_or(prefix.len(), |(at, _)| at);
    object["metadata"]["name"] = json!(format!("{}{}", &prefix[..end], suffix()));
}

/// Five characters that make no words.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let drawn = uuid::Uuid::new_v4();
    drawn
        .as_bytes()
        .iter()
        .take(5)
        .map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]))
        .collect()
}

/// What the real server adds to some kinds as it stores them.
pub(super) fn finish(resource: &Resource, object: &mut Value, now: &str) {
    if resource.is_custom() {
        return;
    }
    match &*resource.table {
        "secrets" => encode_string_data(object),
        CRDS => custom::complete(object, now),
        NAMESPACES => {
            let name = text(object, "/metadata/name").to_owned();
            if object.pointer("/spec/finalizers").is_none()
                && text(object, "/metadata/deletionTimestamp").is_empty()
            {
                object["spec"] = json!({"finalizers": ["kubernetes"]});
            }
            if !object["metadata"]["labels"].is_object() {
                object["metadata"]["labels"] = json!({});
            }
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
        }
        _ => {}
    }
}

/// `stringData` is for writing only; it ends up, encoded, in `data`.
fn encode_string_data(secret: &mut Value) {
    if text(secret, "/type").is_empty() {
        secret["type"] = json!("Opaque");
    }
    let Some(Value::Object(plain)) = secret.as_object_mut().and_then(|s| s.remove("stringData"))
    else {
        return;
    };
    if !secret["data"].is_object() {
        secret["data"] = json!({});
    }
    for (key, value) in plain {
        secret["data"][key] = json!(STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

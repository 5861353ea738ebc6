//! Objects and lists in the form a client asked for.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    ApiError, convert,
    http::{self as wire, Reply, media::Form},
    resource::Resource,
    server::Call,
    state::Object,
    table::{self, Include},
};

/// How one client sees objects of one resource.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) resource: Arc<Resource>,
    pub(crate) form: Form,
    include: Include,
    api_version: String,
    now: Timestamp,
}

impl View {
    pub(crate) fn of(call: &Call) -> Result<Self, ApiError> {
        let include = match call.params.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "query parameter `includeObject` is `{other}`; it takes None, Metadata or Object"
                )));
            }
        };
        let resource = call.target.resource.clone();
        let api_version = resource.api_version();
        // Discovery is no form of an object.
        let form = if call.form == Form::Discovery { Form::Object } else { call.form };
        Ok(Self { resource, form, include, api_version, now: call.now })
    }

    /// The same view at a later time: a watch shows ages as they are.
    pub(crate) fn at(&self, now: Timestamp) -> Self {
        Self { now, ..self.clone() }
    }

    /// Whether stored bytes can be sent as they are.
    pub(crate) fn is_verbatim(&self, object: &Object) -> bool {
        self.form == Form::Object && object.api_version == self.api_version
    }

    /// The object as plain JSON in the client's version.
    pub(crate) fn value(&self, object: &Object) -> Value {
        convert::to_version(object.value(), &self.resource)
    }

    /// The object as JSON text in the client's form; a table has `columns` if they are asked for.
    pub(crate) fn json(&self, object: &Object, with_columns: bool) -> Bytes {
        if self.is_verbatim(object) {
            return object.json.clone();
        }
        self.shape(self.value(object), with_columns).to_string().into()
    }

    /// A value, not stored or not yet, in the client's form.
    pub(crate) fn shape(&self, value: Value, with_columns: bool) -> Value {
        match self.form {
            Form::Object | Form::Yaml | Form::Discovery => value,
            Form::Metadata => table::metadata_only(value),
            Form::Table => {
                let version = value["metadata"]["resourceVersion"].clone();
                let columns = if with_columns { table::columns(&self.resource) } else { json!([]) };
                let row = table::row(&self.resource, value, self.include, self.now);
                table::table(columns, vec![row], json!({"resourceVersion": version}))
            }
        }
    }

    /// An answer with one object.
    pub(crate) fn reply(&self, status: StatusCode, object: &Object) -> Reply {
        match self.form {
            Form::Yaml => self.yaml(status, &self.value(object)),
            _ => wire::json(status, self.json(object, true)),
        }
    }

    /// An answer with one object that is not stored as such (a dry run).
    pub(crate) fn reply_value(&self, status: StatusCode, value: Value) -> Reply {
        let value = self.shape(value, true);
        match self.form {
            Form::Yaml => self.yaml(status, &value),
            _ => wire::value(status, &value),
        }
    }

    /// An answer with a list.
    pub(crate) fn reply_list(&self, objects: &[Arc<Object>], metadata: Value) -> Reply {
        match self.form {
            Form::Table => {
                let rows = objects.iter().map(|o| self.row(o)).collect();
                let table = table::table(table::columns(&self.resource), rows, metadata);
                wire::value(StatusCode::OK, &table)
            }
            Form::Yaml => {
                let items: Vec<_> = objects.iter().map(|o| self.value(o)).collect();
                let (kind, version) = (&self.resource.list_kind, &self.api_version);
                let list = json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items});
                self.yaml(StatusCode::OK, &list)
            }
            _ => wire::json(StatusCode::OK, self.list_json(objects, &metadata)),
        }
    }

    fn row(&self, object: &Object) -> Value {
        table::row(&self.resource, self.value(object), self.include, self.now)
    }

    /// Lists are put together from the objects' bytes: nothing is parsed.
    fn list_json(&self, objects: &[Arc<Object>], metadata: &Value) -> Bytes {
        let (kind, version) = match self.form {
            Form::Metadata => ("PartialObjectMetadataList", "meta.k8s.io/v1"),
            _ => (self.resource.list_kind.as_str(), self.api_version.as_str()),
        };
        let size: usize = objects.iter().map(|o| o.json.len() + 1).sum();
        let mut text = BytesMut::with_capacity(size + 256);
        let head = format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
        );
        text.extend_from_slice(head.as_bytes());
        for (i, object) in objects.iter().enumerate() {
            if i > 0 {
                text.extend_from_slice(b",");
            }
            text.extend_from_slice(&self.json(object, false));
        }
        text.extend_from_slice(b"]}");
        text.freeze()
    }

    fn yaml(&self, status: StatusCode, value: &Value) -> Reply {
        match serde_saphyr::to_string(value) {
            Ok(text) => wire::typed(status, "application/yaml", wire::full(text)),
            Err(_) => wire::value(status, value),
        }
    }
}

//! Which models there are and where each stands.

use http::{Response, StatusCode};
use mizzen_serving_core::protocol::SERVER_NAME;
use mizzen_serving_host::IndexEntry;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{body::Chunks, error::json, route::ModelPath};

/// The names of the models: `models` as KServe has it, the rest as OpenAI has it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ModelList")]
pub(crate) struct Models<'a> {
    object: &'static str,
    data: Vec<Listed<'a>>,
    models: Vec<&'a str>,
}

/// A model as OpenAI lists it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ListedModel")]
pub(crate) struct Listed<'a> {
    id: &'a str,
    object: &'static str,
    /// When the server came to have it, in seconds since 1970: when it began to serve.
    created: u64,
    owned_by: &'static str,
}

impl<'a> Listed<'a> {
    fn new(id: &'a str, created: u64) -> Self {
        Self { id, object: "model", created, owned_by: SERVER_NAME }
    }
}

pub(crate) fn models(entries: &[IndexEntry], since: u64) -> Response<Chunks> {
    let mut models: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    models.dedup(); // a row is a version, and rows of one model stand together
    let data = models.iter().map(|name| Listed::new(name, since)).collect();
    json(StatusCode::OK, &Models { object: "list", data, models })
}

/// Where a model stands: `name` and `ready` as KServe has it, `model_version_status` as TensorFlow
/// Serving has it, the rest as OpenAI has it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ModelStatus")]
pub(crate) struct Status<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    name: &'a str,
    ready: bool,
    model_version_status: Vec<VersionStatus<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct VersionStatus<'a> {
    version: &'a str,
    /// `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
    state: &'static str,
    status: VersionError<'a>,
}

#[derive(Serialize, JsonSchema)]
struct VersionError<'a> {
    error_code: &'static str,
    error_message: &'a str,
}

/// The status of a model by the rows that the index has of it. One that is not ready is 503, as in KServe.
pub(crate) fn status(
    path: &ModelPath,
    ready: bool,
    entries: &[IndexEntry],
    since: u64,
) -> Response<Chunks> {
    let asked = |entry: &&IndexEntry| {
        !entry.version.is_empty()
            && path.version.as_ref().is_none_or(|version| *version == entry.version)
    };
    let mut versions: Vec<_> = entries.iter().filter(asked).map(VersionStatus::of).collect();
    versions.reverse(); // the latest first, as TensorFlow Serving lists them
    let error = (!ready).then(|| format!("model `{}` is not ready", path.name));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let listed = Listed::new(&path.name, since);
    let (name, model_version_status) = (&*path.name, versions);
    json(status, &Status { listed, name, ready, model_version_status, error })
}

impl<'a> VersionStatus<'a> {
    fn of(entry: &'a IndexEntry) -> Self {
        let state = match entry.state {
            "READY" => "AVAILABLE",
            "LOADING" => "LOADING",
            "UNLOADING" => "UNLOADING",
            "" => "START",
            _ => "END",
        };
        let failed = state == "END" && !entry.reason.is_empty() && entry.reason != "unloaded";
        let error_code = if failed { "UNKNOWN" } else { "OK" };
        let error_message = if failed { entry.reason.as_str() } else { "" };
        Self { version: &entry.version, state, status: VersionError { error_code, error_message } }
    }
}

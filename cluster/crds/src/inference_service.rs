//! KServe's `InferenceService`, as far as one predictor goes.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Condition;

/// A model to serve.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "serving.kserve.io",
    version = "v1beta1",
    kind = "InferenceService",
    shortname = "isvc",
    namespaced,
    status = "InferenceServiceStatus",
    derive = "PartialEq",
    category = "all",
    category = "kserve",
    doc = "A model that answers inference requests.",
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".status.url"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Prev","type":"integer","jsonPath":".status.components.predictor.traffic[?(@.tag=='prev')].percent"}"#,
    printcolumn = r#"{"name":"Latest","type":"integer","jsonPath":".status.components.predictor.traffic[?(@.latestRevision==true)].percent"}"#,
    printcolumn = r#"{"name":"PrevRolledoutRevision","type":"string","jsonPath":".status.components.predictor.traffic[?(@.tag=='prev')].revisionName"}"#,
    printcolumn = r#"{"name":"LatestReadyRevision","type":"string","jsonPath":".status.components.predictor.traffic[?(@.latestRevision==true)].revisionName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct InferenceServiceSpec {
    /// What answers requests.
    pub predictor: Predictor,
}

/// What answers requests. Fields of KServe's that are not named here are kept and ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Predictor {
    /// The model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSpec>,
    /// An ONNX model, in KServe's older form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnx: Option<LegacyModelSpec>,
    /// A scikit-learn model, in KServe's older form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sklearn: Option<LegacyModelSpec>,
    /// A PyTorch model, in KServe's older form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pytorch: Option<LegacyModelSpec>,
    /// A Triton model repository, in KServe's older form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triton: Option<LegacyModelSpec>,
    /// How requests share a run of the model; as the model's own configuration says where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batcher: Option<Batcher>,
    /// Fewest replicas; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    /// Most replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    /// Service account of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
}

impl Predictor {
    /// The model, whichever form it is written in, with its format's name.
    pub fn resolved(&self) -> Option<(String, ModelSpec)> {
        if let Some(model) = &self.model {
            return Some((model.model_format.name.clone(), model.clone()));
        }
        let legacy = [
            ("onnx", &self.onnx),
            ("sklearn", &self.sklearn),
            ("pytorch", &self.pytorch),
            ("triton", &self.triton),
        ];
        legacy.into_iter().find_map(|(format, spec)| {
            spec.as_ref().map(|spec| (format.to_owned(), spec.as_model(format)))
        })
    }
}

/// How requests share a run of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Batcher {
    /// Most rows in a run; 32 by default, as in KServe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_batch_size: Option<u32>,
    /// Longest a request waits for others, in milliseconds; 0 by default: it waits only while the model
    /// is busy. (KServe's own default is 5,000.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_latency: Option<u32>,
    /// KServe's bound on a whole batch, in seconds; not used here, where each request has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

impl Batcher {
    /// The same as a Triton model configuration (`config.pbtxt`).
    pub fn as_model_config(&self) -> String {
        let (rows, delay) = (self.max_batch_size.unwrap_or(32), self.max_latency.unwrap_or(0));
        let delay_us = u64::from(delay) * 1000;
        format!(
            "max_batch_size: {rows}\ndynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}\n"
        )
    }
}

/// A model and where it lies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ModelSpec {
    /// The model's format.
    pub model_format: ModelFormat,
    /// Where the model lies: a Triton model directory, or a directory or file of a bare model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_uri: Option<String>,
    /// `v1`, `v2`, `grpc-v1` or `grpc-v2`; all are answered whatever is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// Name of a serving runtime; Mizzen serves the model whatever is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Resources of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub resources: Option<Value>,
    /// Further arguments of the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Further environment of the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::any_objects")]
    pub env: Vec<Value>,
}

/// A model's format.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelFormat {
    /// Name of the format, for example `onnx`.
    pub name: String,
    /// Version of the format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A model in KServe's older form, where the format is the name of the field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct LegacyModelSpec {
    /// Where the model lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_uri: Option<String>,
    /// Resources of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub resources: Option<Value>,
}

impl LegacyModelSpec {
    fn as_model(&self, format: &str) -> ModelSpec {
        ModelSpec {
            model_format: ModelFormat { name: format.to_owned(), version: None },
            storage_uri: self.storage_uri.clone(),
            resources: self.resources.clone(),
            ..ModelSpec::default()
        }
    }
}

/// Whether the model answers, and where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceServiceStatus {
    /// `Ready` and `PredictorReady`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where requests go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where requests from inside the cluster go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The predictor's own state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Where requests from inside the cluster go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Address {
    /// The URL.
    pub url: String,
}

/// State by component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Components {
    /// The predictor.
    pub predictor: ComponentStatus,
}

/// State of one component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Where requests go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The revision that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_ready_revision: Option<String>,
    /// How requests are shared among revisions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<Traffic>,
}

/// A revision's share of the requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Name of the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_name: Option<String>,
    /// Whether it is the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_revision: Option<bool>,
    /// Its share in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i64>,
    /// Its name among the shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

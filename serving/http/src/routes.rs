//! The table of everything this server answers over REST.
//!
//! Matching, 405 with its `Allow`, and the OpenAPI document all follow from [`ROUTES`]; a new call
//! is an entry here, a variant of [`Call`] and its arm in `service`. Order matters twice: the first
//! path that fits wins, so the more specific stands first, and `infer` is found soonest.

use mizzen_serving_core::Category as Api;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::{
    error::Dialect,
    infer::{Answer, InferBody},
    models::{self, Entry},
    route::Verb,
    shared_memory,
    text::{
        TextCall,
        generation::{chat, completions, tokens},
        openai, tei,
    },
    v1,
};

/// What a route does; `service` has an arm for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Infer,
    Server,
    Live,
    Ready,
    AllStatistics,
    Metadata,
    ModelReady,
    Config,
    Statistics,
    Index,
    Load,
    Unload,
    NamedRepository,
    SharedMemoryStatus,
    SharedMemoryRegister,
    SharedMemoryUnregister,
    CudaStatus,
    CudaRegister,
    CudaUnregister,
    TraceSetting,
    UpdateTraceSetting,
    Logging,
    UpdateLogging,
    OpenApi,
    Alive,
    Generate,
    GenerateStream,
    V1Models,
    V1Status,
    V1Metadata,
    Predict,
    Classify,
    Regress,
    Explain,
    Text(TextCall),
    Info,
}

/// The schema of a type that is read or written.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// A body, of a request or of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Body {
    None,
    /// JSON of this type.
    Json(SchemaOf),
    /// JSON of this type that a request may also leave out.
    OptionalJson(SchemaOf),
    /// JSON of this type, or the same followed by binary tensors.
    Tensors(SchemaOf),
    /// Server-sent events, each JSON of this type.
    Events(SchemaOf),
    /// JSON of the first type, or events, each JSON of the second.
    JsonOrEvents(SchemaOf, SchemaOf),
}

/// One call of the API.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) call: Call,
    pub(crate) verb: Verb,
    /// Where it is. `{name}` stands for one path segment; `{version}` for digits.
    pub(crate) paths: &'static [&'static str],
    pub(crate) api: Api,
    /// Its name in the OpenAPI document.
    pub(crate) operation: &'static str,
    /// What it does, in one line.
    pub(crate) says: &'static str,
    pub(crate) takes: Body,
    pub(crate) gives: Body,
    /// Statuses of errors, besides those any request may get (`ANY_STATUSES`).
    pub(crate) fails: &'static [u16],
    /// How errors look.
    pub(crate) dialect: Dialect,
}

/// What any request may be answered with: a path that does not decode, no such thing, a fault.
pub(crate) const ANY_STATUSES: [u16; 3] = [400, 404, 500];

/// What reading a body adds: withdrawn or too slow, too large, in an unknown encoding.
pub(crate) const BODY_STATUSES: [u16; 4] = [408, 413, 415, 499];

/// What running a model adds: refused for now, not offered, not ready, too late.
const RUN_STATUSES: &[u16] = &[429, 501, 503, 504];

impl Route {
    const fn new(
        call: Call,
        verb: Verb,
        api: Api,
        operation: &'static str,
        paths: &'static [&'static str],
    ) -> Self {
        let (takes, gives) = (Body::None, Body::None);
        let dialect = Dialect::Plain;
        Self { call, verb, paths, api, operation, says: "", takes, gives, fails: &[], dialect }
    }

    const fn get(
        call: Call,
        api: Api,
        operation: &'static str,
        paths: &'static [&'static str],
    ) -> Self {
        Self::new(call, Verb::Get, api, operation, paths)
    }

    const fn post(
        call: Call,
        api: Api,
        operation: &'static str,
        paths: &'static [&'static str],
    ) -> Self {
        Self::new(call, Verb::Post, api, operation, paths)
    }

    const fn says(self, says: &'static str) -> Self {
        Self { says, ..self }
    }

    const fn takes(self, takes: Body) -> Self {
        Self { takes, ..self }
    }

    const fn gives(self, gives: Body) -> Self {
        Self { gives, ..self }
    }

    const fn fails(self, fails: &'static [u16]) -> Self {
        Self { fails, ..self }
    }

    const fn dialect(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }
}

/// An object that is not looked into here.
type JsonObject = serde_json::Map<String, serde_json::Value>;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// Every call.
#[rustfmt::skip]
pub(crate) static ROUTES: &[Route] = &[
    Route::post(Call::Infer, Api::Inference, "modelInfer",
            &["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"])
        .says("Run a model")
        .takes(Body::Tensors(of::<InferBody<'static>>))
        .gives(Body::Tensors(of::<Answer<'static>>))
        .fails(RUN_STATUSES),
    Route::post(Call::Predict, Api::Inference, "predict",
            &["/v1/models/{model}:predict", "/v1/models/{model}/versions/{version}:predict"])
        .says("Run a model, by row (`instances`) or by column (`inputs`)")
        .takes(Body::Json(of::<v1::Predict<'static>>))
        .gives(Body::Json(of::<v1::Predicted>))
        .fails(RUN_STATUSES),
    Route::post(Call::Generate, Api::Inference, "generate",
            &["/v2/models/{model}/generate", "/v2/models/{model}/versions/{version}/generate"])
        .says("Run a model on plain JSON: a key that names an input is its value")
        .takes(Body::Json(of::<JsonObject>))
        .gives(Body::Json(of::<JsonObject>))
        .fails(RUN_STATUSES),
    Route::post(Call::GenerateStream, Api::Inference, "generateStream",
            &["/v2/models/{model}/generate_stream", "/v2/models/{model}/versions/{version}/generate_stream"])
        .says("The same, with each answer an event")
        .takes(Body::Json(of::<JsonObject>))
        .gives(Body::Events(of::<JsonObject>))
        .fails(RUN_STATUSES),
    Route::get(Call::Live, Api::Health, "serverLive", &["/v2/health/live"])
        .says("Whether the server answers at all")
        .gives(Body::Json(of::<models::Live>)),
    Route::get(Call::Ready, Api::Health, "serverReady", &["/v2/health/ready", "/health"])
        .says("Whether the server is ready for traffic")
        .gives(Body::Json(of::<models::Ready>))
        .fails(&[503]),
    Route::get(Call::Server, Api::Metadata, "serverMetadata", &["/v2"])
        .says("The server's name, version and extensions")
        .gives(Body::Json(of::<models::Server<'static>>)),
    Route::get(Call::AllStatistics, Api::Statistics, "statistics", &["/v2/models/stats"])
        .says("What every model has done")
        .gives(Body::Json(of::<models::All<'static>>)),
    Route::get(Call::ModelReady, Api::Health, "modelReady",
            &["/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready"])
        .says("Whether a model would answer now")
        .gives(Body::Json(of::<models::ModelReady<'static>>))
        .fails(&[503]),
    Route::get(Call::Config, Api::ModelConfig, "modelConfig",
            &["/v2/models/{model}/config", "/v2/models/{model}/versions/{version}/config"])
        .says("A model's whole configuration")
        .gives(Body::Json(of::<JsonObject>))
        .fails(&[503]),
    Route::get(Call::Statistics, Api::Statistics, "modelStatistics",
            &["/v2/models/{model}/stats", "/v2/models/{model}/versions/{version}/stats"])
        .says("What a model has done")
        .gives(Body::Json(of::<models::All<'static>>))
        .fails(&[503]),
    Route::get(Call::Metadata, Api::Metadata, "modelMetadata",
            &["/v2/models/{model}", "/v2/models/{model}/versions/{version}"])
        .says("What a model takes and gives")
        .gives(Body::Json(of::<models::Metadata<'static>>))
        .fails(&[503]),
    Route::post(Call::Index, Api::ModelRepository, "repositoryIndex", &["/v2/repository/index"])
        .says("Every model of the repositories")
        .takes(Body::OptionalJson(of::<models::Index>))
        .gives(Body::Json(of::<Vec<Entry<'static>>>)),
    Route::post(Call::Load, Api::ModelRepository, "modelLoad",
            &["/v2/repository/models/{model}/load"])
        .says("Load or reload a model")
        .takes(Body::OptionalJson(of::<models::Body>))
        .fails(&[409, 501, 503]),
    Route::post(Call::Unload, Api::ModelRepository, "modelUnload",
            &["/v2/repository/models/{model}/unload"])
        .says("Take a model out of service")
        .takes(Body::OptionalJson(of::<models::Body>)),
    Route::get(Call::V1Models, Api::Metadata, "v1Models", &["/v1/models"])
        .says("The names of the models that are ready")
        .gives(Body::Json(of::<v1::Models<'static>>)),
    Route::get(Call::V1Metadata, Api::Metadata, "v1ModelMetadata",
            &["/v1/models/{model}/metadata", "/v1/models/{model}/versions/{version}/metadata"])
        .says("What a model takes and gives, as TensorFlow Serving says it")
        .gives(Body::Json(of::<v1::Metadata<'static>>))
        .fails(&[503]),
    Route::post(Call::Classify, Api::Inference, "classify",
            &["/v1/models/{model}:classify", "/v1/models/{model}/versions/{version}:classify"])
        .says("Not offered: it takes TensorFlow's examples")
        .fails(&[501]),
    Route::post(Call::Regress, Api::Inference, "regress",
            &["/v1/models/{model}:regress", "/v1/models/{model}/versions/{version}:regress"])
        .says("Not offered: it takes TensorFlow's examples")
        .fails(&[501]),
    Route::post(Call::Explain, Api::Inference, "explain", &["/v1/models/{model}:explain"])
        .says("Not offered: no explainer stands beside models")
        .fails(&[501]),
    Route::get(Call::V1Status, Api::Health, "v1ModelStatus",
            &["/v1/models/{model}", "/v1/models/{model}/versions/{version}"])
        .says("Where a model stands, as KServe and TensorFlow Serving say it")
        .gives(Body::Json(of::<v1::Status<'static>>))
        .fails(&[503]),
    Route::get(Call::Alive, Api::Health, "alive", &["/"])
        .says("Whether the server answers at all")
        .gives(Body::Json(of::<models::Alive>)),
    Route::post(Call::NamedRepository, Api::ModelRepository, "namedRepository",
            &["/v2/repository/{repository}/index", "/v2/repository/{repository}/models/{model}/load",
              "/v2/repository/{repository}/models/{model}/unload"])
        .says("Repositories have no names here")
        .fails(&[501]),
    Route::get(Call::SharedMemoryStatus, Api::SharedMemory, "systemSharedMemoryStatus",
            &["/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/{region}/status"])
        .says("The system shared memory that clients have registered")
        .gives(Body::Json(of::<Vec<shared_memory::Region<'static>>>)),
    Route::post(Call::SharedMemoryRegister, Api::SharedMemory, "systemSharedMemoryRegister",
            &["/v2/systemsharedmemory/region/{region}/register"])
        .says("Register a part of a shared memory object by a name")
        .takes(Body::Json(of::<shared_memory::Register<'static>>))
        .fails(&[409, 429, 501]),
    Route::post(Call::SharedMemoryUnregister, Api::SharedMemory, "systemSharedMemoryUnregister",
            &["/v2/systemsharedmemory/unregister", "/v2/systemsharedmemory/region/{region}/unregister"])
        .says("Forget a region, or all of them")
        .fails(&[501]),
    Route::get(Call::CudaStatus, Api::SharedMemory, "cudaSharedMemoryStatus",
            &["/v2/cudasharedmemory/status", "/v2/cudasharedmemory/region/{region}/status"])
        .says("The CUDA shared memory that clients have registered: none")
        .gives(Body::Json(of::<Vec<shared_memory::Region<'static>>>)),
    Route::post(Call::CudaRegister, Api::SharedMemory, "cudaSharedMemoryRegister",
            &["/v2/cudasharedmemory/region/{region}/register"])
        .says("CUDA shared memory is not supported")
        .fails(&[501]),
    Route::post(Call::CudaUnregister, Api::SharedMemory, "cudaSharedMemoryUnregister",
            &["/v2/cudasharedmemory/unregister", "/v2/cudasharedmemory/region/{region}/unregister"])
        .says("Forget CUDA shared memory, of which there is none"),
    Route::get(Call::TraceSetting, Api::Trace, "traceSetting",
            &["/v2/trace/setting", "/v2/models/{model}/trace/setting"])
        .says("Which requests are traced")
        .gives(Body::Json(of::<JsonObject>)),
    Route::post(Call::UpdateTraceSetting, Api::Trace, "updateTraceSetting",
            &["/v2/trace/setting", "/v2/models/{model}/trace/setting"])
        .says("Change which requests are traced")
        .takes(Body::OptionalJson(of::<JsonObject>))
        .gives(Body::Json(of::<JsonObject>))
        .fails(&[501]),
    Route::get(Call::Logging, Api::Logging, "logging", &["/v2/logging"])
        .says("What is logged")
        .gives(Body::Json(of::<JsonObject>)),
    Route::post(Call::UpdateLogging, Api::Logging, "updateLogging", &["/v2/logging"])
        .says("Change what is logged")
        .takes(Body::OptionalJson(of::<JsonObject>))
        .gives(Body::Json(of::<JsonObject>))
        .fails(&[501]),
    Route::post(Call::Text(TextCall::Embeddings), Api::Inference, "embeddings", &["/v1/embeddings"])
        .says("Embed texts, as OpenAI has it")
        .takes(Body::Json(of::<openai::Request>))
        .gives(Body::Json(of::<openai::Answer>))
        .dialect(Dialect::OpenAi)
        .fails(RUN_STATUSES),
    Route::post(Call::Text(TextCall::Chat), Api::Inference, "chatCompletion", &["/v1/chat/completions"])
        .says("Go on with a chat, as OpenAI has it")
        .takes(Body::Json(of::<chat::Request>))
        .gives(Body::JsonOrEvents(of::<chat::Answer>, of::<chat::Chunk>))
        .dialect(Dialect::OpenAi)
        .fails(RUN_STATUSES),
    Route::post(Call::Text(TextCall::Complete), Api::Inference, "completion", &["/v1/completions"])
        .says("Go on with a text, as OpenAI has it")
        .takes(Body::Json(of::<completions::Request>))
        .gives(Body::JsonOrEvents(of::<completions::Answer>, of::<completions::Answer>))
        .dialect(Dialect::OpenAi)
        .fails(RUN_STATUSES),
    Route::post(Call::Text(TextCall::Detokenize), Api::Inference, "detokenize", &["/detokenize"])
        .says("Make text of tokens of a model that makes text, as vLLM has it")
        .takes(Body::Json(of::<tokens::Detokenize>))
        .gives(Body::Json(of::<tokens::Detokenized>))
        .dialect(Dialect::OpenAi)
        .fails(&[501, 503]),
    Route::post(Call::Text(TextCall::Embed), Api::Inference, "embed", &["/embed"])
        .says("Embed texts, as text-embeddings-inference has it")
        .takes(Body::Json(of::<tei::Embed>))
        .gives(Body::Json(of::<tei::Embedded>))
        .dialect(Dialect::Embeddings)
        .fails(RUN_STATUSES),
    Route::post(Call::Text(TextCall::EmbedAll), Api::Inference, "embedAll", &["/embed_all"])
        .says("Embed each token of texts")
        .takes(Body::Json(of::<tei::EmbedAll>))
        .gives(Body::Json(of::<tei::EmbeddedAll>))
        .dialect(Dialect::Embeddings)
        .fails(RUN_STATUSES),
    Route::post(Call::Text(TextCall::Rerank), Api::Inference, "rerank", &["/rerank"])
        .says("Rank texts by how well they answer a query")
        .takes(Body::Json(of::<tei::Rerank>))
        .gives(Body::Json(of::<Vec<tei::Rank>>))
        .dialect(Dialect::Embeddings)
        .fails(RUN_STATUSES),
    Route::post(Call::Text(TextCall::Predict), Api::Inference, "classifyTexts", &["/predict"])
        .says("Classify texts or pairs of texts")
        .takes(Body::Json(of::<tei::Predict>))
        .gives(Body::Json(of::<tei::Predicted>))
        .dialect(Dialect::Embeddings)
        .fails(RUN_STATUSES),
    Route::post(Call::Text(TextCall::Tokenize), Api::Inference, "tokenize", &["/tokenize"])
        .says("Take texts apart into a model's tokens")
        .takes(Body::Json(of::<tokens::AnyTokenize>))
        .gives(Body::Json(of::<tokens::AnyTokenized>))
        .dialect(Dialect::Embeddings)
        .fails(&[501, 503]),
    Route::post(Call::Text(TextCall::Decode), Api::Inference, "decode", &["/decode"])
        .says("Make text of a model's tokens")
        .takes(Body::Json(of::<tei::Decode>))
        .gives(Body::Json(of::<tei::Decoded>))
        .dialect(Dialect::Embeddings)
        .fails(&[501, 503]),
    Route::get(Call::Info, Api::Inference, "info", &["/info"])
        .says("The model that is asked with text, and its bounds; `?model=NAME` where there are more")
        .gives(Body::Json(of::<tei::Info>))
        .dialect(Dialect::Embeddings)
        .fails(&[501, 503]),
    Route::get(Call::OpenApi, Api::Metadata, "openApi", &["/openapi.json"])
        .says("This document")
        .gives(Body::Json(of::<JsonObject>)),
];

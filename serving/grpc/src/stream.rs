//! Many inferences over one stream.
//!
//! Answers come in the order of the requests, one each; a bounded number runs at once. An
//! inference that fails is an answer with a message, and the stream goes on, unless the client
//! asked (`triton_grpc_error: true`) for the first failure to end it with a status.

use std::{future::ready, sync::Arc};

use futures::{Stream, StreamExt, stream};
use mizzen_proto::inference::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
    infer_parameter::ParameterChoice,
};
use mizzen_serving_core::Category;
use mizzen_telemetry::trace::{self, carry};
use tonic::{Extensions, Status, Streaming, metadata::MetadataMap};

use crate::{access, service::Api};

/// Inferences of one stream under way at once: enough to fill any batch, while each holds its
/// message in memory.
const CONCURRENT: usize = 64;

/// Whether failures are to end the stream with a status.
pub(crate) fn wants_status(metadata: &MetadataMap) -> bool {
    metadata.get("triton_grpc_error").is_some_and(|value| value == "true")
}

/// The answers to a stream of requests. It ends with the requests, with the first one that cannot
/// be read, or, with a status, once the server closes.
pub(crate) fn answers(
    api: Api,
    requests: Streaming<ModelInferRequest>,
    caller: Extensions,
    wants_status: bool,
) -> impl Stream<Item = Result<ModelStreamInferResponse, Status>> {
    // The call returns before its stream is worked on.
    let traced = trace::current();
    let closing = api.closing().clone();
    let goodbye = async move {
        closing.is_cancelled().then(|| Err(Status::unavailable("the server is shutting down")))
    };
    let caller = Arc::new(caller);
    requests
        .take_until(api.closing().clone().cancelled_owned())
        .map(move |request| {
            carry(traced.clone(), answer(api.clone(), request, caller.clone(), wants_status))
        })
        .buffered(CONCURRENT)
        .chain(stream::once(goodbye).filter_map(ready))
        .scan(false, |failed, answer| {
            let last = std::mem::replace(failed, answer.is_err());
            ready((!last).then_some(answer))
        })
}

async fn answer(
    api: Api,
    request: Result<ModelInferRequest, Status>,
    caller: Arc<Extensions>,
    wants_status: bool,
) -> Result<ModelStreamInferResponse, Status> {
    let request = request?;
    let (model_name, id) = (request.model_name.clone(), request.id.clone());
    let permitted = access::permit(&caller, Category::Inference, &model_name);
    let answered = match permitted {
        Ok(()) => api.infer(request, None).await,
        Err(denied) => Err(denied.into()),
    };
    let (error_message, response) = match answered {
        Ok(response) => (String::new(), response),
        Err(error) if wants_status => return Err(error.into()),
        Err(error) => {
            // The id tells the client which of its requests failed.
            let response = ModelInferResponse { model_name, id, ..Default::default() };
            (Status::from(error).message().to_owned(), response)
        }
    };
    Ok(ModelStreamInferResponse {
        error_message,
        infer_response: Some(last_of_its_request(response)),
    })
}

/// Marks an answer as its request's last, which clients of models with many answers look for.
fn last_of_its_request(mut response: ModelInferResponse) -> ModelInferResponse {
    let yes = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    response.parameters.insert("triton_final_response".to_owned(), yes);
    response
}

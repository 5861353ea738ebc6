//! Many inferences over one stream.
//!
//! Models that answer once are answered in the order of their requests; answers of models that give
//! any number come as they are made, those to one request in order. A bounded number of requests is
//! under way at once, and nothing is made ahead of a client that does not read. An inference that
//! fails is an answer with a message, and the stream goes on, unless the client asked
//! (`triton_grpc_error: true`) for the first failure to end it with a status. A client that goes
//! away cancels what is under way.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{
    Stream, StreamExt,
    future::{BoxFuture, FutureExt, ready},
    stream::{self, BoxStream, FuturesOrdered, SelectAll},
};
use mizzen_proto::inference::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
    infer_parameter::ParameterChoice,
};
use mizzen_serving_core::{Category, Parameters};
use mizzen_telemetry::trace::{self, Parent, carry};
use prost::Message as _;
use tonic::{Extensions, Status, Streaming, metadata::MetadataMap};

use crate::{access, error::GrpcError, infer, service::Api};

/// Requests of one stream under way at once, of either kind: enough to fill any batch, while each
/// holds its message in memory.
const CONCURRENT: usize = 64;

/// The call that these are the streams of.
pub(crate) const PATH: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

type Item = Result<ModelStreamInferResponse, Status>;

/// Whether failures are to end the stream with a status.
pub(crate) fn wants_status(metadata: &MetadataMap) -> bool {
    metadata.get("triton_grpc_error").is_some_and(|value| value == "true")
}

/// What is said of all requests of a stream.
pub(crate) struct Call {
    /// Who calls, to be judged by each request.
    pub(crate) caller: Extensions,
    /// Parameters by the call's headers.
    pub(crate) forwarded: Parameters,
    /// Whether the first failure ends it with a status.
    pub(crate) wants_status: bool,
}

/// The answers to a stream of requests. It ends once all that was asked is answered, with the first
/// request that cannot be read, or, with a status, once the server closes.
pub(crate) fn answers(
    api: Api,
    requests: Streaming<ModelInferRequest>,
    call: Call,
) -> impl Stream<Item = Item> {
    let closing = api.closing().clone();
    let goodbye = async move {
        closing.is_cancelled().then(|| Err(Status::unavailable("the server is shutting down")))
    };
    let requests = requests.take_until(api.closing().clone().cancelled_owned()).boxed();
    Answers {
        api,
        call,
        // The call returns before its stream is worked on.
        traced: trace::current(),
        requests: Some(requests),
        once: FuturesOrdered::new(),
        many: SelectAll::new(),
        turn: false,
    }
    .chain(stream::once(goodbye).filter_map(ready))
    .scan(false, |failed, answer| {
        let last = std::mem::replace(failed, answer.is_err());
        ready((!last).then_some(answer))
    })
}

/// What is under way on one stream.
struct Answers {
    api: Api,
    call: Call,
    traced: Option<Parent>,
    /// `None` once the client has said all.
    requests: Option<BoxStream<'static, Result<ModelInferRequest, Status>>>,
    once: FuturesOrdered<BoxFuture<'static, Item>>,
    many: SelectAll<BoxStream<'static, Item>>,
    /// Which of the two is asked first, in turn, so that neither starves the other.
    turn: bool,
}

impl Answers {
    /// Starts what the client asks for, as far as there is room; whether that was anything.
    fn take(&mut self, context: &mut Context<'_>) -> bool {
        let mut started = false;
        while self.once.len() < CONCURRENT && self.many.len() < CONCURRENT {
            let Some(requests) = &mut self.requests else { break };
            match requests.poll_next_unpin(context) {
                Poll::Pending => break,
                Poll::Ready(None) => self.requests = None,
                Poll::Ready(Some(Err(status))) => {
                    self.requests = None;
                    self.once.push_back(ready(Err(status)).boxed());
                    started = true;
                }
                Poll::Ready(Some(Ok(request))) => {
                    self.start(request);
                    started = true;
                }
            }
        }
        started
    }

    fn start(&mut self, request: ModelInferRequest) {
        let permitted = access::permit(&self.call.caller, Category::Inference, &request.model_name);
        let version = infer::version(request.model_version.clone());
        let decoupled = self.api.host().is_decoupled(&request.model_name, version.as_deref());
        let asker = Asker {
            model: request.model_name.clone(),
            id: request.id.clone(),
            wants_status: self.call.wants_status,
        };
        let forwarded = self.call.forwarded.clone();
        // Its memory is taken from here on; until now it was the stream's, as it came.
        let mut share = self.api.intake().memory.share();
        let taken = share.grow(request.encoded_len());
        if let Err(error) = permitted.map_err(GrpcError::from).and(taken.map_err(GrpcError::from)) {
            self.once.push_back(ready(asker.answer(Err(error), true)).boxed());
            return;
        }
        // A model that is not there is told of as one that answers once.
        if decoupled.unwrap_or(false) {
            let (api, traced) = (self.api.clone(), self.traced.clone());
            let answers = all(api, request, forwarded, asker, traced);
            self.many.push(answers.inspect(move |_| _ = &share).boxed());
        } else {
            let api = self.api.clone();
            let answer = async move {
                let answer = asker.answer(api.infer(request, forwarded, None).await, true);
                drop(share);
                answer
            };
            self.once.push_back(carry(self.traced.clone(), answer).boxed());
        }
    }
}

impl Stream for Answers {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = &mut *self;
        this.take(context);
        this.turn = !this.turn;
        loop {
            for once in [this.turn, !this.turn] {
                let next = match once {
                    true => this.once.poll_next_unpin(context),
                    false => this.many.poll_next_unpin(context),
                };
                if let Poll::Ready(Some(item)) = next {
                    return Poll::Ready(Some(item));
                }
            }
            // What has just ended may have made room, and what is started must be looked at once.
            if !this.take(context) {
                break;
            }
        }
        match this.requests.is_none() && this.once.is_empty() && this.many.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }
}

/// The answers of a model that gives any number.
fn all(
    api: Api,
    request: ModelInferRequest,
    forwarded: Parameters,
    asker: Asker,
    traced: Option<Parent>,
) -> impl Stream<Item = Item> {
    let version = request.model_version.clone();
    let opened = async move {
        let (answers, empty_final) = match api.infer_stream(request, forwarded).await {
            Ok(opened) => opened,
            Err(error) => return stream::iter([asker.answer(Err(error), true)]).left_stream(),
        };
        let end = asker.end(version);
        let answers = answers.map({
            let asker = asker.clone();
            move |answer| {
                let last = answer.is_err();
                asker.answer(answer, last)
            }
        });
        // An error has ended it already.
        let answers = answers.map(Some).chain(stream::iter([None]));
        let told = answers.scan(false, move |failed, answer| {
            let item = match answer {
                Some(item) => {
                    *failed |=
                        item.as_ref().map_or(true, |answer| !answer.error_message.is_empty());
                    Some(item)
                }
                None => (empty_final && !*failed).then(|| Ok(end.clone())),
            };
            ready(Some(item))
        });
        told.filter_map(ready).right_stream()
    };
    stream::once(carry(traced, opened)).flatten()
}

/// Whose answer it is.
#[derive(Clone)]
struct Asker {
    model: String,
    id: String,
    wants_status: bool,
}

impl Asker {
    fn answer(&self, answer: Result<ModelInferResponse, GrpcError>, last: bool) -> Item {
        let (error_message, response) = match answer {
            Ok(response) => (String::new(), response),
            Err(error) if self.wants_status => return Err(error.into()),
            Err(error) => {
                // The id tells the client which of its requests failed.
                let (model_name, id) = (self.model.clone(), self.id.clone());
                let response = ModelInferResponse { model_name, id, ..Default::default() };
                (Status::from(error).message().to_owned(), response)
            }
        };
        Ok(ModelStreamInferResponse { error_message, infer_response: Some(marked(response, last)) })
    }

    /// An answer without outputs, which says that there are no more.
    fn end(&self, model_version: String) -> ModelStreamInferResponse {
        let (model_name, id) = (self.model.clone(), self.id.clone());
        let response = ModelInferResponse { model_name, model_version, id, ..Default::default() };
        ModelStreamInferResponse {
            error_message: String::new(),
            infer_response: Some(marked(response, true)),
        }
    }
}

/// Says whether an answer is its request's last, which clients of models with many answers look for.
fn marked(mut response: ModelInferResponse, last: bool) -> ModelInferResponse {
    let choice = ParameterChoice::BoolParam(last);
    let parameter = InferParameter { parameter_choice: Some(choice) };
    response.parameters.insert("triton_final_response".to_owned(), parameter);
    response
}

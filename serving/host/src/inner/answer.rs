//! One request to the model it names, whoever asks: a caller, or an ensemble for one of its steps.
//!
//! A version that is just being replaced gives a request back, and it is put to its successor.

use std::{future::Future, pin::Pin, sync::Arc};

use mizzen_serving_core::{
    InferRequest, InferResponse, Parameters,
    protocol::{self, ProtocolError},
};
use mizzen_types::ErrorCode;

use super::{Inner, shutting_down};
use crate::{
    ServeError,
    ensemble::{self, DEPTH_MAX, Terms},
    stream::{Envelope, ResponseStream},
    version::Version,
};

impl Inner {
    /// Answers one request at this depth of ensembles.
    pub(crate) fn answer(
        self: &Arc<Self>,
        request: InferRequest,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<InferResponse, ServeError>> + Send + '_>> {
        Box::pin(async move {
            let InferRequest {
                model,
                version,
                id,
                mut inputs,
                outputs,
                timeout,
                priority,
                parameters,
            } = request;
            let terms = Terms { timeout, priority, parameters };
            loop {
                let serving = self.find(&model, version.as_deref())?;
                check(&serving, &terms.parameters, depth)?;
                if self.is_decoupled(&serving, depth) {
                    return Err(decoupled(&model));
                }
                let admitted =
                    serving.spec.admit(inputs, &outputs).map_err(|e| ServeError::from_coded(&e))?;
                let submitted = match &serving.plan {
                    Some(plan) => {
                        ensemble::once(self, &serving, plan, admitted, &terms, depth).await
                    }
                    None => match serving.submit(
                        admitted,
                        timeout,
                        priority,
                        self.tracer.sample(&model, &id),
                    ) {
                        Ok(pending) => Ok(pending.answer().await),
                        Err(admitted) => Err(admitted),
                    },
                };
                match submitted {
                    Ok(answer) => {
                        let outputs = answer?;
                        let (model, version) = (serving.spec.model.clone(), serving.label.clone());
                        let parameters = Parameters::new();
                        return Ok(InferResponse { model, version, id, outputs, parameters });
                    }
                    Err(_) if self.is_draining() => return Err(shutting_down()),
                    // That version was just replaced; the table has its successor, if any.
                    Err(admitted) => inputs = admitted.inputs,
                }
            }
        })
    }

    /// Starts answering one request, at this depth of ensembles, as often as its model does.
    pub(crate) fn open_stream(
        self: &Arc<Self>,
        mut request: InferRequest,
        depth: usize,
    ) -> Result<ResponseStream, ServeError> {
        loop {
            let serving = self.find(&request.model, request.version.as_deref())?;
            check(&serving, &request.parameters, depth)?;
            // Asked each time, since a reload may make another of it.
            if !self.is_decoupled(&serving, depth) {
                let inner = self.clone();
                return Ok(ResponseStream::once(async move { inner.answer(request, depth).await }));
            }
            if serving.generation.is_some() {
                let (model, version) = (request.model.clone(), request.version.clone());
                return self.generator(&model, version.as_deref())?.answer(request);
            }
            let inputs = std::mem::take(&mut request.inputs);
            let admitted = serving
                .spec
                .admit(inputs, &request.outputs)
                .map_err(|e| ServeError::from_coded(&e))?;
            let InferRequest { model, id, timeout, priority, parameters, .. } = &request;
            let envelope = Envelope {
                model: serving.spec.model.clone(),
                version: serving.label.clone(),
                id: id.clone(),
            };
            serving.check_open()?;
            let opened = if serving.plan.is_some() {
                let parameters = parameters.clone();
                let terms = Terms { timeout: *timeout, priority: *priority, parameters };
                ensemble::each(self.clone(), serving, admitted, terms, envelope, depth)
            } else {
                let traced = self.tracer.sample(model, id);
                let submitted =
                    serving.submit_stream(admitted, *timeout, *priority, traced, envelope);
                submitted.map(ResponseStream::many)
            };
            match opened {
                Ok(stream) => return Ok(stream),
                Err(_) if self.is_draining() => return Err(shutting_down()),
                // As above.
                Err(admitted) => request.inputs = admitted.inputs,
            }
        }
    }

    /// Whether a version answers any number of times: as its configuration says or, if it is an
    /// ensemble, because a model of its steps does.
    pub(crate) fn is_decoupled(&self, version: &Version, depth: usize) -> bool {
        let Some(plan) = &version.plan else { return version.is_decoupled() };
        // An ensemble nested deeper than any may be answers with an error, once.
        depth <= DEPTH_MAX && plan.steps.iter().any(|step| self.is_step_decoupled(step, depth + 1))
    }
}

/// What is refused whatever the inputs are.
fn check(serving: &Version, parameters: &Parameters, depth: usize) -> Result<(), ServeError> {
    let model = &*serving.spec.model;
    if depth > DEPTH_MAX {
        let message = format!("model `{model}`: more than {DEPTH_MAX} ensembles are nested");
        return Err(ServeError::new(ErrorCode::FailedPrecondition, message));
    }
    match protocol::sequence(parameters) {
        // Any other model answers each request by itself, as Triton's do.
        Some(parameter) if serving.config.sequence_batching.is_some() => {
            let error = ProtocolError::Sequence { parameter, model: model.to_owned() };
            Err(ServeError::from_coded(&error))
        }
        _ => Ok(()),
    }
}

/// The model answers any number of times. The words are Triton's, which clients' tests look for.
fn decoupled(model: &str) -> ServeError {
    let message = format!(
        "unary inference doesn't support models with decoupled transaction policy; call model `{model}` with ModelStreamInfer (gRPC) or `generate_stream` (HTTP)"
    );
    ServeError::new(ErrorCode::Unsupported, message)
}

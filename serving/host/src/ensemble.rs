//! Requests through ensembles: the plan (`mizzen-serving-core`) says what may start, this starts it.
//!
//! A step is a request like any other to its model: it waits in that model's queue, shares its
//! batches and is counted in its statistics. Tensors are handed on as the views they are. Steps
//! that do not need one another are under way at once; dropping the request withdraws them all.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use mizzen_serving_core::{
    Admitted, InferRequest, InferResponse, Parameters, RequestedOutput,
    ensemble::{Plan, StepId},
};
use mizzen_types::{ErrorCode, NamedTensor, Tensor};

use crate::{
    ServeError,
    inner::Inner,
    stats::reason,
    version::{Answer, Version},
};

/// How deep ensembles may be made of ensembles: far beyond any use, and a bound on the stack.
pub(crate) const DEPTH_MAX: usize = 16;

type Running<'r> = Pin<Box<dyn Future<Output = (StepId, Duration, Answer)> + Send + 'r>>;

/// What a request brings along for each of its steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: u64,
}

/// Takes a request that was held against `version`, an ensemble, through its plan. `None` gives
/// it back: the version takes no more.
pub(crate) async fn run(
    inner: &Arc<Inner>,
    version: &Arc<Version>,
    plan: &Plan,
    admitted: Admitted,
    terms: Terms,
    depth: usize,
) -> Result<Answer, Admitted> {
    let Some(_attended) = version.attend() else { return Err(admitted) };
    let started = Instant::now();
    let mut computed = Duration::ZERO;
    let rows = admitted.rows;
    let answer = steps(inner, version, plan, admitted, terms, depth, &mut computed).await;
    let mut stats = version.stats.door();
    match &answer {
        Ok(_) => {
            // What the steps took, queues included, is the ensemble's own run.
            let parts = [Duration::ZERO, computed, Duration::ZERO];
            stats.composed(rows, parts);
            stats.answered(started.elapsed(), Duration::ZERO, parts);
        }
        Err(error) => stats.failed(started.elapsed(), reason(error)),
    }
    drop(stats);
    Ok(answer)
}

async fn steps(
    inner: &Arc<Inner>,
    version: &Arc<Version>,
    plan: &Plan,
    admitted: Admitted,
    terms: Terms,
    depth: usize,
    computed: &mut Duration,
) -> Answer {
    let mut tensors: Vec<Option<Tensor>> = vec![None; plan.tensors.len()];
    for (id, input) in plan.inputs.iter().zip(admitted.inputs) {
        tensors[*id] = Some(input.tensor);
    }
    let mut progress = plan.start(&admitted.outputs);
    let mut running: Vec<Running<'_>> = Vec::new();
    loop {
        for step in progress.take_ready() {
            let request = request(plan, step, &tensors, &progress.wanted(step), terms);
            running.push(Box::pin(async move {
                let started = Instant::now();
                let answer = inner.answer(request, depth + 1).await.map(|r| r.outputs);
                (step, started.elapsed(), answer)
            }));
        }
        if running.is_empty() {
            break;
        }
        let (step, took, answer) = next(&mut running).await;
        *computed += took;
        let wanted = progress.wanted(step);
        for (at, output) in wanted.iter().zip(answer?) {
            tensors[plan.steps[step].outputs[*at].1] = Some(output.tensor);
        }
        for unneeded in progress.ended(step) {
            tensors[unneeded] = None;
        }
    }
    let output = |at: &usize| {
        let port = &version.spec.outputs[*at];
        let name = port.request.name.clone();
        let lost = |what: String| {
            let model = &version.spec.model;
            ServeError::new(
                ErrorCode::Internal,
                format!("output `{name}` of ensemble `{model}` {what}"),
            )
        };
        let tensor =
            tensors[plan.outputs[*at]].clone().ok_or_else(|| lost("was not made".into()))?;
        let tensor = port.outward(tensor).map_err(|e| lost(format!("cannot be reshaped: {e}")))?;
        if !port.request.shape.accepts(tensor.shape()) {
            let (got, want) = (tensor.shape(), &port.request.shape);
            return Err(lost(format!("has shape {got}; its configuration says {want}")));
        }
        Ok(NamedTensor { name, tensor })
    };
    admitted.outputs.iter().map(output).collect()
}

fn request(
    plan: &Plan,
    step: StepId,
    tensors: &[Option<Tensor>],
    wanted: &[usize],
    terms: Terms,
) -> InferRequest {
    let step = &plan.steps[step];
    let input = |(name, id): &(String, usize)| {
        let tensor = tensors[*id].clone()?;
        Some(NamedTensor { name: name.as_str().into(), tensor })
    };
    let output = |at: &usize| RequestedOutput {
        name: step.outputs[*at].0.as_str().into(),
        parameters: Parameters::new(),
    };
    InferRequest {
        model: step.model.as_str().into(),
        version: step.version.map(|version| version.to_string()),
        id: String::new(),
        inputs: step.inputs.iter().filter_map(input).collect(),
        outputs: wanted.iter().map(output).collect(),
        parameters: Parameters::new(),
        timeout: terms.timeout,
        priority: terms.priority,
    }
}

/// The step that ends next. There are few steps, so looking at each is cheaper than telling them
/// apart by wakers.
async fn next(running: &mut Vec<Running<'_>>) -> (StepId, Duration, Answer) {
    poll_fn(|context| {
        for at in 0..running.len() {
            if let Poll::Ready(ended) = running[at].as_mut().poll(context) {
                drop(running.swap_remove(at));
                return Poll::Ready(ended);
            }
        }
        Poll::Pending
    })
    .await
}

impl Inner {
    /// Answers one request, whoever asks: a caller, or an ensemble at this depth.
    pub(crate) fn answer(
        self: &Arc<Self>,
        request: InferRequest,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<InferResponse, ServeError>> + Send + '_>> {
        Box::pin(async move {
            let InferRequest { model, version, id, mut inputs, outputs, timeout, priority, .. } =
                request;
            if depth > DEPTH_MAX {
                let message =
                    format!("model `{model}`: more than {DEPTH_MAX} ensembles are nested");
                return Err(ServeError::new(ErrorCode::FailedPrecondition, message));
            }
            loop {
                let serving = self.find(&model, version.as_deref())?;
                if serving.is_decoupled() {
                    return Err(decoupled(&model));
                }
                let admitted =
                    serving.spec.admit(inputs, &outputs).map_err(|e| ServeError::from_coded(&e))?;
                let submitted = match &serving.plan {
                    Some(plan) => {
                        let terms = Terms { timeout, priority };
                        run(self, &serving, plan, admitted, terms, depth).await
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
                    Err(_) if self.is_draining() => return Err(crate::inner::shutting_down()),
                    // That version was just replaced; the table has its successor, if any.
                    Err(admitted) => inputs = admitted.inputs,
                }
            }
        })
    }
}

/// The model answers any number of times. The words are Triton's, which clients' tests look for.
fn decoupled(model: &str) -> ServeError {
    let message = format!(
        "unary inference doesn't support models with decoupled transaction policy; call model `{model}` with ModelStreamInfer (gRPC) or `generate_stream` (HTTP)"
    );
    ServeError::new(ErrorCode::Unsupported, message)
}

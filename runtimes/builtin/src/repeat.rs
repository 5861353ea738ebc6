//! `backend: "repeat"`: answer `i` is `OUT = IN[i]`, `IDX = i`, sent `DELAY[i]` milliseconds after
//! the one before.
//!
//! | tensor  | datatype | shape  |                                                                 |
//! |---------|----------|--------|-----------------------------------------------------------------|
//! | `IN`    | INT32    | `[-1]` | the values; none is a request without answers                   |
//! | `DELAY` | UINT32   | `[-1]` | as many waits, in milliseconds                                  |
//! | `WAIT`  | UINT32   | `[1]`  | milliseconds until the instance takes the next request          |
//! | `OUT`   | INT32    | `[1]`  |                                                                 |
//! | `IDX`   | UINT32   | `[1]`  |                                                                 |
//!
//! Each request is answered from a thread of its own, so that requests to one instance overlap as
//! soon as `WAIT` lets them. A cancelled request ends at once, whatever it waits for. The model must
//! be decoupled and has no batch dimension.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use mizzen_runtime_api::{
    Batch, Cancel, EngineStatus, Instance, InstanceOptions, Loader, Model, ModelSource, Responses,
    RuntimeError, Signature, StreamRequest, TensorSpec,
};
use mizzen_types::{DataType, NamedTensor, Shape, SpecShape, Tensor};

use crate::on_cpu;

const BACKEND: &str = "repeat";

/// Makes models that answer any number of times.
#[derive(Debug, Clone, Copy, Default)]
pub struct RepeatLoader;

impl Loader for RepeatLoader {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn default_file(&self) -> &'static str {
        ""
    }

    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError> {
        let wrong = |reason: &str| source.failed(&source.dir, reason);
        if !source.decoupled {
            return Err(wrong(
                "the repeat backend answers any number of times; set `model_transaction_policy { decoupled: true }`",
            ));
        }
        let declared = source.declared.inputs.iter().chain(&source.declared.outputs);
        if declared.clone().any(|tensor| tensor.shape.0.len() != 1) {
            return Err(wrong(
                "the repeat backend takes tensors of one dimension and no batches; set `max_batch_size: 0`",
            ));
        }
        Ok(Arc::new(Repeat(signature())))
    }

    fn status(&self) -> EngineStatus {
        EngineStatus { backend: BACKEND, found: Ok("built in".to_owned()), searched: Vec::new() }
    }
}

fn signature() -> Signature {
    let spec = |name: &str, dtype, size| TensorSpec {
        name: name.into(),
        dtype,
        shape: SpecShape(vec![size]),
    };
    Signature {
        inputs: vec![
            spec("IN", DataType::Int32, -1),
            spec("DELAY", DataType::Uint32, -1),
            spec("WAIT", DataType::Uint32, 1),
        ],
        outputs: vec![spec("OUT", DataType::Int32, 1), spec("IDX", DataType::Uint32, 1)],
    }
}

struct Repeat(Signature);

impl Model for Repeat {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn open(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        on_cpu(BACKEND, options)?;
        Ok(Box::new(RepeatInstance(self.0.clone())))
    }
}

struct RepeatInstance(Signature);

impl Instance for RepeatInstance {
    fn run(&mut self, _: Batch<'_>, _: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError> {
        Err(RuntimeError::Run("the repeat backend has no single answer to give".into()))
    }

    fn stream(&mut self, request: StreamRequest, mut responses: Responses) {
        let plan = match Plan::read(&self.0, &request) {
            Ok(plan) => plan,
            Err(error) => return responses.finish(Err(error)),
        };
        let (cancel, wait) = (responses.cancel().clone(), plan.wait);
        let started = thread::Builder::new().name("repeat".to_owned()).spawn(move || {
            let sent = plan.carry_out(&mut responses);
            responses.finish(sent);
        });
        // Without a thread, what it was given has been dropped, which ended the request.
        if started.is_ok() {
            // A cancelled request need not hold up the next.
            let _ = sleep(wait, &cancel);
        }
    }
}

/// What is to be sent, and when.
struct Plan {
    values: Vec<[u8; 4]>,
    delays: Vec<Duration>,
    wait: Duration,
    /// The wanted outputs, by their place in the signature.
    wanted: Vec<usize>,
    outputs: Vec<Arc<str>>,
}

impl Plan {
    fn read(signature: &Signature, request: &StreamRequest) -> Result<Self, RuntimeError> {
        signature.accept(&request.batch())?;
        let wanted = signature.wanted(&request.batch())?;
        let words = |name: &str| -> &[[u8; 4]] {
            let input = request.inputs.iter().find(|input| *input.name == *name);
            input.map_or(&[], |input| input.tensor.data().as_chunks().0)
        };
        let millis = |word: &[u8; 4]| Duration::from_millis(u32::from_le_bytes(*word).into());
        let (values, delays) = (words("IN"), words("DELAY"));
        if values.len() != delays.len() {
            return Err(RuntimeError::Input {
                input: "DELAY".to_owned(),
                reason: format!(
                    "expected IN and DELAY shape to match, got [{}] and [{}]",
                    values.len(),
                    delays.len()
                ),
            });
        }
        Ok(Self {
            values: values.to_vec(),
            delays: delays.iter().map(millis).collect(),
            wait: words("WAIT").first().map(millis).unwrap_or_default(),
            wanted,
            outputs: signature.outputs.iter().map(|output| output.name.clone()).collect(),
        })
    }

    fn carry_out(&self, responses: &mut Responses) -> Result<(), RuntimeError> {
        let cancel = responses.cancel().clone();
        for (index, (value, delay)) in (0u32..).zip(self.values.iter().zip(&self.delays)) {
            sleep(*delay, &cancel)?;
            let all = [(DataType::Int32, *value), (DataType::Uint32, index.to_le_bytes())];
            let one = |at: &usize| -> Result<NamedTensor, RuntimeError> {
                let (name, (dtype, word)) = (self.outputs[*at].clone(), all[*at]);
                let wrong = |source| RuntimeError::Output { output: name.to_string(), source };
                let shape = Shape::new([1]).map_err(|e| RuntimeError::Run(e.into()))?;
                let tensor = Tensor::new(dtype, shape, word.to_vec().into()).map_err(wrong)?;
                Ok(NamedTensor { name, tensor })
            };
            responses.send(self.wanted.iter().map(one).collect::<Result<_, _>>()?)?;
        }
        match cancel.is_cancelled() {
            true => Err(RuntimeError::Cancelled),
            false => Ok(()),
        }
    }
}

/// Waits so long, or until it is cancelled.
pub(crate) fn sleep(time: Duration, cancel: &Cancel) -> Result<(), RuntimeError> {
    if cancel.is_cancelled() {
        return Err(RuntimeError::Cancelled);
    }
    if time.is_zero() {
        return Ok(());
    }
    let (raised, is_raised) = mpsc::channel();
    let _guard = cancel.on_cancel(move || {
        // The waiter may just have stopped waiting.
        let _ = raised.send(());
    });
    match is_raised.recv_timeout(time) {
        Ok(()) => Err(RuntimeError::Cancelled),
        Err(_) => Ok(()),
    }
}

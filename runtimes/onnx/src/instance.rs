//! One session, running one batch at a time.

use std::{borrow::Cow, sync::Arc};

use mizzen_runtime_api::{Batch, Cancel, Instance, RuntimeError, Signature, TensorSpec};
use mizzen_types::NamedTensor;
use ort::{
    session::{RunOptions, Session},
    value::DynValue,
};

use crate::tensor;

/// A session and its model's signature.
pub(crate) struct OnnxInstance {
    session: Session,
    signature: Arc<Signature>,
}

impl OnnxInstance {
    pub(crate) fn new(session: Session, signature: Arc<Signature>) -> Self {
        Self { session, signature }
    }
}

impl Instance for OnnxInstance {
    /// A session on the CPU keeps nothing by thread.
    fn runs_anywhere(&self) -> bool {
        true
    }

    fn run(&mut self, batch: Batch<'_>, cancel: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError> {
        if cancel.is_cancelled() {
            return Err(RuntimeError::Cancelled);
        }
        self.signature.accept(&batch)?;
        let wanted = self.signature.wanted(&batch)?;
        let inputs = batch
            .inputs
            .iter()
            .map(|input| Ok((Cow::from(&*input.name), tensor::to_ort(input)?)))
            .collect::<Result<Vec<_>, RuntimeError>>()?;

        // A run has its own options: `cancel` may still be calling this hook after the guard is
        // dropped, and must then not end the next run.
        let options = Arc::new(RunOptions::new().map_err(run_error)?);
        let terminate = options.clone();
        let _guard = cancel.on_cancel(move || {
            // It only sets a flag; if even that fails, the run goes on to its end.
            let _ = terminate.terminate();
        });
        // Every output is computed whichever are wanted: ONNX Runtime runs the whole graph.
        let outputs = self.session.run_with_options(inputs, &options);
        let values: Vec<DynValue> = match outputs {
            Ok(outputs) => outputs.into_iter().map(|(_, value)| value).collect(),
            Err(_) if cancel.is_cancelled() => return Err(RuntimeError::Cancelled),
            Err(error) => return Err(run_error(error)),
        };
        collect(&self.signature.outputs, values, &wanted)
    }
}

fn collect(
    specs: &[TensorSpec],
    values: Vec<DynValue>,
    wanted: &[usize],
) -> Result<Vec<NamedTensor>, RuntimeError> {
    let mut values: Vec<_> = values.into_iter().map(Some).collect();
    let mut answers: Vec<NamedTensor> = Vec::with_capacity(wanted.len());
    for &index in wanted {
        let name = &specs[index].name;
        let answer = match values[index].take() {
            Some(value) => {
                NamedTensor { name: name.clone(), tensor: tensor::from_ort(name, value)? }
            }
            // Asked for twice: the bytes are shared.
            None => answers
                .iter()
                .find(|answer| answer.name == *name)
                .cloned()
                .expect("an output is taken only to be put here"),
        };
        answers.push(answer);
    }
    Ok(answers)
}

fn run_error(error: ort::Error) -> RuntimeError {
    RuntimeError::Run(Box::new(error))
}

//! `backend: "identity"`: output `OUTPUTi` is input `INPUTi`, whatever it holds.
//!
//! A model has as many of each as its configuration lists. The parameter `execute_delay_ms` makes
//! every run take so long; a run that is cancelled meanwhile ends.

use std::{sync::Arc, time::Duration};

use mizzen_runtime_api::{
    Batch, Cancel, EngineStatus, Instance, InstanceOptions, Loader, Model, ModelSource,
    RuntimeError, Signature, TensorSpec,
};
use mizzen_types::NamedTensor;

use crate::{on_cpu, repeat::sleep};

const BACKEND: &str = "identity";
/// The parameter by which Triton's own backend delays every run.
const DELAY: &str = "execute_delay_ms";

/// Makes models that give their inputs back.
#[derive(Debug, Clone, Copy, Default)]
pub struct IdentityLoader;

impl Loader for IdentityLoader {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn default_file(&self) -> &'static str {
        ""
    }

    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError> {
        let wrong = |reason: String| source.failed(&source.dir, reason);
        check(&source.declared).map_err(wrong)?;
        let delay = match source.parameters.get(DELAY) {
            None => 0,
            Some(text) => text.parse().map_err(|_| {
                wrong(format!("parameter `{DELAY}`: expected milliseconds, got `{text}`"))
            })?,
        };
        let delay = Duration::from_millis(delay);
        Ok(Arc::new(Identity { signature: Arc::new(source.declared.clone()), delay }))
    }

    fn status(&self) -> EngineStatus {
        EngineStatus { backend: BACKEND, found: Ok("built in".to_owned()), searched: Vec::new() }
    }
}

/// Whether outputs pair with inputs: in number, by name, in type and in shape.
fn check(declared: &Signature) -> Result<(), String> {
    let (inputs, outputs) = (&declared.inputs, &declared.outputs);
    if inputs.is_empty() || inputs.len() != outputs.len() {
        let (inputs, outputs) = (inputs.len(), outputs.len());
        return Err(format!(
            "the identity backend takes as many inputs as outputs, 1 or more, from `config.pbtxt`; it lists {inputs} and {outputs}"
        ));
    }
    for output in outputs {
        let input = partner(declared, output)
            .ok_or_else(|| format!("output `{}` has no input to be a copy of", output.name))?;
        if (output.dtype, &output.shape) != (input.dtype, &input.shape) {
            return Err(format!(
                "output `{}` is {} {}; its input `{}` is {} {}",
                output.name, output.dtype, output.shape, input.name, input.dtype, input.shape
            ));
        }
    }
    Ok(())
}

/// The input that an output is a copy of: `INPUT0` of `OUTPUT0`, else the one at its place.
fn partner<'a>(signature: &'a Signature, output: &TensorSpec) -> Option<&'a TensorSpec> {
    let name = output.name.strip_prefix("OUTPUT").map(|suffix| format!("INPUT{suffix}"));
    let named = signature.inputs.iter().find(|input| Some(&*input.name) == name.as_deref());
    let at = signature.outputs.iter().position(|other| other.name == output.name)?;
    named.or_else(|| signature.inputs.get(at))
}

struct Identity {
    signature: Arc<Signature>,
    delay: Duration,
}

impl Model for Identity {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn open(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        on_cpu(BACKEND, options)?;
        Ok(Box::new(IdentityInstance { signature: self.signature.clone(), delay: self.delay }))
    }
}

struct IdentityInstance {
    signature: Arc<Signature>,
    delay: Duration,
}

impl Instance for IdentityInstance {
    fn runs_anywhere(&self) -> bool {
        self.delay.is_zero()
    }

    fn run(&mut self, batch: Batch<'_>, cancel: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError> {
        self.signature.accept(&batch)?;
        let wanted = self.signature.wanted(&batch)?;
        sleep(self.delay, cancel)?;
        let copy = |at: usize| {
            let output = &self.signature.outputs[at];
            let input = partner(&self.signature, output);
            let given =
                batch.inputs.iter().find(|given| Some(&given.name) == input.map(|i| &i.name));
            let missing = || RuntimeError::Input {
                input: output.name.to_string(),
                reason: "its input is missing".to_owned(),
            };
            let tensor = given.ok_or_else(missing)?.tensor.clone();
            Ok(NamedTensor { name: output.name.clone(), tensor })
        };
        wanted.into_iter().map(copy).collect()
    }
}

//! One module, running one batch at a time.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use mizzen_runtime_api::{Batch, Cancel, Instance, RuntimeError, Signature, TensorSpec};
use mizzen_types::{NamedTensor, Tensor};

use crate::{
    ffi::{Answer, Leaf, Module, RunOptions},
    plan::{self, Plan},
    tensor,
};

/// A module of its own, unless weights are shared. It stays on one thread: libtorch keeps the
/// number of threads, and the threads themselves, by the thread that runs.
pub(crate) struct TorchInstance {
    module: Arc<Module>,
    signature: Arc<Signature>,
    plan: Arc<Plan>,
    options: RunOptions,
}

impl TorchInstance {
    pub(crate) fn new(
        module: Arc<Module>,
        signature: Arc<Signature>,
        plan: Arc<Plan>,
        options: RunOptions,
    ) -> Self {
        Self { module, signature, plan, options }
    }

    fn leaves<'a>(&'a self, batch: &Batch<'_>) -> Result<Vec<Leaf<'a>>, RuntimeError> {
        let leaf = |(input, key): &'a (usize, String)| {
            let name = &self.signature.inputs[*input].name;
            let given = batch.inputs.iter().find(|given| given.name == *name);
            let given = given.expect("the signature accepted the batch, so every input is in it");
            Ok(Leaf { key, value: tensor::to_value(given)? })
        };
        self.plan.leaves.iter().map(leaf).collect()
    }

    fn collect(
        &self,
        mut answer: Answer,
        wanted: &[usize],
    ) -> Result<Vec<NamedTensor>, RuntimeError> {
        let specs = &self.signature.outputs;
        let names: Vec<_> = specs.iter().map(|spec| &*spec.name).collect();
        let parts = plan::outputs(&names, &answer.paths())
            .map_err(|reason| RuntimeError::Run(reason.into()))?;
        let mut taken: Vec<Option<Tensor>> = vec![None; specs.len()];
        for &index in wanted {
            // Asked for twice, or the same part by two names: the bytes are shared.
            let same = (0..specs.len())
                .find(|other| parts[*other] == parts[index] && taken[*other].is_some());
            taken[index] = match same.and_then(|other| taken[other].clone()) {
                Some(tensor) => Some(tensor),
                None => Some(part(&specs[index].name, &mut answer, parts[index])?),
            };
        }
        let named = |&index: &usize| {
            let tensor = taken[index].clone().expect("every wanted output was taken above");
            check(&specs[index], &tensor)?;
            Ok(NamedTensor { name: specs[index].name.clone(), tensor })
        };
        wanted.iter().map(named).collect()
    }
}

impl Instance for TorchInstance {
    fn run(&mut self, batch: Batch<'_>, cancel: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError> {
        if cancel.is_cancelled() {
            return Err(RuntimeError::Cancelled);
        }
        self.signature.accept(&batch)?;
        let wanted = self.signature.wanted(&batch)?;
        let leaves = self.leaves(&batch)?;
        // A run has its own flag: `cancel` may still be calling this hook after the guard is
        // dropped, and must then not end the next run.
        let flag = Arc::new(AtomicU8::new(0));
        let raised = flag.clone();
        let _guard = cancel.on_cancel(move || raised.store(1, Ordering::Relaxed));
        match self.module.run(leaves, &self.plan.slots, self.options, &flag) {
            Ok(answer) => self.collect(answer, &wanted),
            Err(_) if cancel.is_cancelled() => Err(RuntimeError::Cancelled),
            Err(text) => Err(RuntimeError::Run(text.into())),
        }
    }
}

fn part(name: &str, answer: &mut Answer, index: usize) -> Result<Tensor, RuntimeError> {
    if let Some(strings) = answer.strings(index) {
        return tensor::from_strings(name, strings);
    }
    let taken = answer.take_tensor(index);
    let taken =
        taken.map_err(|reason| RuntimeError::Run(format!("output `{name}`: {reason}").into()))?;
    tensor::from_output(name, taken)
}

/// Whether an output is what the configuration promises to clients.
fn check(spec: &TensorSpec, tensor: &Tensor) -> Result<(), RuntimeError> {
    let (name, got, want) = (&spec.name, tensor.dtype(), spec.dtype);
    let text = if got != want {
        format!("output `{name}` is {got}; the configuration says {want}")
    } else if !spec.shape.accepts(tensor.shape()) {
        let (got, want) = (tensor.shape(), &spec.shape);
        format!("output `{name}` has shape {got}; the configuration says {want} (-1 is any)")
    } else {
        return Ok(());
    };
    Err(RuntimeError::Run(text.into()))
}

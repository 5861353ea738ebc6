//! One instance: tensors in, forward pass, tensors out.

use std::sync::Arc;

use bytes::Bytes;
use mizzen_runtime_api::{Batch, Cancel, Instance, RuntimeError};
use mizzen_types::{DataType, NamedTensor, Shape, Tensor, TensorError};
use rayon::ThreadPoolBuildError;

use crate::{
    architecture::{Network, Run, Values},
    workers::Workers,
};

/// A network and the threads that one run of it may use.
pub(crate) struct CandleInstance {
    network: Arc<dyn Network>,
    workers: Workers,
}

impl CandleInstance {
    pub(crate) fn new(
        network: Arc<dyn Network>,
        threads: usize,
    ) -> Result<Self, ThreadPoolBuildError> {
        Ok(Self { network, workers: Workers::new(threads)? })
    }
}

impl Instance for CandleInstance {
    fn runs_anywhere(&self) -> bool {
        true
    }

    fn run(&mut self, batch: Batch<'_>, cancel: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError> {
        if cancel.is_cancelled() {
            return Err(RuntimeError::Cancelled);
        }
        let signature = self.network.signature();
        signature.accept(&batch)?;
        let wanted = signature.wanted(&batch)?;
        let given = |name: &str| batch.inputs.iter().find(|input| *input.name == *name);
        let inputs = signature.inputs.iter().map(|spec| {
            &given(&spec.name).expect("the batch was accepted, so every input is there").tensor
        });
        let run = Run { inputs: inputs.collect(), workers: &self.workers, cancel };
        let mut outputs: Vec<_> = self.network.forward(&run)?.into_iter().map(Some).collect();
        let mut output = |index: usize| {
            let Values { dims, values } = match wanted.iter().filter(|i| **i == index).count() {
                1 => outputs[index].take(),
                _ => outputs[index].clone(),
            }
            .expect("an output that is wanted once is taken once");
            named(&signature.outputs[index].name, dims, values)
        };
        wanted.iter().map(|index| output(*index)).collect()
    }
}

/// Floats, seen as bytes.
struct AsBytes(Vec<f32>);

impl AsRef<[u8]> for AsBytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn named(name: &Arc<str>, dims: Vec<usize>, values: Vec<f32>) -> Result<NamedTensor, RuntimeError> {
    let data = Bytes::from_owner(AsBytes(values));
    let tensor = Shape::new(dims)
        .map_err(TensorError::from)
        .and_then(|shape| Tensor::new(DataType::Fp32, shape, data));
    let tensor =
        tensor.map_err(|source| RuntimeError::Output { output: name.to_string(), source })?;
    Ok(NamedTensor { name: name.clone(), tensor })
}

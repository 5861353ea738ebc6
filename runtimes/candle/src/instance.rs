//! One instance: tensors in, forward pass, tensors out.

use std::sync::Arc;

use bytes::Bytes;
use candle_core::{Device, Tensor};
use mizzen_runtime_api::{Batch, Cancel, Instance, RuntimeError, TensorSpec};
use mizzen_types::{DataType, NamedTensor, Shape, Tensor as TensorBytes, TensorError};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::architecture::Network;

/// A network and the threads that one run of it may use.
pub(crate) struct CandleInstance {
    network: Arc<dyn Network>,
    /// `None` leaves it to the process's pool.
    pool: Option<ThreadPool>,
}

impl CandleInstance {
    pub(crate) fn new(
        network: Arc<dyn Network>,
        threads: usize,
    ) -> Result<Self, ThreadPoolBuildError> {
        let pool = match threads {
            0 => None,
            n => Some(
                ThreadPoolBuilder::new()
                    .num_threads(n)
                    .thread_name(|index| format!("candle-{index}"))
                    .build()?,
            ),
        };
        Ok(Self { network, pool })
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
        if batch.inputs.iter().any(|input| input.tensor.shape().rows() == Some(0)) {
            // Candle has no products of nothing.
            return wanted.iter().map(|index| no_rows(&signature.outputs[*index])).collect();
        }
        let forward = || -> Result<Vec<NamedTensor>, RuntimeError> {
            let inputs = signature.inputs.iter().map(|spec| read(spec, &batch));
            let outputs = self.network.forward(&inputs.collect::<Result<Vec<_>, _>>()?, cancel)?;
            let name = |index: usize| &signature.outputs[index].name;
            wanted.iter().map(|index| write(name(*index), &outputs[*index])).collect()
        };
        match &self.pool {
            Some(pool) => pool.install(forward),
            None => forward(),
        }
    }
}

fn read(spec: &TensorSpec, batch: &Batch<'_>) -> Result<Tensor, RuntimeError> {
    let given = batch.inputs.iter().find(|input| input.name == spec.name);
    let tensor = &given.expect("the batch was accepted, so every input is there").tensor;
    let values = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    Tensor::from_vec(values.collect(), tensor.shape().dims(), &Device::Cpu).map_err(engine_failed)
}

/// Candle's values, seen as bytes.
struct Values(Vec<f32>);

impl AsRef<[u8]> for Values {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn write(name: &Arc<str>, output: &Tensor) -> Result<NamedTensor, RuntimeError> {
    let values = output.flatten_all().and_then(|flat| flat.to_vec1()).map_err(engine_failed)?;
    named(name, output.dims(), Bytes::from_owner(Values(values)))
}

fn no_rows(spec: &TensorSpec) -> Result<NamedTensor, RuntimeError> {
    let dims = spec.shape.0.iter().map(|dim| usize::try_from(*dim).unwrap_or(0));
    named(&spec.name, &dims.collect::<Vec<_>>(), Bytes::new())
}

fn named(name: &Arc<str>, dims: &[usize], data: Bytes) -> Result<NamedTensor, RuntimeError> {
    let tensor = Shape::new(dims)
        .map_err(TensorError::from)
        .and_then(|shape| TensorBytes::new(DataType::Fp32, shape, data));
    let tensor =
        tensor.map_err(|source| RuntimeError::Output { output: name.to_string(), source })?;
    Ok(NamedTensor { name: name.clone(), tensor })
}

/// Candle's error, in its own words.
pub(crate) fn engine_failed(error: candle_core::Error) -> RuntimeError {
    RuntimeError::Run(Box::new(error))
}

//! Filling in what a configuration leaves to the model, and holding it against the model.
//!
//! The rules are those of Triton's ONNX Runtime backend: only a configuration that lists no inputs
//! or no outputs is completed; a model whose every tensor has a free first dimension is then taken
//! to batch, by 4 unless the configuration says otherwise, dynamically.

use std::{sync::Arc, time::Duration};

use mizzen_runtime_api::{Signature, TensorSpec};
use mizzen_types::{Coded, ErrorCode, SpecShape};

use super::{
    DynamicBatching, InstanceGroup, InstanceKind, ModelConfig, Optimization, PinnedMemory,
    TensorConfig,
};
use crate::{ModelSpec, Padding, ParameterError, PortSpec, SPLIT_MAX};

/// What `max_batch_size` becomes for a model that batches and a configuration that leaves it open.
const DEFAULT_MAX_BATCH_SIZE: usize = 4;

/// The longest a sequence may go without a request where the configuration does not say.
const SEQUENCE_IDLE: Duration = Duration::from_secs(1);

/// Where a configuration and its model contradict one another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompleteError {
    /// Something is not given, and completing it is switched off.
    #[error("field `{field}`: expected at least one, got none, and auto-complete is off")]
    Missing {
        /// `input` or `output`.
        field: &'static str,
    },
    /// The configuration names a tensor that the model does not have.
    #[error("field `{field}`: the model has no {field} `{name}`; it has {has}")]
    Unknown {
        /// `input` or `output`.
        field: &'static str,
        /// The name.
        name: String,
        /// The names there are.
        has: String,
    },
    /// The configuration names a tensor twice.
    #[error("field `{field}`: `{name}` is listed twice")]
    Twice {
        /// `input` or `output`.
        field: &'static str,
        /// The name.
        name: String,
    },
    /// The configuration lists inputs, but not all.
    #[error("field `input`: the model's input `{name}` is not listed")]
    Unlisted {
        /// The name.
        name: String,
    },
    /// The data type differs.
    #[error("field `{field}.data_type`: expected TYPE_{want} for `{name}`, got TYPE_{got}")]
    DataType {
        /// `input` or `output`.
        field: &'static str,
        /// The tensor.
        name: String,
        /// The model's.
        want: mizzen_types::DataType,
        /// The configuration's.
        got: mizzen_types::DataType,
    },
    /// The dimensions differ.
    #[error(
        "field `{field}.dims`: `{name}` has shape {want} in the model, got {got}{}",
        if *.batched { " (with the batch dimension that `max_batch_size` adds)" } else { "" }
    )]
    Dims {
        /// `input` or `output`.
        field: &'static str,
        /// The tensor.
        name: String,
        /// The model's shape.
        want: SpecShape,
        /// The configuration's, batch dimension included.
        got: SpecShape,
        /// Whether `max_batch_size` is above 0.
        batched: bool,
    },
    /// `dims` and `reshape` cannot hold the same elements.
    #[error(
        "field `{field}.reshape`: `{name}` has dims {dims} and is to have {reshape}, which hold other numbers of elements"
    )]
    Reshape {
        /// `input` or `output`.
        field: &'static str,
        /// The tensor.
        name: String,
        /// As requests have it.
        dims: SpecShape,
        /// As the model has it.
        reshape: SpecShape,
    },
    /// A preferred size that no batch can have.
    #[error(
        "field `dynamic_batching.preferred_batch_size`: expected sizes from 1 to {max} (`max_batch_size`), got {got}"
    )]
    Preferred {
        /// The size.
        got: usize,
        /// `max_batch_size`.
        max: usize,
    },
    /// The configuration batches and the model cannot.
    #[error(
        "field `max_batch_size`: expected 0, got {got}: the first dimension of `{name}` is not free in the model's shape {shape}"
    )]
    NoBatchDimension {
        /// The configured size.
        got: usize,
        /// A tensor that cannot be batched.
        name: String,
        /// Its shape.
        shape: SpecShape,
    },
    /// A `parameters` entry of the scheduler is wrong.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

impl Coded for CompleteError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

/// Completes `config` from the model's signature and returns it with the shapes that requests are
/// held against. With `auto` off nothing is taken from the model but the shapes' check.
///
/// # Errors
/// [`CompleteError`] where the two contradict one another.
pub fn complete(
    mut config: ModelConfig,
    signature: &Signature,
    auto: bool,
) -> Result<(ModelConfig, ModelSpec), CompleteError> {
    if config.inputs.is_empty() || config.outputs.is_empty() {
        if auto {
            fill(&mut config, signature);
        } else {
            check_given(&config, signature)?;
        }
    }
    let max = *config.max_batch_size.get_or_insert(0);
    normalize(&mut config);
    if max > 0 {
        check_batches(signature, max)?;
    }
    let inputs = specs("input", &config.inputs, &signature.inputs, max > 0)?;
    let missing =
        signature.inputs.iter().find(|s| !inputs.iter().any(|i| i.request.name == s.name));
    if let Some(missing) = missing {
        return Err(CompleteError::Unlisted { name: missing.name.to_string() });
    }
    let outputs = specs("output", &config.outputs, &signature.outputs, max > 0)?;
    let padding = Padding::of(&config, &inputs, &outputs)?;
    // A request larger than a batch is split where requests are put together; answers that come one
    // by one cannot be put together again.
    let splits = config.dynamic_batching.is_some() && !config.is_decoupled();
    let spec = ModelSpec {
        model: Arc::from(config.name.as_str()),
        inputs,
        outputs,
        max_batch_size: max,
        max_rows: if splits { max.saturating_mul(SPLIT_MAX) } else { max },
        padding,
    };
    check_preferred(&config, max)?;
    Ok((config, spec))
}

/// What Triton fills in of every configuration, whatever its model.
fn normalize(config: &mut ModelConfig) {
    let max = config.max_batch_size.unwrap_or(0);
    if let Some(batching) = &mut config.dynamic_batching
        && batching.preferred_batch_sizes.is_empty()
        && max > 0
    {
        batching.preferred_batch_sizes.push(max);
    }
    if let Some(sequence) = &mut config.sequence_batching {
        if sequence.max_sequence_idle.is_zero() {
            sequence.max_sequence_idle = SEQUENCE_IDLE;
        }
        if let Some(oldest) = &mut sequence.oldest
            && oldest.preferred_batch_sizes.is_empty()
            && max > 0
        {
            oldest.preferred_batch_sizes.extend(i32::try_from(max));
        }
    }
    if config.is_ensemble() {
        return;
    }
    let optimization = config.optimization.get_or_insert_with(Optimization::default);
    optimization.input_pinned_memory.get_or_insert(PinnedMemory { enable: true });
    optimization.output_pinned_memory.get_or_insert(PinnedMemory { enable: true });
    if config.instance_groups.is_empty() {
        let name = config.name.clone();
        config.instance_groups.push(InstanceGroup { name, ..InstanceGroup::default() });
    }
    for (at, group) in config.instance_groups.iter_mut().enumerate() {
        if group.name.is_empty() {
            group.name = format!("{}_{at}", config.name);
        }
        if group.kind == InstanceKind::Auto {
            group.kind = InstanceKind::Cpu;
        }
        group.count = group.count.max(1);
    }
}

fn check_preferred(config: &ModelConfig, max: usize) -> Result<(), CompleteError> {
    let preferred = config.dynamic_batching.iter().flat_map(|b| &b.preferred_batch_sizes);
    match preferred.copied().find(|size| max > 0 && !(1..=max).contains(size)) {
        Some(got) => Err(CompleteError::Preferred { got, max }),
        None => Ok(()),
    }
}

fn fill(config: &mut ModelConfig, signature: &Signature) {
    let batches = all(signature).all(|s| s.shape.0.first() == Some(&-1));
    if batches && (config.max_batch_size.is_some() || !lists_batch_dimension(config, signature)) {
        let max = *config.max_batch_size.get_or_insert(DEFAULT_MAX_BATCH_SIZE);
        if max > 1 && config.dynamic_batching.is_none() {
            config.dynamic_batching = Some(DynamicBatching::default());
        }
    }
    let skip = usize::from(config.max_batch_size.unwrap_or(0) > 0);
    if config.inputs.is_empty() {
        config.inputs = signature.inputs.iter().map(|s| tensor(s, skip)).collect();
    }
    if config.outputs.is_empty() {
        config.outputs = signature.outputs.iter().map(|s| tensor(s, skip)).collect();
    }
}

/// Whether a tensor is listed with as many dimensions as the model has, so that none is left to be
/// the batch's.
fn lists_batch_dimension(config: &ModelConfig, signature: &Signature) -> bool {
    fn listed(tensor: &impl TensorConfig) -> (String, usize) {
        (tensor.name().to_owned(), tensor.reshape().unwrap_or_else(|| tensor.dims()).len())
    }
    let inputs = config.inputs.iter().map(listed);
    inputs
        .chain(config.outputs.iter().map(listed))
        .any(|(name, rank)| all(signature).any(|s| *s.name == *name && s.shape.0.len() == rank))
}

/// A tensor as the model has it. One value per row is shown as one column, as Triton shows it.
fn tensor<T: TensorConfig>(spec: &TensorSpec, skip: usize) -> T {
    let own = spec.shape.0.get(skip..).unwrap_or_default();
    let column = own.is_empty() && skip > 0;
    let (dims, reshape) = if column { (&[1][..], Some(own)) } else { (own, None) };
    T::of(spec.name.to_string(), spec.dtype, dims, reshape)
}

fn all(signature: &Signature) -> impl Iterator<Item = &TensorSpec> {
    signature.inputs.iter().chain(&signature.outputs)
}

fn check_given(config: &ModelConfig, signature: &Signature) -> Result<(), CompleteError> {
    if config.inputs.is_empty() && !signature.inputs.is_empty() {
        return Err(CompleteError::Missing { field: "input" });
    }
    if config.outputs.is_empty() && !signature.outputs.is_empty() {
        return Err(CompleteError::Missing { field: "output" });
    }
    Ok(())
}

fn check_batches(signature: &Signature, max: usize) -> Result<(), CompleteError> {
    match all(signature).find(|s| s.shape.0.first() != Some(&-1)) {
        None => Ok(()),
        Some(spec) => Err(CompleteError::NoBatchDimension {
            got: max,
            name: spec.name.to_string(),
            shape: spec.shape.clone(),
        }),
    }
}

/// The configured tensors with the model's batch dimension, in the model's order.
fn specs(
    field: &'static str,
    configured: &[impl TensorConfig],
    signature: &[TensorSpec],
    batched: bool,
) -> Result<Vec<PortSpec>, CompleteError> {
    let mut specs = Vec::new();
    for tensor in configured {
        let at = signature.iter().position(|s| *s.name == *tensor.name()).ok_or_else(|| {
            let has: Vec<_> = signature.iter().map(|s| format!("`{}`", s.name)).collect();
            CompleteError::Unknown { field, name: tensor.name().to_owned(), has: has.join(", ") }
        })?;
        if specs.iter().any(|(other, _)| *other == at) {
            return Err(CompleteError::Twice { field, name: tensor.name().to_owned() });
        }
        specs.push((at, port(field, tensor, &signature[at], batched)?));
    }
    specs.sort_by_key(|(at, _)| *at);
    Ok(specs.into_iter().map(|(_, spec)| spec).collect())
}

fn port(
    field: &'static str,
    tensor: &impl TensorConfig,
    model: &TensorSpec,
    batched: bool,
) -> Result<PortSpec, CompleteError> {
    if let Some(got) = tensor.data_type().filter(|got| *got != model.dtype) {
        let name = tensor.name().to_owned();
        return Err(CompleteError::DataType { field, name, want: model.dtype, got });
    }
    let full = |dims: &[i64]| {
        let batch = if batched { &[-1][..] } else { &[] };
        SpecShape(batch.iter().chain(dims).copied().collect())
    };
    let dims = tensor.dims();
    let reshape = match tensor.reshape() {
        Some(reshape) if !same_elements(&dims, &reshape) => {
            return Err(CompleteError::Reshape {
                field,
                name: tensor.name().to_owned(),
                dims: SpecShape(dims),
                reshape: SpecShape(reshape),
            });
        }
        other => other.as_deref().map(full),
    };
    let request = full(&dims);
    let inside = reshape.as_ref().unwrap_or(&request);
    let same = |(a, b): (&i64, &i64)| a == b || *a < 0 || *b < 0;
    if inside.0.len() != model.shape.0.len() || !inside.0.iter().zip(&model.shape.0).all(same) {
        return Err(CompleteError::Dims {
            field,
            name: tensor.name().to_owned(),
            want: model.shape.clone(),
            got: inside.clone(),
            batched,
        });
    }
    let request = TensorSpec { name: model.name.clone(), dtype: model.dtype, shape: request };
    Ok(PortSpec { request, reshape })
}

/// Whether two lists of dimensions have as many free ones, and the same product of the others.
fn same_elements(a: &[i64], b: &[i64]) -> bool {
    let free = |dims: &[i64]| dims.iter().filter(|d| **d < 0).count();
    let product = |dims: &[i64]| {
        dims.iter().filter(|d| **d >= 0).try_fold(1i64, |product, d| product.checked_mul(*d))
    };
    free(a) == free(b) && product(a).is_some() && product(a) == product(b)
}

#[cfg(test)]
mod tests;

//! Holding a request against the model it is for, before anything is queued or computed.

use std::sync::Arc;

use mizzen_runtime_api::TensorSpec;
use mizzen_types::{
    Coded, DataType, ErrorCode, NamedTensor, Shape, SpecShape, Tensor, TensorError,
};

use crate::{Bucket, Padding, RequestedOutput};

/// What requests for one model are held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// The model's name.
    pub model: Arc<str>,
    /// Inputs in the model's order.
    pub inputs: Vec<PortSpec>,
    /// Outputs, likewise.
    pub outputs: Vec<PortSpec>,
    /// The most rows of one batch; 0 for a model without a batch dimension.
    pub max_batch_size: usize,
    /// The most rows of one request, where the model batches: those of a batch, or of
    /// [`SPLIT_MAX`] batches if larger requests are split.
    pub max_rows: usize,
    /// What may be padded so that different lengths share a batch.
    pub padding: Option<Padding>,
}

/// Batches that one request may be split into. A bound, since rows of no elements cost their sender
/// nothing; far above what fits into the default limit on bodies.
pub const SPLIT_MAX: usize = 1024;

/// One input or output, outside and inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// As requests and responses have it, batch dimension included where the model batches.
    pub request: TensorSpec,
    /// Its shape in the model, where that differs.
    pub reshape: Option<SpecShape>,
}

impl PortSpec {
    /// A tensor from the request's shape to the model's.
    ///
    /// # Errors
    /// [`TensorError`] if the model's shape does not hold its elements.
    fn inward(&self, tensor: Tensor) -> Result<Tensor, TensorError> {
        match &self.reshape {
            Some(model) => reshape(tensor, &self.request.shape, model),
            None => Ok(tensor),
        }
    }

    /// A tensor from the model's shape to the response's; the bytes are shared.
    ///
    /// # Errors
    /// [`TensorError`] if the model's answer does not fit the response's shape.
    pub fn outward(&self, tensor: Tensor) -> Result<Tensor, TensorError> {
        match &self.reshape {
            Some(model) => reshape(tensor, model, &self.request.shape),
            None => Ok(tensor),
        }
    }
}

/// The tensor in the shape `to`, whose free dimensions are those of `from`, in order.
fn reshape(tensor: Tensor, from: &SpecShape, to: &SpecShape) -> Result<Tensor, TensorError> {
    let dims = from.0.iter().zip(tensor.shape().dims());
    let mut free = dims.filter(|(spec, _)| **spec < 0).map(|(_, dim)| *dim);
    let dims: Vec<usize> =
        to.0.iter()
            .map(|spec| usize::try_from(*spec).unwrap_or_else(|_| free.next().unwrap_or(1)))
            .collect();
    Tensor::new(tensor.dtype(), Shape::new(dims)?, tensor.data().clone())
}

/// A request that fits its model.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Its inputs, in the model's order and, where it differs from the request's, its shape.
    pub inputs: Vec<NamedTensor>,
    /// Its rows; 1 for a model without a batch dimension.
    pub rows: usize,
    /// What it may share a batch with.
    pub bucket: Bucket,
    /// Its size in the dimensions that may be padded; 0 where none may.
    pub length: usize,
    /// Elements of one of its rows, in all inputs together.
    pub volume: u64,
    /// The outputs asked for, in the order asked, by their place in [`ModelSpec::outputs`]; all of
    /// them if none were named.
    pub outputs: Vec<usize>,
}

/// Why a request does not fit its model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum ValidateError {
    #[error("model `{model}` has no input `{input}`; it takes {has}")]
    UnknownInput { model: Arc<str>, input: Arc<str>, has: String },
    #[error("input `{input}` of model `{model}` is missing")]
    MissingInput { model: Arc<str>, input: Arc<str> },
    #[error("input `{input}` of model `{model}` is given twice")]
    DuplicateInput { model: Arc<str>, input: Arc<str> },
    #[error("input `{input}` of model `{model}` has datatype {got}; it takes {want}")]
    DataType { model: Arc<str>, input: Arc<str>, got: DataType, want: DataType },
    #[error("input `{input}` of model `{model}` has shape {got}; it takes {want} (-1 is any)")]
    Shape { model: Arc<str>, input: Arc<str>, got: Shape, want: SpecShape },
    #[error("input `{input}` of model `{model}` has {got} rows; input `{other}` has {want}")]
    Rows { model: Arc<str>, input: Arc<str>, got: usize, other: Arc<str>, want: usize },
    #[error("the request for model `{model}` has 0 rows; it takes 1 to {max} (`max_batch_size`)")]
    NoRows { model: Arc<str>, max: usize },
    #[error(
        "the request for model `{model}` has {rows} rows; it takes at most {max} (`max_batch_size`{})",
        if *.splits { ", 1024 times" } else { "; with `dynamic_batching` larger requests are split" }
    )]
    TooManyRows { model: Arc<str>, rows: usize, max: usize, splits: bool },
    #[error("input `{input}` of model `{model}` cannot be reshaped for the model")]
    Reshape { model: Arc<str>, input: Arc<str>, source: TensorError },
    #[error("model `{model}` has no output `{output}`; it gives {has}")]
    UnknownOutput { model: Arc<str>, output: Arc<str>, has: String },
    #[error("output `{output}` of model `{model}` is asked for twice")]
    DuplicateOutput { model: Arc<str>, output: Arc<str> },
}

impl Coded for ValidateError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

impl ModelSpec {
    /// Checks a request's inputs and the outputs it asks for.
    ///
    /// # Errors
    /// [`ValidateError`] naming the model and the tensor, what was expected and what came.
    pub fn admit(
        &self,
        inputs: Vec<NamedTensor>,
        outputs: &[RequestedOutput],
    ) -> Result<Admitted, ValidateError> {
        let inputs = self.in_order(inputs)?;
        for (input, spec) in inputs.iter().zip(&self.inputs) {
            self.check(input, &spec.request)?;
        }
        let rows = self.rows(&inputs)?;
        let wanted = self.wanted(outputs)?;
        let length = self.padding.as_ref().and_then(|p| p.length(&inputs)).unwrap_or(0);
        let bucket = self.bucket(&inputs, &wanted, length > 0);
        let elements = inputs.iter().map(|i| i.tensor.shape().elements() as u64);
        let volume = elements.fold(0u64, u64::saturating_add) / rows as u64;
        let inputs = self.inward(inputs)?;
        Ok(Admitted { inputs, rows, bucket, length, volume, outputs: wanted })
    }

    fn inward(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, ValidateError> {
        if self.inputs.iter().all(|port| port.reshape.is_none()) {
            return Ok(inputs);
        }
        let inputs =
            inputs.into_iter().zip(&self.inputs).map(|(NamedTensor { name, tensor }, port)| {
                let tensor = port.inward(tensor).map_err(|source| ValidateError::Reshape {
                    model: self.model.clone(),
                    input: name.clone(),
                    source,
                })?;
                Ok(NamedTensor { name, tensor })
            });
        inputs.collect()
    }

    fn in_order(&self, mut inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, ValidateError> {
        let names = |i: &[NamedTensor]| i.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
        let sorted = inputs.len() == self.inputs.len()
            && inputs.iter().zip(&self.inputs).all(|(input, port)| input.name == port.request.name);
        if sorted {
            return Ok(inputs);
        }
        let given = names(&inputs);
        for (at, name) in given.iter().enumerate() {
            if !self.inputs.iter().any(|port| port.request.name == *name) {
                let (model, has) = (self.model.clone(), list(&self.inputs));
                return Err(ValidateError::UnknownInput { model, input: name.clone(), has });
            }
            if given[..at].contains(name) {
                let (model, input) = (self.model.clone(), name.clone());
                return Err(ValidateError::DuplicateInput { model, input });
            }
        }
        let mut ordered = Vec::with_capacity(inputs.len());
        for spec in self.inputs.iter().map(|port| &port.request) {
            let at = inputs.iter().position(|i| i.name == spec.name).ok_or_else(|| {
                let (model, input) = (self.model.clone(), spec.name.clone());
                ValidateError::MissingInput { model, input }
            })?;
            ordered.push(inputs.swap_remove(at));
        }
        Ok(ordered)
    }

    fn check(&self, input: &NamedTensor, spec: &TensorSpec) -> Result<(), ValidateError> {
        let (model, name) = (|| self.model.clone(), || spec.name.clone());
        let (got, want) = (input.tensor.dtype(), spec.dtype);
        if got != want {
            return Err(ValidateError::DataType { model: model(), input: name(), got, want });
        }
        if !spec.shape.accepts(input.tensor.shape()) {
            let (got, want) = (input.tensor.shape().clone(), spec.shape.clone());
            return Err(ValidateError::Shape { model: model(), input: name(), got, want });
        }
        Ok(())
    }

    fn rows(&self, inputs: &[NamedTensor]) -> Result<usize, ValidateError> {
        let max = self.max_batch_size;
        let Some(first) = inputs.first().filter(|_| max > 0) else { return Ok(1) };
        let rows = |input: &NamedTensor| input.tensor.shape().rows().unwrap_or(0);
        let want = rows(first);
        if let Some(odd) = inputs.iter().find(|input| rows(input) != want) {
            return Err(ValidateError::Rows {
                model: self.model.clone(),
                input: odd.name.clone(),
                got: rows(odd),
                other: first.name.clone(),
                want,
            });
        }
        match want {
            0 => Err(ValidateError::NoRows { model: self.model.clone(), max }),
            rows if rows > self.max_rows => {
                let max = self.max_rows;
                let splits = max > self.max_batch_size;
                Err(ValidateError::TooManyRows { model: self.model.clone(), rows, max, splits })
            }
            rows => Ok(rows),
        }
    }

    fn wanted(&self, outputs: &[RequestedOutput]) -> Result<Vec<usize>, ValidateError> {
        if outputs.is_empty() {
            return Ok((0..self.outputs.len()).collect());
        }
        let mut wanted = Vec::with_capacity(outputs.len());
        for output in outputs {
            let at = self.outputs.iter().position(|o| o.request.name == output.name).ok_or_else(
                || ValidateError::UnknownOutput {
                    model: self.model.clone(),
                    output: output.name.clone(),
                    has: list(&self.outputs),
                },
            )?;
            if wanted.contains(&at) {
                let (model, output) = (self.model.clone(), output.name.clone());
                return Err(ValidateError::DuplicateOutput { model, output });
            }
            wanted.push(at);
        }
        Ok(wanted)
    }

    /// Sizes of the free dimensions, one that is padded as `u64::MAX`, which no size is; then,
    /// unless all are wanted, the outputs. How many free dimensions there are is the model's, so
    /// the two cannot be confused.
    fn bucket(&self, inputs: &[NamedTensor], wanted: &[usize], padded: bool) -> Bucket {
        let mut key = Vec::new();
        let padding = self.padding.as_ref().filter(|_| padded);
        for (at, (input, spec)) in inputs.iter().zip(&self.inputs).enumerate() {
            let dims = spec.request.shape.0.iter().zip(input.tensor.shape().dims());
            let free = dims.enumerate().skip(1).filter(|(_, (want, _))| **want < 0);
            key.extend(free.map(|(dim, (_, got))| {
                if padding.is_some_and(|p| p.covers(at, dim)) { u64::MAX } else { *got as u64 }
            }));
        }
        if wanted.len() < self.outputs.len() {
            let mut outputs: Vec<u64> = wanted.iter().map(|at| *at as u64).collect();
            outputs.sort_unstable();
            key.extend(outputs);
        }
        Bucket(key)
    }
}

fn list(specs: &[PortSpec]) -> String {
    if specs.is_empty() {
        return "none".to_owned();
    }
    specs.iter().map(|s| format!("`{}`", s.request.name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;

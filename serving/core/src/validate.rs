//! Holding a request against the model it is for, before anything is queued or computed.

use std::sync::Arc;

use mizzen_runtime_api::TensorSpec;
use mizzen_types::{Coded, DataType, ErrorCode, NamedTensor, Shape, SpecShape};

use crate::{Bucket, RequestedOutput};

/// What requests for one model are held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// The model's name.
    pub model: Arc<str>,
    /// Inputs in the model's order, batch dimension included where it batches.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, likewise.
    pub outputs: Vec<TensorSpec>,
    /// The most rows of one request; 0 for a model without a batch dimension.
    pub max_batch_size: usize,
}

/// A request that fits its model.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Its inputs, in the model's order.
    pub inputs: Vec<NamedTensor>,
    /// Its rows; 1 for a model without a batch dimension.
    pub rows: usize,
    /// What it may share a batch with.
    pub bucket: Bucket,
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
        "the request for model `{model}` has {rows} rows; it takes at most {max} (`max_batch_size`)"
    )]
    TooManyRows { model: Arc<str>, rows: usize, max: usize },
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
            self.check(input, spec)?;
        }
        let rows = self.rows(&inputs)?;
        let wanted = self.wanted(outputs)?;
        let bucket = self.bucket(&inputs, &wanted);
        Ok(Admitted { inputs, rows, bucket, outputs: wanted })
    }

    fn in_order(&self, mut inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, ValidateError> {
        let names = |i: &[NamedTensor]| i.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
        let sorted = inputs.len() == self.inputs.len()
            && inputs.iter().zip(&self.inputs).all(|(input, spec)| input.name == spec.name);
        if sorted {
            return Ok(inputs);
        }
        let given = names(&inputs);
        for (at, name) in given.iter().enumerate() {
            if !self.inputs.iter().any(|spec| spec.name == *name) {
                let (model, has) = (self.model.clone(), list(&self.inputs));
                return Err(ValidateError::UnknownInput { model, input: name.clone(), has });
            }
            if given[..at].contains(name) {
                let (model, input) = (self.model.clone(), name.clone());
                return Err(ValidateError::DuplicateInput { model, input });
            }
        }
        let mut ordered = Vec::with_capacity(inputs.len());
        for spec in &self.inputs {
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
            rows if rows > max => {
                Err(ValidateError::TooManyRows { model: self.model.clone(), rows, max })
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
            let at = self.outputs.iter().position(|o| o.name == output.name).ok_or_else(|| {
                ValidateError::UnknownOutput {
                    model: self.model.clone(),
                    output: output.name.clone(),
                    has: list(&self.outputs),
                }
            })?;
            if wanted.contains(&at) {
                let (model, output) = (self.model.clone(), output.name.clone());
                return Err(ValidateError::DuplicateOutput { model, output });
            }
            wanted.push(at);
        }
        Ok(wanted)
    }

    /// Sizes of the free dimensions, then, unless all are wanted, the outputs. How many free
    /// dimensions there are is the model's, so the two cannot be confused.
    fn bucket(&self, inputs: &[NamedTensor], wanted: &[usize]) -> Bucket {
        let mut key = Vec::new();
        for (input, spec) in inputs.iter().zip(&self.inputs) {
            let free = spec.shape.0.iter().zip(input.tensor.shape().dims()).skip(1);
            key.extend(free.filter(|(want, _)| **want < 0).map(|(_, got)| *got as u64));
        }
        if wanted.len() < self.outputs.len() {
            let mut outputs: Vec<u64> = wanted.iter().map(|at| *at as u64).collect();
            outputs.sort_unstable();
            key.extend(outputs);
        }
        Bucket(key)
    }
}

fn list(specs: &[TensorSpec]) -> String {
    if specs.is_empty() {
        return "none".to_owned();
    }
    specs.iter().map(|s| format!("`{}`", s.name)).collect::<Vec<_>>().join(", ")
}

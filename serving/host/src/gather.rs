//! From requests to one batch and from its outputs back to the requests.
//!
//! The gather is the only copy of input data; a batch of one request is not copied at all. The
//! scatter slices, and copies only what was padded. The buffers of a gathered batch go back to a
//! [`Spare`] after the run, so that memory is not asked for, and faulted in, for each batch.
//!
//! Invariant: a request gets the rows that stand where its own were put, or an error; outputs with
//! any other row count than the batch's, or any other length, are never handed out.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use mizzen_serving_core::{PadFill, PaddedInput, Padding};
use mizzen_types::{DataType, ErrorCode, NamedTensor, Shape, Tensor, TensorError};

use crate::ServeError;

/// Bytes that an instance keeps for its next batches; more is given back.
const SPARE_MAX: usize = 64 << 20;

/// Buffers of batches that have run.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    buffers: Vec<BytesMut>,
    bytes: usize,
}

impl Spare {
    /// An empty buffer with room for this many bytes.
    fn take(&mut self, bytes: usize) -> BytesMut {
        match self.buffers.iter().position(|buffer| buffer.capacity() >= bytes) {
            Some(at) => {
                let buffer = self.buffers.swap_remove(at);
                self.bytes -= buffer.capacity();
                buffer
            }
            None => BytesMut::with_capacity(bytes),
        }
    }

    /// Takes back what [`gather`] made, as far as nobody else holds it.
    pub(crate) fn give_back(&mut self, inputs: Vec<NamedTensor>) {
        for input in inputs {
            let Ok(mut buffer) = input.tensor.into_data().try_into_mut() else { continue };
            buffer.clear();
            if buffer.capacity() + self.bytes <= SPARE_MAX {
                self.bytes += buffer.capacity();
                self.buffers.push(buffer);
            }
        }
    }
}

/// The batch's inputs from the requests' (each in the model's order; equal but for their rows, and
/// for what `padding` makes `length` long).
pub(crate) fn gather(
    mut requests: Vec<Vec<NamedTensor>>,
    padding: Option<(&Padding, usize)>,
    spare: &mut Spare,
) -> Result<Vec<NamedTensor>, TensorError> {
    if requests.len() == 1 {
        return Ok(requests.swap_remove(0));
    }
    let inputs = requests.first().map_or(0, Vec::len);
    let one = |at: usize| {
        let parts: Vec<_> = requests.iter().map(|r| &r[at]).collect();
        let padded = padding.and_then(|(p, length)| Some((p.inputs[at].as_ref()?, length)));
        match padded {
            Some((input, length)) => pad(&parts, input, length, spare),
            None => concatenate(&parts, spare),
        }
    };
    (0..inputs).map(one).collect()
}

/// One input of the batch from that input of each request, in order.
fn concatenate(parts: &[&NamedTensor], spare: &mut Spare) -> Result<NamedTensor, TensorError> {
    let first = parts[0];
    let mut data = spare.take(parts.iter().map(|p| p.tensor.data().len()).sum());
    for part in parts {
        data.extend_from_slice(part.tensor.data());
    }
    let shape = first.tensor.shape().with_rows(rows(parts))?;
    let tensor = Tensor::new(first.tensor.dtype(), shape, data.freeze())?;
    Ok(NamedTensor { name: first.name.clone(), tensor })
}

/// The same, each request's made `length` long in one dimension.
fn pad(
    parts: &[&NamedTensor],
    PaddedInput { dim, fill: PadFill(fill) }: &PaddedInput,
    length: usize,
    spare: &mut Spare,
) -> Result<NamedTensor, TensorError> {
    let first = &parts[0].tensor;
    let mut dims = first.shape().dims().to_vec();
    (dims[0], dims[*dim]) = (rows(parts), length);
    let shape = Shape::new(dims)?;
    let own: usize = parts.iter().map(|p| p.tensor.shape().elements()).sum();
    let bytes: usize = parts.iter().map(|p| p.tensor.data().len()).sum();
    let mut data = spare.take(bytes + shape.elements().saturating_sub(own) * fill.len());
    for part in parts {
        let lines = Lines::of(&part.tensor, *dim);
        let missing = length.saturating_sub(lines.length) * lines.inner;
        for line in lines {
            data.extend_from_slice(line);
            match fill.iter().all(|byte| *byte == 0) {
                true => data.put_bytes(0, missing * fill.len()),
                false => (0..missing).for_each(|_| data.extend_from_slice(fill)),
            }
        }
    }
    let tensor = Tensor::new(first.dtype(), shape, data.freeze())?;
    Ok(NamedTensor { name: parts[0].name.clone(), tensor })
}

/// A tensor cut back to `length` in one dimension.
fn trim(tensor: &Tensor, dim: usize, length: usize) -> Result<Tensor, TensorError> {
    let mut dims = tensor.shape().dims().to_vec();
    dims[dim] = length;
    let shape = Shape::new(dims)?;
    let mut data = BytesMut::new();
    let lines = Lines::of(tensor, dim);
    let keep = length * lines.inner;
    for line in lines {
        data.extend_from_slice(&line[..first_bytes(tensor.dtype(), line, keep)]);
    }
    Tensor::new(tensor.dtype(), shape, data.freeze())
}

/// The bytes of the first `elements` elements.
fn first_bytes(dtype: DataType, bytes: &[u8], elements: usize) -> usize {
    match dtype.size() {
        Some(size) => elements * size,
        None => {
            let mut at = 0;
            for _ in 0..elements {
                let Some(head) = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>) else { break };
                at += 4 + u32::from_le_bytes(*head) as usize;
            }
            at.min(bytes.len())
        }
    }
}

/// A tensor's bytes in runs over one dimension and all after it: what stands between two places in
/// the dimensions before it.
struct Lines<'a> {
    rest: &'a [u8],
    dtype: DataType,
    /// Its size in that dimension, and elements of all dimensions after it.
    length: usize,
    inner: usize,
    left: usize,
}

impl<'a> Lines<'a> {
    fn of(tensor: &'a Tensor, dim: usize) -> Self {
        let dims = tensor.shape().dims();
        Self {
            rest: tensor.data(),
            dtype: tensor.dtype(),
            length: dims[dim],
            inner: dims[dim + 1..].iter().product(),
            left: dims[..dim].iter().product(),
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let bytes = first_bytes(self.dtype, self.rest, self.length * self.inner);
        let (line, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(line)
    }
}

fn rows(parts: &[&NamedTensor]) -> usize {
    parts.iter().map(|p| p.tensor.shape().rows().unwrap_or(0)).sum()
}

/// Outputs of consecutive rows as one; those of a single part are not copied.
pub(crate) fn join(parts: Vec<Vec<NamedTensor>>) -> Result<Vec<NamedTensor>, TensorError> {
    gather(parts, None, &mut Spare::default())
}

/// What one request takes from the batch's outputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share<'a> {
    /// Its rows.
    pub(crate) rows: usize,
    /// Its length, where the batch was padded.
    pub(crate) length: usize,
    /// Its outputs, in the order asked, by their place in the batch's outputs.
    pub(crate) outputs: &'a [usize],
}

/// Checks that the engine gave what it was asked for, with as many rows as it was given (`None`
/// for a model without a batch dimension).
pub(crate) fn check_outputs(
    model: &str,
    outputs: &[NamedTensor],
    wanted: &[Arc<str>],
    rows: Option<usize>,
) -> Result<(), ServeError> {
    let wrong = |message: String| ServeError::new(ErrorCode::Internal, message);
    if !outputs.iter().map(|o| &o.name).eq(wanted) {
        let names: Vec<_> = outputs.iter().map(|o| &*o.name).collect();
        return Err(wrong(format!(
            "model `{model}` returned outputs {names:?}; asked for {wanted:?}"
        )));
    }
    let Some(rows) = rows else { return Ok(()) };
    for output in outputs {
        if output.tensor.shape().rows() != Some(rows) {
            let got = output.tensor.shape().rows().unwrap_or(0);
            let name = &output.name;
            return Err(wrong(format!(
                "model `{model}` returned {got} rows for {rows} in output `{name}`"
            )));
        }
    }
    Ok(())
}

/// Checks that every output that is to be cut back is as long as the batch was padded to;
/// `dims` says which dimension of which of them that is.
pub(crate) fn check_lengths(
    model: &str,
    outputs: &[NamedTensor],
    dims: &[Option<usize>],
    length: usize,
) -> Result<(), ServeError> {
    for (NamedTensor { name, tensor }, dim) in outputs.iter().zip(dims) {
        let got = dim.map(|dim| tensor.shape().dims().get(dim).copied().unwrap_or(0));
        if let Some(got) = got.filter(|got| *got != length) {
            let message = format!(
                "model `{model}` returned a length of {got} for {length} in output `{name}`, which `padding_outputs` says follows its inputs"
            );
            return Err(ServeError::new(ErrorCode::Internal, message));
        }
    }
    Ok(())
}

/// Each request's outputs, from outputs that [`check_outputs`] has passed; with the dimensions that
/// are cut back to each one's length (of outputs that [`check_lengths`] has passed), if the batch
/// was padded.
pub(crate) fn scatter(
    outputs: &[NamedTensor],
    shares: &[Share<'_>],
    padded: Option<(&[Option<usize>], usize)>,
) -> Vec<Result<Vec<NamedTensor>, TensorError>> {
    if let [share] = shares {
        return vec![Ok(share.outputs.iter().map(|at| outputs[*at].clone()).collect())];
    }
    let mut start = 0;
    shares
        .iter()
        .map(|share| {
            let from = start;
            start += share.rows;
            let slice = |at: &usize| {
                let NamedTensor { name, tensor } = &outputs[*at];
                let mut tensor = tensor.slice_rows(from, share.rows)?;
                if let Some((dims, length)) = padded
                    && let Some(dim) = dims[*at]
                    && share.length < length
                {
                    tensor = trim(&tensor, dim, share.length)?;
                }
                Ok(NamedTensor { name: name.clone(), tensor })
            };
            share.outputs.iter().map(slice).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests;

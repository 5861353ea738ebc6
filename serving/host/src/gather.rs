//! From requests to one batch and from its outputs back to the requests.
//!
//! The gather is the only copy of input data; a batch of one request is not copied at all. The
//! scatter slices. Invariant: a request gets the rows that stand where its own were put, or an
//! error; outputs with any other row count than the batch's are never handed out.

use std::sync::Arc;

use bytes::BytesMut;
use mizzen_types::{ErrorCode, NamedTensor, Tensor, TensorError};

use crate::ServeError;

/// One input of the batch from that input of each request, in order.
///
/// # Errors
/// [`TensorError`] if the sum of the rows is no shape.
fn concatenate(parts: &[&NamedTensor]) -> Result<NamedTensor, TensorError> {
    let first = parts[0];
    let rows = parts.iter().map(|p| p.tensor.shape().rows().unwrap_or(0)).sum();
    let mut data = BytesMut::with_capacity(parts.iter().map(|p| p.tensor.data().len()).sum());
    for part in parts {
        data.extend_from_slice(part.tensor.data());
    }
    let shape = first.tensor.shape().with_rows(rows)?;
    let tensor = Tensor::new(first.tensor.dtype(), shape, data.freeze())?;
    Ok(NamedTensor { name: first.name.clone(), tensor })
}

/// The batch's inputs from the requests' (each in the model's order; equal but for their rows).
pub(crate) fn gather(mut requests: Vec<Vec<NamedTensor>>) -> Result<Vec<NamedTensor>, TensorError> {
    if requests.len() == 1 {
        return Ok(requests.swap_remove(0));
    }
    let inputs = requests.first().map_or(0, Vec::len);
    (0..inputs)
        .map(|at| concatenate(&requests.iter().map(|r| &r[at]).collect::<Vec<_>>()))
        .collect()
}

/// What one request takes from the batch's outputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share<'a> {
    /// Its rows.
    pub(crate) rows: usize,
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

/// Each request's outputs, from outputs that [`check_outputs`] has passed.
pub(crate) fn scatter(
    outputs: &[NamedTensor],
    shares: &[Share<'_>],
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
                Ok(NamedTensor { name: name.clone(), tensor: tensor.slice_rows(from, share.rows)? })
            };
            share.outputs.iter().map(slice).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use mizzen_types::{DataType, Shape, encode_bytes_elements};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::fp32;

    fn bytes(name: &str, rows: &[Vec<u8>]) -> NamedTensor {
        let shape = Shape::new([rows.len(), 1]).unwrap();
        let tensor = Tensor::new(DataType::Bytes, shape, encode_bytes_elements(rows)).unwrap();
        NamedTensor { name: name.into(), tensor }
    }

    proptest! {
        #[test]
        fn what_is_gathered_and_scattered_is_each_requests_own(
            requests in prop::collection::vec(
                prop::collection::vec((any::<i16>(), prop::collection::vec(any::<u8>(), 0..5)), 1..4),
                1..6,
            ),
        ) {
            let inputs: Vec<Vec<NamedTensor>> = requests.iter().map(|rows| {
                let numbers: Vec<f32> = rows.iter().map(|(n, _)| f32::from(*n)).collect();
                let texts: Vec<Vec<u8>> = rows.iter().map(|(_, t)| t.clone()).collect();
                vec![fp32("a", &[rows.len(), 1], &numbers), bytes("b", &texts)]
            }).collect();
            let batch = gather(inputs.clone()).unwrap();
            let order = [1, 0];
            let shares: Vec<_> =
                requests.iter().map(|r| Share { rows: r.len(), outputs: &order }).collect();
            for (answer, input) in scatter(&batch, &shares).into_iter().zip(inputs) {
                let answer = answer.unwrap();
                prop_assert_eq!(&answer[0], &input[1]);
                prop_assert_eq!(&answer[1], &input[0]);
            }
        }
    }

    #[test]
    fn one_request_is_not_copied() {
        let input = fp32("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let batch = gather(vec![vec![input.clone()]]).unwrap();
        assert_eq!(batch[0].tensor.data().as_ptr(), input.tensor.data().as_ptr());
    }

    #[test]
    fn outputs_that_do_not_fit_the_batch_are_refused() {
        let out = [fp32("y", &[2, 1], &[1.0, 2.0])];
        let names: [Arc<str>; 1] = ["y".into()];
        assert!(check_outputs("m", &out, &names, Some(2)).is_ok());
        assert!(check_outputs("m", &out, &names, None).is_ok());
        let error = check_outputs("m", &out, &names, Some(3)).unwrap_err();
        assert_eq!(error.to_string(), "model `m` returned 2 rows for 3 in output `y`");
        let other: [Arc<str>; 1] = ["z".into()];
        assert!(check_outputs("m", &out, &other, Some(2)).is_err());
        assert!(check_outputs("m", &[], &names, Some(2)).is_err());
    }
}

//! The classification extension: an output given as its top classes instead of its elements.
//!
//! A class is the text `value:index`, or `value:index:label` where the model has labels
//! (`label_filename`): the forms of Triton's.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use mizzen_types::{DataType, Shape, Tensor, encode_bytes_elements};
use serde_json::Value;

use crate::{
    InferResponse, RequestedOutput,
    protocol::{ProtocolError, shown, whole},
};

/// Elements an output may have to be ranked: Triton's bound. Ranking runs on the thread that
/// answers, and this many take a few milliseconds.
const ELEMENTS_MAX: usize = 1_000_000;

/// The labels of a model's outputs, by output; index `i` has the label `i`, or none beyond the last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(BTreeMap<String, Vec<String>>);

impl Labels {
    /// Gives an output the labels of a file: one a line, empty ones included.
    pub fn insert(&mut self, output: &str, file: &str) {
        self.0.insert(output.to_owned(), file.lines().map(str::to_owned).collect());
    }

    fn of(&self, output: &str) -> &[String] {
        self.0.get(output).map_or(&[], Vec::as_slice)
    }
}

/// The outputs of a request that are wanted as classes, and how many of each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes(Vec<(Arc<str>, usize)>);

impl Classes {
    /// Takes `classification` out of the outputs' parameters; `None` if there is none.
    ///
    /// # Errors
    /// [`ProtocolError::Parameter`] if it is not a whole number above 0.
    pub fn take(outputs: &mut [RequestedOutput]) -> Result<Option<Self>, ProtocolError> {
        let mut wanted = Vec::new();
        for output in outputs {
            let Some(value) = output.parameters.remove("classification") else { continue };
            let count =
                whole(&value).filter(|n| *n > 0).ok_or_else(|| ProtocolError::Parameter {
                    name: "classification",
                    want: "a whole number of classes, 1 or more",
                    got: shown(&value),
                })?;
            wanted.push((output.name.clone(), usize::try_from(count).unwrap_or(usize::MAX)));
        }
        Ok((!wanted.is_empty()).then_some(Self(wanted)))
    }

    /// Puts the classes in the place of the outputs they were asked of. `config` is the model's
    /// configuration, which says whether the first dimension counts rows.
    ///
    /// # Errors
    /// [`ProtocolError::Classification`] for an output that cannot be ranked.
    pub fn apply(
        &self,
        config: &Value,
        labels: &Labels,
        response: &mut InferResponse,
    ) -> Result<(), ProtocolError> {
        let batches = config["max_batch_size"].as_i64().unwrap_or(0) > 0;
        for (name, count) in &self.0 {
            let refuse =
                |reason: String| ProtocolError::Classification { output: name.to_string(), reason };
            // An output the model lacks was refused when the request was checked.
            let Some(output) = response.outputs.iter_mut().find(|o| o.name == *name) else {
                continue;
            };
            output.tensor =
                top(&output.tensor, *count, batches, labels.of(name)).map_err(refuse)?;
        }
        Ok(())
    }
}

/// The top `count` classes of each row as BYTES `[rows, count]`; `[count]` if there are no rows.
fn top(tensor: &Tensor, count: usize, batches: bool, labels: &[String]) -> Result<Tensor, String> {
    let elements = tensor.shape().elements();
    if elements > ELEMENTS_MAX {
        return Err(format!("it has {elements} elements; at most {ELEMENTS_MAX} can be ranked"));
    }
    let rows = if batches { tensor.shape().rows().unwrap_or(1) } else { 1 };
    let width = elements.checked_div(rows).unwrap_or(0);
    let count = count.min(width);
    let values = Values::of(tensor)?;
    let mut classes = Vec::with_capacity(rows * count);
    for row in 0..rows {
        values.rank(row * width..(row + 1) * width, count, labels, &mut classes);
    }
    let dims = if batches { vec![rows, count] } else { vec![count] };
    let shape = Shape::new(dims).map_err(|e| e.to_string())?;
    Tensor::new(DataType::Bytes, shape, encode_bytes_elements(classes)).map_err(|e| e.to_string())
}

/// Elements widened to a type that holds them exactly.
enum Values {
    Whole(Vec<i128>),
    Real(Vec<f64>),
}

impl Values {
    fn of(tensor: &Tensor) -> Result<Self, String> {
        fn each<const N: usize, T>(tensor: &Tensor, read: impl Fn([u8; N]) -> T) -> Vec<T> {
            tensor.data().as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
        }
        Ok(match tensor.dtype() {
            DataType::Uint8 => Self::Whole(each(tensor, |b| u8::from_le_bytes(b).into())),
            DataType::Uint16 => Self::Whole(each(tensor, |b| u16::from_le_bytes(b).into())),
            DataType::Uint32 => Self::Whole(each(tensor, |b| u32::from_le_bytes(b).into())),
            DataType::Uint64 => Self::Whole(each(tensor, |b| u64::from_le_bytes(b).into())),
            DataType::Int8 => Self::Whole(each(tensor, |b| i8::from_le_bytes(b).into())),
            DataType::Int16 => Self::Whole(each(tensor, |b| i16::from_le_bytes(b).into())),
            DataType::Int32 => Self::Whole(each(tensor, |b| i32::from_le_bytes(b).into())),
            DataType::Int64 => Self::Whole(each(tensor, |b| i64::from_le_bytes(b).into())),
            DataType::Fp32 => Self::Real(each(tensor, |b| f32::from_le_bytes(b).into())),
            DataType::Fp64 => Self::Real(each(tensor, f64::from_le_bytes)),
            other => {
                return Err(format!(
                    "its datatype {other} has no order; ask for the output itself"
                ));
            }
        })
    }

    fn rank(
        &self,
        row: std::ops::Range<usize>,
        count: usize,
        labels: &[String],
        classes: &mut Vec<String>,
    ) {
        let mut push = |value: String, i: usize| {
            classes.push(match labels.get(i).filter(|label| !label.is_empty()) {
                Some(label) => format!("{value}:{i}:{label}"),
                None => format!("{value}:{i}"),
            });
        };
        match self {
            Self::Whole(values) => {
                best(&values[row], count, Ord::cmp, |value, i| push(value.to_string(), i));
            }
            // Six decimals, as Triton prints them.
            Self::Real(values) => best(&values[row], count, descending_last_nan, |value, i| {
                push(format!("{value:.6}"), i);
            }),
        }
    }
}

/// Orders numbers as usual and puts NaN below all of them.
fn descending_last_nan(a: &f64, b: &f64) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// Visits the `count` largest, largest first; the lower index first among equals.
fn best<T>(
    values: &[T],
    count: usize,
    order: impl Fn(&T, &T) -> Ordering,
    mut visit: impl FnMut(&T, usize),
) {
    if count == 0 {
        return;
    }
    let larger_first =
        |a: &usize, b: &usize| order(&values[*b], &values[*a]).then_with(|| a.cmp(b));
    let mut indices: Vec<usize> = (0..values.len()).collect();
    if count < indices.len() {
        indices.select_nth_unstable_by(count, larger_first);
        indices.truncate(count);
    }
    indices.sort_unstable_by(larger_first);
    for i in indices {
        visit(&values[i], i);
    }
}

#[cfg(test)]
mod tests {
    use mizzen_types::NamedTensor;

    use super::*;
    use crate::Parameter;

    fn fp32(dims: &[usize], values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(DataType::Fp32, Shape::new(dims).unwrap(), data.into()).unwrap()
    }

    fn texts(tensor: &Tensor) -> Vec<&str> {
        tensor.bytes_elements().map(|e| std::str::from_utf8(e).unwrap()).collect()
    }

    #[test]
    fn each_row_is_ranked_on_its_own() {
        let tensor = fp32(&[2, 3], &[0.25, 0.5, 0.25, f32::NAN, -1.0, 7.0]);
        let classes = top(&tensor, 2, true, &[]).unwrap();
        assert_eq!(classes.shape().dims(), [2, 2]);
        assert_eq!(texts(&classes), ["0.500000:1", "0.250000:0", "7.000000:2", "-1.000000:1"]);
    }

    #[test]
    fn classes_have_the_labels_there_are() {
        let mut labels = Labels::default();
        labels.insert("y", "cat\r\n\ndog\n");
        let classes = top(&fp32(&[1, 4], &[4.0, 3.0, 2.0, 1.0]), 4, true, labels.of("y")).unwrap();
        let want = ["4.000000:0:cat", "3.000000:1", "2.000000:2:dog", "1.000000:3"];
        assert_eq!(texts(&classes), want);
        assert!(labels.of("z").is_empty());
    }

    #[test]
    fn a_model_without_batches_is_one_row_and_k_is_cut_to_its_width() {
        let classes = top(&fp32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), 9, false, &[]).unwrap();
        assert_eq!(classes.shape().dims(), [4]);
        assert_eq!(texts(&classes)[0], "4.000000:3");
    }

    #[test]
    fn whole_numbers_are_printed_whole_and_exactly() {
        let data =
            [u64::MAX, u64::MAX - 1].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let tensor = Tensor::new(DataType::Uint64, Shape::new([2]).unwrap(), data.into()).unwrap();
        assert_eq!(texts(&top(&tensor, 1, false, &[]).unwrap()), ["18446744073709551615:0"]);
    }

    #[test]
    fn what_cannot_be_ranked_is_refused() {
        let config = serde_json::json!({ "max_batch_size": 8 });
        let text = encode_bytes_elements(["cat"]);
        let tensor = Tensor::new(DataType::Bytes, Shape::new([1, 1]).unwrap(), text).unwrap();
        let mut outputs = [RequestedOutput {
            name: "y".into(),
            parameters: [("classification".to_owned(), Parameter::Int(1))].into(),
        }];
        let classes = Classes::take(&mut outputs).unwrap().unwrap();
        let mut response = InferResponse {
            model: "m".into(),
            version: "1".into(),
            id: String::new(),
            outputs: vec![NamedTensor { name: "y".into(), tensor }],
            parameters: Default::default(),
        };
        let error = classes.apply(&config, &Labels::default(), &mut response).unwrap_err();
        assert!(error.to_string().contains("BYTES"), "{error}");
        assert!(outputs[0].parameters.is_empty(), "the parameter is used up");

        outputs[0].parameters.insert("classification".to_owned(), Parameter::Int(0));
        assert!(Classes::take(&mut outputs).is_err(), "no classes at all is a mistake");
    }
}

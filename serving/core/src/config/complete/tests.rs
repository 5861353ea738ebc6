use mizzen_types::DataType;

use super::*;
use crate::config::read_pbtxt;

fn signature(inputs: &[(&str, &[i64])], outputs: &[(&str, &[i64])]) -> Signature {
    let specs = |tensors: &[(&str, &[i64])]| {
        let spec = |(name, shape): &(&str, &[i64])| TensorSpec {
            name: (*name).into(),
            dtype: DataType::Fp32,
            shape: SpecShape(shape.to_vec()),
        };
        tensors.iter().map(spec).collect()
    };
    Signature { inputs: specs(inputs), outputs: specs(outputs) }
}

fn completed(
    text: &str,
    signature: &Signature,
    auto: bool,
) -> Result<(ModelConfig, ModelSpec), CompleteError> {
    complete(read_pbtxt("config.pbtxt", text).unwrap().config, signature, auto)
}

#[test]
fn a_model_with_free_first_dimensions_is_batched_by_four() {
    let model = signature(&[("x", &[-1, 3]), ("z", &[-1])], &[("y", &[-1, -1])]);
    let (config, spec) = completed("", &model, true).unwrap();
    assert_eq!(config.max_batch_size, Some(4));
    assert_eq!(
        config.dynamic_batching.unwrap().preferred_batch_sizes,
        [4],
        "as Triton fills it in"
    );
    assert_eq!(config.inputs[0].dims, [3]);
    assert_eq!((config.inputs[1].dims(), config.inputs[1].reshape()), (vec![1], Some(vec![])));
    assert_eq!(spec.inputs[0].request.shape.0, [-1, 3]);
    assert_eq!(spec.inputs[1].request.shape.0, [-1, 1], "one value per row is a column outside");
    assert_eq!(spec.inputs[1].reshape, Some(SpecShape(vec![-1])));
    assert_eq!(config.instance_groups.len(), 1);
}

#[test]
fn what_is_given_stays() {
    let model = signature(&[("x", &[-1, 3])], &[("y", &[-1, 2])]);
    let batch = |text: &str| {
        let (config, spec) = completed(text, &model, true).unwrap();
        (
            spec.max_batch_size,
            config.dynamic_batching.is_some(),
            spec.inputs[0].request.shape.0.clone(),
        )
    };
    let both = "input { name: 'x' data_type: TYPE_FP32 dims: [-1, 3] } output { name: 'y' data_type: TYPE_FP32 dims: [-1, 2] }";
    #[rustfmt::skip]
    let cases = [
        ("a size is kept, batching added",    "max_batch_size: 16",                     (16, true, vec![-1, 3])),
        ("a size of one needs no batching",   "max_batch_size: 1",                      (1, false, vec![-1, 3])),
        ("0 is a choice",                     "max_batch_size: 0",                      (0, false, vec![-1, 3])),
        ("with both lists nothing is added",  both,                                     (0, false, vec![-1, 3])),
        ("a list with the batch dimension",   "input { name: 'x' data_type: TYPE_FP32 dims: [-1, 3] }", (0, false, vec![-1, 3])),
        ("a list without it",                 "input { name: 'x' data_type: TYPE_FP32 dims: 3 }", (4, true, vec![-1, 3])),
        ("a shape may be narrower",           "max_batch_size: 2 input { name: 'x' data_type: TYPE_FP32 dims: 3 } output { name: 'y' data_type: TYPE_FP32 dims: 2 }", (2, false, vec![-1, 3])),
    ];
    for (shows, text, want) in cases {
        assert_eq!(batch(text), want, "{shows}");
    }
}

#[test]
fn a_model_with_a_fixed_first_dimension_is_not_batched() {
    let model = signature(&[("x", &[1, 3])], &[("y", &[-1, 2])]);
    let (config, spec) = completed("", &model, true).unwrap();
    assert_eq!((config.max_batch_size, spec.max_batch_size), (Some(0), 0));
    assert_eq!(config.inputs[0].dims, [1, 3]);
    assert_eq!(config.dynamic_batching, None);
}

#[test]
fn contradictions_are_named() {
    let model = signature(&[("x", &[-1, 3]), ("w", &[-1, 4])], &[("y", &[-1, 2])]);
    let fixed = signature(&[("x", &[1, 3])], &[("y", &[-1, 2])]);
    let input = |text: &str| format!("max_batch_size: 4 input {{ {text} }}");
    #[rustfmt::skip]
    let cases = [
        (completed("", &model, false),
            "field `input`: expected at least one, got none, and auto-complete is off"),
        (completed(&input("name: 'q' data_type: TYPE_FP32"), &model, true),
            "field `input`: the model has no input `q`; it has `x`, `w`"),
        (completed(&input("name: 'x' data_type: TYPE_INT8 dims: 3"), &model, true),
            "field `input.data_type`: expected TYPE_FP32 for `x`, got TYPE_INT8"),
        (completed(&input("name: 'x' data_type: TYPE_FP32 dims: [-1, 3]"), &model, true),
            "field `input.dims`: `x` has shape [-1,3] in the model, got [-1,-1,3] (with the batch dimension that `max_batch_size` adds)"),
        (completed(&input("name: 'x' data_type: TYPE_FP32 dims: 3"), &model, true),
            "field `input`: the model's input `w` is not listed"),
        (completed("input { name: 'x' data_type: TYPE_FP32 dims: [-1,3] } input { name: 'x' data_type: TYPE_FP32 dims: [-1,3] }", &model, true),
            "field `input`: `x` is listed twice"),
        (completed("max_batch_size: 4", &fixed, true),
            "field `max_batch_size`: expected 0, got 4: the first dimension of `x` is not free in the model's shape [1,3]"),
        (completed(&input("name: 'x' data_type: TYPE_FP32 dims: 4 reshape { shape: 3 }"), &model, true),
            "field `input.reshape`: `x` has dims [4] and is to have [3], which hold other numbers of elements"),
        (completed("max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }", &model, true),
            "field `dynamic_batching.preferred_batch_size`: expected sizes from 1 to 4 (`max_batch_size`), got 8"),
    ];
    for (result, want) in cases {
        assert_eq!(result.unwrap_err().to_string(), want);
    }
}

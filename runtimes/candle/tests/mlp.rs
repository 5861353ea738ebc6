//! Goal: a multilayer perceptron saved as PyTorch saves it answers with the right numbers, keeps the
//! seam, and a file that is not what its configuration says is refused in words.
//! Method: weights written here, answers worked out by plain loops; the seam's own suite.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

mod support;

use std::collections::HashMap;

use mizzen_runtime_api::{
    Batch, Cancel, Device, InstanceOptions, Loader, RuntimeError,
    conformance::{Fixture, Slow, check},
};
use mizzen_runtime_candle::CandleLoader;
use mizzen_types::{DataType, NamedTensor, Shape, Tensor};
use safetensors::tensor::{Dtype, TensorView, serialize};
use support::{source, write};

/// Weights that differ from place to place and stay below 1.
fn weights(layers: &[usize]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let fill = |count: usize, phase: f32| -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.7 + phase).sin() / 2.0).collect()
    };
    let layer = |(i, sizes): (usize, &[usize])| {
        let (n_in, n_out) = (sizes[0], sizes[1]);
        [
            (format!("layers.{i}.weight"), vec![n_out, n_in], fill(n_out * n_in, i as f32)),
            (format!("layers.{i}.bias"), vec![n_out], fill(n_out, 10.0 + i as f32)),
        ]
    };
    layers.windows(2).enumerate().flat_map(layer).collect()
}

fn safetensors(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views: HashMap<_, _> = tensors
        .iter()
        .zip(&bytes)
        .map(|(t, data)| (t.0.clone(), TensorView::new(Dtype::F32, t.1.clone(), data).unwrap()))
        .collect();
    serialize(&views, None).unwrap()
}

fn floats(name: &str, dims: [usize; 2], values: Vec<f32>) -> NamedTensor {
    let data: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    let tensor = Tensor::new(DataType::Fp32, Shape::new(dims).unwrap(), data.into()).unwrap();
    NamedTensor { name: name.into(), tensor }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The forward pass by plain loops.
fn forward(layers: &[usize], x: &[f32], activation: fn(f32) -> f32, softmax: bool) -> Vec<f32> {
    let tensors = weights(layers);
    let mut row = x.to_vec();
    for (i, pair) in tensors.chunks(2).enumerate() {
        let (weight, bias) = (&pair[0].2, &pair[1].2);
        let dot = |w: &[f32]| w.iter().zip(&row).map(|(w, x)| w * x).sum::<f32>();
        row = weight.chunks(row.len()).zip(bias).map(|(w, b)| dot(w) + b).collect();
        if 2 * (i + 1) < tensors.len() {
            row.iter_mut().for_each(|x| *x = activation(*x));
        }
    }
    if softmax {
        let sum: f32 = row.iter().map(|x| x.exp()).sum();
        row.iter_mut().for_each(|x| *x = x.exp() / sum);
    }
    row
}

const LAYERS: [usize; 4] = [5, 8, 7, 3];
const CONFIG: &str = r#"{"architecture": "mlp", "layers": [5, 8, 7, 3], "activation": "relu",
    "output": "softmax", "input_name": "pixels", "output_name": "probabilities"}"#;

fn batch(rows: usize, seed: u64) -> Vec<NamedTensor> {
    let values = (0..5 * rows).map(|i| ((seed as f32 + i as f32) * 1.3).cos() * 2.0).collect();
    vec![floats("pixels", [rows, 5], values)]
}

fn reference(inputs: &[NamedTensor]) -> Vec<NamedTensor> {
    let x = values(&inputs[0].tensor);
    let rows = x.chunks(5).flat_map(|row| forward(&LAYERS, row, |x| x.max(0.0), true));
    vec![floats("probabilities", [x.len() / 5, 3], rows.collect())]
}

#[test]
fn candle_keeps_the_seam() {
    let scratch = tempfile::tempdir().unwrap();
    let file = safetensors(&weights(&LAYERS));
    let header = |json: &str, data: usize| {
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(json.as_bytes());
        file.resize(file.len() + data, 0);
        file
    };
    let claims = |shape: &str, end: u64, data| {
        let tensor = format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}"#);
        header(&format!(r#"{{"layers.0.weight":{tensor}}}"#), data)
    };
    check(&Fixture {
        loader: &CandleLoader,
        scratch: scratch.path(),
        model: &|dir| write(dir, CONFIG, &file),
        batch: &batch,
        reference: &reference,
        tolerance: 1e-5,
        slow: Some(Slow {
            model: &|dir| {
                let sizes = [256; 33];
                let config = format!(r#"{{"architecture": "mlp", "layers": {sizes:?}}}"#);
                write(dir, &config, &safetensors(&weights(&sizes)));
            },
            batch: vec![floats("input", [16384, 256], vec![0.5; 16384 * 256])],
        }),
        hostile: vec![
            ("a header longer than the file", u64::MAX.to_le_bytes().to_vec()),
            ("a header of 100 MB that is not there", 99_999_999u64.to_le_bytes().to_vec()),
            ("a shape whose size overflows", claims("[4294967296,4294967296]", 4, 4)),
            ("a shape larger than the file", claims("[1099511627776]", 4_398_046_511_104, 4)),
            ("bytes from beyond the end", claims("[8,5]", 160, 4)),
            ("a header that is not JSON", header("{{{{", 0)),
            ("other weights", safetensors(&weights(&[5, 8, 3]))),
        ],
    });
}

#[test]
fn every_activation_is_what_its_name_says() {
    /// Abramowitz and Stegun 7.1.26, good to 1.5e-7.
    fn erf(x: f32) -> f32 {
        let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
        let poly = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
        let sum = poly.iter().fold(0.0, |sum, c| (sum + c) * t);
        (1.0 - sum * (-x * x).exp()).copysign(x)
    }
    type Activation = fn(f32) -> f32;
    let cases: [(&str, Activation); 4] = [
        ("relu", |x| x.max(0.0)),
        ("tanh", f32::tanh),
        ("sigmoid", |x| 1.0 / (1.0 + (-x).exp())),
        ("gelu", |x| 0.5 * x * (1.0 + erf(x / 2f32.sqrt()))),
    ];
    for (name, activation) in cases {
        let dir = tempfile::tempdir().unwrap();
        let config =
            format!(r#"{{"architecture": "mlp", "layers": [5, 8, 7, 3], "activation": "{name}"}}"#);
        write(dir.path(), &config, &safetensors(&weights(&LAYERS)));
        let model = CandleLoader.load(&source(dir.path())).unwrap();
        let options = InstanceOptions { threads: 0, device: Device::Cpu };
        let x = vec![0.3, -1.0, 2.0, 0.0, -0.4];
        let inputs = [floats("input", [1, 5], x.clone())];
        let batch = Batch { inputs: &inputs, outputs: &[] };
        let got = model.open(&options).unwrap().run(batch, &Cancel::default()).unwrap();
        for (got, want) in
            values(&got[0].tensor).iter().zip(forward(&LAYERS, &x, activation, false))
        {
            assert!((got - want).abs() < 1e-5, "{name}: {got}; expected {want}");
        }
    }
}

#[test]
fn a_softmax_of_large_numbers_does_not_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"architecture": "mlp", "layers": [1, 2], "output": "softmax"}"#;
    let tensors = [
        ("layers.0.weight".to_owned(), vec![2, 1], vec![1.0, 0.0]),
        ("layers.0.bias".to_owned(), vec![2], vec![0.0, 0.0]),
    ];
    write(dir.path(), config, &safetensors(&tensors));
    let model = CandleLoader.load(&source(dir.path())).unwrap();
    let mut instance = model.open(&InstanceOptions { threads: 1, device: Device::Cpu }).unwrap();
    let inputs = [floats("input", [2, 1], vec![1000.0, 0.0])];
    let got = instance.run(Batch { inputs: &inputs, outputs: &[] }, &Cancel::default()).unwrap();
    assert_eq!(values(&got[0].tensor), [1.0, 0.0, 0.5, 0.5]);
}

#[test]
fn what_does_not_fit_together_is_named() {
    let file = safetensors(&weights(&LAYERS));
    #[rustfmt::skip]
    let cases = [
        ("no such architecture",  r#"{"architecture": "rnn"}"#, "`rnn` is not built in; there is `mlp`, `efficientnet`, `bert`"),
        ("no architecture",       r#"{"layers": [5, 3]}"#, "neither `architecture` nor `model_type`"),
        ("a misspelt field",      r#"{"architecture": "mlp", "layers": [5, 3], "activatoin": "relu"}"#, "unknown field `activatoin`"),
        ("an unknown activation", r#"{"architecture": "mlp", "layers": [5, 3], "activation": "swish"}"#, "unknown variant `swish`"),
        ("one size",              r#"{"architecture": "mlp", "layers": [5]}"#, "`layers` needs"),
        ("a size of 0",           r#"{"architecture": "mlp", "layers": [5, 0, 3]}"#, "size of 0"),
        ("an absurd size",        r#"{"architecture": "mlp", "layers": [5, 18446744073709551615]}"#, "`layers.0.weight` has shape [8, 5]"),
        ("another size",          r#"{"architecture": "mlp", "layers": [5, 9, 7, 3]}"#, "`layers.0.weight` has shape [8, 5]; `config.json` calls for [9, 5]"),
        ("a layer too many",      r#"{"architecture": "mlp", "layers": [5, 8, 7, 3, 2]}"#, "`layers.3.weight` of shape [2, 3] is missing"),
        ("a layer too few",       r#"{"architecture": "mlp", "layers": [5, 8, 7]}"#, "`layers.2.bias` (and 1 more) is not called for"),
        ("an empty name",         r#"{"architecture": "mlp", "layers": [5, 8, 7, 3], "input_name": ""}"#, "must not be empty"),
    ];
    for (shows, config, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), config, &file);
        let error = CandleLoader.load(&source(dir.path())).err().unwrap();
        assert!(matches!(error, RuntimeError::Load { .. }), "{shows}: {error}");
        assert!(error.to_string().contains(want), "{shows}: {error}");
    }
}

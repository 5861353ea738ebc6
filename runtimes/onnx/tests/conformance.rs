//! Goal: the engine keeps every promise of the seam.
//! Method: the seam's own suite, over a model with two inputs of different types and three outputs.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

use std::path::Path;

use mizzen_runtime_api::conformance::{Fixture, Slow, check};
use mizzen_runtime_onnx::{
    OnnxLoader, OnnxOptions,
    testing::{Graph, slow_model},
};
use mizzen_types::{DataType, NamedTensor, Shape, Tensor};

const WEIGHT: [f32; 8] = [0.5, -1.0, 2.0, 0.25, -0.75, 3.0, 1.0, 1.5];
const BIAS: [f32; 2] = [0.125, -2.0];

/// `y = x · WEIGHT + BIAS`, `x` FP32 `[-1,4]`; `twice = k + k`, `k` INT64 `[-1,3]`; `echo = x`.
fn model() -> Graph {
    Graph::new("conformance")
        .input("x", DataType::Fp32, &[-1, 4])
        .input("k", DataType::Int64, &[-1, 3])
        .floats("weight", &[4, 2], &WEIGHT)
        .floats("bias", &[2], &BIAS)
        .node("MatMul", &["x", "weight"], &["product"])
        .node("Add", &["product", "bias"], &["y"])
        .node("Add", &["k", "k"], &["twice"])
        .node("Identity", &["x"], &["echo"])
        .output("y", DataType::Fp32, &[-1, 2])
        .output("twice", DataType::Int64, &[-1, 3])
        .output("echo", DataType::Fp32, &[-1, 4])
}

fn named(name: &str, dtype: DataType, dims: [usize; 2], data: Vec<u8>) -> NamedTensor {
    let tensor = Tensor::new(dtype, Shape::new(dims).unwrap(), data.into()).unwrap();
    NamedTensor { name: name.into(), tensor }
}

fn batch(rows: usize, seed: u64) -> Vec<NamedTensor> {
    let x = (0..4 * rows).flat_map(|i| ((seed as f32 + i as f32).sin() * 3.0).to_le_bytes());
    let k = (0..3 * rows).flat_map(|i| (seed as i64 * 1000 - i as i64).to_le_bytes());
    vec![
        named("x", DataType::Fp32, [rows, 4], x.collect()),
        named("k", DataType::Int64, [rows, 3], k.collect()),
    ]
}

fn reference(inputs: &[NamedTensor]) -> Vec<NamedTensor> {
    let [x, k] = inputs else { panic!("two inputs") };
    let rows = x.tensor.shape().dims()[0];
    let values: Vec<f32> =
        x.tensor.data().as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
    let y = values.chunks_exact(4).flat_map(|row| {
        BIAS.iter().enumerate().map(|(column, bias)| {
            row.iter().zip(WEIGHT.chunks_exact(2)).map(|(x, w)| x * w[column]).sum::<f32>() + bias
        })
    });
    let y = y.flat_map(f32::to_le_bytes).collect();
    let k = k.tensor.data().as_chunks().0.iter();
    let twice = k.flat_map(|k| (2 * i64::from_le_bytes(*k)).to_le_bytes()).collect();
    vec![
        named("y", DataType::Fp32, [rows, 2], y),
        named("twice", DataType::Int64, [rows, 3], twice),
        named("echo", DataType::Fp32, [rows, 4], x.tensor.data().to_vec()),
    ]
}

fn write(dir: &Path, model: &[u8]) {
    std::fs::write(dir.join("model.onnx"), model).unwrap();
}

#[test]
fn onnx_runtime_keeps_the_seam() {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/onnxruntime/lib");
    let loader = OnnxLoader::new(OnnxOptions { dirs: vec![cache], ..OnnxOptions::default() });
    let scratch = tempfile::tempdir().unwrap();
    let claims = |dims: &[u64]| {
        Graph::new("g")
            .input("x", DataType::Fp32, &[-1, 1])
            .constant("w", DataType::Fp32, dims, &[0; 4])
            .node("Add", &["x", "w"], &["y"])
            .output("y", DataType::Fp32, &[-1, 1])
            .encode()
    };
    check(&Fixture {
        loader: &loader,
        scratch: scratch.path(),
        model: &|dir| write(dir, &model().encode()),
        batch: &batch,
        reference: &reference,
        tolerance: 1e-6,
        slow: Some(Slow {
            // A hundred million microseconds and more.
            model: &|dir| write(dir, &slow_model(100_000_000)),
            batch: vec![named("x", DataType::Fp32, [1, 4], vec![0; 16])],
        }),
        hostile: vec![
            ("a constant of a petabyte", claims(&[1 << 40, 1 << 8])),
            ("a constant whose size overflows", claims(&[1 << 62, 1 << 62])),
            ("a constant of negative size", claims(&[u64::MAX])),
            ("noise", (0..4096u32).map(|i| (i * i / 7) as u8).collect()),
        ],
    });
}

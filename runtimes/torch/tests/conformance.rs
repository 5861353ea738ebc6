//! Goal: the engine keeps every promise of the seam.
//! Method: the seam's own suite, over a module with two inputs of different types and a tuple of
//! three outputs.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

mod common;

use std::{path::Path, sync::Arc};

use common::{Declared, floats, ints, specs, values};
use mizzen_runtime_api::{
    Signature,
    conformance::{Fixture, Slow, check},
};
use mizzen_torch::testing::compile;
use mizzen_types::{DataType, NamedTensor};

const WEIGHT: [f32; 8] = [0.5, -1.0, 2.0, 0.25, -0.75, 3.0, 1.0, 1.5];
const BIAS: [f32; 2] = [0.125, -2.0];

const MODEL: &str = "
def forward(self, x: Tensor, k: Tensor):
    return torch.matmul(x, self.weight) + self.bias, k + k, x
";

/// Some hundred million operators, half a minute of them at the least.
const SLOW: &str = "
def forward(self, x: Tensor, k: Tensor):
    y = x
    for i in range(100000000):
        y = y + 1.0
    return y, k, x
";

fn write(dir: &Path, source: &str) {
    let buffers: [(&str, &[i64], &[f32]); 2] =
        [("weight", &[4, 2], &WEIGHT), ("bias", &[2], &BIAS)];
    compile(source, &buffers, &dir.join("model.pt")).unwrap();
}

fn batch(rows: usize, seed: u64) -> Vec<NamedTensor> {
    let x: Vec<_> = (0..4 * rows).map(|i| (seed as f32 + i as f32).sin() * 3.0).collect();
    let k: Vec<_> = (0..3 * rows).map(|i| seed as i64 * 1000 - i as i64).collect();
    vec![floats("x", &[rows, 4], &x), ints("k", &[rows, 3], &k)]
}

fn reference(inputs: &[NamedTensor]) -> Vec<NamedTensor> {
    let [x, k] = inputs else { panic!("two inputs") };
    let rows = x.tensor.shape().dims()[0];
    let y: Vec<_> = values(x)
        .chunks_exact(4)
        .flat_map(|row| {
            BIAS.iter().enumerate().map(|(column, bias)| {
                row.iter().zip(WEIGHT.chunks_exact(2)).map(|(x, w)| x * w[column]).sum::<f32>()
                    + bias
            })
        })
        .collect();
    let twice: Vec<_> =
        k.tensor.data().as_chunks().0.iter().map(|k| 2 * i64::from_le_bytes(*k)).collect();
    let echo = NamedTensor { name: "echo".into(), tensor: x.tensor.clone() };
    vec![floats("y", &[rows, 2], &y), ints("twice", &[rows, 3], &twice), echo]
}

fn declared() -> Signature {
    Signature {
        inputs: specs(&[("x", DataType::Fp32, &[-1, 4]), ("k", DataType::Int64, &[-1, 3])]),
        outputs: specs(&[
            ("y", DataType::Fp32, &[-1, 2]),
            ("twice", DataType::Int64, &[-1, 3]),
            ("echo", DataType::Fp32, &[-1, 4]),
        ]),
    }
}

/// A module whose one tensor has as many elements as nothing else in the file; in the file its
/// storage says so first, its shape second. `which` of them say `claim` instead.
fn claims(which: std::ops::Range<usize>, claim: i32) -> Vec<u8> {
    const ELEMENTS: i32 = 70_001;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pt");
    let source = "
def forward(self, x: Tensor, k: Tensor):
    return x[:, :2] + self.big[0], k, x
";
    compile(source, &[("big", &[ELEMENTS.into()], &vec![1.0; ELEMENTS as usize])], &path).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let places: Vec<_> =
        bytes.windows(4).enumerate().filter(|(_, w)| *w == ELEMENTS.to_le_bytes()).collect();
    let places: Vec<_> = places.into_iter().map(|(at, _)| at).collect();
    assert_eq!(places.len(), 2, "the storage's and the shape's");
    for at in &places[which] {
        bytes[*at..at + 4].copy_from_slice(&claim.to_le_bytes());
    }
    bytes
}

#[test]
fn torch_keeps_the_seam() {
    let scratch = tempfile::tempdir().unwrap();
    check(&Fixture {
        loader: &Declared(Arc::new(declared)),
        scratch: scratch.path(),
        model: &|dir| write(dir, MODEL),
        batch: &batch,
        reference: &reference,
        tolerance: 1e-6,
        slow: Some(Slow { model: &|dir| write(dir, SLOW), batch: batch(1, 1) }),
        hostile: vec![
            ("a tensor larger than its data", claims(0..1, i32::MAX)),
            ("a shape larger than its tensor", claims(1..2, i32::MAX)),
            ("both larger", claims(0..2, i32::MAX)),
            ("a negative storage", claims(0..1, -1)),
            ("a negative shape", claims(1..2, -1)),
            ("noise", (0..4096u32).map(|i| (i * i / 7) as u8).collect()),
            ("nothing", Vec::new()),
        ],
    });
}

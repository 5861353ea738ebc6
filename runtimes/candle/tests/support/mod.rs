//! What the tests of text models share: files of random weights, inputs, and a slow forward pass.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

pub(crate) mod gguf;
pub(crate) mod reference;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use mizzen_runtime_api::{
    Batch, Cancel, Device, Instance, InstanceOptions, Loader, ModelSource, RuntimeError,
};
use mizzen_runtime_candle::CandleLoader;
use mizzen_types::{DataType, NamedTensor, Shape, Tensor};
use safetensors::tensor::{Dtype, TensorView, serialize};

/// Weights by name: their shape and values.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Random numbers that are the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// Xorshift*, of 53 bits.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
}

/// Weights of these shapes. Those that multiply rows are near one, all others around zero.
pub(crate) fn random_weights(shapes: &[(String, Vec<usize>)], seed: u64) -> Tensors {
    let mut random = Random::new(seed);
    let tensor = |(name, dims): &(String, Vec<usize>)| {
        let count: usize = dims.iter().product();
        let centre = if name.contains("orm.weight") { 1.0 } else { 0.0 };
        let scale = if dims.len() == 2 { 1.5 / (dims[1] as f64).sqrt() } else { 0.2 };
        let value = |_| (centre + (random.unit() * 2.0 - 1.0) * scale) as f32;
        (name.clone(), (dims.clone(), (0..count).map(value).collect()))
    };
    shapes.iter().map(tensor).collect()
}

pub(crate) fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (dims, values))| {
            (name, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let view = |dims: &Vec<usize>, data| TensorView::new(Dtype::F32, dims.clone(), data).unwrap();
    let views: HashMap<_, _> =
        bytes.iter().map(|(name, dims, data)| ((*name).clone(), view(dims, data))).collect();
    serialize(&views, None).unwrap()
}

pub(crate) fn write(dir: &Path, config: &str, file: &[u8]) {
    std::fs::write(dir.join("config.json"), config).unwrap();
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
}

pub(crate) fn source(dir: &Path) -> ModelSource {
    ModelSource {
        name: "m".into(),
        version: 1,
        dir: dir.into(),
        file: None,
        parameters: Default::default(),
        declared: Default::default(),
        decoupled: false,
    }
}

/// The error of loading this model.
pub(crate) fn load_error(config: &str, tensors: &Tensors) -> String {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), config, &safetensors(tensors));
    let error = CandleLoader.load(&source(dir.path())).err().expect("it must not load");
    assert!(matches!(error, RuntimeError::Load { .. }), "{error}");
    error.to_string()
}

/// An instance of this model, on so many threads.
pub(crate) fn open(config: &str, tensors: &Tensors, threads: usize) -> Box<dyn Instance> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), config, &safetensors(tensors));
    open_in(dir.path(), threads)
}

pub(crate) fn open_in(dir: &Path, threads: usize) -> Box<dyn Instance> {
    let model = CandleLoader.load(&source(dir)).unwrap_or_else(|error| panic!("{error}"));
    model.open(&InstanceOptions { threads, device: Device::Cpu }).unwrap()
}

/// Rows of token ids, all of one width, and what goes with them.
#[derive(Debug, Clone)]
pub(crate) struct Texts {
    pub(crate) width: usize,
    pub(crate) ids: Vec<i64>,
    pub(crate) mask: Vec<i64>,
    pub(crate) types: Option<Vec<i64>>,
}

impl Texts {
    pub(crate) fn rows(&self) -> usize {
        self.ids.len().checked_div(self.width).unwrap_or(0)
    }

    pub(crate) fn inputs(&self, rows: usize) -> Vec<NamedTensor> {
        let dims = [rows, self.width];
        let mut inputs =
            vec![ints("input_ids", dims, &self.ids), ints("attention_mask", dims, &self.mask)];
        inputs.extend(self.types.as_ref().map(|types| ints("token_type_ids", dims, types)));
        inputs
    }

    /// The one that made these tensors.
    pub(crate) fn of(inputs: &[NamedTensor]) -> Self {
        let read = |tensor: &Tensor| {
            tensor.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
        };
        Self {
            width: inputs[0].tensor.shape().dims()[1],
            ids: read(&inputs[0].tensor),
            mask: read(&inputs[1].tensor),
            types: inputs.get(2).map(|types| read(&types.tensor)),
        }
    }

    /// Random ones, padded on either side; `holes` also masks tokens in between.
    pub(crate) fn random(
        rows: usize,
        width: usize,
        words: usize,
        types: Option<usize>,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        let count = rows * width;
        let ids = (0..count).map(|_| random.below(words) as i64).collect();
        let mut mask = Vec::new();
        for _ in 0..rows {
            let real = 1 + random.below(width);
            let left = match random.below(3) {
                0 => width - real,
                1 => random.below(width - real + 1),
                _ => 0,
            };
            mask.extend((0..width).map(|i| i64::from((left..left + real).contains(&i))));
        }
        let types = types.map(|n| (0..count).map(|_| random.below(n) as i64).collect());
        Self { width, ids, mask, types }
    }
}

pub(crate) fn ints(name: &str, dims: [usize; 2], values: &[i64]) -> NamedTensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor::new(DataType::Int64, Shape::new(dims).unwrap(), data.into()).unwrap();
    NamedTensor { name: name.into(), tensor }
}

pub(crate) fn floats(
    name: &str,
    dims: &[usize],
    values: impl IntoIterator<Item = f64>,
) -> NamedTensor {
    let data: Vec<u8> = values.into_iter().flat_map(|value| (value as f32).to_le_bytes()).collect();
    let tensor = Tensor::new(DataType::Fp32, Shape::new(dims).unwrap(), data.into()).unwrap();
    NamedTensor { name: name.into(), tensor }
}

pub(crate) fn run(
    instance: &mut dyn Instance,
    inputs: &[NamedTensor],
) -> Result<Vec<NamedTensor>, RuntimeError> {
    instance.run(Batch { inputs, outputs: &[] }, &Cancel::default())
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// How far the first output is from what the reference says, at worst.
pub(crate) fn worst(got: &[NamedTensor], want: &NamedTensor) -> f32 {
    assert_eq!(got[0].name, want.name);
    assert_eq!(got[0].tensor.shape(), want.tensor.shape());
    let pairs = values(&got[0].tensor).into_iter().zip(values(&want.tensor));
    // A NaN must count as far.
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |worst, d| if d <= worst { worst } else { d })
}

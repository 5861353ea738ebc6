//! A multilayer perceptron: linear layers with an activation between them.
//!
//! `{"architecture": "mlp", "layers": [64, 32, 10], "activation": "relu", "output": "softmax"}` takes
//! FP32 `[-1,64]` and gives FP32 `[-1,10]`. Layer `i` has `layers.{i}.weight` of shape `[out, in]`
//! and `layers.{i}.bias` of shape `[out]`, as PyTorch's `Linear` saves them.

use candle_core::{D, Device, Tensor};
use mizzen_runtime_api::{Cancel, RuntimeError, Signature, TensorSpec};
use mizzen_types::{DataType, SpecShape};
use serde::Deserialize;

use super::{Network, Run, Values, parse};
use crate::tensors::Tensors;

/// `config.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Read by the registry already.
    #[serde(rename = "architecture")]
    _architecture: String,
    /// Sizes from the input to the output, at least these two.
    layers: Vec<usize>,
    /// Between layers, not after the last.
    #[serde(default)]
    activation: Activation,
    /// After the last layer.
    #[serde(default)]
    output: Output,
    #[serde(default = "default_input_name")]
    input_name: String,
    #[serde(default = "default_output_name")]
    output_name: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Activation {
    #[default]
    Relu,
    Tanh,
    Sigmoid,
    /// The exact form, with the error function.
    Gelu,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Output {
    #[default]
    None,
    Softmax,
}

fn default_input_name() -> String {
    "input".to_owned()
}

fn default_output_name() -> String {
    "output".to_owned()
}

struct Mlp {
    signature: Signature,
    n_out: usize,
    layers: Vec<Layer>,
    activation: Activation,
    output: Output,
}

struct Layer {
    /// `[in, out]`: turned over once, so that runs need not.
    weight: Tensor,
    bias: Tensor,
}

pub(super) fn build(config: &str, weights: &mut Tensors) -> Result<Box<dyn Network>, String> {
    let config: Config = parse(config)?;
    let [first, .., last] = config.layers[..] else {
        return Err("`layers` needs the sizes of input and output, at least".to_owned());
    };
    if config.layers.contains(&0) {
        return Err("`layers` has a size of 0; sizes are 1 or more".to_owned());
    }
    let layer = |(index, sizes): (usize, &[usize])| -> Result<Layer, String> {
        let (n_in, n_out) = (sizes[0], sizes[1]);
        let weight = weights.floats(&format!("layers.{index}.weight"), &[n_out, n_in])?;
        let bias = weights.floats(&format!("layers.{index}.bias"), &[n_out])?;
        let tensor = |values, dims: &[usize]| Tensor::from_vec(values, dims, &Device::Cpu);
        let weight = tensor(weight, &[n_out, n_in]).and_then(|weight| weight.t()?.contiguous());
        let layer = weight.and_then(|weight| Ok(Layer { weight, bias: tensor(bias, &[n_out])? }));
        layer.map_err(|error| error.to_string())
    };
    let layers = config.layers.windows(2).enumerate().map(layer).collect::<Result<_, _>>()?;
    let signature = Signature {
        inputs: vec![spec(&config.input_name, first)?],
        outputs: vec![spec(&config.output_name, last)?],
    };
    let Config { activation, output, .. } = config;
    Ok(Box::new(Mlp { signature, n_out: last, layers, activation, output }))
}

fn spec(name: &str, size: usize) -> Result<TensorSpec, String> {
    if name.is_empty() {
        return Err("`input_name` and `output_name` must not be empty".to_owned());
    }
    let size = i64::try_from(size).map_err(|_| format!("`layers` has a size of {size}"))?;
    Ok(TensorSpec { name: name.into(), dtype: DataType::Fp32, shape: SpecShape(vec![-1, size]) })
}

impl Network for Mlp {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn forward(&self, run: &Run<'_>) -> Result<Vec<Values>, RuntimeError> {
        let (dims, n_out) = (run.inputs[0].shape().dims(), self.n_out);
        if dims[0] == 0 {
            // Candle has no products of nothing.
            return Ok(vec![Values { dims: vec![0, n_out], values: Vec::new() }]);
        }
        let values = run.inputs[0].data().as_chunks().0;
        let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let x = Tensor::from_vec(values, dims, &Device::Cpu).map_err(engine_failed)?;
        // Candle splits over the pool it is called in.
        let y = run.workers.install(|| self.layers(x, run.cancel))?;
        let values = y.flatten_all().and_then(|flat| flat.to_vec1()).map_err(engine_failed)?;
        Ok(vec![Values { dims: vec![dims[0], n_out], values }])
    }
}

impl Mlp {
    fn layers(&self, mut x: Tensor, cancel: &Cancel) -> Result<Tensor, RuntimeError> {
        for (index, layer) in self.layers.iter().enumerate() {
            // One layer is the grain at which a run can end.
            if cancel.is_cancelled() {
                return Err(RuntimeError::Cancelled);
            }
            x = layer.forward(&x).map_err(engine_failed)?;
            if index + 1 < self.layers.len() {
                x = self.activation.apply(&x).map_err(engine_failed)?;
            }
        }
        self.output.apply(x).map_err(engine_failed)
    }
}

/// Candle's error, in its own words.
fn engine_failed(error: candle_core::Error) -> RuntimeError {
    RuntimeError::Run(Box::new(error))
}

impl Layer {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Activation {
    fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Relu => x.relu(),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => (x.neg()?.exp()? + 1.0)?.recip(),
            Self::Gelu => x.gelu_erf(),
        }
    }
}

impl Output {
    fn apply(self, x: Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::None => Ok(x),
            Self::Softmax => {
                // Less the largest, so that no exponential overflows.
                let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?;
                let exponential = shifted.exp()?;
                exponential.broadcast_div(&exponential.sum_keepdim(D::Minus1)?)
            }
        }
    }
}

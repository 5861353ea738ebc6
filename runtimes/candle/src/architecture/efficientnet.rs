//! EfficientNet-Lite: scores of classes for images.
//!
//! `{"architecture": "efficientnet", "variant": "lite0"}` takes `pixel_values` FP32 `[-1,3,224,224]`,
//! as `(byte - 127) / 128` makes them, and gives `logits` FP32 `[-1,1000]`. The tensors have the names
//! of the PyTorch port of TensorFlow's weights (`_conv_stem.weight`, `_blocks.0._depthwise_conv.weight`,
//! …), and edges are padded as TensorFlow pads them. Norms are folded into the convolutions before
//! them when the model is loaded.
//!
//! An image is a matrix here, a row a pixel and a column a channel: a convolution of one pixel is then
//! a product of matrices, and one that looks at each channel alone runs along the row.
//!
//! Deliberately absent: the variants that are not Lite (with gates over channels).

use mizzen_runtime_api::{Cancel, RuntimeError, Signature, TensorSpec};
use mizzen_types::{DataType, SpecShape};
use pulp::{Arch, Simd, WithSimd};
use serde::Deserialize;

use super::{Network, Run, Values, parse};
use crate::{
    kernels::{Panels, Product},
    tensors::Tensors,
    workers::Workers,
};

/// `config.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Read by the registry already.
    #[serde(rename = "architecture")]
    _architecture: String,
    variant: Variant,
    /// Height and width; the variant's own if absent.
    image_size: Option<usize>,
    #[serde(default = "imagenet")]
    num_classes: usize,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Variant {
    Lite0,
    Lite1,
    Lite2,
    Lite3,
    Lite4,
}

fn imagenet() -> usize {
    1000
}

impl Variant {
    /// Times the channels, times the blocks of a stage, and the size of images: the paper's scaling.
    const fn scale(self) -> (f64, f64, usize) {
        match self {
            Self::Lite0 => (1.0, 1.0, 224),
            Self::Lite1 => (1.0, 1.1, 240),
            Self::Lite2 => (1.1, 1.2, 260),
            Self::Lite3 => (1.2, 1.4, 280),
            Self::Lite4 => (1.4, 1.8, 300),
        }
    }
}

/// A stage before it is scaled: blocks, kernel, stride of the first, times the channels inside, and
/// channels out.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];
/// Channels of the first and the last convolution, which no variant scales.
const STEM: usize = 32;
const HEAD: usize = 1280;
const STEM_KERNEL: usize = 3;
const COLOURS: usize = 3;
/// TensorFlow's.
const NORM_EPSILON: f64 = 1e-3;
/// The largest image: what a few of its matrices take stays below a GiB.
const IMAGE_SIZE_MAX: usize = 1024;
/// Pixels that a product is made of at once, so that what follows finds them in the cache.
const BLOCK_PIXELS: usize = 128;

/// Channels in multiples of 8, and never a tenth below what the scale says.
fn scaled(channels: usize, by: f64) -> usize {
    let wanted = channels as f64 * by;
    let near = (((wanted + 4.0) / 8.0) as usize * 8).max(8);
    if (near as f64) < 0.9 * wanted { near + 8 } else { near }
}

struct EfficientNet {
    signature: Signature,
    image_size: usize,
    stem: Pointwise,
    blocks: Vec<Block>,
    head: Pointwise,
    classes: Pointwise,
}

/// Widens, looks around in each channel, and narrows again.
struct Block {
    expand: Option<Pointwise>,
    depthwise: Depthwise,
    project: Pointwise,
    /// Adds what came in.
    residual: bool,
}

/// A convolution of one pixel.
struct Pointwise {
    n_in: usize,
    weight: Panels,
    bias: Vec<f32>,
    /// Cut to 0 to 6 afterwards.
    cut: bool,
}

/// A convolution in each channel, cut to 0 to 6 afterwards.
struct Depthwise {
    window: Window,
    /// `[kernel · kernel, channels]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// What an output pixel sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    kernel: usize,
    stride: usize,
}

impl Window {
    /// The output's size, and how far before the image the first window starts: as much as after its
    /// end, or one less.
    fn over(self, size: usize) -> (usize, usize) {
        let out = size.div_ceil(self.stride);
        let padding = ((out - 1) * self.stride + self.kernel).saturating_sub(size);
        (out, padding / 2)
    }

    /// Which of the kernel's places lie in the image, for an output's place; and the first's place.
    fn within(self, at: usize, size: usize) -> (std::ops::Range<usize>, usize) {
        let (_, before) = self.over(size);
        let start = at * self.stride;
        let first = before.saturating_sub(start);
        let last = self.kernel.min(size + before - start);
        (first..last, start + first - before)
    }
}

/// A convolution's tensor with the norm after it, an output channel after the other; and the bias.
fn folded(
    weights: &mut Tensors,
    convolution: &str,
    dims: [usize; 4],
    norm: &str,
) -> Result<(Vec<f32>, Vec<f32>), String> {
    let mut values = weights.floats(&format!("{convolution}.weight"), &dims)?;
    let mut part = |name: &str| weights.floats(&format!("{norm}.{name}"), &dims[..1]);
    let (scale, shift) = (part("weight")?, part("bias")?);
    let (mean, variance) = (part("running_mean")?, part("running_var")?);
    let inner = values.len() / dims[0].max(1);
    let mut bias = Vec::with_capacity(dims[0]);
    for (channel, values) in values.chunks_exact_mut(inner.max(1)).enumerate() {
        let factor =
            f64::from(scale[channel]) / (f64::from(variance[channel]) + NORM_EPSILON).sqrt();
        values.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
        bias.push((f64::from(shift[channel]) - f64::from(mean[channel]) * factor) as f32);
    }
    Ok((values, bias))
}

fn pointwise(
    weights: &mut Tensors,
    (convolution, norm): (&str, &str),
    (n_in, n_out): (usize, usize),
    cut: bool,
) -> Result<Pointwise, String> {
    let (values, bias) = folded(weights, convolution, [n_out, n_in, 1, 1], norm)?;
    Ok(Pointwise { n_in, weight: Panels::transposed(values.chunks_exact(n_in)), bias, cut })
}

fn block(
    weights: &mut Tensors,
    at: usize,
    (n_in, n_inner, n_out): (usize, usize, usize),
    window: Window,
) -> Result<Block, String> {
    let name = |part: &str| format!("_blocks.{at}.{part}");
    let expand = match n_inner == n_in {
        true => None,
        false => {
            let names = (&*name("_expand_conv"), &*name("_bn0"));
            Some(pointwise(weights, names, (n_in, n_inner), true)?)
        }
    };
    let Window { kernel, stride } = window;
    let dims = [n_inner, 1, kernel, kernel];
    let (values, bias) = folded(weights, &name("_depthwise_conv"), dims, &name("_bn1"))?;
    // From a channel after the other to a place of the kernel after the other.
    let place = |place: usize| values.iter().skip(place).step_by(kernel * kernel).copied();
    let weight = (0..kernel * kernel).flat_map(place).collect();
    let names = (&*name("_project_conv"), &*name("_bn2"));
    let project = pointwise(weights, names, (n_inner, n_out), false)?;
    let residual = stride == 1 && n_in == n_out;
    Ok(Block { expand, depthwise: Depthwise { window, weight, bias }, project, residual })
}

pub(super) fn build(config: &str, weights: &mut Tensors) -> Result<Box<dyn Network>, String> {
    let config: Config = parse(config)?;
    let (width, depth, own_size) = config.variant.scale();
    let image_size = config.image_size.unwrap_or(own_size);
    if !(32..=IMAGE_SIZE_MAX).contains(&image_size) {
        return Err(format!("`image_size` is {image_size}; sizes are 32 to {IMAGE_SIZE_MAX}"));
    }
    if config.num_classes == 0 {
        return Err("`num_classes` is 0; it is 1 or more".to_owned());
    }
    weights.ignore(|name| name.ends_with(".num_batches_tracked"));

    let dims = [STEM, COLOURS, STEM_KERNEL, STEM_KERNEL];
    let (values, bias) = folded(weights, "_conv_stem", dims, "_bn0")?;
    let seen = COLOURS * STEM_KERNEL * STEM_KERNEL;
    let stem = Pointwise {
        n_in: seen,
        weight: Panels::transposed(values.chunks_exact(seen)),
        bias,
        cut: true,
    };

    let (mut blocks, mut channels) = (Vec::new(), STEM);
    for (stage, (count, kernel, first_stride, times, n_out)) in STAGES.into_iter().enumerate() {
        let n_out = scaled(n_out, width);
        let ends = stage == 0 || stage == STAGES.len() - 1;
        let count = if ends { count } else { (count as f64 * depth).ceil() as usize };
        for index in 0..count {
            let window = Window { kernel, stride: if index == 0 { first_stride } else { 1 } };
            let sizes = (channels, channels * times, n_out);
            blocks.push(block(weights, blocks.len(), sizes, window)?);
            channels = n_out;
        }
    }
    let head = pointwise(weights, ("_conv_head", "_bn1"), (channels, HEAD), true)?;
    let classes = config.num_classes;
    let values = weights.floats("_fc.weight", &[classes, HEAD])?;
    let classes = Pointwise {
        n_in: HEAD,
        weight: Panels::transposed(values.chunks_exact(HEAD)),
        bias: weights.floats("_fc.bias", &[classes])?,
        cut: false,
    };
    let spec = |name: &str, dims: &[usize]| TensorSpec {
        name: name.into(),
        dtype: DataType::Fp32,
        shape: SpecShape([-1].into_iter().chain(dims.iter().map(|dim| *dim as i64)).collect()),
    };
    let signature = Signature {
        inputs: vec![spec("pixel_values", &[COLOURS, image_size, image_size])],
        outputs: vec![spec("logits", &[config.num_classes])],
    };
    Ok(Box::new(EfficientNet { signature, image_size, stem, blocks, head, classes }))
}

impl Network for EfficientNet {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn forward(&self, run: &Run<'_>) -> Result<Vec<Values>, RuntimeError> {
        let images = run.inputs[0];
        let (rows, n_out) = (images.shape().dims()[0], self.classes.bias.len());
        let mut values = Vec::with_capacity(rows * n_out);
        let bytes = images.data().as_chunks().0;
        let (mut image, mut buffers) = (Vec::new(), Buffers::default());
        for pixels in bytes.chunks_exact(COLOURS * self.image_size * self.image_size) {
            image.clear();
            image.extend(pixels.iter().map(|bytes| f32::from_le_bytes(*bytes)));
            let scores =
                run.workers.enter(|| self.one(&image, &mut buffers, run.workers, run.cancel))?;
            values.extend_from_slice(&scores);
        }
        Ok(vec![Values { dims: vec![rows, n_out], values }])
    }
}

/// Matrices of one image, kept from layer to layer.
#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    wide: Vec<f32>,
    seen: Vec<f32>,
    narrow: Vec<f32>,
}

impl EfficientNet {
    /// The scores of an image, whose colours come one after the other.
    fn one(
        &self,
        image: &[f32],
        buffers: &mut Buffers,
        workers: &Workers,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, RuntimeError> {
        let Buffers { x, wide, seen, narrow } = buffers;
        let mut size = surroundings(image, self.image_size, seen);
        self.stem.apply(seen, x, workers);
        for block in &self.blocks {
            // A block is the grain at which a run can end.
            if cancel.is_cancelled() {
                return Err(RuntimeError::Cancelled);
            }
            let inner = match &block.expand {
                Some(expand) => {
                    expand.apply(x, wide, workers);
                    &*wide
                }
                None => &*x,
            };
            size = block.depthwise.apply(inner, size, seen, workers);
            block.project.apply(seen, narrow, workers);
            if block.residual {
                narrow.iter_mut().zip(&*x).for_each(|(sum, came)| *sum += came);
            }
            std::mem::swap(x, narrow);
        }
        self.head.apply(x, wide, workers);
        let mut mean = vec![0.0; HEAD];
        for pixel in wide.chunks_exact(HEAD) {
            mean.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
        }
        mean.iter_mut().for_each(|sum| *sum /= (size * size) as f32);
        let mut scores = Vec::new();
        self.classes.apply(&mean, &mut scores, workers);
        Ok(scores)
    }
}

/// For each pixel that the first convolution gives, all that it sees of the image, as its weights are
/// laid out. Returns the side of what it gives.
fn surroundings(image: &[f32], size: usize, into: &mut Vec<f32>) -> usize {
    let window = Window { kernel: STEM_KERNEL, stride: 2 };
    let (out, _) = window.over(size);
    let seen = COLOURS * STEM_KERNEL * STEM_KERNEL;
    into.clear();
    into.resize(out * out * seen, 0.0);
    for (at, pixel) in into.chunks_exact_mut(seen).enumerate() {
        let (rows, top) = window.within(at / out, size);
        let (columns, left) = window.within(at % out, size);
        for (colour, plane) in image.chunks_exact(size * size).enumerate() {
            for (y, row) in rows.clone().enumerate() {
                let from = &plane[(top + y) * size + left..][..columns.len()];
                let to = (colour * STEM_KERNEL + row) * STEM_KERNEL + columns.start;
                pixel[to..][..columns.len()].copy_from_slice(from);
            }
        }
    }
    out
}

/// Becomes so many floats, whatever they are.
fn resize(out: &mut Vec<f32>, len: usize) {
    out.truncate(len);
    out.resize(len, 0.0);
}

impl Pointwise {
    fn apply(&self, x: &[f32], out: &mut Vec<f32>, workers: &Workers) {
        let n_out = self.bias.len();
        let n_in = self.n_in;
        resize(out, x.len() / n_in * n_out);
        let left = x.chunks(BLOCK_PIXELS * n_in);
        let jobs = left.zip(out.chunks_mut(BLOCK_PIXELS * n_out)).collect();
        workers.each(jobs, |(left, out): (&[f32], &mut [f32])| {
            let product = Product::whole(left, &self.weight, out);
            Product { bias: Some(&self.bias), ..product }.run();
            if self.cut {
                Arch::new().dispatch(Cut(out));
            }
        });
    }
}

impl Depthwise {
    /// Of a square image; returns the side of what it gives.
    fn apply(&self, x: &[f32], size: usize, out: &mut Vec<f32>, workers: &Workers) -> usize {
        let channels = self.bias.len();
        let (side, _) = self.window.over(size);
        resize(out, side * side * channels);
        let jobs = out.chunks_mut(side * channels).enumerate().collect();
        workers.each(jobs, |(y, out)| {
            Arch::new().dispatch(DepthwiseRow { layer: self, x, size, y, out });
        });
        side
    }
}

/// Cuts to 0 to 6.
struct Cut<'a>(&'a mut [f32]);

impl WithSimd for Cut<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.0.iter_mut().for_each(|value| *value = value.clamp(0.0, 6.0));
    }
}

/// A row of pixels of what a [`Depthwise`] gives. Plain loops: they are compiled for each instruction
/// set here.
struct DepthwiseRow<'a> {
    layer: &'a Depthwise,
    x: &'a [f32],
    size: usize,
    y: usize,
    out: &'a mut [f32],
}

impl WithSimd for DepthwiseRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { layer, x, size, y, out } = self;
        let (channels, window) = (layer.bias.len(), layer.window);
        let (rows, top) = window.within(y, size);
        for (at, out) in out.chunks_exact_mut(channels).enumerate() {
            let (columns, left) = window.within(at, size);
            out.copy_from_slice(&layer.bias);
            for (down, row) in rows.clone().enumerate() {
                for (right, column) in columns.clone().enumerate() {
                    let weight =
                        &layer.weight[(row * window.kernel + column) * channels..][..channels];
                    let pixel = &x[((top + down) * size + left + right) * channels..][..channels];
                    let terms = weight.iter().zip(pixel);
                    out.iter_mut().zip(terms).for_each(|(sum, (w, x))| *sum += w * x);
                }
            }
            out.iter_mut().for_each(|value| *value = value.clamp(0.0, 6.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_scaled_as_tensorflow_scales_them() {
        // The published sizes of Lite4's stages.
        let sizes = STAGES.map(|(.., channels)| scaled(channels, 1.4));
        assert_eq!(sizes, [24, 32, 56, 112, 160, 272, 448]);
        assert_eq!(
            STAGES.map(|(.., channels)| scaled(channels, 1.0)),
            [16, 24, 40, 80, 112, 192, 320]
        );
    }

    #[test]
    fn edges_are_padded_more_at_the_end() {
        let window = Window { kernel: 3, stride: 2 };
        assert_eq!(window.over(224), (112, 0));
        assert_eq!(window.within(0, 224), (0..3, 0));
        assert_eq!(window.within(111, 224), (0..2, 222));
        assert_eq!(window.over(7), (4, 1));
        assert_eq!(window.within(0, 7), (1..3, 0));
        assert_eq!(window.within(3, 7), (0..2, 5));
        let window = Window { kernel: 5, stride: 1 };
        assert_eq!(window.over(3), (3, 2));
        assert_eq!(window.within(0, 3), (2..5, 0));
        assert_eq!(window.within(2, 3), (0..3, 0));
    }
}

//! Tokens per second of an encoder of MiniLM's size with random weights, and what share of the
//! processor's fused multiply-adds that is.
//!
//!     cargo bench -p mizzen-runtime-candle --bench encoder -- [THREADS…] [CASE…]
//!
//! where a case is such as `32x128`.
//!
//! The share counts the arithmetic of products only (linear layers and attention over real tokens)
//! against a peak measured beside it, so anything else shows as loss. It is of the processor time that
//! a run took on average, so that it tells of the code also on a machine that does other things. Times
//! and tokens per second are of the best run: what disturbs one makes it slower, never faster.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints and stops")]

use std::{
    collections::HashMap,
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use mizzen_runtime_api::{
    Batch, Cancel, Device, Instance, InstanceOptions, Loader, Model, ModelSource,
};
use mizzen_runtime_candle::CandleLoader;
use mizzen_types::{DataType, NamedTensor, Shape, Tensor};
use safetensors::tensor::{Dtype, TensorView, serialize};

const HIDDEN: usize = 384;
const INNER: usize = 1536;
const LAYERS: usize = 6;
const WORDS: usize = 1000;
/// Time a figure takes.
const ENOUGH: Duration = Duration::from_millis(1500);

fn main() {
    let threads: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let threads = if threads.is_empty() { vec![1, 2] } else { threads };
    let peak = peak();
    println!("multiply-adds, one thread: {:.1} GFLOP/s", peak / 1e9);
    candle_products(peak);
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let model = CandleLoader.load(&source(dir.path())).unwrap();
    println!(
        "{:>7} {:>6} {:>8} {:>10} {:>10} {:>10} {:>6}",
        "threads", "rows", "lengths", "ms", "tokens/s", "CPU ms", "share"
    );
    for threads in threads {
        for rows in [1, 32] {
            for length in [16, 128, 512] {
                figure(&*model, threads, &format!("{length}"), &vec![length; rows], peak);
            }
        }
        // A quarter of each length, as texts of all kinds come.
        let mixed: Vec<_> = (0..32).map(|i| [16, 32, 64, 512][i % 4]).collect();
        figure(&*model, threads, "mixed", &mixed, peak);
    }
}

fn figure(model: &dyn Model, threads: usize, name: &str, lengths: &[usize], peak: f64) {
    let case = format!("{}x{name}", lengths.len());
    let mut cases = std::env::args().skip(1).filter(|arg| arg.contains('x')).peekable();
    if cases.peek().is_some() && !cases.any(|wanted| wanted == case) {
        return;
    }
    let mut instance = model.open(&InstanceOptions { threads, device: Device::Cpu }).unwrap();
    let inputs = texts(lengths);
    let (best, busy) = best(&mut *instance, &inputs);
    let tokens: usize = lengths.iter().sum();
    let flops: usize = lengths.iter().map(|length| flops(*length)).sum();
    let share = flops as f64 / busy / peak;
    println!(
        "{threads:>7} {:>6} {name:>8} {:>10.2} {:>10.0} {:>10.2} {:>5.0}%",
        lengths.len(),
        best * 1e3,
        tokens as f64 / best,
        busy * 1e3,
        share * 100.0
    );
}

/// Of one text.
fn flops(length: usize) -> usize {
    let linear = 2 * length * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER);
    LAYERS * (linear + 4 * length * length * HIDDEN)
}

/// Seconds of the best run, and of processor time of one run on average.
fn best(instance: &mut dyn Instance, inputs: &[NamedTensor]) -> (f64, f64) {
    let batch = Batch { inputs, outputs: &[] };
    // The first one finds nothing in the caches and makes its scratch memory.
    black_box(instance.run(batch, &Cancel::default()).unwrap());
    let (start, busy) = (Instant::now(), processor_time());
    let (mut best, mut runs) = (f64::INFINITY, 0.0);
    while start.elapsed() < ENOUGH || runs == 0.0 {
        let begin = Instant::now();
        black_box(instance.run(batch, &Cancel::default()).unwrap());
        best = best.min(begin.elapsed().as_secs_f64());
        runs += 1.0;
    }
    (best, (processor_time() - busy) / runs)
}

/// Seconds of processor time of all threads, in hundredths as Linux counts them; NaN elsewhere.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold spaces, the 12th and 13th fields.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    if ticks.is_empty() { f64::NAN } else { ticks.iter().sum::<f64>() / 100.0 }
}

struct Peak;

impl pulp::WithSimd for Peak {
    type Output = f64;

    /// As many independent sums as hide the latency of one.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> f64 {
        const SUMS: usize = 10;
        const ROUNDS: usize = 1_000_000;
        let factor = simd.splat_f32s(black_box(0.999));
        let mut best = f64::INFINITY;
        for _ in 0..50 {
            let begin = Instant::now();
            let mut sums = [simd.splat_f32s(black_box(1.0)); SUMS];
            for _ in 0..ROUNDS {
                sums.iter_mut().for_each(|sum| *sum = simd.mul_add_e_f32s(*sum, factor, factor));
            }
            best = best.min(begin.elapsed().as_secs_f64());
            black_box(sums);
        }
        (2 * SUMS * S::F32_LANES * ROUNDS) as f64 / best
    }
}

/// Floating-point operations per second that one thread can do, at most.
fn peak() -> f64 {
    pulp::Arch::new().dispatch(Peak)
}

/// Candle's own products of the sizes that matter, to compare with.
fn candle_products(peak: f64) {
    use candle_core::Tensor;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (rows, depth, columns) in
        [(16, 384, 1152), (16, 384, 1536), (16, 1536, 384), (512, 384, 1536), (512, 1536, 384)]
    {
        let matrix = |rows: usize, columns| {
            Tensor::randn(0f32, 1.0, (rows, columns), &candle_core::Device::Cpu).unwrap()
        };
        let (x, weight) = (matrix(rows, depth), matrix(columns, depth).t().unwrap());
        let mut best = f64::INFINITY;
        for _ in 0..50 {
            let begin = Instant::now();
            black_box(pool.install(|| x.matmul(&weight).unwrap()));
            best = best.min(begin.elapsed().as_secs_f64());
        }
        let share = (2 * rows * depth * columns) as f64 / best / peak * 100.0;
        println!("candle's product [{rows},{depth}]·[{depth},{columns}], one thread: {share:.0}%");
    }
}

fn texts(lengths: &[usize]) -> Vec<NamedTensor> {
    let width = *lengths.iter().max().unwrap();
    let tensor = |name: &str, value: &dyn Fn(usize, usize) -> i64| {
        let cells =
            lengths.iter().flat_map(|length| (0..width).map(|column| value(column, *length)));
        let data: Vec<u8> = cells.flat_map(i64::to_le_bytes).collect();
        let shape = Shape::new([lengths.len(), width]).unwrap();
        let tensor = Tensor::new(DataType::Int64, shape, data.into()).unwrap();
        NamedTensor { name: name.into(), tensor }
    };
    vec![
        tensor("input_ids", &|column, _| (column * 7 % WORDS) as i64),
        tensor("attention_mask", &|column, length| i64::from(column < length)),
        tensor("token_type_ids", &|_, _| 0),
    ]
}

fn write(dir: &Path) {
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut table = |name: &str, rows: usize| {
        shapes.push((format!("embeddings.{name}_embeddings.weight"), vec![rows, HIDDEN]));
    };
    table("word", WORDS);
    table("position", 512);
    table("token_type", 2);
    let mut pair = |name: String, dims: Vec<usize>| {
        shapes.push((format!("{name}.bias"), vec![dims[0]]));
        shapes.push((format!("{name}.weight"), dims));
    };
    pair("embeddings.LayerNorm".into(), vec![HIDDEN]);
    for i in 0..LAYERS {
        let mut pair = |part: &str, dims| pair(format!("encoder.layer.{i}.{part}"), dims);
        for part in ["self.query", "self.key", "self.value", "output.dense"] {
            pair(&format!("attention.{part}"), vec![HIDDEN, HIDDEN]);
        }
        pair("attention.output.LayerNorm", vec![HIDDEN]);
        pair("intermediate.dense", vec![INNER, HIDDEN]);
        pair("output.dense", vec![HIDDEN, INNER]);
        pair("output.LayerNorm", vec![HIDDEN]);
    }
    let bytes: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, dims)| {
            let value = |i: usize| ((i as f32 * 0.7).sin() * 0.05).to_le_bytes();
            (0..dims.iter().product()).flat_map(value).collect()
        })
        .collect();
    let views: HashMap<_, _> = shapes
        .iter()
        .zip(&bytes)
        .map(|((name, dims), data)| {
            (name.clone(), TensorView::new(Dtype::F32, dims.clone(), data).unwrap())
        })
        .collect();
    std::fs::write(dir.join("model.safetensors"), serialize(&views, None).unwrap()).unwrap();
    let config = format!(
        r#"{{"model_type": "bert", "vocab_size": {WORDS}, "hidden_size": {HIDDEN},
        "num_hidden_layers": {LAYERS}, "num_attention_heads": 12, "intermediate_size": {INNER}}}"#
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
}

fn source(dir: &Path) -> ModelSource {
    ModelSource {
        name: "minilm".into(),
        version: 1,
        dir: dir.into(),
        file: None,
        parameters: Default::default(),
        declared: Default::default(),
        decoupled: false,
    }
}

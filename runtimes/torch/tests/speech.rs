//! Goal: a real module that keeps state answers a stream as its ONNX form does, which is handed its
//! state; and instances keep streams apart.
//! Method: Silero VAD in both forms, out of one package, over a made-up signal.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

mod common;

use std::path::{Path, PathBuf};

use common::{floats, ints, open, run, source, values};
use mizzen_runtime_api::{Device, Instance, InstanceOptions, Loader, ModelSource};
use mizzen_runtime_onnx::{OnnxLoader, OnnxOptions};
use mizzen_types::DataType::{Fp32, Int64};

const RATE: i64 = 16_000;
const CHUNK: usize = 512;
/// What the ONNX form wants to see of the chunk before.
const CONTEXT: usize = 64;
const CHUNKS: usize = 60;

fn cache(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache").join(path)
}

/// Something like a voice that comes and goes: harmonics of a wavering pitch through three moving
/// resonances, under an envelope.
fn signal(pitch: f64) -> Vec<Vec<f32>> {
    let turn = |hertz: f64, t: f64| (std::f64::consts::TAU * hertz * t).sin();
    let mut phase = 0.0;
    let sample = |i: usize| {
        let t = i as f64 / RATE as f64;
        phase += std::f64::consts::TAU * pitch * (1.0 + 0.15 * turn(1.3, t)) / RATE as f64;
        let resonances = [
            (500.0 + 250.0 * turn(2.1, t), 90.0, 1.0),
            (1500.0 + 500.0 * turn(1.7, t), 120.0, 0.5),
            (2500.0, 150.0, 0.25),
        ];
        let gain = |hertz: f64| -> f64 {
            let each = |(at, width, gain)| gain / (1.0 + f64::powi((hertz - at) / width, 2));
            resonances.into_iter().map(each).sum()
        };
        let voice: f64 = (1..30).map(f64::from).map(|n| gain(n * pitch) * (n * phase).sin()).sum();
        (0.15 * voice * turn(1.9, t).max(0.0).sqrt()) as f32
    };
    let samples: Vec<f32> = (0..CHUNK * CHUNKS).map(sample).collect();
    samples.chunks(CHUNK).map(<[f32]>::to_vec).collect()
}

fn speech(dir: &Path) -> ModelSource {
    std::fs::copy(cache("torch/models/silero_vad.jit"), dir.join("model.pt")).unwrap();
    source(dir, &[("x", Fp32, &[1, -1]), ("sr", Int64, &[1])], &[("OUTPUT__0", Fp32, &[1, 1])])
}

fn probability(instance: &mut dyn Instance, chunk: &[f32]) -> f32 {
    let inputs = [floats("x", &[1, CHUNK], chunk), ints("sr", &[1], &[RATE])];
    values(&run(instance, &inputs).unwrap()[0])[0]
}

fn by_onnx(signal: &[Vec<f32>]) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(cache("torch/models/silero_vad.onnx"), dir.path().join("model.onnx")).unwrap();
    let options = OnnxOptions { dirs: vec![cache("onnxruntime/lib")], ..OnnxOptions::default() };
    let model = OnnxLoader::new(options).load(&source(dir.path(), &[], &[])).unwrap();
    let mut instance = model.open(&InstanceOptions { threads: 1, device: Device::Cpu }).unwrap();
    let (mut context, mut state) = (vec![0.0; CONTEXT], vec![0.0; 256]);
    let answer = |chunk: &Vec<f32>| {
        let input = [&context[..], chunk].concat();
        context = chunk[CHUNK - CONTEXT..].to_vec();
        let inputs = [
            floats("input", &[1, CONTEXT + CHUNK], &input),
            floats("state", &[2, 1, 128], &state),
            ints("sr", &[], &[RATE]),
        ];
        let answers = run(&mut *instance, &inputs).unwrap();
        state = values(&answers[1]);
        values(&answers[0])[0]
    };
    signal.iter().map(answer).collect()
}

#[test]
fn a_stream_is_answered_as_by_the_onnx_form() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = open(&speech(dir.path()));
    let signal = signal(140.0);
    let got: Vec<_> = signal.iter().map(|chunk| probability(&mut *instance, chunk)).collect();
    let want = by_onnx(&signal);
    assert!(
        want.iter().any(|p| *p > 0.5) && want.iter().any(|p| *p < 0.1),
        "it says something: {want:?}"
    );
    // Each chunk's rounding goes on in the state; where the answer is on its way from 0 to 1 that
    // shows most, at some 4e-5.
    let apart: Vec<_> = got.iter().zip(&want).map(|(got, want)| (got - want).abs()).collect();
    let (mean, worst) =
        (apart.iter().sum::<f32>() / CHUNKS as f32, apart.iter().copied().fold(0.0, f32::max));
    assert!(mean <= 1e-5 && worst <= 1e-4, "{mean} on average, {worst} at worst: {apart:?}");
}

#[test]
fn each_instance_keeps_the_state_of_its_own_stream() {
    let dir = tempfile::tempdir().unwrap();
    let source = speech(dir.path());
    let alone = |signal: &[Vec<f32>]| {
        let mut instance = open(&source);
        signal.iter().map(|chunk| probability(&mut *instance, chunk)).collect::<Vec<_>>()
    };
    let (low, high) = (signal(110.0), signal(220.0));
    let want = (alone(&low), alone(&high));
    assert_ne!(want.0, want.1);

    let model = mizzen_torch::TorchLoader.load(&source).unwrap();
    let options = InstanceOptions { threads: 1, device: Device::Cpu };
    let (mut first, mut second) = (model.open(&options).unwrap(), model.open(&options).unwrap());
    let turns = low.iter().zip(&high);
    let got: (Vec<_>, Vec<_>) = turns
        .map(|(low, high)| (probability(&mut *first, low), probability(&mut *second, high)))
        .unzip();
    assert_eq!(got, want);
}

#[test]
fn an_exception_is_the_answer_to_its_request_and_the_stream_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = open(&speech(dir.path()));
    let short = [floats("x", &[1, 10], &[0.0; 10]), ints("sr", &[1], &[RATE])];
    let text = run(&mut *instance, &short).map(drop).unwrap_err();
    let text = mizzen_types::Coded::message(&text);
    assert!(text.contains("Input audio chunk is too short"), "{text}");
    assert!(probability(&mut *instance, &signal(140.0)[0]).is_finite());
}

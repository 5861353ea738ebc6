//! How fast JSON tensors are read and written: `cargo bench -p mizzen-serving-http`.
//!
//! The tensor is an image, FP32 3x224x224, as Python's clients send it: each number with the digits
//! of an FP64, a space after each comma. Prints the median of the turns in MB/s of text.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench speaks on stdout and may fail"
)]

use std::{fmt::Write, hint::black_box, time::Instant};

use bytes::Bytes;
use mizzen_serving_core::{InferResponse, Parameters};
use mizzen_serving_http::fuzzing;

const ELEMENTS: usize = 3 * 224 * 224;
const TURNS: usize = 51;

fn body() -> Bytes {
    let mut text = String::from(
        r#"{"id": "1", "inputs": [{"name": "x", "shape": [1, 3, 224, 224], "datatype": "FP32", "data": ["#,
    );
    let mut state = 1u32;
    for at in 0..ELEMENTS {
        // A cheap generator: what counts is that the digits are not all alike.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = state as f32 / u32::MAX as f32;
        write!(text, "{}{}", if at == 0 { "" } else { ", " }, f64::from(value)).unwrap();
    }
    text.push_str("]}]}");
    text.into()
}

fn report(what: &str, bytes: usize, mut turn: impl FnMut()) {
    let mut took: Vec<_> = (0..TURNS)
        .map(|_| {
            let start = Instant::now();
            turn();
            start.elapsed()
        })
        .collect();
    took.sort_unstable();
    let median = took[TURNS / 2];
    let rate = bytes as f64 / median.as_secs_f64() / 1e6;
    println!("{what}: {bytes} bytes in {median:?}, {rate:.0} MB/s");
}

fn main() {
    let body = body();
    report("read", body.len(), || {
        black_box(fuzzing::infer(black_box(body.clone()), None).unwrap());
    });
    let request = fuzzing::infer(body, None).unwrap();
    let response = InferResponse {
        model: "m".into(),
        version: "1".into(),
        id: String::new(),
        outputs: request.inputs,
        parameters: Parameters::new(),
    };
    let written: usize = fuzzing::write(&response, false).unwrap().iter().map(Bytes::len).sum();
    report("write", written, || {
        black_box(fuzzing::write(black_box(&response), false).unwrap());
    });
}

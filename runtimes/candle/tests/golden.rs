//! Goal: real weights give the hidden states that another engine gives.
//! Method: all-MiniLM-L6-v2 from the directory that `MIZZEN_TEST_MINILM` names, against a few numbers
//! out of ONNX Runtime (golden/make.py says how they were made); skipped where it is not set.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it stops or skips")]

mod support;

use std::path::Path;

use serde::Deserialize;
use support::{Texts, open_in, run, values};

#[derive(Deserialize)]
struct Golden {
    input_ids: Vec<Vec<i64>>,
    attention_mask: Vec<Vec<i64>>,
    token_type_ids: Vec<Vec<i64>>,
    step: usize,
    states: Vec<State>,
}

#[derive(Deserialize)]
struct State {
    row: usize,
    token: usize,
    values: Vec<f32>,
}

#[test]
fn minilm_is_what_onnx_runtime_says() {
    let Some(dir) = std::env::var_os("MIZZEN_TEST_MINILM") else {
        eprintln!("skipped: MIZZEN_TEST_MINILM does not name a directory with all-MiniLM-L6-v2");
        return;
    };
    let golden: Golden = serde_json::from_str(include_str!("golden/minilm.json")).unwrap();
    let texts = Texts {
        width: golden.input_ids[0].len(),
        ids: golden.input_ids.concat(),
        mask: golden.attention_mask.concat(),
        types: Some(golden.token_type_ids.concat()),
    };
    for threads in [1, 2] {
        let got = run(&mut *open_in(Path::new(&dir), threads), &texts.inputs(3)).unwrap();
        assert_eq!(got[0].tensor.shape().dims(), [3, texts.width, 384]);
        let got = values(&got[0].tensor);
        for State { row, token, values } in &golden.states {
            let state = &got[(row * texts.width + token) * 384..][..384];
            for (got, want) in state.iter().step_by(golden.step).zip(values) {
                assert!((got - want).abs() < 1e-5, "row {row}, token {token}: {got}; {want}");
            }
        }
    }
}

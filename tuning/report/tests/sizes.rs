//! Pages of experiments of every size, small ones and ones of thousands of trials.
//!
//! `MIZZEN_REPORT_DIR=DIR cargo nextest run -p mizzen-tuning-report --test sizes` leaves them there to look at.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use mizzen_tuning_report::{
    Domain, Importance, Metric, Objective, Parameter, Report, Series, State, Trial, page,
};

/// Opened from disk or sent by mail, a page of this size is still there at once.
const PAGE_BYTES_MAX: usize = 2_000_000;

/// Trials whose series the command reads at most.
const CURVES: usize = 100;

fn parameters() -> Vec<Parameter> {
    let range = |name: &str, min, max, log| Parameter {
        name: name.into(),
        domain: Domain::Range { min, max, log },
    };
    let words = ["sgd", "adam", "adamw"].map(str::to_owned).to_vec();
    vec![
        range("learning_rate", 1e-5, 1e-1, true),
        range("weight_decay", 0.0, 0.1, false),
        range("momentum", 0.5, 0.99, false),
        range("dropout", 0.0, 0.5, false),
        range("layers", 1.0, 16.0, false),
        range("units", 16.0, 2048.0, true),
        Parameter {
            name: "batch_size".into(),
            domain: Domain::Ordered { values: ["16", "32", "64"].map(str::to_owned).to_vec() },
        },
        Parameter { name: "optimizer".into(), domain: Domain::Choice { values: words } },
    ]
}

/// Numbers between 0 and 1 that look drawn, the same each time.
fn drawn(seed: u64) -> f64 {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

fn trial(n: u64) -> Trial {
    let mut values = BTreeMap::new();
    let mut loss = 0.1;
    for (place, parameter) in parameters().into_iter().enumerate() {
        let at = drawn(n * 31 + place as u64);
        loss += (at - 0.4).powi(2) * (8 - place) as f64;
        let value = match parameter.domain {
            Domain::Range { min, max, log: false } => (min + at * (max - min)).to_string(),
            Domain::Range { min, max, log: true } => (min * (max / min).powf(at)).to_string(),
            Domain::Ordered { values } | Domain::Choice { values } => {
                values[(at * values.len() as f64) as usize].clone()
            }
        };
        values.insert(parameter.name, value);
    }
    let state = match n % 50 {
        7 => State::Failed,
        13 => State::EarlyStopped,
        _ => State::Succeeded,
    };
    let text = loss.to_string();
    let metric = |name: &str| Metric {
        name: name.into(),
        min: text.clone(),
        max: text.clone(),
        latest: text.clone(),
    };
    let curve = (1..=1000).map(|step| (loss * (1.0 + 9.0 / f64::from(step))).to_string());
    let series = match n < CURVES as u64 {
        true => vec![Series { metric: "validation_loss".into(), values: curve.collect() }],
        false => vec![],
    };
    Trial {
        name: format!("an-experiment-of-some-size-{:08x}", n * 2_654_435_761 % (1 << 32)),
        state,
        reason: if state == State::Failed {
            "Job reason: BackoffLimitExceeded".into()
        } else {
            String::new()
        },
        parameters: values,
        metrics: vec![metric("validation_loss"), metric("accuracy")],
        objective: (state != State::Failed).then(|| text.clone()),
        started_ms: Some(1_700_000_000_000 + n as i64 * 250),
        ended_ms: Some(1_700_000_000_000 + n as i64 * 250 + 1000),
        series,
    }
}

fn report(trials: u64) -> Report {
    Report {
        name: "an-experiment-of-some-size".into(),
        namespace: "default".into(),
        algorithm: "tpe".into(),
        state: "Running".into(),
        started_ms: Some(1_700_000_000_000),
        trials_max: Some(trials.max(1)),
        parallel: 2,
        objective: Objective { metric: "validation_loss".into(), maximize: false, goal: Some(0.2) },
        metrics: vec!["validation_loss".into(), "accuracy".into()],
        parameters: parameters(),
        trials: (0..trials).map(trial).collect(),
        ..Report::default()
    }
}

#[test]
fn a_page_of_any_number_of_trials_is_small_enough_to_open() {
    for trials in [0, 1, 2, 60, 10_000] {
        let report = report(trials);
        let started = std::time::Instant::now();
        let importance = Importance::of(&report);
        let ranked_in = started.elapsed();
        let html = page(&report, &importance);
        println!(
            "{trials} trials: {} bytes in {:?}, of which importance {ranked_in:?}",
            html.len(),
            started.elapsed()
        );
        if let Some(dir) = std::env::var_os("MIZZEN_REPORT_DIR") {
            fs::write(PathBuf::from(dir).join(format!("{trials}.html")), &html).unwrap();
        }
        assert!(html.len() < PAGE_BYTES_MAX, "{trials} trials make a page of {} bytes", html.len());
        let drawn = html.split("<script").next().unwrap();
        assert!(html.contains("</html>") && !drawn.contains("NaN"), "{trials} trials");
    }
}

#[test]
fn a_page_without_curves_says_why() {
    let mut report = report(3);
    report.trials.iter_mut().for_each(|trial| trial.series.clear());
    let why = "this cluster gives out no series";
    report.curves_missing = Some(why.into());
    assert!(page(&report, &Importance::of(&report)).contains(why));
}

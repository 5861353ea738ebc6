//! Analytic functions with known minima, for searching; used by tests and examples.
//!
//! Each is shifted so that its minimum is 0 and lies off the middle of the space, where a sampler
//! that merely prefers the middle would be flattered.

// Each user of this module uses a part of it.
#![allow(dead_code)]

use mizzen_tuning_api::{
    History, Objective, ParameterSpec, Plan, Sampler, SearchSpace, SuggestRequest, Trial,
    TrialState, Value,
};
use std::f64::consts::PI;

/// A function to minimise.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) space: SearchSpace,
    evaluate: fn(&[Value]) -> f64,
}

impl Function {
    /// The best objective after `trials` trials, suggested `batch` at a time and all of a batch run
    /// before the next is asked for.
    pub(crate) fn best_of(
        &self,
        sampler: &dyn Sampler,
        trials: usize,
        batch: usize,
        seed: u64,
    ) -> f64 {
        let mut history = History::new();
        while history.trials.len() < trials {
            let request = SuggestRequest {
                space: &self.space,
                history: &history,
                objective: Objective::MINIMIZE,
                count: batch.min(trials - history.trials.len()),
                seed,
                plan: Plan::default(),
            };
            let points = sampler.suggest(request).expect("the functions suit every sampler");
            history.trials.extend(points.into_iter().map(|point| {
                let objective = (self.evaluate)(point.values());
                Trial::new(point, TrialState::Succeeded(objective))
            }));
        }
        history.best(Objective::MINIMIZE).expect("every trial succeeds").1
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Function> {
    vec![sphere(), branin(), hartmann6(), rosenbrock(), ackley(), rastrigin(), mixed(), words()]
}

fn boxed(dimensions: usize, min: &str, max: &str) -> SearchSpace {
    let spec = |i| ParameterSpec::range(&format!("x{i}"), "double", min, max);
    SearchSpace::new((0..dimensions).map(spec).collect()).expect("a valid space")
}

fn doubles(values: &[Value]) -> Vec<f64> {
    let double = |value: &Value| match value {
        Value::Double(v) => *v,
        Value::Int(v) => *v as f64,
        Value::Choice(i) => f64::from(*i),
    };
    values.iter().map(double).collect()
}

/// A bowl in five dimensions with its minimum at 1.3 of [-5, 5].
pub(crate) fn sphere() -> Function {
    Function {
        name: "sphere5",
        space: boxed(5, "-5", "5"),
        evaluate: |x| doubles(x).iter().map(|x| (x - 1.3).powi(2)).sum(),
    }
}

/// Two dimensions, three equal minima.
pub(crate) fn branin() -> Function {
    let specs = vec![
        ParameterSpec::range("x", "double", "-5", "10"),
        ParameterSpec::range("y", "double", "0", "15"),
    ];
    Function {
        name: "branin",
        space: SearchSpace::new(specs).expect("a valid space"),
        evaluate: |v| {
            let v = doubles(v);
            let (x, y) = (v[0], v[1]);
            let valley = y - 5.1 / (4.0 * PI * PI) * x * x + 5.0 / PI * x - 6.0;
            valley.powi(2) + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x.cos() + 10.0
                - 0.397_887_357_729_739
        },
    }
}

/// Six dimensions, a few local minima.
pub(crate) fn hartmann6() -> Function {
    const WEIGHTS: [f64; 4] = [1.0, 1.2, 3.0, 3.2];
    const SCALES: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const CENTRES: [[f64; 6]; 4] = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    Function {
        name: "hartmann6",
        space: boxed(6, "0", "1"),
        evaluate: |v| {
            let x = doubles(v);
            let bump = |i: usize| {
                let inner = |j: usize| SCALES[i][j] * (x[j] - CENTRES[i][j]).powi(2);
                WEIGHTS[i] * (-(0..6).map(inner).sum::<f64>()).exp()
            };
            3.322_368_011_415_511 - (0..4).map(bump).sum::<f64>()
        },
    }
}

/// A curved valley in four dimensions.
pub(crate) fn rosenbrock() -> Function {
    Function {
        name: "rosenbrock4",
        space: boxed(4, "-2", "3"),
        evaluate: |v| {
            let x = doubles(v);
            let link = |w: &[f64]| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2);
            x.windows(2).map(link).sum()
        },
    }
}

/// Five dimensions, many shallow local minima around a steep one.
pub(crate) fn ackley() -> Function {
    Function {
        name: "ackley5",
        space: boxed(5, "-10", "20"),
        evaluate: |v| {
            let x: Vec<f64> = doubles(v).iter().map(|x| x - 2.0).collect();
            let n = x.len() as f64;
            let square = (x.iter().map(|x| x * x).sum::<f64>() / n).sqrt();
            let wave = x.iter().map(|x| (2.0 * PI * x).cos()).sum::<f64>() / n;
            20.0 + 1f64.exp() - 20.0 * (-0.2 * square).exp() - wave.exp()
        },
    }
}

/// Five dimensions, a grid of deep local minima.
pub(crate) fn rastrigin() -> Function {
    Function {
        name: "rastrigin5",
        space: boxed(5, "-4", "6"),
        evaluate: |v| {
            let wave = |x: f64| (x - 0.7).powi(2) + 10.0 - 10.0 * (2.0 * PI * (x - 0.7)).cos();
            doubles(v).into_iter().map(wave).sum()
        },
    }
}

/// What a training run depends on: every kind of parameter, two of them interacting.
pub(crate) fn mixed() -> Function {
    let specs = vec![
        ParameterSpec::range("lr", "double", "1e-5", "1").distribution("logUniform"),
        ParameterSpec::range("momentum", "double", "0", "0.99"),
        ParameterSpec::range("dropout", "double", "0", "0.8").step("0.1"),
        ParameterSpec::range("layers", "int", "1", "8"),
        ParameterSpec::list("batch", "discrete", &["16", "32", "64", "128", "256"]),
        ParameterSpec::list("optimizer", "categorical", &["sgd", "adam", "rmsprop", "lion"]),
    ];
    Function {
        name: "mixed6",
        space: SearchSpace::new(specs).expect("a valid space"),
        evaluate: |v| {
            let v = doubles(v);
            // The good learning rate depends on the batch size, as it does in training.
            let lr = v[0].log10() + 2.5 - 0.25 * (v[4] - 1.0);
            let optimizer = [0.6, 0.0, 0.35, 0.5][v[5] as usize];
            lr * lr
                + (v[1] - 0.8).powi(2)
                + 2.0 * (v[2] - 0.2).powi(2)
                + 0.1 * (v[3] - 5.0).abs()
                + 0.15 * (v[4] - 1.0).abs()
                + optimizer
        },
    }
}

/// Categories alone: five words of six each, some of which go together.
pub(crate) fn words() -> Function {
    let words = ["a", "b", "c", "d", "e", "f"];
    let spec = |i| ParameterSpec::list(&format!("w{i}"), "categorical", &words);
    Function {
        name: "words5",
        space: SearchSpace::new((0..5).map(spec).collect()).expect("a valid space"),
        evaluate: |v| {
            let v = doubles(v);
            let cost = |i: usize| (v[i] * 5.0 + i as f64 * 3.0) % 6.0 / 6.0;
            let pair = if v[0] == v[1] { 0.5 } else { 0.0 };
            // The cheapest words are 0, 3, 0, 3, 0, and of those none are paired.
            (0..5).map(cost).sum::<f64>() + pair
        },
    }
}

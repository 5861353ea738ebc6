//! Runs the samplers on analytic functions and prints what they found, as CSV.
//!
//! ```text
//! cargo run -p mizzen-samplers --example compare -- [trials] [batch] [seeds]
//! cargo run -p mizzen-samplers --example compare -- speed
//! ```
//!
//! The first form prints `function,algorithm,seed,trials,batch,best`, one line a run, best objective
//! after all trials; the functions' minima are 0. `speed` prints milliseconds for one suggestion by
//! length of history, over ten parameters. Build with `--release` to quote a figure.

use mizzen_samplers::{Random, Tpe};
use mizzen_tuning_api::{
    Assignments, History, Objective, ParameterSpec, Plan, Sampler, SearchSpace, SuggestRequest,
    Trial, TrialState, UnitScale,
};
use std::io::{self, Write};
use std::time::Instant;

#[path = "../tests/functions/mod.rs"]
mod functions;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut out = io::stdout().lock();
    if arguments.first().is_some_and(|a| a == "speed") {
        return speed(&mut out);
    }
    let number =
        |i: usize, default: usize| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    compare(&mut out, number(0, 60), number(1, 1), number(2, 10) as u64)
}

fn samplers() -> [(&'static str, Box<dyn Sampler>); 3] {
    [
        ("random", Box::new(Random::default())),
        ("tpe", Box::new(Tpe::default())),
        ("multivariate-tpe", Box::new(Tpe { multivariate: true, ..Tpe::default() })),
    ]
}

fn compare(out: &mut impl Write, trials: usize, batch: usize, seeds: u64) -> io::Result<()> {
    writeln!(out, "function,algorithm,seed,trials,batch,best")?;
    for function in functions::all() {
        for (name, sampler) in samplers() {
            for seed in 0..seeds {
                let best = function.best_of(sampler.as_ref(), trials, batch, seed);
                let function = function.name;
                writeln!(out, "{function},{name},{seed},{trials},{batch},{best:e}")?;
            }
        }
    }
    Ok(())
}

fn speed(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "space,algorithm,trials,milliseconds")?;
    for (space_name, space) in [("real", real()), ("mixed", mixed())] {
        for trials in [100, 1000, 5000] {
            let history = history(&space, trials);
            for (name, sampler) in samplers() {
                let repeats = if trials > 1000 { 5 } else { 20 };
                let started = Instant::now();
                for seed in 0..repeats {
                    let request = SuggestRequest {
                        space: &space,
                        history: &history,
                        objective: Objective::MINIMIZE,
                        count: 1,
                        seed,
                        plan: Plan::default(),
                    };
                    sampler.suggest(request).map_err(io::Error::other)?;
                }
                let each = started.elapsed().as_secs_f64() * 1e3 / repeats as f64;
                writeln!(out, "{space_name},{name},{trials},{each:.3}")?;
            }
        }
    }
    Ok(())
}

fn real() -> SearchSpace {
    let spec = |i: usize| ParameterSpec::range(&format!("x{i}"), "double", "1e-5", "1");
    let log = |i: usize| if i.is_multiple_of(2) { "logUniform" } else { "uniform" };
    let specs = (0..10).map(|i| spec(i).distribution(log(i))).collect();
    SearchSpace::new(specs).expect("a valid space")
}

fn mixed() -> SearchSpace {
    let specs = vec![
        ParameterSpec::range("lr", "double", "1e-5", "1").distribution("logUniform"),
        ParameterSpec::range("momentum", "double", "0", "1"),
        ParameterSpec::range("decay", "double", "1e-8", "0.1").distribution("logUniform"),
        ParameterSpec::range("dropout", "double", "0", "0.9").step("0.05"),
        ParameterSpec::range("layers", "int", "1", "12"),
        ParameterSpec::range("units", "int", "8", "1024").distribution("logUniform"),
        ParameterSpec::range("warmup", "int", "0", "10000"),
        ParameterSpec::list("batch", "discrete", &["16", "32", "64", "128", "256"]),
        ParameterSpec::list("optimizer", "categorical", &["sgd", "adam", "rmsprop"]),
        ParameterSpec::list("activation", "categorical", &["relu", "gelu", "tanh", "silu"]),
    ];
    SearchSpace::new(specs).expect("a valid space")
}

/// A history that has begun to converge, as a real one has: half of it lies around one point.
fn history(space: &SearchSpace, trials: usize) -> History {
    let mut history = History::new();
    let sampler = Random::default();
    for seed in 0..trials as u64 {
        let request = SuggestRequest {
            space,
            history: &History::new(),
            objective: Objective::MINIMIZE,
            count: 1,
            seed,
            plan: Plan::default(),
        };
        let drawn = sampler.suggest(request).expect("random never fails").remove(0);
        let point = if seed % 2 == 0 { drawn } else { towards_middle(space, &drawn) };
        let loss = places(space, &point).iter().map(|u| (u - 0.3).powi(2)).sum();
        history.trials.push(Trial::new(point, TrialState::Succeeded(loss)));
    }
    history
}

fn places(space: &SearchSpace, point: &Assignments) -> Vec<f64> {
    let pairs = space.domains().zip(point.values());
    pairs.map(|(d, v)| UnitScale::new(d).place(*v).unwrap_or(0.5)).collect()
}

fn towards_middle(space: &SearchSpace, point: &Assignments) -> Assignments {
    let places = places(space, point).into_iter().map(|u| 0.3 + 0.1 * (u - 0.5));
    let values = space.domains().zip(places).map(|(d, u)| UnitScale::new(d).value(u)).collect();
    space.assign(values).expect("places on the unit interval are values")
}

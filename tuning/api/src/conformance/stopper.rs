//! What every early stopper must keep, as checks that any implementation can run.
//!
//! They say whether it is safe to rely on, not whether it stops the right trials.

use std::time::{Duration, Instant};

use super::{Broken, Check, Scatter, broken};
use crate::{Curve, EarlyStopper, Objective, Stage, StopRequest, Verdict};

/// Runs every check; `make` builds a new instance each time, with settings that let it judge from the
/// tenth value of a trial at the latest.
///
/// # Errors
/// [`Broken`] with each promise that was not kept.
pub fn check(make: impl Fn() -> Box<dyn EarlyStopper>) -> Result<(), Broken> {
    broken("early stopper", &Suite { make: &make }, &Suite::CHECKS)
}

struct Suite<'a> {
    make: &'a dyn Fn() -> Box<dyn EarlyStopper>,
}

const TRIALS: usize = 40;
const STEPS: usize = 30;

impl Suite<'_> {
    const CHECKS: [(&'static str, Check<Self>); 8] = [
        ("the answer depends on the request alone", Self::is_a_function),
        ("a trial that has reported nothing goes on", Self::spares_the_silent),
        ("a trial that is alone goes on", Self::spares_the_lone),
        ("a trial better than all others all along goes on", Self::spares_the_best),
        ("a trial worse than all others all along is stopped", Self::stops_the_hopeless),
        ("values of every kind are borne", Self::bears_any_value),
        ("maximising is minimising the negation", Self::mirrors_the_objective),
        ("long curves of many trials are not too many", Self::bears_long_curves),
    ];

    fn judge(&self, trials: &[Curve<'_>], trial: usize) -> Option<Verdict> {
        (self.make)().judge(StopRequest { trials, trial, objective: Objective::MINIMIZE })
    }

    fn is_a_function(&self) -> Result<(), String> {
        let curves = noisy(TRIALS, STEPS);
        let stopper = (self.make)();
        for (trial, steps) in moments() {
            let trials = view(&curves, trial, steps);
            let request = StopRequest { trials: &trials, trial, objective: Objective::MINIMIZE };
            let (first, again, other) =
                (stopper.judge(request), stopper.judge(request), self.judge(&trials, trial));
            if first != again || first != other {
                return Err(format!(
                    "trial {trial} after {steps} values: {first:?}, then {again:?} and {other:?}"
                ));
            }
        }
        Ok(())
    }

    fn spares_the_silent(&self) -> Result<(), String> {
        let curves = noisy(TRIALS, STEPS);
        (0..TRIALS).try_for_each(|trial| goes_on(self.judge(&view(&curves, trial, 0), trial)))
    }

    fn spares_the_lone(&self) -> Result<(), String> {
        let values = vec![1.0; STEPS];
        goes_on(self.judge(&[Curve::running(&values)], 0))
    }

    fn spares_the_best(&self) -> Result<(), String> {
        for (trial, steps) in moments() {
            let mut curves = noisy(TRIALS, STEPS);
            curves[trial] = vec![-1.0; STEPS];
            goes_on(self.judge(&view(&curves, trial, steps), trial))?;
        }
        Ok(())
    }

    /// Some stoppers judge only some of the trials; none may judge no trial at all.
    fn stops_the_hopeless(&self) -> Result<(), String> {
        let stopped = (0..TRIALS).any(|trial| {
            let mut curves = noisy(TRIALS, STEPS);
            curves[trial] = vec![1e6; STEPS];
            (1..=STEPS).any(|steps| self.judge(&view(&curves, trial, steps), trial).is_some())
        });
        if stopped { Ok(()) } else { Err("it went on to the end, whichever trial it was".into()) }
    }

    fn bears_any_value(&self) -> Result<(), String> {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 0.0, -0.0];
        for shift in 0..odd.len() {
            let mut scatter = Scatter(shift as u64);
            let mut value = || odd[(scatter.next() * odd.len() as f64) as usize % odd.len()];
            let curves: Vec<Vec<f64>> =
                (0..TRIALS).map(|_| (0..STEPS).map(|_| value()).collect()).collect();
            for (trial, steps) in moments() {
                let trials = view(&curves, trial, steps);
                let verdict = self.judge(&trials, trial);
                if let Some(verdict) = verdict.filter(|v| v.step > steps || v.bound.is_nan()) {
                    return Err(format!("trial {trial} has {steps} values, and {verdict:?}"));
                }
            }
        }
        Ok(())
    }

    fn mirrors_the_objective(&self) -> Result<(), String> {
        let curves = noisy(TRIALS, STEPS);
        let negated: Vec<Vec<f64>> =
            curves.iter().map(|c| c.iter().map(|v| -v).collect()).collect();
        for (trial, steps) in moments() {
            let trials = view(&negated, trial, steps);
            let request = StopRequest { trials: &trials, trial, objective: Objective::MAXIMIZE };
            let (down, up) =
                (self.judge(&view(&curves, trial, steps), trial), (self.make)().judge(request));
            if down.is_some() != up.is_some() {
                return Err(format!("trial {trial} after {steps} values: {down:?}, but {up:?}"));
            }
        }
        Ok(())
    }

    /// So generously bounded that an unoptimised build on a busy machine passes.
    fn bears_long_curves(&self) -> Result<(), String> {
        let curves = noisy(500, 2000);
        let begun = Instant::now();
        self.judge(&view(&curves, 499, 2000), 499);
        let taken = begun.elapsed();
        if taken < Duration::from_secs(5) {
            Ok(())
        } else {
            Err(format!("one judgement took {taken:?}"))
        }
    }
}

fn goes_on(verdict: Option<Verdict>) -> Result<(), String> {
    verdict.map_or(Ok(()), |verdict| Err(format!("it was stopped: {verdict}")))
}

/// Curves between 0 and 1 that fall slowly, some below others.
fn noisy(trials: usize, steps: usize) -> Vec<Vec<f64>> {
    let mut scatter = Scatter(0x5eed);
    let mut curve = || {
        let level = scatter.next();
        (0..steps).map(|s| level * 0.8 + 0.2 * scatter.next() / (1.0 + s as f64)).collect()
    };
    (0..trials).map(|_| curve()).collect()
}

/// Which trial to judge, and after how many values.
fn moments() -> impl Iterator<Item = (usize, usize)> {
    (0..TRIALS).step_by(3).flat_map(|trial| (0..=STEPS).step_by(2).map(move |steps| (trial, steps)))
}

/// The curves with one trial cut short, as it is when it runs and the others are of every stage.
fn view(curves: &[Vec<f64>], trial: usize, steps: usize) -> Vec<Curve<'_>> {
    let stage = |i: usize| match i % 7 {
        3 => Stage::Failed,
        5 => Stage::EarlyStopped,
        6 => Stage::Running,
        _ => Stage::Succeeded,
    };
    let all = curves.iter().enumerate();
    all.map(|(i, values)| match i == trial {
        true => Curve::running(&values[..steps]),
        false => Curve { values, stage: stage(i) },
    })
    .collect()
}

//! Searches that try many points with little resource and go on with the few that do well.
//!
//! The resource (epochs, samples, trees) is a parameter of the space, as in Katib: the sampler sets
//! it, the trial heeds it. A trial with more resource has the other parameters of the trial that it
//! goes on from, which is how a history is read: nothing else has to be kept.

mod asha;
mod hyperband;

use crate::seen::{has_failed, point};
pub use asha::Asha;
pub use hyperband::{Hyperband, HyperbandProgress};
use mizzen_tuning_api::{
    Assignments, Domain, Objective, SamplerError, SearchSpace, SettingError, Settings, Trial, Value,
};

/// The parameter that is the resource, in one space.
struct Resource<'a> {
    space: &'a SearchSpace,
    parameter: usize,
}

impl<'a> Resource<'a> {
    /// # Errors
    /// [`SamplerError::Unsupported`] if there is no such parameter, it is not a number, or it does
    /// not reach as far as the sampler would go.
    fn find(
        algorithm: &'static str,
        space: &'a SearchSpace,
        name: &str,
        least: f64,
        most: f64,
    ) -> Result<Self, SamplerError> {
        let unsupported = |reason: String| SamplerError::Unsupported {
            algorithm,
            parameter: name.into(),
            reason,
        };
        let found = space.parameters().iter().position(|p| p.name() == name);
        let parameter = found.ok_or_else(|| {
            let names = space.parameters().iter().map(|p| format!("`{}`", p.name()));
            let names = names.collect::<Vec<_>>().join(", ");
            unsupported(format!("setting `resource_name` must be a parameter; there are {names}"))
        })?;
        let resource = Self { space, parameter };
        let Some((low, high)) = resource.bounds() else {
            let reason = "the resource must be a number; make it an `int` or a `double`";
            return Err(unsupported(reason.into()));
        };
        // A resource is rounded to a value, so half a step beyond a bound is not beyond.
        if least < low - 0.5 || most > high + 0.5 {
            return Err(unsupported(format!(
                "trials get {least} to {most} of it, but it is {}; widen it or change the settings",
                space.parameters()[parameter].domain().describe()
            )));
        }
        Ok(resource)
    }

    fn domain(&self) -> &'a Domain {
        self.space.parameters()[self.parameter].domain()
    }

    fn bounds(&self) -> Option<(f64, f64)> {
        match self.domain() {
            Domain::Double(d) => Some((d.min(), d.max())),
            Domain::Int(d) => Some((d.min() as f64, d.max() as f64)),
            Domain::Discrete(d) => Some((d.values().first()?.0, d.values().last()?.0)),
            Domain::Categorical(_) => None,
        }
    }

    /// The value nearest to an amount.
    fn value(&self, amount: f64) -> Value {
        let cell = |low: f64, step: f64| ((amount - low) / step).round().max(0.0) as u64;
        match self.domain() {
            Domain::Double(d) => match d.step() {
                Some(step) => self.domain().value(cell(d.min(), step)),
                None => Value::Double(amount.clamp(d.min(), d.max())),
            },
            Domain::Int(d) => self.domain().value(cell(d.min() as f64, d.step() as f64)),
            Domain::Discrete(d) => {
                let off = |(n, _): &(f64, String)| (n - amount).abs();
                let nearest = d.values().iter().enumerate();
                let nearest = nearest.min_by(|a, b| off(a.1).total_cmp(&off(b.1)));
                Value::Choice(nearest.map_or(0, |(i, _)| i as u32))
            }
            Domain::Categorical(_) => self.domain().value(0),
        }
    }

    /// A point with another amount of the resource.
    fn with(&self, at: &Assignments, value: Value) -> Assignments {
        let mut values = at.values().to_vec();
        values[self.parameter] = value;
        point(self.space, values)
    }

    /// Whether two points differ in nothing but the resource.
    fn same_but_for_it(&self, a: &Assignments, b: &Assignments) -> bool {
        let pairs = a.values().iter().zip(b.values()).enumerate();
        a.values().len() == b.values().len()
            && pairs.into_iter().all(|(i, (x, y))| i == self.parameter || x == y)
    }
}

/// A trial on one rung.
struct Entry<'a> {
    point: &'a Assignments,
    /// `None` while it runs; a failure's loss is infinite.
    loss: Option<f64>,
    promoted: bool,
}

impl<'a> Entry<'a> {
    /// `None` for the trial is a suggestion of the answer in the making.
    fn new(point: &'a Assignments, trial: Option<&Trial>, objective: Objective) -> Self {
        let loss = trial.and_then(|t| match has_failed(t) {
            true => Some(f64::INFINITY),
            false => t.objective().map(|o| objective.loss(o)),
        });
        Self { point, loss, promoted: false }
    }
}

/// The best `most` of a rung's ended trials that were not failures, the best first.
fn best<'e>(rung: &'e [Entry<'_>], most: usize) -> Vec<&'e Entry<'e>> {
    let mut ended: Vec<&Entry<'_>> =
        rung.iter().filter(|e| e.loss.is_some_and(f64::is_finite)).collect();
    let loss = |e: &Entry<'_>| e.loss.unwrap_or(f64::INFINITY);
    ended.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
    ended.truncate(most);
    ended
}

fn resource_name(settings: &Settings) -> Result<String, SettingError> {
    let name = settings.require("resource_name", "the name of a parameter")?;
    Ok(name.to_owned())
}

/// By what factor the resource grows and the trials become fewer.
pub(crate) fn eta(settings: &Settings) -> Result<u32, SettingError> {
    // Katib writes it back as `3.0`.
    let within = |e: &f64| e.fract() == 0.0 && (2.0..=1000.0).contains(e);
    let eta = settings.read("eta", "an integer from 2 to 1000", within)?;
    Ok(eta.map_or(3, |eta| eta as u32))
}

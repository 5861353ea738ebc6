//! Early stopping: whether a trial that runs is to be ended now, from what is stored of it and of the
//! experiment's other trials.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use kube::{ResourceExt, runtime::reflector::ObjectRef};
use mizzen_crds::{
    EarlyStoppingRule, Experiment, ExperimentSpec, Objective as ObjectiveSpec, Trial, TrialPhase,
};
use mizzen_tuning_api::{Curve, EarlyStopper, Objective, Settings, Stage, StopRequest};
use mizzen_tuning_service::RemoteStopper;
use mizzen_types::Coded;
use tracing::debug;

use super::Context;
use crate::{
    ControllerError, MetricPoint, MetricSink, Services,
    experiment::Ledger,
    watch::{Cache, Guarded, Parsed, compute},
};

/// The rule of ours that an experiment's `earlyStopping` names; none where it names none, or a service
/// of the user's own, whose rules are in the trials.
///
/// # Errors
/// One line that names the setting that stands in the way.
pub(crate) fn stopper(
    spec: &ExperimentSpec,
    theirs: &Services,
) -> Result<Option<Box<dyn EarlyStopper>>, String> {
    let Some(rule) = &spec.early_stopping else { return Ok(None) };
    if theirs.contains_key(&rule.algorithm_name) {
        return Ok(None);
    }
    let settings = rule.algorithm_settings.iter();
    let settings = Settings::new(settings.map(|s| (s.name.as_str(), s.value.as_str())));
    let stopper = mizzen_samplers::stopper_by_name(&rule.algorithm_name, &settings);
    stopper.map(Some).map_err(|e| e.message())
}

/// What early stopping looks at.
pub(crate) struct Stopping {
    pub(crate) experiments: Cache<Guarded<Experiment>>,
    pub(crate) trials: Arc<Ledger>,
    /// Early stopping that is a service of the user's own.
    theirs: Arc<Services>,
    ended: Ended,
}

impl Stopping {
    pub(crate) fn new(
        experiments: Cache<Guarded<Experiment>>,
        trials: Arc<Ledger>,
        theirs: Arc<Services>,
    ) -> Self {
        Self { experiments, trials, theirs, ended: Ended::default() }
    }

    /// Tells the service whose rules a trial was held to that it was stopped. It is in the trial's status
    /// already, so a service that does not hear of it misses nothing that it could not read there.
    pub(super) fn tell(&self, trial: &Trial) {
        let experiment = self.experiment_of(trial);
        let rule = experiment.as_ref().and_then(|e| e.spec.early_stopping.as_ref());
        let Some(address) = rule.and_then(|r| self.theirs.get(&r.algorithm_name)) else { return };
        let (Ok(service), name) = (RemoteStopper::new(address), trial.name_any()) else { return };
        tokio::spawn(async move {
            if let Err(error) = service.stopped(name.clone()).await {
                debug!(error = %error, trial = name, "nobody was told that a trial was stopped");
            }
        });
    }

    /// Whether a trial may be stopped early at all.
    pub(super) fn applies(&self, trial: &Trial) -> bool {
        let of_all = |e: Parsed<Experiment>| e.spec.early_stopping.is_some();
        !trial.spec.early_stopping_rules.is_empty() || self.experiment_of(trial).is_some_and(of_all)
    }

    fn experiment_of(&self, trial: &Trial) -> Option<Parsed<Experiment>> {
        let owner = trial.owner_references().iter().find(|o| o.kind == "Experiment")?;
        let name = ObjectRef::new(&owner.name).within(&trial.namespace().unwrap_or_default());
        let found = self.experiments.get(&name).and_then(Parsed::new)?;
        (found.uid().as_ref() == Some(&owner.uid)).then_some(found)
    }
}

/// The curves of trials that have ended, by experiment and trial: they are the same for good, and an
/// experiment has many.
#[derive(Clone, Default)]
struct Ended(Arc<Mutex<HashMap<String, CurvesByUid>>>);

type CurvesByUid = HashMap<String, Arc<[f64]>>;

impl Ended {
    fn get(&self, experiment: &str, trial: &str) -> Option<Arc<[f64]>> {
        self.0.lock().expect("never poisoned").get(experiment)?.get(trial).cloned()
    }

    fn put(&self, experiment: &str, trial: &str, curve: Arc<[f64]>) {
        let mut all = self.0.lock().expect("never poisoned");
        all.entry(experiment.to_owned()).or_default().insert(trial.to_owned(), curve);
    }

    /// Forgets experiments that are not among these.
    fn keep(&self, experiments: &[String]) {
        self.0.lock().expect("never poisoned").retain(|uid, _| experiments.contains(uid));
    }
}

impl Context {
    /// Why a trial that runs is to be ended now, in words; none if it is to go on.
    pub(super) async fn verdict(&self, trial: &Trial) -> Result<Option<String>, ControllerError> {
        if !trial.spec.early_stopping_rules.is_empty() {
            let points = self.sink.whole(&trial.uid().unwrap_or_default())?;
            let met = rules_met(&trial.spec.early_stopping_rules, &trial.spec.objective, &points);
            if met.is_some() {
                return Ok(met);
            }
        }
        let Some(experiment) = self.stopping.experiment_of(trial) else { return Ok(None) };
        // Settings were checked when the experiment came in; one that is unusable stops nothing.
        let Ok(Some(stopper)) = stopper(&experiment.spec, &self.stopping.theirs) else {
            return Ok(None);
        };
        let trials = self.stopping.trials.trials(&experiment.uid().unwrap_or_default());
        let Some(place) = trials.iter().position(|t| t.uid() == trial.uid()) else {
            return Ok(None);
        };
        let known =
            self.stopping.experiments.state().iter().filter_map(|e| e.uid()).collect::<Vec<_>>();
        self.stopping.ended.keep(&known);
        let (sink, ended) = (self.sink.clone(), self.stopping.ended.clone());
        compute(move || {
            let all = Curves { sink: &*sink, ended: &ended, experiment: &experiment };
            let values = trials.iter().map(|t| all.of(t)).collect::<Result<Vec<_>, _>>()?;
            let curves = trials.iter().zip(&values);
            let curves: Vec<_> =
                curves.map(|(t, values)| Curve { values, stage: stage(t.phase()) }).collect();
            let objective = direction(&experiment.spec.objective());
            let verdict = stopper.judge(StopRequest { trials: &curves, trial: place, objective });
            Ok(verdict.map(|verdict| verdict.to_string()))
        })
        .await?
    }
}

/// Reads the curves of one experiment's trials.
struct Curves<'a> {
    sink: &'a dyn MetricSink,
    ended: &'a Ended,
    experiment: &'a Experiment,
}

impl Curves<'_> {
    fn of(&self, trial: &Trial) -> Result<Arc<[f64]>, ControllerError> {
        let (of, uid) =
            (self.experiment.uid().unwrap_or_default(), trial.uid().unwrap_or_default());
        if let Some(known) = self.ended.get(&of, &uid) {
            return Ok(known);
        }
        let name = &self.experiment.spec.objective().objective_metric_name;
        let points = self.sink.whole_of(&uid, name)?;
        let curve: Arc<[f64]> = points.iter().map(|p| number(&p.value)).collect();
        if trial.phase().is_over() {
            self.ended.put(&of, &uid, curve.clone());
        }
        Ok(curve)
    }
}

fn stage(phase: TrialPhase) -> Stage {
    match phase {
        TrialPhase::Pending | TrialPhase::Running => Stage::Running,
        TrialPhase::Succeeded => Stage::Succeeded,
        TrialPhase::EarlyStopped => Stage::EarlyStopped,
        TrialPhase::Failed | TrialPhase::Killed | TrialPhase::MetricsUnavailable => Stage::Failed,
    }
}

fn direction(objective: &ObjectiveSpec) -> Objective {
    if objective.maximize() { Objective::MAXIMIZE } else { Objective::MINIMIZE }
}

/// What a trial reported as a number; not-a-number where it is none.
fn number(text: &str) -> f64 {
    text.trim().parse().unwrap_or(f64::NAN)
}

/// Katib's rules of a trial's own: it ends once each of them has held, the objective going by its best
/// value so far. Says which held.
fn rules_met(
    rules: &[EarlyStoppingRule],
    objective: &ObjectiveSpec,
    points: &[MetricPoint],
) -> Option<String> {
    let held = |rule: &EarlyStoppingRule| {
        let values = points.iter().filter(|p| p.metric == rule.name).map(|p| number(&p.value));
        let best = direction(objective);
        let counts = rule.name == objective.objective_metric_name;
        let so_far = values.scan(f64::NAN, |so_far, value| {
            let better = so_far.is_nan() || best.is_better(value, *so_far);
            *so_far = if better || !counts { value } else { *so_far };
            Some(*so_far)
        });
        let (bound, first) = (number(&rule.value), rule.start_step.unwrap_or(0).max(1));
        let holds = |value: &f64| match rule.comparison.as_str() {
            "equal" => *value == bound,
            "less" => *value < bound,
            "greater" => *value > bound,
            _ => false,
        };
        let value = so_far.skip(usize::try_from(first).ok()? - 1).find(holds)?;
        Some(format!("`{}` is {value}, {} than {}", rule.name, rule.comparison, rule.value))
    };
    let held = rules.iter().map(held).collect::<Option<Vec<_>>>()?;
    Some(held.join("; ").replace("equal than", "equal to"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_a_trials_own_hold_as_katibs_collector_holds_them() {
        let rule = |name: &str, comparison: &str, value: &str, start: i32| EarlyStoppingRule {
            name: name.into(),
            value: value.into(),
            comparison: comparison.into(),
            start_step: Some(start),
        };
        let objective =
            ObjectiveSpec { objective_metric_name: "loss".into(), ..ObjectiveSpec::default() };
        let points = |loss: &[&str], acc: &[&str]| -> Vec<MetricPoint> {
            let of = |metric: &str, values: &[&str]| -> Vec<MetricPoint> {
                let point = |(step, value): (usize, &&str)| MetricPoint {
                    metric: metric.into(),
                    step: step as u64,
                    time: None,
                    value: (*value).into(),
                };
                values.iter().enumerate().map(point).collect()
            };
            [of("loss", loss), of("acc", acc)].concat()
        };
        let worse = || rule("loss", "greater", "0.5", 2);
        #[rustfmt::skip]
        let cases = [
            // what the case shows                rules                                        loss                 acc         verdict
            ("worse from the first step on",      vec![worse()],                               &["0.9", "0.8"][..], &[][..],   Some("`loss` is 0.8, greater than 0.5")),
            ("before its first step",             vec![worse()],                               &["0.9"],            &[],       None),
            ("the best so far counts",            vec![worse()],                               &["0.1", "0.8"],     &[],       None),
            ("another metric goes by its own",    vec![rule("acc", "less", "0.2", 0)],         &[],                 &["0.5", "0.1"], Some("`acc` is 0.1, less than 0.2")),
            ("all rules must have held",          vec![worse(), rule("acc", "equal", "0", 1)], &["0.9", "0.8"],     &["1"],    None),
            ("each at a time of its own",         vec![worse(), rule("acc", "equal", "0", 1)], &["0.9", "0.8"],     &["0", "1"], Some("`loss` is 0.8, greater than 0.5; `acc` is 0, equal to 0")),
            ("not-a-number is neither",           vec![worse()],                               &["nan", "x", "nan"], &[],      None),
        ];
        for (shows, rules, loss, acc, want) in cases {
            let got = rules_met(&rules, &objective, &points(loss, acc));
            assert_eq!(got.as_deref(), want, "{shows}");
        }
    }
}

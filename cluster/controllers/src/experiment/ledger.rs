//! The trials of every experiment in order, and what is read out of each of them once.
//!
//! An experiment looks at all of its trials whenever one of them changes. What it looks for is kept
//! here beside the trial, so that a look is a few comparisons a trial and ten thousand of them are
//! still nothing beside the start of one process.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::{Arc, Mutex, OnceLock},
};

use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use mizzen_crds::{LABEL_TRIAL_INDEX, Trial, TrialPhase};
use mizzen_tuning_api::Assignments;
use serde_json::json;

use crate::watch::{Guarded, Parsed};

/// A trial, and what its experiment wants to know of it.
#[derive(Clone)]
pub(crate) struct Past(Arc<Reading>);

struct Reading {
    trial: Parsed<Trial>,
    index: Option<u64>,
    phase: TrialPhase,
    /// The objective's value as the trial wrote it.
    value: Option<String>,
    number: Option<f64>,
    /// The trial's point, and the space that it was read in.
    point: OnceLock<(u64, Option<Assignments>)>,
}

impl Deref for Past {
    type Target = Trial;

    fn deref(&self) -> &Trial {
        &self.0.trial
    }
}

impl Past {
    pub(crate) fn new(trial: Parsed<Trial>) -> Self {
        let observation = trial.status.as_ref().and_then(|s| s.observation.as_ref());
        let value = observation.and_then(|o| trial.spec.objective.value_text(o)).map(str::to_owned);
        let number = value.as_ref().and_then(|text| text.parse().ok());
        let index = trial.labels().get(LABEL_TRIAL_INDEX).and_then(|index| index.parse().ok());
        let (phase, point) = (trial.phase(), OnceLock::new());
        Self(Arc::new(Reading { trial, index, phase, value, number, point }))
    }

    /// The trial's index within its experiment; none for one that somebody else made.
    pub(crate) fn index(&self) -> Option<u64> {
        self.0.index
    }

    pub(crate) fn phase(&self) -> TrialPhase {
        self.0.phase
    }

    /// The objective's value as text, and as a number where it is one.
    pub(crate) fn value(&self) -> Option<(&str, Option<f64>)> {
        Some((self.0.value.as_deref()?, self.0.number))
    }

    /// The trial's point in the space with this mark, read once; none where it is not of it.
    pub(crate) fn point(
        &self,
        space: u64,
        read: impl Fn(&Trial) -> Option<Assignments>,
    ) -> Option<Assignments> {
        let (of, point) = self.0.point.get_or_init(|| (space, read(&self.0.trial)));
        // A space changes only where nothing keeps experiments from being edited.
        if *of == space { point.clone() } else { read(&self.0.trial) }
    }

    /// Whether an experiment has to look again now that its trial `self` has become `new`.
    fn differs(&self, new: &Self) -> bool {
        self.0.phase != new.0.phase
            || self.0.value != new.0.value
            || self.0.index != new.0.index
            || self.0.trial.spec != new.0.trial.spec
            || (new.0.phase.is_over() && self.0.trial.status != new.0.trial.status)
    }
}

/// Leaves of an ended trial's run object what names it: it is most of what a trial holds, and ended
/// trials are kept by the ten thousand.
pub(crate) fn trim(trial: &mut Guarded<Trial>) {
    let Ok(trial) = &mut trial.0 else { return };
    if trial.phase().is_over() {
        let run = trial.spec.run_spec.take();
        trial.spec.run_spec = json!({"apiVersion": run["apiVersion"], "kind": run["kind"]});
    }
}

/// Oldest first: by index, and those that somebody else made after them, by age and name.
type Place = (u64, Option<Timestamp>, String);

/// The trials of all experiments, by the experiment's uid.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    trials: HashMap<String, BTreeMap<Place, Past>>,
    /// Where each trial stands, by namespace and name.
    places: HashMap<(Option<String>, String), (String, Place)>,
}

impl Ledger {
    /// Takes down that a trial is now `new`, or gone. Whether its experiment has to look again.
    pub(crate) fn note(&self, trial: &ObjectRef<Guarded<Trial>>, new: Option<Past>) -> bool {
        let mut books = self.0.lock().expect("never poisoned");
        let books = &mut *books;
        let key = (trial.namespace.clone(), trial.name.clone());
        let old = books.places.remove(&key).and_then(|(experiment, place)| {
            let trials = books.trials.get_mut(&experiment)?;
            let old = trials.remove(&place);
            if trials.is_empty() {
                books.trials.remove(&experiment);
            }
            old
        });
        let Some(new) = new else { return old.is_some() };
        let changed = old.is_none_or(|old| old.differs(&new));
        let owner = new.owner_references().iter().find(|o| o.kind == "Experiment");
        let Some(experiment) = owner.map(|o| o.uid.clone()) else { return changed };
        let made = new.creation_timestamp().map(|t| t.0);
        let place = (new.index().unwrap_or(u64::MAX), made, new.name_any());
        books.places.insert(key, (experiment.clone(), place.clone()));
        books.trials.entry(experiment).or_default().insert(place, new);
        changed
    }

    /// The trials of the experiment with this uid, oldest first.
    pub(crate) fn trials(&self, experiment: &str) -> Vec<Past> {
        let books = self.0.lock().expect("never poisoned");
        books.trials.get(experiment).into_iter().flat_map(|t| t.values()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::DeserializeGuard;
    use mizzen_crds::TrialSpec;

    /// A trial of `experiment` as stored, `index` in its label if it has one.
    fn trial(name: &str, experiment: &str, index: Option<u64>, over: bool) -> Past {
        let mut trial = Trial::new(name, TrialSpec::default());
        if let Some(index) = index {
            trial.labels_mut().insert(LABEL_TRIAL_INDEX.into(), index.to_string());
        }
        let owner =
            json!([{"apiVersion": "v1", "kind": "Experiment", "name": "e", "uid": experiment}]);
        trial.metadata.owner_references = serde_json::from_value(owner).unwrap();
        let done = json!({"conditions": [{"type": if over { "Succeeded" } else { "Running" }, "status": "True"}]});
        trial.status = serde_json::from_value(done).unwrap();
        Past::new(Parsed::new(Arc::new(DeserializeGuard(Ok(trial)))).unwrap())
    }

    fn names(ledger: &Ledger, experiment: &str) -> Vec<String> {
        ledger.trials(experiment).iter().map(|t| t.name_any()).collect()
    }

    #[test]
    fn trials_stand_by_index_and_only_what_an_experiment_sees_wakes_it() {
        let ledger = Ledger::default();
        let note = |name: &str, new| ledger.note(&ObjectRef::new(name), new);
        assert!(note("c", Some(trial("c", "e", None, false))));
        assert!(note("b", Some(trial("b", "e", Some(10), false))));
        assert!(note("a", Some(trial("a", "e", Some(9), false))));
        assert!(note("x", Some(trial("x", "other", Some(0), false))));
        assert_eq!(names(&ledger, "e"), ["a", "b", "c"]);

        assert!(!note("a", Some(trial("a", "e", Some(9), false))), "the same again");
        assert!(note("a", Some(trial("a", "e", Some(9), true))), "it ended");
        assert!(note("a", Some(trial("a", "e", Some(11), true))), "it was given another index");
        assert_eq!(names(&ledger, "e"), ["b", "a", "c"]);
        assert!(note("b", None) && !note("b", None), "it went, once");
        assert_eq!(names(&ledger, "e"), ["a", "c"]);
        assert_eq!((names(&ledger, "other").len(), names(&ledger, "none").len()), (1, 0));
    }

    #[test]
    fn a_point_is_read_once_for_each_space() {
        let (trial, reads) = (trial("a", "e", Some(0), true), std::cell::Cell::new(0));
        let read = |_: &Trial| {
            reads.set(reads.get() + 1);
            None
        };
        for (space, want) in [(1, 1), (1, 1), (2, 2)] {
            assert_eq!(trial.point(space, read), None);
            assert_eq!(reads.get(), want);
        }
    }
}

//! Creating, asking, telling.

use std::{collections::HashMap, sync::Arc};

use mizzen_store::{Store, StoreError};
use mizzen_tuning_api::{
    History, Plan, SamplerError, SearchSpace, SuggestRequest, Trial as PastTrial, TrialState,
};
use tokio::sync::Mutex;

use crate::{
    StudyError, StudySpec,
    tables::{self, State, Study, Trial},
};

/// Trials of one ask: more than anyone runs at once.
pub(crate) const ASK_MAX: usize = 1000;

/// Studies of one store; clones share them.
#[derive(Clone)]
pub struct Studies {
    store: Store,
    /// Who asks a study waits for who asked before, so that both count.
    turns: Arc<Mutex<HashMap<i64, Arc<Mutex<()>>>>>,
}

/// How a trial went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Told {
    Value(f64),
    Failed,
    /// Given up; its last intermediate value is what it was worth.
    Pruned,
}

impl Studies {
    /// The studies in this store.
    ///
    /// # Errors
    /// What the store refused.
    pub fn open(store: Store) -> Result<Self, StoreError> {
        tables::open(&store)?;
        Ok(Self { store, turns: Arc::default() })
    }

    /// Creates a study, or finds the one that was created alike.
    ///
    /// # Errors
    /// [`StudyError`] naming what cannot be searched, or that the name is taken.
    pub async fn create(&self, spec: StudySpec) -> Result<StudySpec, StudyError> {
        spec.search()?;
        self.store
            .write(move |c| match tables::study(c, &spec.name)? {
                Some(there) if there.spec == spec => Ok(spec),
                Some(_) => Err(StudyError::Exists(spec.name)),
                None => tables::create(c, &spec).map(|()| spec),
            })
            .await
    }

    /// Every study, by name.
    ///
    /// # Errors
    /// What the store refused.
    pub fn all(&self) -> Result<Vec<StudySpec>, StudyError> {
        self.store.read(tables::specs)
    }

    fn study(&self, name: &str) -> Result<Study, StudyError> {
        let found = self.store.read(|c| tables::study(c, name))?;
        found.ok_or_else(|| StudyError::NotFound(format!("study `{name}`")))
    }

    /// What a study searches for.
    ///
    /// # Errors
    /// [`StudyError::NotFound`].
    pub fn get(&self, name: &str) -> Result<StudySpec, StudyError> {
        Ok(self.study(name)?.spec)
    }

    /// Deletes a study with its trials.
    ///
    /// # Errors
    /// [`StudyError::NotFound`].
    pub async fn delete(&self, name: &str) -> Result<(), StudyError> {
        let study = self.study(name)?.id;
        self.store.write(move |c| tables::delete(c, study)).await?;
        self.turns.lock().await.remove(&study);
        Ok(())
    }

    /// Trials from number `first` on, at most `limit`.
    ///
    /// # Errors
    /// [`StudyError::NotFound`].
    pub fn trials(&self, name: &str, first: u64, limit: usize) -> Result<Vec<Trial>, StudyError> {
        let study = self.study(name)?.id;
        self.store.read(|c| tables::trials(c, study, first, limit))
    }

    /// The trial with the best value; of equals the oldest. None while there is no value.
    ///
    /// # Errors
    /// [`StudyError::NotFound`].
    pub fn best(&self, name: &str) -> Result<Option<Trial>, StudyError> {
        let study = self.study(name)?;
        let objective = study.spec.search()?.objective;
        let trials = self.store.read(|c| tables::trials(c, study.id, 0, usize::MAX))?;
        let valued = trials.into_iter().filter(|t| t.state == State::Succeeded);
        let valued = valued.filter_map(|t| t.value.map(|value| (value, t)));
        let best =
            valued.min_by(|(a, _), (b, _)| objective.loss(*a).total_cmp(&objective.loss(*b)));
        Ok(best.map(|(_, trial)| trial))
    }

    /// Up to `count` new trials, kept as running; fewer where the algorithm waits for others to end.
    ///
    /// # Errors
    /// [`StudyError`]: no such study, a count that is none, or nothing left to try.
    pub async fn ask(&self, name: &str, count: usize) -> Result<Vec<Trial>, StudyError> {
        if !(1..=ASK_MAX).contains(&count) {
            let want = "a number from 1 to 1000";
            return Err(StudyError::Field { field: "count", got: count.to_string(), want });
        }
        let study = self.study(name)?;
        let turn = self.turns.lock().await.entry(study.id).or_default().clone();
        let _turn = turn.lock().await;
        let (store, id) = (self.store.clone(), study.id);
        let thought = tokio::task::spawn_blocking(move || {
            let past = store.read(|c| tables::trials(c, id, 0, usize::MAX))?;
            suggest(&study.spec, &past, count)
        });
        let new = thought.await.map_err(|_| StudyError::Interrupted)??;
        self.store
            .write(move |c| {
                new.iter().try_for_each(|t| tables::add(c, id, t.number, &t.assignments))?;
                Ok(new)
            })
            .await
    }

    /// Says how a trial went. To say the same again is harmless.
    ///
    /// # Errors
    /// [`StudyError`]: no such trial, a value that is none, or one that was told otherwise before.
    pub(crate) async fn tell(
        &self,
        name: &str,
        number: u64,
        told: Told,
    ) -> Result<Trial, StudyError> {
        self.change(name, number, move |c, study, name, trial| {
            let (state, value) = match told {
                Told::Value(value) => (State::Succeeded, Some(value)),
                Told::Failed => (State::Failed, None),
                Told::Pruned => (State::Pruned, trial.intermediate.last().map(|(_, v)| *v)),
            };
            if trial.state != State::Running {
                let same = trial.state == state && trial.value == value;
                let state = trial.state.as_str();
                return match same {
                    true => Ok(()),
                    false => Err(StudyError::Told { study: name.to_owned(), number, state }),
                };
            }
            tables::end(c, study, number, state, value)
        })
        .await
    }

    /// Says what a running trial is worth at a step; the last word on a step counts.
    ///
    /// # Errors
    /// [`StudyError`]: no such trial, or one that has ended.
    pub(crate) async fn report(
        &self,
        name: &str,
        number: u64,
        step: u64,
        value: f64,
    ) -> Result<Trial, StudyError> {
        self.change(name, number, move |c, study, name, trial| {
            if trial.state != State::Running {
                let (study, state) = (name.to_owned(), trial.state.as_str());
                return Err(StudyError::Told { study, number, state });
            }
            tables::report(c, study, number, step, value)
        })
        .await
    }

    async fn change(
        &self,
        name: &str,
        number: u64,
        change: impl FnOnce(
            &mizzen_store::rusqlite::Connection,
            i64,
            &str,
            &Trial,
        ) -> Result<(), StudyError>
        + Send
        + 'static,
    ) -> Result<Trial, StudyError> {
        let (study, name) = (self.study(name)?.id, name.to_owned());
        self.store
            .write(move |c| {
                let one = |c| tables::trials(c, study, number, 1);
                let there = |found: Vec<Trial>| {
                    let found = found.into_iter().next().filter(|t| t.number == number);
                    let missing =
                        || StudyError::NotFound(format!("trial {number} of study `{name}`"));
                    found.ok_or_else(missing)
                };
                let trial = there(one(c)?)?;
                change(c, study, &name, &trial)?;
                there(one(c)?)
            })
            .await
    }
}

/// New trials, given those so far; pure.
fn suggest(spec: &StudySpec, past: &[Trial], count: usize) -> Result<Vec<Trial>, StudyError> {
    let search = spec.search()?;
    let history: Vec<PastTrial> = past.iter().filter_map(|t| as_past(&search.space, t)).collect();
    let history = History::from(history);
    let request = SuggestRequest {
        space: &search.space,
        history: &history,
        objective: search.objective,
        count,
        seed: search.seed,
        // A study has no end that is known beforehand, and as many workers as ask.
        plan: Plan { reports: true, ..Plan::default() },
    };
    let points = search.sampler.suggest(request).map_err(|error| match error {
        error @ SamplerError::Exhausted { .. } => StudyError::Nothing(error),
        error => StudyError::Algorithm(error),
    })?;
    let first = past.last().map_or(0, |t| t.number + 1);
    let trial = |(number, point)| Trial {
        number,
        assignments: search
            .space
            .format(point)
            .into_iter()
            .map(|(n, v)| (n.to_owned(), v))
            .collect(),
        state: State::Running,
        value: None,
        intermediate: vec![],
    };
    Ok((first..).zip(&points).map(trial).collect())
}

fn as_past(space: &SearchSpace, trial: &Trial) -> Option<PastTrial> {
    let pairs = trial.assignments.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let state = match (trial.state, trial.value) {
        (State::Running, _) => TrialState::Running,
        (State::Succeeded, Some(value)) => TrialState::Succeeded(value),
        (State::Pruned, value) => TrialState::EarlyStopped(value),
        (State::Succeeded | State::Failed, _) => TrialState::Failed,
    };
    let mut past = PastTrial::new(space.parse(pairs).ok()?, state);
    past.intermediate.clone_from(&trial.intermediate);
    Some(past)
}

//! What is known of every model, served or not: the states behind the index.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use mizzen_serving_core::{ModelEvent, ModelState};

use crate::{IndexEntry, repository::ModelDir};

/// Every model that was ever to be loaded.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    models: BTreeMap<String, Record>,
}

/// One model.
#[derive(Debug, Default)]
pub(crate) struct Record {
    versions: BTreeMap<u64, ModelState>,
    /// Why no version could even be tried.
    failure: Option<String>,
    /// Whether it is meant to be in service.
    pub(crate) wanted: bool,
    /// Whether it is there for an ensemble alone.
    pub(crate) implied: bool,
    /// The models it is made of.
    pub(crate) needs: Vec<String>,
    /// A directory outside the repositories that it was loaded from.
    pub(crate) dir: Option<ModelDir>,
    /// What its files were when it was last loaded.
    pub(crate) fingerprint: u64,
    /// Held while it is loaded or unloaded, so that these take turns.
    turn: Arc<Mutex<()>>,
}

impl Registry {
    /// The record of a model, made if need be.
    pub(crate) fn record(&mut self, name: &str) -> &mut Record {
        self.models.entry(name.to_owned()).or_default()
    }

    /// A load of a model that is nowhere. Only one that is meant to be in service leaves a trace:
    /// else any name a client makes up would stay.
    pub(crate) fn miss(&mut self, name: &str, reason: &str) {
        match self.models.get_mut(name) {
            Some(record) if record.wanted || !record.versions.is_empty() => record.fail(reason),
            _ => drop(self.models.remove(name)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Record> {
        self.models.get(name)
    }

    /// Names of the models that are meant to be in service.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &str> {
        self.models.iter().filter(|(_, r)| r.wanted).map(|(name, _)| name.as_str())
    }

    /// Names of the ensembles that are meant to be in service, are not, and need this model.
    pub(crate) fn waiting_for(&self, model: &str) -> Vec<String> {
        let waits = |record: &Record| {
            let failed = |state: &ModelState| matches!(state, ModelState::Unavailable { .. });
            let down = record.failure.is_some() || record.versions.values().any(failed);
            record.wanted && down && record.needs.iter().any(|need| need == model)
        };
        self.models.iter().filter(|(_, r)| waits(r)).map(|(name, _)| name.clone()).collect()
    }

    /// The index's rows, with those models that are only found on disk.
    pub(crate) fn index(&self, on_disk: impl IntoIterator<Item = String>) -> Vec<IndexEntry> {
        let mut rows = BTreeMap::new();
        for name in on_disk {
            let unknown = IndexEntry {
                name: name.clone(),
                version: String::new(),
                state: "",
                reason: String::new(),
            };
            rows.insert(name, vec![unknown]);
        }
        for (name, record) in &self.models {
            let known = record.rows(name);
            if !known.is_empty() {
                rows.insert(name.clone(), known);
            }
        }
        rows.into_values().flatten().collect()
    }
}

impl Record {
    pub(crate) fn turn(&self) -> Arc<Mutex<()>> {
        self.turn.clone()
    }

    /// Takes a version through an event.
    pub(crate) fn apply(&mut self, version: u64, event: ModelEvent) {
        self.failure = None;
        let state = ModelState::after(self.versions.get(&version), event);
        self.versions.insert(version, state);
    }

    /// A load that failed before it came to any version.
    pub(crate) fn fail(&mut self, reason: &str) {
        let mut serving = false;
        for state in self.versions.values_mut().filter(|s| matches!(s, ModelState::Ready { .. })) {
            *state = ModelState::after(Some(state), ModelEvent::LoadFailed(reason.to_owned()));
            serving = true;
        }
        if !serving {
            self.versions.clear();
            self.failure = Some(reason.to_owned());
        }
    }

    /// Whether one of its versions is being loaded.
    pub(crate) fn loading(&self) -> bool {
        self.versions.values().any(|s| *s == ModelState::Loading)
    }

    /// Why it is not ready, in one line.
    pub(crate) fn reason(&self) -> String {
        let state = self.versions.values().next_back();
        match (&self.failure, state) {
            (Some(failure), _) => failure.clone(),
            (None, Some(ModelState::Unavailable { reason })) => reason.clone(),
            (None, Some(state)) => state.as_str().to_ascii_lowercase(),
            (None, None) => "not loaded yet".to_owned(),
        }
    }

    /// Its rows of the index.
    pub(crate) fn rows(&self, name: &str) -> Vec<IndexEntry> {
        let row = |version: String, state: &'static str, reason: &str| IndexEntry {
            name: name.to_owned(),
            version,
            state,
            reason: reason.to_owned(),
        };
        let mut rows: Vec<_> = self
            .versions
            .iter()
            .map(|(version, state)| row(version.to_string(), state.as_str(), state.reason()))
            .collect();
        if let Some(failure) = &self.failure {
            rows.push(row(String::new(), "UNAVAILABLE", failure));
        }
        rows
    }
}

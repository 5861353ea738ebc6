//! What all handles of one host share, and how models come into and go out of service.
//!
//! The table of what serves is replaced as a whole, so a request reads it without a lock. A version
//! is retired only after the table no longer has it: a request that still found it there is given
//! back by it and looks again, and so a reload drops nothing.

mod answer;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use mizzen_runtime_api::Loader;
use mizzen_serving_core::{
    ModelEvent, ModelSpec,
    config::{Parsed, read_json},
    ensemble::{EnsembleError, Step},
};
use mizzen_types::{Coded, ErrorCode};
use tokio::sync::watch;

use crate::{
    HostOptions, LoadOverrides, ServeError, SharedMemory,
    build::{Blueprint, build},
    ledger::Ledger,
    pool::Pool,
    registry::Registry,
    repository::{self, ModelDir},
    request_trace::Tracer,
    text::Tokenizing,
    version::Version,
};

/// The versions of one model that serve, by number.
pub(crate) type Served = BTreeMap<u64, Arc<Version>>;

/// What serves, by name.
pub(crate) type Table = HashMap<Arc<str>, Arc<Served>>;

/// Models out of the table, and their versions that may still have requests under way.
pub(crate) type Finishing = Vec<(String, Vec<Arc<Version>>)>;

/// How a model is to be loaded.
struct How<'o> {
    /// A directory outside the repositories.
    from: Option<PathBuf>,
    overrides: &'o LoadOverrides,
    /// Whether one that serves is left as it is.
    unless_served: bool,
    /// The ensembles for which it is loaded, outermost first.
    path: Vec<String>,
}

/// What all handles of one host share.
pub(crate) struct Inner {
    pub(crate) options: HostOptions,
    loaders: Vec<Arc<dyn Loader>>,
    pub(crate) table: ArcSwap<Table>,
    registry: Mutex<Registry>,
    pub(crate) pool: Pool,
    pub(crate) draining: AtomicBool,
    pub(crate) shared_memory: Arc<SharedMemory>,
    pub(crate) tracer: Arc<Tracer>,
    pub(crate) tokenizing: Tokenizing,
    /// Models that are still to be loaded at start.
    pub(crate) starting: watch::Sender<usize>,
    /// What each version has counted, across reloads.
    pub(crate) ledger: Ledger,
    /// Versions out of the table whose requests may still be under way.
    retiring: Mutex<Vec<Weak<Version>>>,
}

impl Inner {
    pub(crate) fn new(options: HostOptions, loaders: Vec<Arc<dyn Loader>>, pool: Pool) -> Self {
        let shared_memory = Arc::new(SharedMemory::new(options.allow_client_shm));
        let tracer = Tracer::new(&options.trace);
        Self {
            options,
            shared_memory,
            tracer,
            tokenizing: Tokenizing::default(),
            loaders,
            table: ArcSwap::default(),
            registry: Mutex::default(),
            pool,
            draining: AtomicBool::new(false),
            starting: watch::Sender::new(0),
            ledger: Ledger::default(),
            retiring: Mutex::default(),
        }
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version that answers for this name and, if given, number.
    pub(crate) fn find(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<Arc<Version>, ServeError> {
        let version = version.filter(|v| !v.is_empty());
        let table = self.table.load();
        let Some(served) = table.get(model) else { return Err(self.absent(model)) };
        let found = match version {
            None => served.last_key_value().map(|(_, v)| v),
            Some(text) => {
                let number: u64 = text.parse().map_err(|_| {
                    let message = format!(
                        "version `{text}` of model `{model}` is not a version; expected a number"
                    );
                    ServeError::new(ErrorCode::InvalidArgument, message)
                })?;
                served.get(&number)
            }
        };
        found.cloned().ok_or_else(|| {
            let has: Vec<_> = served.keys().map(|v| format!("`{v}`")).collect();
            let version = version.unwrap_or_default();
            let message = format!(
                "unknown version `{version}` of model `{model}`; it serves {}",
                has.join(", ")
            );
            ServeError::new(ErrorCode::NotFound, message)
        })
    }

    /// Why a model that is not in the table does not answer.
    fn absent(&self, model: &str) -> ServeError {
        match self.registry().get(model) {
            Some(record) => ServeError::new(
                ErrorCode::Unavailable,
                format!("model `{model}` is not ready: {}", record.reason()),
            ),
            None => unknown(model),
        }
    }

    /// Loads or reloads a model, on this thread, and what it is made of. Waits for its turn if the
    /// model is being loaded or unloaded.
    pub(crate) fn load_now(
        self: &Arc<Self>,
        name: &str,
        from: Option<PathBuf>,
        overrides: &LoadOverrides,
    ) -> Result<(), ServeError> {
        let how = How { from, overrides, unless_served: false, path: Vec::new() };
        self.load_as(name, how)?;
        self.registry().record(name).implied = false;
        Ok(())
    }

    /// Loads a model that is meant to be there from the start, unless an ensemble's load has done
    /// so already.
    pub(crate) fn load_at_start(self: &Arc<Self>, name: &str) -> Result<(), ServeError> {
        let overrides = &LoadOverrides::default();
        self.load_as(name, How { from: None, overrides, unless_served: true, path: Vec::new() })
    }

    fn load_as(self: &Arc<Self>, name: &str, how: How<'_>) -> Result<(), ServeError> {
        repository::check_name(name)?;
        if self.is_draining() {
            return Err(shutting_down());
        }
        // Before this model's own turn, so that no two loads wait for one another.
        let needs = self.needs(name, &how);
        let result = self.load_needs(name, &needs, &how).and_then(|()| {
            let turn = self.registry().record(name).turn();
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if how.unless_served && self.table.load().contains_key(name) {
                return Ok(());
            }
            self.registry().record(name).needs = needs;
            let mut result = self.load_once(name, &how);
            for attempt in 1..=self.options.load_retries {
                match &result {
                    Err(error) if error.code() != ErrorCode::NotFound => {
                        tracing::warn!(model = name, attempt, "{}; trying again", error.message());
                        result = self.load_once(name, &how);
                    }
                    _ => break,
                }
            }
            result
        });
        match &result {
            // A load that fails tells its caller; that alone does not make the server unready.
            Ok(()) => self.registry().record(name).wanted = true,
            Err(error) => tracing::error!(model = name, "{}", error.message()),
        }
        if result.is_ok() {
            self.settle(name, &how.path);
        }
        result
    }

    fn load_once(self: &Arc<Self>, name: &str, how: &How<'_>) -> Result<(), ServeError> {
        let dir = self.locate(name, how.from.clone(), how.overrides)?;
        // Read before the load, so that a change during it is seen as one.
        let fingerprint = repository::fingerprint(&dir.path);
        self.registry().record(name).fingerprint = fingerprint;
        self.load_from(name, &dir, how.overrides)
    }

    /// The models that this one is made of, as far as its configuration can be read; the load
    /// itself says what is wrong with it.
    fn needs(&self, name: &str, how: &How<'_>) -> Vec<String> {
        let config = match (&how.overrides.config, &how.from) {
            (Some(json), _) => read_json("", json).ok(),
            (None, Some(path)) => {
                let dir = ModelDir { path: path.clone(), named: false, files: None };
                self.config_of(&dir, None).ok()
            }
            (None, None) => {
                let known = self.registry().get(name).and_then(|r| r.dir.clone());
                let found = known.or_else(|| repository::find(&self.options.repositories, name));
                found.and_then(|dir| self.config_of(&dir, None).ok())
            }
        };
        let config = config.map(|parsed| parsed.config).unwrap_or_default();
        let steps = config.ensemble_scheduling.iter().flat_map(|ensemble| &ensemble.steps);
        let names: BTreeSet<_> = steps.map(|step| step.model_name.clone()).collect();
        names.into_iter().collect()
    }

    fn load_needs(
        self: &Arc<Self>,
        name: &str,
        needs: &[String],
        how: &How<'_>,
    ) -> Result<(), ServeError> {
        let mut path = how.path.clone();
        path.push(name.to_owned());
        for need in needs {
            let failed = |error: EnsembleError| {
                let error = ServeError::from_coded(&error);
                self.registry().record(name).fail(&error.message());
                error
            };
            if path.contains(need) {
                let path = path.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
                return Err(failed(EnsembleError::Itself { path: path.join(", ") }));
            }
            if self.table.load().contains_key(need.as_str()) {
                continue;
            }
            let overrides = &LoadOverrides::default();
            let new = !self.registry().get(need).is_some_and(|record| record.wanted);
            let how = How { from: None, overrides, unless_served: true, path: path.clone() };
            self.load_as(need, how).map_err(|error| {
                failed(EnsembleError::NoModel { model: need.clone(), why: error.message() })
            })?;
            if new {
                self.registry().record(need).implied = true;
            }
        }
        Ok(())
    }

    /// Holds the ensembles that are made of this model against what it now is: those that no longer
    /// fit go out of service, those that waited for it come into it.
    fn settle(self: &Arc<Self>, name: &str, path: &[String]) {
        for (ensemble, version) in self.ensembles_of(name) {
            let Some(plan) = &version.plan else { continue };
            if let Err(error) = plan.check(&version.spec, |step| self.spec_of(step)) {
                let reason = error.message();
                tracing::error!(model = &*ensemble, "{reason}; it goes out of service");
                self.swap(&ensemble, None);
                self.each(&ensemble, &[version.number], |_| ModelEvent::UnloadStarted);
                self.retire(&version);
                self.each(&ensemble, &[version.number], |_| ModelEvent::LoadFailed(reason.clone()));
                self.settle(&ensemble, path);
            }
        }
        if !self.table.load().contains_key(name) {
            return;
        }
        let waiting: Vec<String> = self.registry().waiting_for(name);
        for ensemble in waiting {
            if path.contains(&ensemble) || self.table.load().contains_key(ensemble.as_str()) {
                continue;
            }
            let (overrides, path) = (&LoadOverrides::default(), path.to_vec());
            // The log says what is wrong with it.
            drop(self.load_as(&ensemble, How { from: None, overrides, unless_served: true, path }));
        }
    }

    fn ensembles_of(&self, name: &str) -> Vec<(Arc<str>, Arc<Version>)> {
        let table = self.table.load();
        let made_of = |version: &&Arc<Version>| {
            version.plan.as_ref().is_some_and(|plan| plan.models().contains(name))
        };
        let all = table.iter().flat_map(|(ensemble, served)| {
            served.values().filter(made_of).map(|version| (ensemble.clone(), version.clone()))
        });
        all.collect()
    }

    /// What a step's model takes and gives now.
    fn spec_of(&self, step: &Step) -> Result<ModelSpec, String> {
        let version = step.version.map(|version| version.to_string());
        let found = self.find(&step.model, version.as_deref());
        found.map(|version| version.spec.clone()).map_err(|error| error.message())
    }

    fn locate(
        &self,
        name: &str,
        from: Option<PathBuf>,
        overrides: &LoadOverrides,
    ) -> Result<ModelDir, ServeError> {
        if !overrides.files.is_empty() {
            if overrides.config.is_none() {
                let message = "parameter `config`: expected a model configuration beside the files of a load call, got none";
                return Err(ServeError::new(ErrorCode::InvalidArgument, message));
            }
            return repository::write_files(&overrides.files);
        }
        if let Some(path) = from {
            let dir = ModelDir { path, named: false, files: None };
            self.registry().record(name).dir = Some(dir.clone());
            return Ok(dir);
        }
        let known = self.registry().get(name).and_then(|r| r.dir.clone());
        let found = known.or_else(|| repository::find(&self.options.repositories, name));
        found.ok_or_else(|| {
            self.registry().miss(name, "no repository has it");
            ServeError::new(ErrorCode::NotFound, format!("no repository has model `{name}`"))
        })
    }

    fn load_from(
        self: &Arc<Self>,
        name: &str,
        dir: &ModelDir,
        overrides: &LoadOverrides,
    ) -> Result<(), ServeError> {
        let failed = |error: ServeError| {
            self.registry().record(name).fail(&error.message());
            error
        };
        let config = self.read_config(name, dir, overrides).map_err(failed)?;
        let found = repository::versions(dir).map_err(failed)?;
        let numbers: Vec<u64> = found.keys().copied().collect();
        let chosen = config.config.version_policy.choose(&numbers);
        if chosen.is_empty() {
            let message = format!(
                "`{}`: expected a version directory such as `1` that `version_policy` allows, got {numbers:?}",
                dir.path.display()
            );
            return Err(failed(ServeError::new(ErrorCode::FailedPrecondition, message)));
        }
        self.each(name, &chosen, |_| ModelEvent::LoadStarted);
        let built: Vec<_> = chosen
            .iter()
            .map(|number| {
                let from = Blueprint {
                    name,
                    number: *number,
                    dir: &found[number],
                    model: dir,
                    config: &config.config,
                    counts: &|| self.ledger.generation(name, *number),
                };
                let spec_of = |step: &Step| self.spec_of(step);
                let began = Instant::now();
                let built = build(&self.options, &self.loaders, &from, &spec_of);
                if let Ok(version) = &built {
                    version.stats.set_load(began.elapsed());
                }
                (*number, built)
            })
            .collect();
        self.publish(name, built)
    }

    fn read_config(
        &self,
        name: &str,
        dir: &ModelDir,
        overrides: &LoadOverrides,
    ) -> Result<Parsed, ServeError> {
        let parsed = self.config_of(dir, overrides.config.as_deref())?;
        for warning in &parsed.warnings {
            tracing::warn!(model = name, "{warning}");
        }
        let other = &parsed.config.name;
        if dir.named && !other.is_empty() && other != name {
            let message = format!(
                "{}: field `name`: expected `{name}`, the directory's name, got `{other}`",
                dir.path.join("config.pbtxt").display()
            );
            return Err(ServeError::new(ErrorCode::InvalidArgument, message));
        }
        Ok(parsed)
    }

    fn config_of(&self, dir: &ModelDir, json: Option<&str>) -> Result<Parsed, ServeError> {
        repository::config(dir, json, self.options.config_name.as_deref())
    }

    /// Puts what was built into service in the place of what served, and retires the rest. What
    /// could not be built leaves its predecessor in place.
    fn publish(
        self: &Arc<Self>,
        name: &str,
        built: Vec<(u64, Result<Arc<Version>, ServeError>)>,
    ) -> Result<(), ServeError> {
        let old = self.table.load().get(name).cloned().unwrap_or_default();
        let mut new = Served::new();
        let mut first_error = None;
        for (number, result) in built {
            let event = match result {
                Ok(version) => {
                    self.ledger.enter(name, number, version.stats.clone());
                    new.insert(number, version);
                    ModelEvent::Loaded
                }
                Err(error) => {
                    new.extend(old.get(&number).map(|v| (number, v.clone())));
                    let reason = error.message();
                    first_error.get_or_insert(error);
                    ModelEvent::LoadFailed(reason)
                }
            };
            self.registry().record(name).apply(number, event);
        }
        if new.is_empty() {
            // Nothing new works: what served goes on, whatever its number.
            return first_error.map_or(Ok(()), Err);
        }
        let new = Arc::new(new);
        self.swap(name, Some(new.clone()));
        for (number, version) in old.iter() {
            match new.get(number) {
                Some(same) if Arc::ptr_eq(same, version) => {}
                Some(_) => self.retire(version),
                None => {
                    self.each(name, &[*number], |_| ModelEvent::UnloadStarted);
                    self.retire(version);
                    self.each(name, &[*number], |_| ModelEvent::Unloaded);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Takes a model out of the table, on this thread, with the ensembles that need it and, with
    /// `dependents`, the models that were loaded for it alone. Returns what is then finishing.
    pub(crate) fn unload_with(
        self: &Arc<Self>,
        name: &str,
        dependents: bool,
    ) -> Result<Finishing, ServeError> {
        let needs = self.registry().get(name).map(|r| r.needs.clone()).unwrap_or_default();
        let mut gone = vec![(name.to_owned(), self.unload_now(name)?)];
        for need in needs.iter().filter(|_| dependents) {
            let alone = self.ensembles_of(need).is_empty();
            let implied = self.registry().get(need).is_some_and(|record| record.implied);
            if alone && implied {
                gone.extend(self.unload_with(need, dependents)?);
            }
        }
        Ok(gone)
    }

    /// Takes a model out of the table, on this thread, and returns what is then finishing.
    pub(crate) fn unload_now(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Vec<Arc<Version>>, ServeError> {
        repository::check_name(name)?;
        let known = self.registry().get(name).is_some();
        if !known && repository::find(&self.options.repositories, name).is_none() {
            return Err(unknown(name));
        }
        let turn = self.registry().record(name).turn();
        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut registry = self.registry();
            let record = registry.record(name);
            (record.wanted, record.implied) = (false, false);
        }
        let served = self.table.load().get(name).cloned().unwrap_or_default();
        self.swap(name, None);
        let numbers: Vec<_> = served.keys().copied().collect();
        self.each(name, &numbers, |_| ModelEvent::UnloadStarted);
        served.values().for_each(|version| self.retire(version));
        drop(turn);
        self.settle(name, &[]);
        Ok(served.values().cloned().collect())
    }

    /// Notes that what [`Inner::unload_now`] returned has finished.
    pub(crate) fn unloaded(&self, name: &str, versions: &[Arc<Version>]) {
        let numbers: Vec<_> = versions.iter().map(|v| v.number).collect();
        self.each(name, &numbers, |_| ModelEvent::Unloaded);
    }

    fn each(&self, name: &str, versions: &[u64], event: impl Fn(u64) -> ModelEvent) {
        let mut registry = self.registry();
        let record = registry.record(name);
        versions.iter().for_each(|version| record.apply(*version, event(*version)));
    }

    fn swap(&self, name: &str, served: Option<Arc<Served>>) {
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            match &served {
                Some(served) => table.insert(name.into(), served.clone()),
                None => table.remove(name),
            };
            table
        });
    }

    fn retire(&self, version: &Arc<Version>) {
        let mut retiring = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        retiring.retain(|v| v.strong_count() > 0);
        let weak = Arc::downgrade(version);
        if !retiring.iter().any(|known| known.ptr_eq(&weak)) {
            retiring.push(weak);
        }
        drop(retiring);
        version.retire();
    }

    /// Retires all these; returns those of them that may still have requests under way.
    pub(crate) fn retire_where(&self, which: impl Fn(&Version) -> bool) -> Vec<Arc<Version>> {
        let served: Vec<_> = self.table.load().values().cloned().collect();
        for version in served.iter().flat_map(|s| s.values()).filter(|version| which(version)) {
            self.retire(version);
        }
        let retiring = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        retiring.iter().filter_map(Weak::upgrade).filter(|version| which(version)).collect()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.retire_where(|_| true);
    }
}

/// The server takes nothing more.
pub(crate) fn shutting_down() -> ServeError {
    ServeError::new(ErrorCode::Unavailable, "the server is shutting down; retry elsewhere")
}

/// No model of this name.
pub(crate) fn unknown(model: &str) -> ServeError {
    let message = format!("unknown model `{}`", model.escape_debug());
    ServeError::new(ErrorCode::NotFound, message)
}

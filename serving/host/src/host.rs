//! The handle that protocol adapters and controllers hold.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mizzen_runtime_api::Loader;
use mizzen_serving_core::{
    InferRequest, InferResponse,
    classification::Labels,
    config::{TransactionPolicy, to_json},
};
use mizzen_types::ErrorCode;
use tokio::sync::oneshot;

use crate::{
    GenerationTotals, HostOptions, IndexEntry, LoadOverrides, ModelControl, ModelMetadata,
    ModelStatistics, ServeError, SettingValue, SettingValues, SharedMemory,
    inner::{Inner, shutting_down},
    poll::Poller,
    pool::Pool,
    repository,
    stream::ResponseStream,
};

/// The handle; clones share one host, which ends with the last of them.
#[derive(Clone)]
pub struct ModelHost {
    inner: Arc<Inner>,
    _poller: Option<Arc<Poller>>,
}

impl ModelHost {
    /// Starts the host: reads the repositories and, by the control mode, loads what is to be loaded
    /// at start. Returns once loading has begun; [`ModelHost::loaded`] waits for its end.
    ///
    /// # Errors
    /// A repository that cannot be read. A model that fails to load is not an error here: it is
    /// `UNAVAILABLE` in the index, with the reason.
    pub fn start(options: HostOptions, loaders: Vec<Arc<dyn Loader>>) -> Result<Self, ServeError> {
        let found = repository::scan(&options.repositories)?;
        let no_threads = |e: std::io::Error| {
            ServeError::new(ErrorCode::ResourceExhausted, format!("cannot start a thread: {e}"))
        };
        let everything = options.control != ModelControl::Explicit
            || options.load.iter().any(|name| name == "*");
        let wanted: Vec<String> =
            if everything { found.keys().cloned().collect() } else { options.load.clone() };
        let control = options.control;
        let pool = Pool::start(options.load_threads).map_err(no_threads)?;
        let inner = Arc::new(Inner::new(options, loaders, pool));
        inner.starting.send_replace(wanted.len());
        for name in wanted {
            // Known from now on, so that readiness counts it and polling does not ask again.
            let fingerprint = found.get(&name).map(|dir| repository::fingerprint(&dir.path));
            let mut registry = inner.registry();
            let record = registry.record(&name);
            (record.wanted, record.fingerprint) = (true, fingerprint.unwrap_or_default());
            drop(registry);
            let (shared, started) = (inner.clone(), Started(inner.clone()));
            inner.pool.run(move || {
                let _started = started;
                // The index and the log say what went wrong.
                drop(shared.load_at_start(&name));
            });
        }
        let poller = match control {
            ModelControl::Poll(interval) => {
                let poller = Poller::start(Arc::downgrade(&inner), interval);
                Some(Arc::new(poller.map_err(no_threads)?))
            }
            ModelControl::None | ModelControl::Explicit => None,
        };
        Ok(Self { inner, _poller: poller })
    }

    /// Waits until every model that was to be loaded at start is ready or has failed.
    pub async fn loaded(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.inner.starting.subscribe().wait_for(|left| *left == 0).await;
    }

    /// Answers one request. Dropping the future cancels it.
    ///
    /// # Errors
    /// [`ServeError`] with `NotFound`, `InvalidArgument`, `ResourceExhausted`, `DeadlineExceeded`,
    /// `Unavailable` or what the engine gave.
    pub async fn infer(&self, request: InferRequest) -> Result<InferResponse, ServeError> {
        if self.inner.is_draining() {
            return Err(shutting_down());
        }
        self.inner.answer(request, 0).await
    }

    /// Answers one request as often as its model does: any number of times for one whose
    /// configuration says `model_transaction_policy { decoupled: true }` and for an ensemble that has
    /// such a model for a step, once for any other. Dropping the stream cancels the run at once. A caller that reads slowly slows down that run and
    /// nothing else.
    ///
    /// The stream's errors are those of [`ModelHost::infer`]; an error is its last item.
    pub fn infer_stream(&self, request: InferRequest) -> ResponseStream {
        if self.inner.is_draining() {
            return ResponseStream::refused(shutting_down());
        }
        self.inner.open_stream(request, 0).unwrap_or_else(ResponseStream::refused)
    }

    /// Whether a model answers any number of times, so that only [`ModelHost::infer_stream`] takes its
    /// requests.
    ///
    /// # Errors
    /// As [`ModelHost::metadata`].
    pub fn is_decoupled(&self, model: &str, version: Option<&str>) -> Result<bool, ServeError> {
        Ok(self.inner.is_decoupled(&*self.inner.find(model, version)?, 0))
    }

    /// The shared memory that clients have registered.
    pub fn shared_memory(&self) -> &Arc<SharedMemory> {
        &self.inner.shared_memory
    }

    /// Which requests are traced, of one model or in general, by Triton's names and in its order.
    ///
    /// # Errors
    /// As [`ModelHost::metadata`].
    pub fn trace_settings(
        &self,
        model: Option<&str>,
    ) -> Result<Vec<(&'static str, SettingValue)>, ServeError> {
        if let Some(model) = model {
            self.inner.find(model, None)?;
        }
        Ok(self.inner.tracer.show(model))
    }

    /// Traces by these settings from now on, requests for one model or in general; what is not
    /// named stays. A setting that is cleared is as if it had never been set. Nothing changes if any
    /// is wrong.
    ///
    /// # Errors
    /// `InvalidArgument` naming the setting, `Unsupported` for what is not for clients to set,
    /// `FailedPrecondition` without a file to write to; and as [`ModelHost::metadata`].
    pub fn update_trace_settings(
        &self,
        model: Option<&str>,
        values: &SettingValues,
    ) -> Result<(), ServeError> {
        if let Some(model) = model {
            self.inner.find(model, None)?;
        }
        self.inner.tracer.update(model, values)
    }

    /// What a model takes and gives.
    ///
    /// # Errors
    /// `NotFound` for an unknown model or version, `Unavailable` for one that is not ready.
    pub fn metadata(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<ModelMetadata, ServeError> {
        let found = self.inner.find(model, version)?;
        // Asked for one version, Triton names that one alone.
        let versions = match version {
            Some(_) => vec![found.number.to_string()],
            None => {
                let table = self.inner.table.load();
                table.get(model).into_iter().flat_map(|s| s.keys().map(u64::to_string)).collect()
            }
        };
        Ok(ModelMetadata {
            name: model.to_owned(),
            versions,
            platform: found.platform.clone(),
            inputs: found.spec.inputs.iter().map(|port| port.request.clone()).collect(),
            outputs: found.spec.outputs.iter().map(|port| port.request.clone()).collect(),
        })
    }

    /// A model's whole configuration as Triton's JSON has it, completed from the model; of an
    /// ensemble, from the models of its steps.
    ///
    /// # Errors
    /// As [`ModelHost::metadata`].
    pub fn config_json(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<serde_json::Value, ServeError> {
        let found = self.inner.find(model, version)?;
        if found.plan.is_none() {
            return Ok(to_json(&found.config));
        }
        // Clients go by this, and it is the steps' to say; Triton shows it either way.
        let mut config = found.config.clone();
        let decoupled = self.inner.is_decoupled(&found, 0);
        config.transaction_policy = Some(TransactionPolicy { decoupled });
        Ok(to_json(&config))
    }

    /// The labels of a model's outputs, for classification.
    ///
    /// # Errors
    /// As [`ModelHost::metadata`].
    pub fn labels(&self, model: &str, version: Option<&str>) -> Result<Arc<Labels>, ServeError> {
        Ok(self.inner.find(model, version)?.class_labels.clone())
    }

    /// Whether a model, or one version of it, would answer now.
    ///
    /// # Errors
    /// `NotFound` for an unknown model or version.
    pub fn model_ready(&self, model: &str, version: Option<&str>) -> Result<bool, ServeError> {
        use mizzen_types::Coded;
        match self.inner.find(model, version) {
            Ok(_) => Ok(!self.inner.is_draining()),
            Err(error) if error.code() == ErrorCode::Unavailable => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the server is ready for traffic: not draining and, if strict, every model ready.
    pub fn ready(&self) -> bool {
        if self.inner.is_draining() {
            return false;
        }
        if !self.inner.options.strict_readiness {
            return true;
        }
        let table = self.inner.table.load();
        let registry = self.inner.registry();
        registry.wanted().all(|name| {
            table.contains_key(name) && !registry.get(name).is_some_and(|r| r.loading())
        })
    }

    /// Every model of the repositories and every version known.
    pub fn index(&self, ready_only: bool) -> Vec<IndexEntry> {
        // A repository that has become unreadable still has what was loaded from it.
        let on_disk = repository::scan(&self.inner.options.repositories).unwrap_or_default();
        let mut rows = self.inner.registry().index(on_disk.into_keys());
        if ready_only {
            rows.retain(|row| row.state == "READY");
        }
        rows
    }

    /// The rows of [`ModelHost::index`] that one model has, without a look at the repositories; none
    /// for a model that was never to be loaded.
    pub fn index_of(&self, model: &str) -> Vec<IndexEntry> {
        let registry = self.inner.registry();
        registry.get(model).map(|record| record.rows(model)).unwrap_or_default()
    }

    /// Loads or reloads a model from the repositories and waits until it is ready. The version that
    /// served before goes on until the new one has taken over, and goes on alone if that fails.
    ///
    /// An ensemble's models are loaded with it.
    ///
    /// # Errors
    /// `NotFound` if no repository has it, `Unavailable` where the repository is polled; else why it
    /// did not load.
    pub async fn load(&self, model: &str, overrides: LoadOverrides) -> Result<(), ServeError> {
        self.check_control()?;
        let name = model.to_owned();
        self.on_pool(move |inner| inner.load_now(&name, None, &overrides)).await
    }

    /// Loads a model from a directory outside the repositories, under this name. It has version
    /// directories, or is itself version 1. Later loads of the name read it again.
    ///
    /// # Errors
    /// As [`ModelHost::load`].
    pub async fn load_dir(&self, model: &str, dir: &Path) -> Result<(), ServeError> {
        let (name, dir) = (model.to_owned(), dir.to_owned());
        self.on_pool(move |inner| inner.load_now(&name, Some(dir), &LoadOverrides::default())).await
    }

    /// Takes a model out of service once its requests are answered; waits for that. Ensembles made
    /// of it go with it. With `dependents`, so do the models that were loaded for this ensemble
    /// alone.
    ///
    /// # Errors
    /// `NotFound` for a model that is not known, `Unavailable` where the repository is polled.
    pub async fn unload(&self, model: &str, dependents: bool) -> Result<(), ServeError> {
        self.check_control()?;
        let name = model.to_owned();
        let gone = self.on_pool(move |inner| inner.unload_with(&name, dependents)).await?;
        for (name, versions) in &gone {
            for version in versions {
                version.ended().await;
            }
            self.inner.unloaded(name, versions);
        }
        Ok(())
    }

    /// Triton's own words where polling decides.
    fn check_control(&self) -> Result<(), ServeError> {
        match self.inner.options.control {
            ModelControl::Poll(_) => Err(ServeError::new(
                ErrorCode::Unavailable,
                "explicit model load / unload is not allowed if polling is enabled",
            )),
            ModelControl::None | ModelControl::Explicit => Ok(()),
        }
    }

    /// Statistics of every loaded version, or of one model's.
    ///
    /// # Errors
    /// `NotFound` for an unknown model or version.
    pub fn statistics(
        &self,
        model: Option<&str>,
        version: Option<&str>,
    ) -> Result<Vec<ModelStatistics>, ServeError> {
        let version = version.filter(|v| !v.is_empty());
        let Some(model) = model.filter(|m| !m.is_empty()) else {
            let table = self.inner.table.load();
            let sorted: BTreeMap<_, _> = table.iter().collect();
            let all = sorted.into_iter().flat_map(|(name, served)| {
                served.values().map(move |v| v.stats.total(name, &v.label))
            });
            return Ok(all.collect());
        };
        let found = self.inner.find(model, version)?;
        if version.is_some() {
            return Ok(vec![found.stats.total(model, &found.label)]);
        }
        let served = self.inner.table.load().get(model).cloned().unwrap_or_default();
        Ok(served.values().map(|v| v.stats.total(model, &v.label)).collect())
    }

    /// What every version in service has counted, together with those of its number that it has
    /// replaced: unlike [`ModelHost::statistics`], nothing here falls when a model is reloaded.
    pub fn totals(&self) -> Vec<ModelStatistics> {
        let table = self.inner.table.load();
        let sorted: BTreeMap<_, _> = table.iter().collect();
        let all = sorted.into_iter().flat_map(|(name, served)| {
            served.keys().filter_map(|number| self.inner.ledger.total(name, *number))
        });
        all.collect()
    }

    /// What every version in service that makes text has counted, across reloads.
    pub fn generations(&self) -> Vec<GenerationTotals> {
        let table = self.inner.table.load();
        let sorted: BTreeMap<_, _> = table.iter().collect();
        let all = sorted.into_iter().flat_map(|(name, served)| {
            served.values().filter_map(|version| {
                let counts = version.generation.as_ref()?.counts.lock().clone();
                Some(GenerationTotals { name: name.to_string(), version: version.number, counts })
            })
        });
        all.collect()
    }

    /// Each model that is meant to be served, and whether it answers.
    pub fn readiness(&self) -> Vec<(String, bool)> {
        let table = self.inner.table.load();
        let registry = self.inner.registry();
        registry.wanted().map(|name| (name.to_owned(), table.contains_key(name))).collect()
    }

    /// Turns readiness off, takes no more requests, and waits until those under way are answered or
    /// `grace` is over. Returns how many were left.
    pub async fn drain(&self, grace: Duration) -> u64 {
        self.inner.draining.store(true, Ordering::SeqCst);
        let until = tokio::time::Instant::now() + grace;
        // Ensembles first: what they have under way still needs their models.
        let ensembles = self.inner.retire_where(|version| version.plan.is_some());
        for version in &ensembles {
            let _ = tokio::time::timeout_at(until, version.ended()).await;
        }
        let finishing = self.inner.retire_where(|_| true);
        let all = async {
            for version in &finishing {
                version.ended().await;
            }
        };
        // Whether in time or not, what counts is what is left.
        let _ = tokio::time::timeout_at(until, all).await;
        finishing.iter().map(|version| version.stats.pending()).sum()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    async fn on_pool<T: Send + 'static>(
        &self,
        task: impl FnOnce(&Arc<Inner>) -> Result<T, ServeError> + Send + 'static,
    ) -> Result<T, ServeError> {
        let (done, result) = oneshot::channel();
        let inner = self.inner.clone();
        self.inner.pool.run(move || {
            // A caller that has gone is not an error.
            let _ = done.send(task(&inner));
        });
        result.await.unwrap_or_else(|_| {
            Err(ServeError::new(ErrorCode::Internal, "the load thread panicked"))
        })
    }
}

/// Counts one model of the start as done, whatever became of it.
struct Started(Arc<Inner>);

impl Drop for Started {
    fn drop(&mut self) {
        self.0.starting.send_modify(|left| *left = left.saturating_sub(1));
    }
}

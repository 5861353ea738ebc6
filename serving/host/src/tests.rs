//! The host end to end, over the fake engine.

use std::{fs, path::Path, sync::Arc, time::Duration};

use mizzen_serving_core::{InferRequest, InferResponse, Parameters};
use mizzen_types::{Coded, ErrorCode, NamedTensor};
use tempfile::TempDir;

use crate::{
    HostOptions, LoadOverrides, ModelControl, ModelHost, ServeError,
    testing::{FakeLoader, FakeModel, Kind, fake_loader, fp32, fp32_values, write_model},
};

mod batching;
mod control;
mod data;
mod ensembles;
mod stream;
mod turns;
mod warmup;

/// A host over a repository of its own.
struct Fixture {
    dir: TempDir,
    loader: Arc<FakeLoader>,
    host: ModelHost,
}

impl Fixture {
    /// A host over what `lay_out` writes, all of it loaded.
    async fn new(lay_out: impl FnOnce(&Path)) -> Self {
        Self::with(HostOptions::default(), lay_out).await
    }

    async fn with(options: HostOptions, lay_out: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        lay_out(dir.path());
        let loader = fake_loader();
        let repositories = vec![dir.path().to_owned()];
        let options = HostOptions { repositories, ..options };
        let host = ModelHost::start(options, vec![loader.clone()]).unwrap();
        host.loaded().await;
        Self { dir, loader, host }
    }

    /// The values that `model` answers to one FP32 input of four columns.
    async fn values(&self, model: &str, values: &[f32]) -> Result<Vec<f32>, ServeError> {
        let response = self.host.infer(request(model, values)).await?;
        Ok(fp32_values(&response.outputs[0].tensor))
    }

    fn states(&self) -> Vec<(String, String, &'static str)> {
        let rows = self.host.index(false).into_iter();
        rows.map(|row| (row.name, row.version, row.state)).collect()
    }
}

fn request(model: &str, values: &[f32]) -> InferRequest {
    with_inputs(model, vec![fp32("INPUT0", &[values.len() / 4, 4], values)])
}

fn with_inputs(model: &str, inputs: Vec<NamedTensor>) -> InferRequest {
    InferRequest {
        model: model.into(),
        version: None,
        id: "7".to_owned(),
        inputs,
        outputs: Vec::new(),
        parameters: Parameters::new(),
        timeout: None,
        priority: 0,
    }
}

/// Waits until this many requests of `model` wait or run.
async fn await_pending(host: &ModelHost, model: &str, count: u64) {
    let reached = async {
        while host.statistics(Some(model), None).unwrap()[0].pending != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("requests arrive");
}

fn spawn(
    host: &ModelHost,
    request: InferRequest,
) -> tokio::task::JoinHandle<Result<InferResponse, ServeError>> {
    let host = host.clone();
    tokio::spawn(async move { host.infer(request).await })
}

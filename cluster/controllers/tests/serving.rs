//! Inference services end to end on one machine, over the host's fake engine.

#![allow(clippy::unwrap_used, reason = "test helpers")]

mod common;

use std::{path::Path, sync::Arc};

use common::Machine;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
    runtime::wait::{await_condition, conditions::is_deleted},
};
use mizzen_controllers::LocalDeployer;
use mizzen_crds::{InferenceService, has_condition};
use mizzen_serving_host::{HostOptions, ModelHost, testing};
use serde_json::{Value, json};

fn service(name: &str, uri: &Path) -> Value {
    json!({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
           "metadata": {"name": name, "namespace": "default"},
           "spec": {"predictor": {"model": {
               "modelFormat": {"name": "triton"},
               "storageUri": format!("file://{}", uri.display())}}}})
}

fn ready(service: &InferenceService) -> bool {
    let status = service.status.clone().unwrap_or_default();
    has_condition(&status.conditions, "Ready")
        && status.observed_generation == service.metadata.generation
}

fn message(service: &InferenceService) -> String {
    let status = service.status.clone().unwrap_or_default();
    status.conditions.last().and_then(|c| c.message.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_loaded_updated_and_unloaded() {
    let mut machine = Machine::start().await;
    let host = ModelHost::start(HostOptions::default(), vec![testing::fake_loader()]).unwrap();
    let deployer =
        LocalDeployer::new(host.clone(), machine.path().join("models"), "http://127.0.0.1:8000");
    machine.crash_controllers();
    machine.start_controllers_with(|o| o.deployer = Some(Arc::new(deployer))).await;

    let repository = machine.path().join("source");
    testing::write_model(&repository, "net", testing::Kind::Identity).unwrap();
    testing::write_model(&repository, "broken", testing::Kind::Unloadable).unwrap();
    machine.create::<InferenceService>(service("digits", &repository.join("net"))).await;
    let up = machine.wait::<InferenceService>("digits", ready).await;
    let status = up.status.unwrap();
    assert_eq!(status.url.as_deref(), Some("http://127.0.0.1:8000/v2/models/digits"));
    assert!(host.model_ready("digits", None).unwrap());

    // An update that does not load says why, and what served goes on.
    let services: Api<InferenceService> = machine.api();
    let to = |uri: &Path| {
        let uri = format!("file://{}", uri.display());
        Patch::Merge(json!({"spec": {"predictor": {"model": {"storageUri": uri}}}}))
    };
    let (params, broken) = (PatchParams::default(), to(&repository.join("broken")));
    services.patch("digits", &params, &broken).await.unwrap();
    let failed = |s: &InferenceService| {
        s.status.as_ref().is_some_and(|st| !has_condition(&st.conditions, "Ready"))
    };
    let down = machine.wait::<InferenceService>("digits", failed).await;
    assert!(!message(&down).is_empty());
    assert!(host.model_ready("digits", None).unwrap(), "the old model goes on");
    services.patch("digits", &params, &to(&repository.join("net").join("1"))).await.unwrap();
    machine.wait::<InferenceService>("digits", ready).await;

    services.delete("digits", &DeleteParams::default()).await.unwrap();
    let uid = up.metadata.uid.unwrap();
    await_condition(services, "digits", is_deleted(&uid)).await.unwrap();
    assert!(!host.model_ready("digits", None).unwrap_or(false));
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_there_is_told_by_its_path() {
    let mut machine = Machine::start().await;
    let host = ModelHost::start(HostOptions::default(), vec![testing::fake_loader()]).unwrap();
    let deployer = LocalDeployer::new(host, machine.path().join("models"), "http://h");
    machine.crash_controllers();
    machine.start_controllers_with(|o| o.deployer = Some(Arc::new(deployer))).await;
    machine.create::<InferenceService>(service("gone", Path::new("/nowhere/at/all"))).await;
    let told = |s: &InferenceService| message(s).contains("/nowhere/at/all");
    machine.wait::<InferenceService>("gone", told).await;
    machine.stop().await;
}

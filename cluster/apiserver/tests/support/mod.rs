//! Servers and objects for the tests.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses its own part")]

use std::path::Path;

use k8s_openapi::{
    api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use mizzen_apiserver::{ApiServer, ApiServerOptions, Limits};
use mizzen_store::{Store, StoreError};
use serde_json::json;

pub(crate) async fn open() -> (tempfile::TempDir, ApiServer) {
    open_with(Limits::default()).await
}

pub(crate) async fn open_with(limits: Limits) -> (tempfile::TempDir, ApiServer) {
    let dir = tempfile::tempdir().unwrap();
    let options = ApiServerOptions { limits, ..ApiServerOptions::default() };
    let server = open_at(&dir.path().join("mizzen.db"), options).await;
    (dir, server)
}

pub(crate) async fn open_at(path: &Path, options: ApiServerOptions) -> ApiServer {
    ApiServer::open(Store::open(path).unwrap(), options).await.unwrap()
}

/// Puts a row into the store behind the server's back.
pub(crate) async fn insert(path: &Path, resource: &str, namespace: &str, name: &str, json: &str) {
    let row =
        (resource.to_owned(), namespace.to_owned(), name.to_owned(), json.as_bytes().to_vec());
    let store = Store::open(path).unwrap();
    store
        .write::<_, StoreError, _>(move |tx| {
            tx.execute("INSERT INTO api_objects VALUES (?1, ?2, ?3, 1, ?4)", row)?;
            Ok(())
        })
        .await
        .unwrap();
}

pub(crate) fn config_map(name: &str, version: &str) -> ConfigMap {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"v": version}}, "data": {"k": "v"}}),
    )
    .unwrap()
}

pub(crate) fn widget_crd(
    client: &Client,
) -> (Api<CustomResourceDefinition>, CustomResourceDefinition) {
    let crd = json!({
        "metadata": {"name": "widgets.test.mizzen.dev"},
        "spec": {
            "group": "test.mizzen.dev", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "priority": 1},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "spec": {"type": "object", "required": ["size"], "properties": {
                        "size": {"type": "integer", "maximum": 10, "description": "How large the widget is."},
                        "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
                    }},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
            }],
        },
    });
    (Api::all(client.clone()), serde_json::from_value(crd).unwrap())
}

pub(crate) fn widgets(client: &Client) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("test.mizzen.dev", "v1", "Widget"));
    Api::default_namespaced_with(client.clone(), &resource)
}

pub(crate) fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an API error: {other:?}"),
    }
}

pub(crate) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.reason.clone(),
        other => panic!("not an API error: {other:?}"),
    }
}

/// Waits until a condition holds, for things that happen in the background.
pub(crate) async fn until<F: Future<Output = bool>>(check: impl Fn() -> F) {
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while !check().await {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("the condition holds within 20 s");
}

/// Waits until an object is gone.
pub(crate) async fn gone<K>(api: &Api<K>, name: &str)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    until(|| async { api.get_opt(name).await.unwrap().is_none() }).await;
}

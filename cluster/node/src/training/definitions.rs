//! The kinds themselves, as the API server is told of them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, Patch, PatchParams},
};
use serde_json::json;

/// What a kind is called.
pub(super) struct Definition {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    plural: &'static str,
}

/// The training operator's kind.
pub(super) const PYTORCH: Definition =
    Definition { group: "kubeflow.org", version: "v1", kind: "PyTorchJob", plural: "pytorchjobs" };
/// The trainer's kind.
pub(super) const TRAIN: Definition = Definition {
    group: "trainer.kubeflow.org",
    version: "v1alpha1",
    kind: "TrainJob",
    plural: "trainjobs",
};

impl Definition {
    pub(super) fn resource(&self) -> ApiResource {
        let api_version = format!("{}/{}", self.group, self.version);
        ApiResource {
            group: self.group.into(),
            version: self.version.into(),
            api_version,
            kind: self.kind.into(),
            plural: self.plural.into(),
        }
    }

    /// Fields are checked by the admission plug-in, which knows what works here; what a cluster's
    /// operator would also take is kept as it was written.
    fn custom_resource(&self) -> CustomResourceDefinition {
        let open = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let definition = json!({
            "metadata": { "name": format!("{}.{}", self.plural, self.group) },
            "spec": {
                "group": self.group, "scope": "Namespaced",
                "names": { "kind": self.kind, "listKind": format!("{}List", self.kind),
                    "plural": self.plural, "singular": self.kind.to_lowercase() },
                "versions": [{
                    "name": self.version, "served": true, "storage": true,
                    "subresources": { "status": {} },
                    "additionalPrinterColumns": [
                        { "name": "State", "type": "string", "jsonPath": ".status.conditions[-1:].type" },
                        { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                    ],
                    "schema": { "openAPIV3Schema": { "type": "object",
                        "properties": { "spec": open, "status": open } } },
                }],
            },
        });
        serde_json::from_value(definition).expect("it is written above")
    }
}

/// Brings the definitions up to date.
pub(super) async fn install(client: &Client) -> Result<(), kube::Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("mizzen-node").force();
    for kind in [PYTORCH, TRAIN] {
        let definition = kind.custom_resource();
        let name = format!("{}.{}", kind.plural, kind.group);
        api.patch(&name, &params, &Patch::Apply(&definition)).await?;
    }
    Ok(())
}

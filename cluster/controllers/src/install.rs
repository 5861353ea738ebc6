//! Installing the custom resource definitions, where no Helm chart does it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::wait::{await_condition, conditions::is_crd_established},
};

use crate::ControllerError;

/// Brings the definitions of all kinds up to date and waits until they are served.
///
/// # Errors
/// What the API server refused.
pub async fn install_definitions(client: &Client) -> Result<(), ControllerError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("mizzen").force();
    for definition in mizzen_crds::all() {
        let name = definition.name_any();
        let applied = api.patch(&name, &params, &Patch::Apply(&definition)).await;
        applied.map_err(ControllerError::api(format!("install the definition of `{name}`")))?;
        // It is only interrupted when the API server goes away, which the next call would tell.
        let _ = await_condition(api.clone(), &name, is_crd_established()).await;
    }
    Ok(())
}

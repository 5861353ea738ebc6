//! Finding a kind by any of the names that people use for it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;
use mizzen_types::ErrorCode;

use crate::failure::{Failure, Result};

/// A kind that the server has.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    /// `apis/batch/v1` or `api/v1`.
    root: String,
    pub(crate) group: String,
    pub(crate) plural: String,
    pub(crate) kind: String,
    namespaced: bool,
}

impl Resource {
    /// The path of a collection, or of one object in it.
    pub(crate) fn path(&self, namespace: &str, name: Option<&str>) -> String {
        let scope =
            if self.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
        let name = name.map(|n| format!("/{n}")).unwrap_or_default();
        format!("/{}{scope}/{}{name}", self.root, self.plural)
    }
}

/// Kinds of ours come first where two groups have the same name (`pipelineruns` is also Tekton's).
const OURS: &[&str] = &["mizzen.dev", "kubeflow.org", "serving.kserve.io"];

/// The kind of this name: plural, singular, kind or short name, with or without `.group`.
pub(crate) async fn find(client: &Client, name: &str) -> Result<Resource> {
    let failed = |e| Failure::kube("cannot ask the server what kinds it has", e);
    let (wanted, group) = name.split_once('.').map_or((name, None), |(n, g)| (n, Some(g)));
    let wanted = wanted.to_lowercase();
    let mut found = Vec::new();
    let mut known = Vec::new();
    let mut look = |root: String, group: &str, resources: Vec<APIResource>| {
        for resource in resources.into_iter().filter(|r| !r.name.contains('/')) {
            let short = resource.short_names.clone().unwrap_or_default();
            let names = [
                resource.name.clone(),
                resource.singular_name.clone(),
                resource.kind.to_lowercase(),
            ];
            if names.iter().chain(&short).any(|n| *n == wanted) {
                found.push(Resource {
                    root: root.clone(),
                    group: group.to_owned(),
                    plural: resource.name.clone(),
                    kind: resource.kind,
                    namespaced: resource.namespaced,
                });
            }
            known.push(resource.name);
        }
    };
    if group.is_none() {
        let core = client.list_core_api_resources("v1").await.map_err(failed)?;
        look("api/v1".into(), "", core.resources);
    }
    for api in client.list_api_groups().await.map_err(failed)?.groups {
        if group.is_some_and(|g| g != api.name) {
            continue;
        }
        // A kind may be in one version of its group alone, as `PyTorchJob` is beside `Experiment`; one that
        // is in several is taken from the version that the server prefers.
        let mut versions: Vec<String> = api
            .preferred_version
            .iter()
            .chain(&api.versions)
            .map(|v| v.group_version.clone())
            .collect();
        let mut seen = std::collections::HashSet::new();
        versions.retain(|version| seen.insert(version.clone()));
        for version in versions {
            let list = client.list_api_group_resources(&version).await.map_err(failed)?;
            look(format!("apis/{version}"), &api.name, list.resources);
        }
    }
    found.sort_by_key(|r| !OURS.contains(&r.group.as_str()));
    found.into_iter().next().ok_or_else(|| {
        known.sort();
        known.dedup();
        let message = format!("the server has no kind `{name}`; it has {}", known.join(", "));
        Failure::new(ErrorCode::NotFound, message)
    })
}

/// `kind/name` or `kind name` as two arguments.
pub(crate) fn split<'a>(
    kind: &'a str,
    name: Option<&'a str>,
) -> Result<(&'a str, Option<&'a str>)> {
    match (kind.split_once('/'), name) {
        (Some(_), Some(extra)) => Err(Failure::new(
            ErrorCode::InvalidArgument,
            format!("`{kind}` already names an object; leave out `{extra}`"),
        )),
        (Some((kind, name)), None) => Ok((kind, Some(name))),
        (None, name) => Ok((kind, name)),
    }
}

//! From a path to what it addresses.

use std::sync::Arc;

use super::params::decode;
use crate::resource::{Registry, Resource};

/// What a path addresses.
#[derive(Debug)]
pub(crate) enum Route {
    Root,
    Version,
    /// `/healthz`, `/livez`, `/readyz`, with or without a check's name.
    Health,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources(String, String),
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiV3,
    /// `/openapi/v3/apis/GROUP/VERSION`
    OpenApiV3Of(String, String),
    Objects(Target),
}

/// A resource, or an object of it, or a part of that object.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    /// Given exactly if the resource is namespaced and the path is not across namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// Finds what `path` addresses, among what is served now.
pub(crate) fn route(path: &str, registry: &Registry) -> Option<Route> {
    let segments: Vec<_> =
        path.split('/').filter(|s| !s.is_empty()).map(|s| decode(s, false)).collect();
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    Some(match segments.as_slice() {
        [] => Route::Root,
        ["version"] => Route::Version,
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3,
        ["openapi", "v3", "api", version] => Route::OpenApiV3Of(String::new(), (*version).into()),
        ["openapi", "v3", "apis", group, version] => {
            Route::OpenApiV3Of((*group).into(), (*version).into())
        }
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).into()),
        ["api", version] => Route::Resources(String::new(), (*version).into()),
        ["apis", group, version] => Route::Resources((*group).into(), (*version).into()),
        ["api", version, rest @ ..] => Route::Objects(target("", version, rest, registry)?),
        ["apis", group, version, rest @ ..] => {
            Route::Objects(target(group, version, rest, registry)?)
        }
        _ => return None,
    })
}

fn target(group: &str, version: &str, rest: &[&str], registry: &Registry) -> Option<Target> {
    let snapshot = registry.snapshot();
    let find = |plural: &str| snapshot.find(group, version, plural).cloned();
    let made = |resource: Arc<Resource>, namespace: Option<&str>, rest: &[&str]| {
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (Some(*name), None),
            [name, subresource] => (Some(*name), Some(*subresource)),
            _ => return None,
        };
        // An object of a namespaced kind is only addressed through its namespace.
        let addressed = namespace.is_some() == resource.namespaced
            || (name.is_none() && resource.namespaced && namespace.is_none());
        addressed.then(|| Target {
            resource,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    };
    match rest {
        // `namespaces/x/status` is a part of the namespace, `namespaces/x/pods` is a collection.
        ["namespaces", _, "status" | "finalize"] if group.is_empty() => {
            made(find("namespaces")?, None, &rest[1..])
        }
        ["namespaces", namespace, plural, rest @ ..] => made(find(plural)?, Some(namespace), rest),
        [plural, rest @ ..] => made(find(plural)?, None, rest),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_address_what_kubernetes_says() {
        let registry = Registry::new();
        let show = |path: &str| match route(path, &registry) {
            None => "none".to_owned(),
            Some(Route::Objects(t)) => format!(
                "{} ns={} name={} sub={}",
                t.resource.plural,
                t.namespace.unwrap_or_default(),
                t.name.unwrap_or_default(),
                t.subresource.unwrap_or_default()
            ),
            Some(other) => format!("{other:?}"),
        };
        #[rustfmt::skip]
        let cases = [
            ("/api/v1/namespaces", "namespaces ns= name= sub="),
            ("/api/v1/namespaces/x", "namespaces ns= name=x sub="),
            ("/api/v1/namespaces/x/status", "namespaces ns= name=x sub=status"),
            ("/api/v1/namespaces/x/pods", "pods ns=x name= sub="),
            ("/api/v1/namespaces/x/pods/a%3Ab/log", "pods ns=x name=a:b sub=log"),
            ("/api/v1/pods", "pods ns= name= sub="),
            ("/api/v1/pods/name", "none"),
            ("/api/v1/nodes/n", "nodes ns= name=n sub="),
            ("/api/v1/namespaces/x/nodes", "none"),
            ("/apis/batch/v1/namespaces/x/jobs/j/status", "jobs ns=x name=j sub=status"),
            ("/apis/batch/v2/jobs", "none"),
            ("/apis/batch/v1", "Resources(\"batch\", \"v1\")"),
            ("/openapi/v3/api/v1", "OpenApiV3Of(\"\", \"v1\")"),
            ("/nope", "none"),
        ];
        for (path, want) in cases {
            assert_eq!(show(path), want, "{path}");
        }
    }
}

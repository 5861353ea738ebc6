//! Discovery: which groups, versions and resources are served.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    ApiError,
    http::{self as wire, Reply, full, media::Form, route::Route},
    resource::{Resource, Snapshot},
};

/// The version of Kubernetes whose behaviour this server follows.
const MAJOR: &str = "1";
const MINOR: &str = "33";

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers everything that is not about objects.
pub(crate) fn answer(route: &Route, served: &Snapshot, form: Form) -> Result<Reply, ApiError> {
    let value = match route {
        Route::Root => json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez",
            "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        Route::Version => version(),
        Route::CoreVersions if form == Form::Discovery => return Ok(aggregated(served, true)),
        Route::Groups if form == Form::Discovery => return Ok(aggregated(served, false)),
        Route::CoreVersions => json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": []}),
        Route::Groups => {
            let groups: Vec<_> =
                groups(served).into_iter().filter(|(g, _)| !g.is_empty()).collect();
            let groups: Vec<_> = groups.iter().map(|(g, versions)| group(g, versions)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Route::Group(name) => {
            let groups = groups(served);
            let versions = groups.get(name.as_str()).ok_or(ApiError::UnknownResource)?;
            let mut group = group(name, versions);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            group
        }
        Route::Resources(group, version) => resources(served, group, version)?,
        _ => return Err(ApiError::UnknownResource),
    };
    Ok(wire::value(StatusCode::OK, &value))
}

fn version() -> Value {
    json!({
        "major": MAJOR, "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+mizzen.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// Versions by group, in order.
fn groups(served: &Snapshot) -> BTreeMap<&str, Vec<&str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for resource in served.iter() {
        let versions = groups.entry(&resource.group).or_default();
        if !versions.contains(&resource.version.as_str()) {
            versions.push(&resource.version);
        }
    }
    for versions in groups.values_mut() {
        versions.sort_by_key(|v| std::cmp::Reverse(maturity(v)));
    }
    groups
}

/// Stable before beta before alpha, newer before older.
fn maturity(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or(0);
    let rest = version.strip_prefix('v').unwrap_or_default();
    if let Some((major, minor)) = rest.split_once("alpha") {
        return (1, number(major), number(minor));
    }
    if let Some((major, minor)) = rest.split_once("beta") {
        return (2, number(major), number(minor));
    }
    match rest.parse() {
        Ok(major) => (3, major, 0),
        Err(_) => (0, 0, 0),
    }
}

fn group(name: &str, versions: &[&str]) -> Value {
    let all: Vec<_> = versions
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

fn resources(served: &Snapshot, group: &str, version: &str) -> Result<Value, ApiError> {
    let mut list = Vec::new();
    for r in served.iter().filter(|r| r.group == group && r.version == version) {
        let mut entry = json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced,
            "kind": r.kind, "verbs": r.verbs(),
        });
        if !r.short_names.is_empty() {
            entry["shortNames"] = json!(r.short_names);
        }
        if !r.categories.is_empty() {
            entry["categories"] = json!(r.categories);
        }
        list.push(entry);
        for part in subresources(r) {
            let mut entry = json!({
                "name": format!("{}/{}", r.plural, part.name), "singularName": "",
                "namespaced": r.namespaced, "kind": part.kind, "verbs": part.verbs,
            });
            if let Some((group, version)) = part.group_version {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return Err(ApiError::UnknownResource);
    }
    let group_version = crate::resource::api_version(group, version);
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
              "resources": list}))
}

struct Part {
    name: &'static str,
    kind: String,
    group_version: Option<(&'static str, &'static str)>,
    verbs: &'static [&'static str],
}

fn subresources(resource: &Resource) -> Vec<Part> {
    let mut parts = Vec::new();
    let verbs: &[&str] = &["get", "patch", "update"];
    if resource.has_status {
        parts.push(Part {
            name: "status",
            kind: resource.kind.clone(),
            group_version: None,
            verbs,
        });
    }
    if resource.scale.is_some() {
        let group_version = Some(("autoscaling", "v1"));
        parts.push(Part { name: "scale", kind: "Scale".into(), group_version, verbs });
    }
    if &*resource.table == "pods" {
        parts.push(Part { name: "log", kind: "Pod".into(), group_version: None, verbs: &["get"] });
    }
    parts
}

/// Everything in one answer, which is what current clients ask for.
fn aggregated(served: &Snapshot, core: bool) -> Reply {
    let items: Vec<_> = groups(served)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<_> = served
                        .iter()
                        .filter(|r| r.group == group && r.version == **version)
                        .map(|r| aggregated_resource(r))
                        .collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
                      "metadata": {}, "items": items});
    wire::typed(StatusCode::OK, AGGREGATED, full(list.to_string()))
}

fn aggregated_resource(r: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let parts: Vec<_> = subresources(r)
        .into_iter()
        .map(|part| {
            let (group, version) =
                part.group_version.unwrap_or((r.group.as_str(), r.version.as_str()));
            json!({"subresource": part.name, "responseKind": kind(group, version, &part.kind),
                   "verbs": part.verbs})
        })
        .collect();
    let mut entry = json!({
        "resource": r.plural, "singularResource": r.singular,
        "responseKind": kind(&r.group, &r.version, &r.kind),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" }, "verbs": r.verbs(),
    });
    for (field, names) in [("shortNames", &r.short_names), ("categories", &r.categories)] {
        if !names.is_empty() {
            entry[field] = json!(names);
        }
    }
    if !parts.is_empty() {
        entry["subresources"] = parts.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_by_maturity() {
        let mut versions = ["v1alpha1", "v2", "v1beta2", "v1", "v1beta1", "foo"];
        versions.sort_by_key(|v| std::cmp::Reverse(maturity(v)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }
}

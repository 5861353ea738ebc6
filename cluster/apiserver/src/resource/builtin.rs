//! The kinds that are compiled in.

use k8s_openapi::{
    api::{apps, authorization, batch, coordination, core, events, rbac},
    apiextensions_apiserver::pkg::apis::apiextensions,
};
use schemars::SchemaGenerator;

use super::{Resource, ScalePaths, Source, table_name};

/// The table that holds CustomResourceDefinitions.
pub(crate) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// The table that holds namespaces.
pub(crate) const NAMESPACES: &str = "namespaces";
/// The table that holds events, of both groups.
pub(crate) const EVENTS: &str = "events";
/// The table that holds pods.
pub(crate) const PODS: &str = "pods";

/// Namespaces that exist from the start and cannot be deleted.
pub(crate) const SYSTEM_NAMESPACES: &[&str] = &["default", "kube-system"];

struct Row {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    status: bool,
    stored: bool,
    definition: &'static str,
    describe: fn(&mut SchemaGenerator),
}

macro_rules! row {
    ($group:literal $version:literal $plural:literal $kind:literal $type:ty, $definition:literal,
     short $short:expr, all $all:literal, namespaced $ns:literal, status $status:literal) => {
        Row {
            group: $group,
            version: $version,
            plural: $plural,
            kind: $kind,
            short: &$short,
            categories: if $all { &["all"] } else { &[] },
            namespaced: $ns,
            status: $status,
            stored: true,
            definition: $definition,
            describe: |generator| drop(generator.subschema_for::<$type>()),
        }
    };
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row!("" "v1" "namespaces" "Namespace" core::v1::Namespace, "io.k8s.api.core.v1.Namespace", short ["ns"], all false, namespaced false, status true),
    row!("" "v1" "nodes" "Node" core::v1::Node, "io.k8s.api.core.v1.Node", short ["no"], all false, namespaced false, status true),
    row!("" "v1" "configmaps" "ConfigMap" core::v1::ConfigMap, "io.k8s.api.core.v1.ConfigMap", short ["cm"], all false, namespaced true, status false),
    row!("" "v1" "secrets" "Secret" core::v1::Secret, "io.k8s.api.core.v1.Secret", short [], all false, namespaced true, status false),
    row!("" "v1" "pods" "Pod" core::v1::Pod, "io.k8s.api.core.v1.Pod", short ["po"], all true, namespaced true, status true),
    row!("" "v1" "services" "Service" core::v1::Service, "io.k8s.api.core.v1.Service", short ["svc"], all true, namespaced true, status true),
    row!("" "v1" "serviceaccounts" "ServiceAccount" core::v1::ServiceAccount, "io.k8s.api.core.v1.ServiceAccount", short ["sa"], all false, namespaced true, status false),
    row!("" "v1" "events" "Event" core::v1::Event, "io.k8s.api.core.v1.Event", short ["ev"], all false, namespaced true, status false),
    row!("" "v1" "persistentvolumeclaims" "PersistentVolumeClaim" core::v1::PersistentVolumeClaim, "io.k8s.api.core.v1.PersistentVolumeClaim", short ["pvc"], all false, namespaced true, status true),
    row!("apps" "v1" "deployments" "Deployment" apps::v1::Deployment, "io.k8s.api.apps.v1.Deployment", short ["deploy"], all true, namespaced true, status true),
    row!("apps" "v1" "replicasets" "ReplicaSet" apps::v1::ReplicaSet, "io.k8s.api.apps.v1.ReplicaSet", short ["rs"], all true, namespaced true, status true),
    row!("batch" "v1" "jobs" "Job" batch::v1::Job, "io.k8s.api.batch.v1.Job", short [], all true, namespaced true, status true),
    row!("rbac.authorization.k8s.io" "v1" "roles" "Role" rbac::v1::Role, "io.k8s.api.rbac.v1.Role", short [], all false, namespaced true, status false),
    row!("rbac.authorization.k8s.io" "v1" "rolebindings" "RoleBinding" rbac::v1::RoleBinding, "io.k8s.api.rbac.v1.RoleBinding", short [], all false, namespaced true, status false),
    row!("rbac.authorization.k8s.io" "v1" "clusterroles" "ClusterRole" rbac::v1::ClusterRole, "io.k8s.api.rbac.v1.ClusterRole", short [], all false, namespaced false, status false),
    row!("rbac.authorization.k8s.io" "v1" "clusterrolebindings" "ClusterRoleBinding" rbac::v1::ClusterRoleBinding, "io.k8s.api.rbac.v1.ClusterRoleBinding", short [], all false, namespaced false, status false),
    row!("coordination.k8s.io" "v1" "leases" "Lease" coordination::v1::Lease, "io.k8s.api.coordination.v1.Lease", short [], all false, namespaced true, status false),
    row!("events.k8s.io" "v1" "events" "Event" events::v1::Event, "io.k8s.api.events.v1.Event", short ["ev"], all false, namespaced true, status false),
    row!("apiextensions.k8s.io" "v1" "customresourcedefinitions" "CustomResourceDefinition" apiextensions::v1::CustomResourceDefinition, "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition", short ["crd", "crds"], all false, namespaced false, status true),
    Row { stored: false, ..row!("authorization.k8s.io" "v1" "selfsubjectaccessreviews" "SelfSubjectAccessReview" authorization::v1::SelfSubjectAccessReview, "io.k8s.api.authorization.v1.SelfSubjectAccessReview", short [], all false, namespaced false, status false) },
];

/// Whether a built-in kind counts generations.
pub(crate) fn has_generation(table: &str) -> bool {
    matches!(table, "pods" | "jobs.batch" | "deployments.apps" | "replicasets.apps" | CRDS)
}

/// Every built-in resource.
pub(crate) fn resources() -> impl Iterator<Item = Resource> {
    ROWS.iter().map(|row| Resource {
        group: row.group.into(),
        version: row.version.into(),
        kind: row.kind.into(),
        list_kind: format!("{}List", row.kind),
        plural: row.plural.into(),
        singular: row.kind.to_lowercase(),
        short_names: row.short.iter().map(|s| (*s).into()).collect(),
        categories: row.categories.iter().map(|s| (*s).into()).collect(),
        namespaced: row.namespaced,
        has_status: row.status,
        scale: matches!(row.plural, "deployments" | "replicasets").then(|| ScalePaths {
            spec: "/spec/replicas".into(),
            status: "/status/replicas".into(),
            selector: Some("/spec/selector".into()),
        }),
        // Both groups' events are one collection, stored in the core form.
        table: if row.plural == EVENTS { EVENTS.into() } else { table_name(row.group, row.plural) },
        source: Source::Builtin(row.definition),
        stored: row.stored,
    })
}

/// Adds every built-in kind's definition, and what those refer to, to `generator`.
pub(crate) fn describe_all(generator: &mut SchemaGenerator) {
    for row in ROWS {
        (row.describe)(generator);
    }
}

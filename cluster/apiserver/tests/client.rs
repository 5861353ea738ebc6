//! The server through `kube`, in-process: what controllers rely on.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Event, Namespace, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{
        DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
        PropagationPolicy, WatchEvent, WatchParams,
    },
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use support::{code, config_map, gone, open, reason, until, widget_crd, widgets};

/// Goal: create, read, list by labels and fields, update with optimistic concurrency, delete.
#[tokio::test(flavor = "multi_thread")]
async fn objects_live_as_in_kubernetes() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let made = api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert!(made.uid().is_some() && made.resource_version().is_some());
    assert!(made.creation_timestamp().is_some());
    api.create(&PostParams::default(), &config_map("b", "2")).await.unwrap();
    let again = api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err();
    assert_eq!((code(&again), reason(&again).as_str()), (409, "AlreadyExists"));

    let names = async |params: ListParams| -> Vec<String> {
        api.list(&params).await.unwrap().iter().map(ResourceExt::name_any).collect()
    };
    assert_eq!(names(ListParams::default()).await, ["a", "b"]);
    assert_eq!(names(ListParams::default().labels("v in (2,3)")).await, ["b"]);
    assert_eq!(names(ListParams::default().fields("metadata.name!=b")).await, ["a"]);

    let mut newer = made.clone();
    newer.data.get_or_insert_default().insert("k".into(), "new".into());
    let newer = api.replace("a", &PostParams::default(), &newer).await.unwrap();
    assert_ne!(newer.resource_version(), made.resource_version());
    let stale = api.replace("a", &PostParams::default(), &made).await.unwrap_err();
    assert_eq!((code(&stale), reason(&stale).as_str()), (409, "Conflict"));
    let same = api.replace("a", &PostParams::default(), &newer).await.unwrap();
    assert_eq!(same.resource_version(), newer.resource_version(), "no change, no version");

    let wrong = Preconditions { uid: Some("x".into()), resource_version: None };
    let refused = DeleteParams { preconditions: Some(wrong), ..DeleteParams::default() };
    assert_eq!(code(&api.delete("a", &refused).await.unwrap_err()), 409);
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(&api.get("a").await.unwrap_err()), 404);
    let elsewhere = Api::<ConfigMap>::namespaced(server.client(), "nowhere");
    let homeless = elsewhere.create(&PostParams::default(), &config_map("a", "1")).await;
    assert!(homeless.unwrap_err().to_string().contains("namespaces \"nowhere\" not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_generated_and_checked() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let mut map = ConfigMap::default();
    map.metadata.generate_name = Some("run-".into());
    let one = api.create(&PostParams::default(), &map).await.unwrap().name_any();
    let two = api.create(&PostParams::default(), &map).await.unwrap().name_any();
    assert!(one.starts_with("run-") && one.len() == 9 && one != two, "{one} {two}");
    let error = api.create(&PostParams::default(), &config_map("No_Good", "1")).await.unwrap_err();
    assert_eq!((code(&error), reason(&error).as_str()), (422, "Invalid"));
    let error = api.create(&PostParams::default(), &ConfigMap::default()).await.unwrap_err();
    assert!(error.to_string().contains("metadata.name: Required value"), "{error}");
}

/// Goal: a page at a time gives what one list gives.
#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    for i in 0..7 {
        let map = config_map(&format!("m{i}"), "1");
        api.create(&PostParams::default(), &map).await.unwrap();
    }
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(3);
    loop {
        let page = api.list(&params).await.unwrap();
        assert!(page.items.len() <= 3);
        names.extend(page.items.iter().map(ResourceExt::name_any));
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(next) => params.continue_token = Some(next),
            None => break,
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
}

/// Goal: a watch tells every change once, in order, as its selector sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_follows_its_selector() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let start = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let all = api.watch(&WatchParams::default(), &start).await.unwrap();
    let ones = api.watch(&WatchParams::default().labels("v=1"), &start).await.unwrap();
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    for version in ["2", "1"] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"v": version}}}));
        api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    api.delete("a", &DeleteParams::default()).await.unwrap();
    async fn told(
        stream: impl futures::Stream<Item = kube::Result<WatchEvent<ConfigMap>>>,
    ) -> Vec<String> {
        let events = stream.take(4).map_ok(|event| match event {
            WatchEvent::Added(o) => format!("+{}", o.labels()["v"]),
            WatchEvent::Modified(o) => format!("~{}", o.labels()["v"]),
            WatchEvent::Deleted(o) => format!("-{}", o.labels()["v"]),
            other => format!("{other:?}"),
        });
        events.try_collect().await.unwrap()
    }
    assert_eq!(told(all).await, ["+1", "~2", "~1", "-1"]);
    assert_eq!(told(ones).await, ["+1", "-2", "+1", "-1"]);
}

/// Goal: a watch from a version whose history is gone says so in a way that reflectors act on.
#[tokio::test(flavor = "multi_thread")]
async fn history_that_is_gone_is_410() {
    let limits = mizzen_apiserver::Limits { history_events: 3, ..Default::default() };
    let (_dir, server) = support::open_with(limits).await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let start = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    for i in 0..6 {
        api.create(&PostParams::default(), &config_map(&format!("m{i}"), "1")).await.unwrap();
    }
    let mut events = api.watch(&WatchParams::default(), &start).await.unwrap().boxed();
    match events.next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
}

/// Goal: both ways in which kube's watcher starts see the same objects, then changes.
#[tokio::test(flavor = "multi_thread")]
async fn reflectors_start_from_a_list_or_from_a_stream() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut objects = watcher(api.clone(), config).applied_objects().boxed();
        let first = objects.try_next().await.unwrap().unwrap();
        assert_eq!(first.name_any(), "a");
        api.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
        assert_eq!(objects.try_next().await.unwrap().unwrap().name_any(), "b");
        api.delete("b", &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_every_kind_are_applied() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let params = PatchParams::default();
    let data = |m: ConfigMap| m.data.unwrap_or_default();
    let merge = Patch::Merge(json!({"data": {"x": "1", "y": "2"}}));
    assert_eq!(data(api.patch("a", &params, &merge).await.unwrap())["x"], "1");
    let strategic = Patch::Strategic(json!({"data": {"x": null}}));
    assert!(!data(api.patch("a", &params, &strategic).await.unwrap()).contains_key("x"));
    let operations =
        serde_json::from_value(json!([{"op": "replace", "path": "/data/y", "value": "3"}]));
    let json_patch = Patch::<ConfigMap>::Json(operations.unwrap());
    assert_eq!(data(api.patch("a", &params, &json_patch).await.unwrap())["y"], "3");
    let operations =
        serde_json::from_value(json!([{"op": "test", "path": "/data/y", "value": "4"}]));
    let failing = Patch::<ConfigMap>::Json(operations.unwrap());
    assert_eq!(code(&api.patch("a", &params, &failing).await.unwrap_err()), 422);
    let missing = api.patch("nope", &params, &merge).await.unwrap_err();
    assert_eq!(code(&missing), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_creates_shares_and_refuses() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let config = |key: &str, value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {key: value}});
    let alice = PatchParams::apply("alice");
    let bob = PatchParams::apply("bob");
    let made = api.patch("a", &alice, &Patch::Apply(config("x", "1"))).await.unwrap();
    assert_eq!(made.managed_fields().len(), 1);
    api.patch("a", &bob, &Patch::Apply(config("y", "1"))).await.unwrap();
    let error = api.patch("a", &bob, &Patch::Apply(config("x", "2"))).await.unwrap_err();
    assert_eq!((code(&error), reason(&error).as_str()), (409, "Conflict"));
    let forced = bob.clone().force();
    let taken = api.patch("a", &forced, &Patch::Apply(config("x", "2"))).await.unwrap();
    assert_eq!(
        taken.data.unwrap(),
        [("x".to_owned(), "2".to_owned())].into(),
        "y is bob's to drop"
    );
    // A plain update takes what it changes.
    let merge = Patch::Merge(json!({"data": {"x": "3"}}));
    api.patch(
        "a",
        &PatchParams { field_manager: Some("carol".into()), ..PatchParams::default() },
        &merge,
    )
    .await
    .unwrap();
    let error = api.patch("a", &bob, &Patch::Apply(config("x", "4"))).await.unwrap_err();
    assert!(error.to_string().contains("carol"), "{error}");
}

/// Goal: an object with finalizers stays, marked, until the last one goes.
#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_an_object() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let mut map = config_map("a", "1");
    map.metadata.finalizers = Some(vec!["mizzen.dev/test".into()]);
    api.create(&PostParams::default(), &map).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let marked = api.get("a").await.unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let add =
        Patch::Merge(json!({"metadata": {"finalizers": ["mizzen.dev/test", "mizzen.dev/late"]}}));
    assert_eq!(code(&api.patch("a", &PatchParams::default(), &add).await.unwrap_err()), 422);
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("a", &PatchParams::default(), &release).await.unwrap();
    assert_eq!(code(&api.get("a").await.unwrap_err()), 404);
}

async fn owned(api: &Api<ConfigMap>, name: &str, owner: &ConfigMap, blocks: bool) {
    let mut map = config_map(name, "1");
    map.metadata.owner_references = serde_json::from_value(json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
        "blockOwnerDeletion": blocks,
    }]))
    .unwrap();
    api.create(&PostParams::default(), &map).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_follow_their_owner_as_the_policy_says() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    for (policy, stays) in [
        (PropagationPolicy::Background, false),
        (PropagationPolicy::Foreground, false),
        (PropagationPolicy::Orphan, true),
    ] {
        let owner = api.create(&PostParams::default(), &config_map("owner", "1")).await.unwrap();
        owned(&api, "child", &owner, true).await;
        let child = api.get("child").await.unwrap();
        owned(&api, "grandchild", &child, true).await;
        let params =
            DeleteParams { propagation_policy: Some(policy.clone()), ..DeleteParams::default() };
        api.delete("owner", &params).await.unwrap();
        gone(&api, "owner").await;
        if stays {
            let child = api.get("child").await.unwrap();
            assert!(child.owner_references().is_empty(), "{policy:?}");
            api.delete("child", &DeleteParams::background()).await.unwrap();
        }
        gone(&api, "child").await;
        gone(&api, "grandchild").await;
    }
}

/// Goal: what a crash left over is collected at the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_objects_and_versions_and_finishes_collection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mizzen.db");
    let before = {
        let server = support::open_at(&path, Default::default()).await;
        let api = Api::<ConfigMap>::default_namespaced(server.client());
        api.create(&PostParams::default(), &config_map("stays", "1")).await.unwrap();
        api.create(&PostParams::default(), &config_map("goes", "1")).await.unwrap();
        api.delete("goes", &DeleteParams::default()).await.unwrap();
        let list = api.list(&ListParams::default()).await.unwrap();
        // A dependent of an owner that is gone, as a crash between the two would leave it.
        let row = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": "left", "namespace": "default", "uid": "u", "resourceVersion": "1",
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "gone"}]}});
        support::insert(&path, "configmaps", "default", "left", &row.to_string()).await;
        list
    };
    let server = support::open_at(&path, Default::default()).await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    gone(&api, "left").await;
    let after = api.list(&ListParams::default()).await.unwrap();
    assert_eq!(after.items[0].resource_version(), before.items[0].resource_version());
    let version = |v: &Option<String>| v.as_deref().unwrap().parse::<u64>().unwrap();
    assert!(
        version(&after.metadata.resource_version) >= version(&before.metadata.resource_version)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_is_emptied_first() {
    let (_dir, server) = open().await;
    let namespaces = Api::<Namespace>::all(server.client());
    let made: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces.create(&PostParams::default(), &made).await.unwrap();
    let api = Api::<ConfigMap>::namespaced(server.client(), "team");
    let mut held = config_map("held", "1");
    held.metadata.finalizers = Some(vec!["mizzen.dev/test".into()]);
    api.create(&PostParams::default(), &held).await.unwrap();
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    until(|| async { api.get("held").await.unwrap().metadata.deletion_timestamp.is_some() }).await;
    let phase = namespaces.get("team").await.unwrap().status.unwrap().phase;
    assert_eq!(phase.as_deref(), Some("Terminating"));
    let late = api.create(&PostParams::default(), &config_map("late", "1")).await.unwrap_err();
    assert_eq!(code(&late), 403);
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("held", &PatchParams::default(), &release).await.unwrap();
    gone(&namespaces, "team").await;
    let error = namespaces.delete("default", &DeleteParams::default()).await.unwrap_err();
    assert_eq!(code(&error), 403);
}

/// Goal: spec and status are written through their own endpoints only, and generation counts specs.
#[tokio::test(flavor = "multi_thread")]
async fn status_is_its_own_endpoint() {
    let (_dir, server) = open().await;
    let api = Api::<Job>::default_namespaced(server.client());
    let job: Job = serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": {"backoffLimit": 1,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
        "status": {"active": 7}}))
    .unwrap();
    let made = api.create(&PostParams::default(), &job).await.unwrap();
    assert_eq!((made.metadata.generation, made.status.unwrap().active), (Some(1), None));
    let patch = Patch::Merge(json!({"spec": {"backoffLimit": 5}, "status": {"active": 2}}));
    let status = api.patch_status("j", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(status.spec.as_ref().unwrap().backoff_limit, Some(1));
    assert_eq!((status.metadata.generation, status.status.unwrap().active), (Some(1), Some(2)));
    let spec = api.patch("j", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!((spec.metadata.generation, spec.spec.unwrap().backoff_limit), (Some(2), Some(5)));
    let bad = Patch::Merge(json!({"spec": {"backoffLimit": "many"}}));
    let error = api.patch("j", &PatchParams::default(), &bad).await.unwrap_err();
    assert!(error.to_string().contains("spec.backoffLimit of type int32"), "{error}");
}

/// Goal: a pod on a node goes when its node says so, any other at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_is_deleted_gracefully() {
    let (_dir, server) = open().await;
    let api = Api::<Pod>::default_namespaced(server.client());
    let pod = |name: &str, node: Option<&str>| -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"nodeName": node,
            "containers": [{"name": "c", "image": "i"}]}}))
        .unwrap()
    };
    api.create(&PostParams::default(), &pod("idle", None)).await.unwrap();
    api.delete("idle", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(&api.get("idle").await.unwrap_err()), 404);
    api.create(&PostParams::default(), &pod("busy", Some("n"))).await.unwrap();
    api.delete("busy", &DeleteParams::default()).await.unwrap();
    let marked = api.get("busy").await.unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    api.delete("busy", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(code(&api.get("busy").await.unwrap_err()), 404);
}

/// Goal: a definition is usable in the next request, defaults, prunes and refuses, and takes its
/// objects along when it goes.
#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_come_and_go_with_their_definition() {
    let (_dir, server) = open().await;
    let client = server.client();
    let (crds, crd) = widget_crd(&client);
    let made = crds.create(&PostParams::default(), &crd).await.unwrap();
    let conditions = made.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"));
    let api = widgets(&client);
    let widget = |spec: serde_json::Value| -> DynamicObject {
        serde_json::from_value(json!({"apiVersion": "test.mizzen.dev/v1", "kind": "Widget",
            "metadata": {"name": "w"}, "spec": spec}))
        .unwrap()
    };
    let strict = PostParams::default();
    let made = api.create(&strict, &widget(json!({"size": 3, "typo": 1}))).await.unwrap();
    assert_eq!(made.data["spec"], json!({"size": 3, "mode": "fast"}), "defaulted and pruned");
    assert_eq!(made.metadata.generation, Some(1));
    let error = api.create(&strict, &widget(json!({"size": 99}))).await.unwrap_err();
    assert_eq!((code(&error), reason(&error).as_str()), (422, "Invalid"));
    let status = Patch::Merge(json!({"status": {"phase": "Up"}, "spec": {"size": 5}}));
    let updated = api.patch_status("w", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(
        (&updated.data["status"]["phase"], &updated.data["spec"]["size"]),
        (&json!("Up"), &json!(3))
    );
    assert_eq!(updated.metadata.generation, Some(1));
    crds.delete(&crd.name_any(), &DeleteParams::default()).await.unwrap();
    gone(&crds, &crd.name_any()).await;
    assert_eq!(code(&api.get("w").await.unwrap_err()), 404);
    let unknown = api.list(&ListParams::default()).await.unwrap_err();
    assert!(unknown.to_string().contains("could not find the requested resource"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_stores_nothing() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let answer = api.create(&dry, &config_map("a", "1")).await.unwrap();
    assert!(answer.uid().is_some());
    assert_eq!(code(&api.get("a").await.unwrap_err()), 404);
}

/// Goal: a controller's events are what `kubectl describe` reads.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_new_group_are_read_in_the_old_one() {
    use kube::runtime::events::{Event as Note, EventType, Recorder, Reporter};
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let about = api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let recorder = Recorder::new(server.client(), Reporter::from("tester"));
    let note = Note {
        type_: EventType::Normal,
        reason: "Because".into(),
        note: Some("it happened".into()),
        action: "Testing".into(),
        secondary: None,
    };
    use kube::Resource;
    recorder.publish(&note, &about.object_ref(&())).await.unwrap();
    recorder.publish(&note, &about.object_ref(&())).await.unwrap();
    let events = Api::<Event>::default_namespaced(server.client());
    let params =
        ListParams::default().fields("involvedObject.name=a,involvedObject.kind=ConfigMap");
    let found = events.list(&params).await.unwrap();
    assert_eq!(found.items.len(), 1);
    assert_eq!(found.items[0].message.as_deref(), Some("it happened"));
    assert_eq!(found.items[0].series.as_ref().unwrap().count, Some(2));
}

/// Goal: `kube::discovery` finds built-in and custom kinds.
#[tokio::test(flavor = "multi_thread")]
async fn discovery_finds_what_is_served() {
    let (_dir, server) = open().await;
    let client: Client = server.client();
    let (crds, crd) = widget_crd(&client);
    crds.create(&PostParams::default(), &crd).await.unwrap();
    let found = kube::Discovery::new(client).run().await.unwrap();
    for (group, kind) in [("", "Pod"), ("batch", "Job"), ("test.mizzen.dev", "Widget")] {
        let group = found.get(group).unwrap();
        assert!(group.recommended_kind(kind).is_some(), "{kind}");
    }
}

use super::*;

fn job(spec: Value) -> Value {
    let replica = |n: i64| {
        json!({ "replicas": n, "restartPolicy": "Never",
            "template": { "spec": { "containers": [{ "name": "pytorch", "command": ["true"], "env": [{ "name": "RANK", "value": "7" }] }] } } })
    };
    let mut all = json!({ "pytorchReplicaSpecs": { "Master": replica(1), "Worker": replica(2) } });
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({ "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "spec": all,
        "metadata": { "name": "j", "namespace": "ns", "uid": "u", "labels": { super::super::TRIAL: "e-1" } } })
}

/// The pods that a decision created, as they would be in this phase.
fn pods(decision: &Decision, phases: &[&str]) -> Vec<Pod> {
    let status = |phase: &str| match phase {
        "Disrupted" => {
            json!({ "phase": "Failed", "conditions": [{ "type": "DisruptionTarget", "status": "True" }] })
        }
        "Killed" => {
            json!({ "phase": "Failed", "containerStatuses": [{ "name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": { "terminated": { "exitCode": 137 } } }] })
        }
        "Restarted" => {
            json!({ "phase": "Running", "containerStatuses": [{ "name": "c", "image": "", "imageID": "", "ready": true,
            "restartCount": 3 }] })
        }
        phase => json!({ "phase": phase }),
    };
    let made = decision.create.iter().zip(phases).map(|(pod, phase)| {
        let mut pod = pod.clone();
        pod["status"] = status(phase);
        serde_json::from_value(pod).unwrap()
    });
    made.collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn types(status: &Value) -> Vec<String> {
    let conditions = status["conditions"].as_array().unwrap().iter();
    conditions
        .map(|c| format!("{}={}", c["type"].as_str().unwrap(), c["status"].as_str().unwrap()))
        .collect()
}

#[test]
fn replicas_become_pods_that_find_each_other() {
    let decision = decide(&job(json!({ "nprocPerNode": "2" })), &[], at(10), 4321);
    let names: Vec<_> =
        decision.create.iter().map(|p| p["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["j-master-0", "j-worker-0", "j-worker-1"]);
    let env = |pod: usize, name: &str| {
        let env = decision.create[pod]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        let found: Vec<_> = env.into_iter().filter(|v| v["name"] == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0]["value"].as_str().unwrap().to_owned()
    };
    for (pod, rank) in [(0, "0"), (1, "1"), (2, "2")] {
        assert_eq!(env(pod, "RANK"), rank, "the template's own is replaced");
        assert_eq!(env(pod, "PET_NODE_RANK"), rank);
        assert_eq!((env(pod, "WORLD_SIZE"), env(pod, "PET_NNODES")), ("6".into(), "3".into()));
        assert_eq!(
            (env(pod, "MASTER_PORT"), env(pod, "KATIB_TRIAL_NAME")),
            ("4321".into(), "e-1".into())
        );
    }
    let labels = &decision.create[0]["metadata"]["labels"];
    assert_eq!(
        (&labels[JOB_ROLE], &labels[REPLICA_TYPE], &labels[JOB_NAME]),
        (&json!("master"), &json!("master"), &json!("j"))
    );
    assert!(decision.create[1]["metadata"]["labels"].get(JOB_ROLE).is_none());
    assert_eq!(types(decision.status.as_ref().unwrap()), ["Created=True"]);
}

/// What the case shows, phases of the Pods, conditions, and names of what is deleted and created.
type Case = (&'static str, Names, Names, Names, Names);
type Names = &'static [&'static str];

#[test]
fn a_job_goes_the_operators_way() {
    let mut job = job(json!({}));
    let first = decide(&job, &[], at(10), 1);
    job["status"] = first.status.clone().unwrap();
    #[rustfmt::skip]
    let cases: &[Case] = &[
        // what the case shows                pods (master, workers)                     conditions                                       deleted                      created
        ("it runs with its master",           &["Running", "Running", "Pending"],       &["Created=True", "Running=True"],               &[],                         &[]),
        ("workers alone do not make it run",  &["Pending", "Running", "Running"],       &["Created=True"],                               &[],                         &[]),
        ("the master's success is the job's", &["Succeeded", "Running", "Succeeded"],   &["Created=True", "Succeeded=True"],             &[],                         &[]),
        ("one failure ends all",              &["Running", "Failed", "Running"],        &["Created=True", "Failed=True"],                &["j-master-0", "j-worker-1"], &[]),
        ("a missing one is made",             &["Running", "Running"],                  &["Created=True", "Running=True"],               &[],                         &["j-worker-1"]),
        ("a disruption makes all meet anew",  &["Disrupted", "Running", "Running"],     &["Created=True", "Restarting=True"],            &["j-master-0", "j-worker-0", "j-worker-1"], &[]),
    ];
    for (shows, phases, conditions, deleted, created) in cases {
        let decision = decide(&job, &pods(&first, phases), at(20), 2);
        let status = decision.status.clone().unwrap_or_else(|| job["status"].clone());
        assert_eq!(types(&status), *conditions, "{shows}");
        assert_eq!(decision.delete, *deleted, "{shows}");
        let names: Vec<_> =
            decision.create.iter().map(|p| p["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, *created, "{shows}");
        if let Some(pod) = decision.create.first() {
            assert!(
                pod.to_string().contains(r#"{"name":"MASTER_PORT","value":"1"}"#),
                "it meets those that are there"
            );
        }
        // Looking again at what was decided changes nothing but what is still to be deleted.
        let mut again = job.clone();
        again["status"] = status;
        let then = decide(&again, &pods(&first, phases), at(30), 3);
        assert_eq!(then.status, None, "{shows}");
    }
}

#[test]
fn restarts_end_at_the_limit() {
    let with = |policy: Value, restart: &str| {
        let mut job = job(json!({ "runPolicy": policy }));
        for type_ in TYPES {
            job["spec"]["pytorchReplicaSpecs"][type_]["restartPolicy"] = json!(restart);
        }
        job
    };
    let mut job = with(json!({ "backoffLimit": 1 }), "ExitCode");
    let first = decide(&job, &[], at(10), 1);
    assert_eq!(first.create[0]["spec"]["restartPolicy"], "Never");
    job["status"] = first.status.clone().unwrap();
    let killed = pods(&first, &["Running", "Killed", "Running"]);
    let once = decide(&job, &killed, at(20), 1);
    assert_eq!(
        (once.delete.clone(), once.status.as_ref().unwrap()["restarts"].clone()),
        (vec!["j-worker-0".to_owned()], json!(1))
    );
    job["status"] = once.status.unwrap();
    let twice = decide(&job, &killed, at(30), 1).status.unwrap();
    job["status"] = twice;
    let over = decide(&job, &killed, at(40), 1);
    assert_eq!(
        over.status.unwrap()["conditions"].as_array().unwrap().last().unwrap()["reason"],
        "BackoffLimitExceeded"
    );
    assert_eq!(over.delete, ["j-master-0", "j-worker-1"]);

    let mut job = with(json!({ "backoffLimit": 2 }), "OnFailure");
    let first = decide(&job, &[], at(10), 1);
    job["status"] = first.status.clone().unwrap();
    let status = decide(&job, &pods(&first, &["Running", "Restarted", "Running"]), at(20), 1)
        .status
        .unwrap();
    assert!(has(&status, "Failed"), "three restarts in place are more than two: {status}");
}

#[test]
fn a_deadline_ends_it_and_is_waited_for() {
    let mut job =
        job(json!({ "runPolicy": { "activeDeadlineSeconds": 5, "cleanPodPolicy": "All" } }));
    let first = decide(&job, &[], at(10), 1);
    assert_eq!(first.again_after, Some(Duration::from_secs(5)));
    job["status"] = first.status.clone().unwrap();
    let over = decide(&job, &pods(&first, &["Running", "Running", "Succeeded"]), at(15), 1);
    assert!(has(over.status.as_ref().unwrap(), "Failed"));
    assert_eq!(over.delete.len(), 3, "the policy says all");
}

//! Experiments end to end on one machine: real API server, real processes, real logs.

#![allow(clippy::unwrap_used, reason = "test helpers")]

mod common;

use std::{cell::Cell, path::Path};

use common::Machine;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use mizzen_controllers::{MetricSink, StoreSink};
use mizzen_crds::{Experiment, Trial, TrialPhase, has_condition};
use serde_json::{Value, json};

fn experiment(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "objective": {"type": "minimize", "objectiveMetricName": "loss"},
            "algorithm": {"algorithmName": "random"},
            "parallelTrialCount": 2, "maxTrialCount": 6, "maxFailedTrialCount": 3,
            "parameters": [{"name": "x", "parameterType": "double",
                            "feasibleSpace": {"min": "0", "max": "1"}}],
            "trialTemplate": {
                "primaryContainerName": "main",
                "trialParameters": [{"name": "x", "reference": "x"}],
                "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": {
                    "backoffLimit": 0,
                    "template": {"spec": {"restartPolicy": "Never", "containers": [{
                        "name": "main", "image": "none",
                        "command": ["sh", "-c", script]}]}}}}
            }
        }
    })
}

fn over(experiment: &Experiment) -> bool {
    let status = experiment.status.clone().unwrap_or_default();
    ["Succeeded", "Failed"].iter().any(|c| has_condition(&status.conditions, c))
}

fn reason(experiment: &Experiment) -> String {
    let status = experiment.status.clone().unwrap_or_default();
    status.conditions.last().and_then(|c| c.reason.clone()).unwrap_or_default()
}

async fn trials(machine: &Machine) -> Vec<Trial> {
    machine.api::<Trial>().list(&ListParams::default()).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread")]
async fn an_experiment_runs_its_trials_and_finds_the_best() {
    let machine = Machine::start().await;
    let script = "echo start; echo loss=${trialParameters.x}; echo me=$KATIB_TRIAL_NAME";
    machine.create::<Experiment>(experiment("six", script)).await;
    let experiment = machine.wait::<Experiment>("six", over).await;

    assert_eq!(reason(&experiment), "ExperimentMaxTrialsReached");
    let status = experiment.status.unwrap();
    assert_eq!((status.trials, status.trials_succeeded), (6, 6));
    let trials = trials(&machine).await;
    let value = |t: &Trial| t.spec.parameter_assignments[0].value.parse::<f64>().unwrap();
    let best = trials.iter().min_by(|a, b| value(a).total_cmp(&value(b))).unwrap();
    let optimal = status.current_optimal_trial.unwrap();
    assert_eq!(optimal.best_trial_name, best.name_any());
    assert_eq!(optimal.observation.metrics[0].latest, best.spec.parameter_assignments[0].value);

    let sink = StoreSink::open(machine.store.clone()).unwrap();
    for trial in &trials {
        let series = sink.series(&trial.uid().unwrap()).unwrap();
        assert_eq!(series.len(), 1, "{}", trial.name_any());
        assert_eq!(series[0].value, trial.spec.parameter_assignments[0].value);
    }
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_loses_nothing_and_runs_nothing_twice() {
    let mut machine = Machine::start().await;
    let ran = machine.path().join("ran");
    std::fs::create_dir(&ran).unwrap();
    // Each trial leaves one mark per time it runs, and waits to be told to go on.
    let script = format!(
        "mktemp {0}/$KATIB_TRIAL_NAME.XXXXXX; while [ ! -e {0}/go ]; do sleep 0.02; done; echo loss=${{trialParameters.x}}",
        ran.display()
    );
    machine.create::<Experiment>(experiment("crash", &script)).await;
    machine
        .wait::<Experiment>("crash", |e| e.status.as_ref().is_some_and(|s| s.trials_running == 2))
        .await;
    machine.crash_controllers();
    // The trials end while nobody looks.
    std::fs::write(ran.join("go"), "").unwrap();
    for trial in trials(&machine).await {
        machine
            .wait::<Job>(&trial.name_any(), |j| {
                j.status.as_ref().and_then(|s| s.succeeded) == Some(1)
            })
            .await;
    }
    machine.start_controllers().await;
    let experiment = machine.wait::<Experiment>("crash", over).await;
    let status = experiment.status.unwrap();
    assert_eq!((status.trials, status.trials_succeeded), (6, 6));
    assert_each_ran_once(&machine, &ran).await;
    machine.stop().await;
}

/// Each trial that ran left a mark `<trial>.<random>`, one each time.
async fn assert_each_ran_once(machine: &Machine, marks: &Path) {
    let mut ran: Vec<_> = std::fs::read_dir(marks)
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.split_once('.').map(|n| n.0.to_owned()))
        .collect();
    ran.sort();
    let mut names: Vec<_> = trials(machine).await.iter().map(ResourceExt::name_any).collect();
    names.sort();
    assert_eq!(ran, names);
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_at_any_moment_change_nothing() {
    let mut machine = Machine::start().await;
    let ran = machine.path().join("ran");
    std::fs::create_dir(&ran).unwrap();
    let script = format!(
        "mktemp {}/$KATIB_TRIAL_NAME.XXXXXX; echo loss=${{trialParameters.x}}",
        ran.display()
    );
    let mut object = experiment("moments", &script);
    object["spec"]["maxTrialCount"] = json!(12);
    object["spec"]["parallelTrialCount"] = json!(3);
    machine.create::<Experiment>(object).await;
    // Each time, the controllers die after a different number of events.
    for events in [1, 2, 3, 5, 8, 13] {
        let seen = Cell::new(0);
        let enough = |e: &Experiment| {
            seen.set(seen.get() + 1);
            seen.get() >= events || over(e)
        };
        machine.wait::<Experiment>("moments", enough).await;
        machine.crash_controllers();
        machine.start_controllers().await;
    }
    let status = machine.wait::<Experiment>("moments", over).await.status.unwrap();
    assert_eq!((status.trials, status.trials_succeeded), (12, 12));
    assert_each_ran_once(&machine, &ran).await;
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_missing_metrics_and_goals_end_as_they_should() {
    let machine = Machine::start().await;
    let mut failing =
        experiment("failing", "echo the disk is on fire >&2; exit 3 # ${trialParameters.x}");
    failing["spec"]["maxFailedTrialCount"] = json!(1);
    let silent = experiment("silent", "echo nothing to see # ${trialParameters.x}");
    let mut goal = experiment("goal", "echo loss=0.01; exec sleep ${trialParameters.x}");
    goal["spec"]["objective"]["goal"] = json!(0.5);
    goal["spec"]["maxTrialCount"] = json!(100);
    for object in [failing, silent, goal] {
        machine.create::<Experiment>(object).await;
    }

    let failing = machine.wait::<Experiment>("failing", over).await;
    assert_eq!(reason(&failing), "ExperimentFailed");
    let silent = machine.wait::<Experiment>("silent", over).await;
    assert_eq!(reason(&silent), "ExperimentFailed", "too many trials without the metric");
    let goal = machine.wait::<Experiment>("goal", over).await;
    assert_eq!(reason(&goal), "ExperimentGoalReached");
    assert_eq!(goal.status.unwrap().current_optimal_trial.unwrap().best_objective.unwrap(), "0.01");

    let trials = trials(&machine).await;
    let of = |name: &str, phase: TrialPhase| {
        let found = trials.iter().find(|t| t.name_any().starts_with(name) && t.phase() == phase);
        let status = found.unwrap_or_else(|| panic!("{name}: {phase:?}")).status.clone().unwrap();
        status.conditions.last().unwrap().message.clone().unwrap()
    };
    assert!(of("failing", TrialPhase::Failed).contains("the disk is on fire"));
    assert!(of("silent", TrialPhase::MetricsUnavailable).contains("print it as `loss=<value>`"));
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_experiment_goes_on_when_its_budget_is_raised() {
    let machine = Machine::start().await;
    let mut object = experiment("resume", "echo loss=${trialParameters.x}");
    object["spec"]["maxTrialCount"] = json!(2);
    object["spec"]["resumePolicy"] = json!("LongRunning");
    machine.create::<Experiment>(object).await;
    machine.wait::<Experiment>("resume", over).await;
    let raise = Patch::Merge(json!({"spec": {"maxTrialCount": 4}}));
    machine.api::<Experiment>().patch("resume", &PatchParams::default(), &raise).await.unwrap();
    let more = |e: &Experiment| over(e) && e.status.as_ref().is_some_and(|s| s.trials == 4);
    machine.wait::<Experiment>("resume", more).await;
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_at_the_door() {
    let machine = Machine::start().await;
    let cases = [
        ("annealing", "available: asha, auto, bayesianoptimization, cmaes, gp, grid, hyperband,"),
        ("grid", "algorithm `grid` cannot search parameter `x`"),
    ];
    for (algorithm, want) in cases {
        let mut object = experiment("refused", "echo loss=${trialParameters.x}");
        object["spec"]["algorithm"]["algorithmName"] = json!(algorithm);
        let object: Experiment = serde_json::from_value(object).unwrap();
        let refused = machine.api::<Experiment>().create(&PostParams::default(), &object).await;
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(want), "{message}");
    }
    let mut object = experiment("refused", "echo loss=${trialParameters.x}");
    object["spec"]["earlyStopping"] = json!({"algorithmName": "medianstop",
        "algorithmSettings": [{"name": "start_step", "value": "0"}]});
    let object: Experiment = serde_json::from_value(object).unwrap();
    let refused = machine.api::<Experiment>().create(&PostParams::default(), &object).await;
    let message = refused.unwrap_err().to_string();
    for want in [
        "spec.earlyStopping.algorithmSettings",
        "setting `start_step` is `0`; expected an integer from 1",
    ] {
        assert!(message.contains(want), "{message}");
    }
    machine.stop().await;
}

/// Goal: no delay of ours between trials. Method: many trials that do nothing, some at a time.
#[tokio::test(flavor = "multi_thread")]
async fn many_small_trials_run_without_gaps() {
    let machine = Machine::start().await;
    let mut object = experiment("many", "echo loss=${trialParameters.x}");
    object["spec"]["maxTrialCount"] = json!(24);
    object["spec"]["parallelTrialCount"] = json!(8);
    let begun = std::time::Instant::now();
    machine.create::<Experiment>(object).await;
    let status = machine.wait::<Experiment>("many", over).await.status.unwrap();
    let rate = 24.0 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} trials a second");
    assert_eq!((status.trials, status.trials_succeeded), (24, 24));
    machine.stop().await;
}

/// Goal: a hopeless trial is ended while it runs, keeps what it measured and counts as stopped; one killed
/// controller in between changes nothing. Method: good trials end by themselves; a bad one would go on
/// for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_hopeless_trial_is_stopped_while_it_runs() {
    let mut machine = Machine::start().await;
    let alive = machine.path().join("alive");
    // The first three trials are good; those after them never end by themselves.
    let script = format!(
        "# ${{trialParameters.x}}\nmktemp {0}.XXXXXX; n=$(ls {0}.* | wc -l); for i in 1 2 3 4 5; do echo loss=$n; done
         if [ $(ls {0}.* | wc -l) -gt 3 ]; then trap 'echo loss=0; exit' TERM; sleep 60 & wait; fi",
        alive.display()
    );
    let mut object = experiment("stop", &script);
    object["spec"]["parallelTrialCount"] = json!(1);
    object["spec"]["maxTrialCount"] = json!(5);
    object["spec"]["earlyStopping"] = json!({"algorithmName": "medianstop",
        "algorithmSettings": [{"name": "min_trials_required", "value": "3"}]});
    machine.create::<Experiment>(object).await;
    let stopped = |count| {
        move |e: &Experiment| e.status.as_ref().is_some_and(|s| s.trials_early_stopped == count)
    };
    machine.wait::<Experiment>("stop", stopped(1)).await;
    machine.crash_controllers();
    machine.start_controllers().await;
    let status = machine.wait::<Experiment>("stop", over).await.status.unwrap();
    assert_eq!((status.trials, status.trials_succeeded, status.trials_early_stopped), (5, 3, 2));
    assert_eq!(status.early_stopped_trial_list.len(), 2);
    for trial in trials(&machine).await {
        let status = trial.status.clone().unwrap();
        let metric = &status.observation.as_ref().unwrap().metrics[0];
        assert_eq!(metric.min, metric.latest, "what came after the end does not count");
        if trial.phase() == TrialPhase::EarlyStopped {
            let last = status.conditions.last().unwrap();
            assert_eq!(last.reason.as_deref(), Some("TrialEarlyStopped"));
            let message = last.message.clone().unwrap();
            assert!(message.starts_with("Trial is early stopped: after "), "{message}");
            assert!(message.contains("worse than 2, the median of 3 trials"), "{message}");
        }
    }
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_retained_is_suspended_when_its_trial_is_stopped() {
    let machine = Machine::start().await;
    // Two trials of which one is better: that one goes on, until the machine stops.
    let script = "for i in $(seq 600); do echo loss=${trialParameters.x}; sleep 0.1; done";
    let mut object = experiment("kept", script);
    object["spec"]["parallelTrialCount"] = json!(2);
    object["spec"]["maxTrialCount"] = json!(2);
    object["spec"]["trialTemplate"]["retain"] = json!(true);
    object["spec"]["earlyStopping"] = json!({"algorithmName": "asha", "algorithmSettings": [
        {"name": "eta", "value": "2"}, {"name": "r_min", "value": "2"}]});
    machine.create::<Experiment>(object).await;
    let experiment = machine
        .wait::<Experiment>("kept", |e| {
            e.status.as_ref().is_some_and(|s| s.trials_early_stopped == 1)
        })
        .await;
    let stopped = &experiment.status.unwrap().early_stopped_trial_list[0];
    let idle = |j: &Job| j.status.as_ref().is_some_and(|s| s.active.unwrap_or(0) == 0);
    let job = machine.wait::<Job>(stopped, idle).await;
    assert_eq!(job.spec.unwrap().suspend, Some(true));
    let value = |t: &Trial| t.spec.parameter_assignments[0].value.parse::<f64>().unwrap();
    let trials = trials(&machine).await;
    let worst = trials.iter().max_by(|a, b| value(a).total_cmp(&value(b))).unwrap();
    assert_eq!(&worst.name_any(), stopped, "the worse of the two");
    machine.stop().await;
}

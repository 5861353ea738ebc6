"""Katib's own Python SDK, unmodified, against `mizzen up`."""

import json

import grpc
import pytest
from conftest import until, up
from kubeflow import katib
from kubeflow.katib import katib_api_pb2 as pb, katib_api_pb2_grpc
from kubernetes import client as kubernetes
from test_cluster import experiment_spec


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with up(tmp_path_factory.mktemp("katib") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def sdk(server):
    configuration = kubernetes.Configuration(host=f"http://{server.at['api']}")
    return katib.KatibClient(client_configuration=configuration, namespace="default")


@pytest.fixture(scope="module")
def reports(server):
    """A stub of DBManager."""
    with grpc.insecure_channel(server.at["katib"]) as channel:
        yield katib_api_pb2_grpc.DBManagerStub(channel)


def wait(sdk, name, condition="Succeeded"):
    return sdk.wait_for_experiment_condition(name, expected_condition=condition, timeout=60, polling_interval=1)


def log(*values, metric="loss"):
    return pb.ObservationLog(metric_logs=[
        pb.MetricLog(time_stamp=f"2026-01-01T00:00:{second:02}Z", metric=pb.Metric(name=metric, value=value))
        for second, value in values])


def ask(reports, trial, **range_):
    answer = reports.GetObservationLog(pb.GetObservationLogRequest(trial_name=trial, **range_))
    return [(m.metric.name, m.time_stamp, m.metric.value) for m in answer.observation_log.metric_logs]


def pushing(parameters):
    import os

    from kubeflow.katib import report_metrics

    x = float(parameters["x"])
    for step in range(3):
        report_metrics({"loss": (x - 0.5) ** 2 + 2 - step, "step": step})
    print("reported by", os.environ["KATIB_TRIAL_NAME"])


def test_a_trial_pushes_its_metrics_by_report_metrics(sdk, server, reports):
    sdk.tune(
        name="push", objective=pushing, parameters={"x": katib.search.double(min=0, max=1)},
        objective_metric_name="loss", additional_metric_names=["step"], objective_type="minimize",
        max_trial_count=2, parallel_trial_count=2, metrics_collector_config={"kind": "Push"}, retain_trials=True)
    wait(sdk, "push")
    for trial in sdk.get_success_trial_details("push"):
        x = float(trial["parameter_assignments"][0].value)
        metrics = {metric.name: metric for metric in trial["metrics"]}
        assert float(metrics["loss"].min) == pytest.approx((x - 0.5) ** 2)
        assert float(metrics["loss"].max) == pytest.approx((x - 0.5) ** 2 + 2)
        assert metrics["step"].latest == "2"
        logs = sdk.get_trial_metrics(trial["name"], db_manager_address=server.at["katib"])
        assert [m.metric.value for m in logs if m.metric.name == "step"] == ["0", "1", "2"]
        assert {m.metric.name for m in logs} == {"loss", "step"}


def test_a_trial_with_modules_of_its_own_still_finds_the_server(sdk, tmp_path):
    """`report_metrics` in a trial that sets PYTHONPATH itself, and needs it."""
    (tmp_path / "mine.py").write_text("loss = 0.25")
    script = "import mine; from kubeflow.katib import report_metrics; report_metrics({'loss': mine.loss})"
    experiment = experiment_spec("own-path", ["python3", "-c", script], trials=1, parallel=1)
    experiment["spec"]["metricsCollectorSpec"] = {"collector": {"kind": "Push"}}
    container = experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "PYTHONPATH", "value": str(tmp_path)})
    sdk.custom_api.create_namespaced_custom_object("kubeflow.org", "v1beta1", "default", "experiments", experiment)
    wait(sdk, "own-path")
    assert sdk.get_success_trial_details("own-path")[0]["metrics"][0].latest == "0.25"


def test_what_a_trial_reports_counts_beside_what_it_prints(sdk, server):
    """As with Katib, whose collector adds the log's values to what the trial has reported by itself."""
    script = "from kubeflow.katib import report_metrics; report_metrics({'loss': 0.25}); report_metrics({'loss': 0.5}); %s"
    for name, rest, want in [("both", "print('loss=0.75')", ["0.25", "0.5", "0.75"]), ("pushed", "", ["0.25", "0.5"])]:
        experiment = experiment_spec(name, ["python3", "-c", script % rest], trials=1, parallel=1)
        sdk.custom_api.create_namespaced_custom_object("kubeflow.org", "v1beta1", "default", "experiments", experiment)
        wait(sdk, name)
        trial, = sdk.get_success_trial_details(name)
        metric, = trial["metrics"]
        assert (metric.min, metric.max) == (want[0], want[-1]), name
        logs = sdk.get_trial_metrics(trial["name"], db_manager_address=server.at["katib"])
        assert sorted(m.metric.value for m in logs) == want, name


def test_a_log_is_kept_once_read_by_range_and_forgotten(sdk, reports):
    trial = sdk.list_trials("push")[0].metadata.name
    reports.DeleteObservationLog(pb.DeleteObservationLogRequest(trial_name=trial))
    assert ask(reports, trial) == []
    for log_ in (log((1, "0.5"), (2, "0.4")), log((1, "0.5"), (2, "0.4")), log((2, "0.4"), (3, "0.4"))):
        reports.ReportObservationLog(pb.ReportObservationLogRequest(trial_name=trial, observation_log=log_))
    stamps = [f"2026-01-01T00:00:0{second}Z" for second in (1, 2, 3)]
    want = [("loss", stamps[0], "0.5"), ("loss", stamps[1], "0.4"), ("loss", stamps[2], "0.4")]
    assert ask(reports, trial) == want, "what is reported again is there once"
    assert ask(reports, trial, metric_name="loss", start_time=stamps[1], end_time=stamps[1]) == want[1:2]
    assert ask(reports, trial, metric_name="accuracy") == []


def squared(parameters):
    x, units = float(parameters["x"]), int(parameters["units"])
    print(f"loss={(x - 0.25) ** 2 + units}")


@pytest.fixture(scope="module")
def tuned(sdk):
    """An experiment of `tune`, ended."""
    sdk.tune(
        name="tuned", objective=squared, objective_metric_name="loss", objective_type="minimize",
        parameters={"x": katib.search.double(min=0, max=1), "units": katib.search.int(min=1, max=4)},
        algorithm_name="auto", max_trial_count=6, parallel_trial_count=2, max_failed_trial_count=1, retain_trials=True)
    return wait(sdk, "tuned")


def test_tune_runs_a_function_and_finds_the_best(sdk, tuned):
    assert tuned.status.trials_succeeded == 6
    assert sdk.is_experiment_succeeded("tuned") and not sdk.is_experiment_failed("tuned")
    assert not sdk.is_experiment_running("tuned") and not sdk.is_experiment_restarting("tuned")
    assert sdk.is_experiment_created("tuned")
    assert {c.type for c in sdk.get_experiment_conditions("tuned")} >= {"Created", "Succeeded"}
    assert "tuned" in [e.metadata.name for e in sdk.list_experiments()]
    details = sdk.get_success_trial_details("tuned")
    assert len(details) == 6 == len(sdk.list_trials("tuned"))
    loss = {trial["name"]: float(trial["metrics"][0].latest) for trial in details}
    best = sdk.get_optimal_hyperparameters("tuned")
    assert best.best_trial_name == min(loss, key=loss.get)
    given = {a.name: a.value for a in best.parameter_assignments}
    assert float(best.observation.metrics[0].latest) == (float(given["x"]) - 0.25) ** 2 + int(given["units"])


def test_a_trial_tells_its_metrics_and_its_output(sdk, server, tuned):
    trial = sdk.get_trial(tuned.status.current_optimal_trial.best_trial_name)
    assert trial.metadata.labels["katib.kubeflow.org/experiment"] == "tuned"
    metrics = sdk.get_trial_metrics(trial.metadata.name, db_manager_address=server.at["katib"])
    assert [m.metric.value for m in metrics] == [tuned.status.current_optimal_trial.observation.metrics[0].latest]
    lines = list(sdk.get_job_logs("tuned", trial.metadata.name))
    assert lines == [f"loss={metrics[0].metric.value}"]
    with pytest.raises(RuntimeError, match="not found"):
        list(sdk.get_job_logs("tuned", "absent"))


def test_a_suggestion_says_what_was_chosen_and_why(sdk, tuned):
    suggestion = until(lambda: (s := sdk.get_suggestion("tuned")).status.completion_time and s)
    assert "tuned" in [s.metadata.name for s in sdk.list_suggestions()]
    assert suggestion.spec.algorithm.algorithm_name == "auto"
    assert suggestion.spec.requests == suggestion.status.suggestion_count == 6
    chosen = {tuple((a.name, a.value) for a in s.parameter_assignments) for s in suggestion.status.suggestions}
    assert chosen == {tuple((a.name, a.value) for a in t.spec.parameter_assignments) for t in sdk.list_trials("tuned")}
    assert {"Created", "Succeeded"} <= {c.type for c in suggestion.status.conditions}
    assert len(json.dumps(sdk.api_client.sanitize_for_serialization(suggestion))) < 100_000


def experiment(name, command, **spec):
    """An Experiment of Katib's own models, whose trials run a shell command."""
    trial = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"backoffLimit": 0, "template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "main", "image": "none", "command": ["sh", "-c", command]}]}}}}
    return katib.V1beta1Experiment(
        api_version="kubeflow.org/v1beta1", kind="Experiment",
        metadata=kubernetes.V1ObjectMeta(name=name, namespace="default"),
        spec=katib.V1beta1ExperimentSpec(**{
            "max_trial_count": 3, "parallel_trial_count": 3, "max_failed_trial_count": 1,
            "objective": katib.V1beta1ObjectiveSpec(type="minimize", objective_metric_name="loss"),
            "algorithm": katib.V1beta1AlgorithmSpec(algorithm_name="random"),
            "parameters": [katib.V1beta1ParameterSpec(
                name="x", parameter_type="double", feasible_space=katib.V1beta1FeasibleSpace(min="0", max="1"))],
            "trial_template": katib.V1beta1TrialTemplate(
                primary_container_name="main", trial_spec=trial,
                trial_parameters=[katib.V1beta1TrialParameterSpec(name="x", reference="x")]),
            **spec}))


def test_a_raised_budget_takes_an_experiment_up_again(sdk):
    sdk.create_experiment(experiment("longer", "echo loss=${trialParameters.x}", resume_policy="LongRunning"))
    first = wait(sdk, "longer")
    before = {t.metadata.name for t in sdk.list_trials("longer")}
    sdk.edit_experiment_budget("longer", max_trial_count=5, parallel_trial_count=2)
    until(lambda: sdk.get_experiment("longer").status.trials_succeeded == 5)
    again = wait(sdk, "longer")
    assert before < {t.metadata.name for t in sdk.list_trials("longer")}
    best, was = (float(e.status.current_optimal_trial.observation.metrics[0].min) for e in (again, first))
    assert best <= was


def test_an_experiment_that_never_resumes_keeps_its_budget(sdk):
    sdk.create_experiment(experiment("once", "echo loss=${trialParameters.x}", resume_policy="Never"))
    wait(sdk, "once")
    with pytest.raises(RuntimeError, match="Failed to edit"):
        sdk.edit_experiment_budget("once", max_trial_count=5)
    assert sdk.get_experiment("once").spec.max_trial_count == 3


def test_failures_fail_the_experiment_and_deleting_takes_everything(sdk):
    sdk.create_experiment(experiment("fails", "echo it went wrong; exit 3 # ${trialParameters.x}"))
    with pytest.raises(RuntimeError, match="Failed"):
        wait(sdk, "fails")
    assert sdk.is_experiment_failed("fails")
    assert "it went wrong" in sdk.get_experiment_conditions("fails")[-1].message
    assert sdk.get_success_trial_details("fails") == [] and sdk.get_optimal_hyperparameters("fails") is None
    sdk.delete_experiment("fails")
    until(lambda: "fails" not in [e.metadata.name for e in sdk.list_experiments()])
    until(lambda: sdk.list_trials("fails") == [])
    until(lambda: "fails" not in [s.metadata.name for s in sdk.list_suggestions()])


@pytest.mark.parametrize("algorithm", ["enas", "darts"])
def test_a_search_for_architectures_is_told_that_it_comes_next(sdk, algorithm):
    nas = katib.V1beta1NasConfig(
        graph_config=katib.V1beta1GraphConfig(num_layers=1, input_sizes=[32], output_sizes=[10]),
        operations=[katib.V1beta1Operation(operation_type="convolution", parameters=[])])
    refused = experiment(f"nas-{algorithm}", "echo ${trialParameters.x}", nas_config=nas, parameters=None)
    refused.spec.algorithm.algorithm_name = algorithm
    sdk.create_experiment(refused)
    until(lambda: sdk.is_experiment_failed(f"nas-{algorithm}"))
    assert "comes next" in sdk.get_experiment_conditions(f"nas-{algorithm}")[-1].message


@pytest.mark.parametrize("shows, call, code, words", [
    ("no such trial", lambda r: ask(r, "nobody"), grpc.StatusCode.NOT_FOUND, ["nobody"]),
    ("no time", lambda r: ask(r, "nobody", start_time="then"), grpc.StatusCode.INVALID_ARGUMENT, ["start_time", "then"]),
    ("no name of a metric", lambda r: r.ReportObservationLog(
        pb.ReportObservationLogRequest(trial_name="nobody", observation_log=log((1, "1"), metric=""))),
     grpc.StatusCode.INVALID_ARGUMENT, ["metric_logs[0].metric.name"]),
])
def test_a_bad_report_is_refused_in_words(reports, shows, call, code, words):
    with pytest.raises(grpc.RpcError) as refused:
        call(reports)
    assert refused.value.code() == code, shows
    for word in words:
        assert word in refused.value.details(), shows

"""Katib's own Python SDK, unmodified, against `mizzen up`."""

import pytest
from conftest import up
from kubeflow import katib
from kubeflow.katib import katib_api_pb2 as pb, katib_api_pb2_grpc
from kubernetes import client as kubernetes

import grpc


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

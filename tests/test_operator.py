"""Trials on a cluster whose metrics are read beside them: what the operator puts into their pods, and that it works.

The pods' commands, the copying container's among them, run as processes of a node without containers, which treats
volumes and init containers as a kubelet does; metrics arrive at the operator's DBManager over gRPC."""

import json
import sys

import grpc
import pytest
import yaml
from clusters import operated
from kubeflow.katib import katib_api_pb2 as pb, katib_api_pb2_grpc
from test_cluster import experiment_spec
from test_collectors import EVENTS, PAGE, collecting, file_at, free_port, observed

# As a collector of a user's own: it waits for the trial's end by Katib's mark, and reports what it finds.
COLLECTOR = r"""
import glob, os, sys, time
import grpc
from kubeflow.katib import katib_api_pb2 as pb, katib_api_pb2_grpc
directory = sys.argv[1]
while not (marks := glob.glob(directory + "/*.pid")):
    time.sleep(0.05)
assert open(marks[0]).read().strip() == "completed"
logs = [pb.MetricLog(time_stamp=f"2026-01-01T00:00:0{second}Z", metric=pb.Metric(name="loss", value=line.strip()))
        for second, line in enumerate(open(directory + "/found.txt"))]
with grpc.insecure_channel(os.environ["KATIB_DB_MANAGER_ADDRESS"]) as channel:
    katib_api_pb2_grpc.DBManagerStub(channel).ReportObservationLog(pb.ReportObservationLogRequest(
        trial_name=os.environ["KATIB_TRIAL_NAME"], observation_log=pb.ObservationLog(metric_logs=logs)))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with operated(tmp_path_factory.mktemp("operator"), "--katib-port", 0, "--image", "registry.example/mizzen:1",
                  "--image-pull-policy", "IfNotPresent", "--image-pull-secret", "regcred") as started:
        yield started


def retained(experiment, name):
    """One trial, whose Job stays to be looked at."""
    experiment["metadata"]["name"] = name
    experiment["spec"].update(maxTrialCount=1, parallelTrialCount=1)
    experiment["spec"]["trialTemplate"]["retain"] = True
    return experiment


def job_of(cluster, name):
    job, = cluster.get("jobs", "-l", f"katib.kubeflow.org/experiment={name}")["items"]
    return job["spec"]["template"]["spec"]


def custom(tmp_path):
    script = tmp_path / "collector.py"
    script.write_text(COLLECTOR)
    experiment = experiment_spec("e", ["sh", "-c", "echo 9 > /katib/found.txt; echo $X >> /katib/found.txt"])
    experiment["spec"]["metricsCollectorSpec"] = {
        "source": {"fileSystemPath": {"path": "/katib/found.txt", "kind": "File"}},
        "collector": {"kind": "Custom", "customCollector": {
            "name": "collector", "image": "none", "command": [sys.executable, str(script), "/katib"]}}}
    return experiment


def check_carried(pod, dir):
    """The binary is brought by a container that may do no more than that, and the trial's command is put after it."""
    init = pod["initContainers"][0]
    assert init["image"] == "registry.example/mizzen:1" and init["imagePullPolicy"] == "IfNotPresent"
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    brought = {m["name"]: m["mountPath"] for m in init["volumeMounts"]}
    (volume, place), = brought.items()
    primary = pod["containers"][0]
    mounts = {m["name"]: m["mountPath"] for m in primary["volumeMounts"]}
    assert mounts[volume] == place and primary["command"][0].startswith(place + "/")
    assert primary["command"][1] == "agent" and "--" in primary["command"]
    assert {v["name"] for v in pod["volumes"] if "emptyDir" in v} == set(mounts)
    assert (dir in mounts.values()) == (dir is not None)
    assert pod["imagePullSecrets"] == [{"name": "regcred"}]
    return primary


def test_a_file_is_read_on_a_cluster(cluster):
    experiment = retained(collecting("File", file_at("/katib/m.json", "JSON"), [
        "sh", "-c", """echo '{"loss": "9"}' > /katib/m.json; echo "{\\"loss\\": $X}" >> /katib/m.json"""]), "file")
    cluster.apply(experiment)
    status = cluster.ended("file")["status"]
    x, metrics = observed(status)
    assert float(metrics["loss"]["min"]) == pytest.approx(x) and float(metrics["loss"]["max"]) == 9
    pod = job_of(cluster, "file")
    primary = check_carried(pod, "/katib")
    assert f"--report-to={cluster.katib}" in primary["command"] and "--file=/katib/m.json" in primary["command"]
    assert {"name": "KATIB_DB_MANAGER_ADDRESS", "value": cluster.katib} in primary["env"]
    trial = status["currentOptimalTrial"]["bestTrialName"]
    with grpc.insecure_channel(cluster.katib) as channel:
        log = katib_api_pb2_grpc.DBManagerStub(channel).GetObservationLog(pb.GetObservationLogRequest(trial_name=trial))
    assert [float(m.metric.value) for m in log.observation_log.metric_logs] == pytest.approx([9, x])


def test_event_files_are_read_on_a_cluster(cluster, tmp_path):
    script = tmp_path / "write.py"
    script.write_text(EVENTS)
    source = {"fileSystemPath": {"path": "/var/log/katib/tfevent", "kind": "Directory"}}
    command = ["sh", "-c", f"{sys.executable} {script} /var/log/katib/tfevent/train 9 $X"]
    cluster.apply(retained(collecting("TensorFlowEvent", source, command), "events"))
    x, metrics = observed(cluster.ended("events")["status"])
    assert float(metrics["loss"]["latest"]) == pytest.approx(x, rel=1e-6)
    assert "--events=/var/log/katib/tfevent" in check_carried(job_of(cluster, "events"), "/var/log/katib/tfevent")["command"]


def test_a_page_is_read_on_a_cluster(cluster, tmp_path):
    port, script = free_port(), tmp_path / "serve.py"
    script.write_text(PAGE)
    command = ["sh", "-c", f"{sys.executable} {script} {port} $X"]
    cluster.apply(retained(collecting("PrometheusMetric", {"httpGet": {"port": port, "path": "/metrics"}}, command), "page"))
    x, metrics = observed(cluster.ended("page")["status"])
    assert float(metrics["loss"]["latest"]) == x
    assert f"--http=http://127.0.0.1:{port}/metrics" in check_carried(job_of(cluster, "page"), None)["command"]


def test_a_collector_of_the_users_own_runs_beside_on_a_cluster(cluster, tmp_path):
    cluster.apply(retained(custom(tmp_path), "custom"))
    x, metrics = observed(cluster.ended("custom")["status"])
    assert float(metrics["loss"]["latest"]) == x and float(metrics["loss"]["max"]) == 9
    pod = job_of(cluster, "custom")
    check_carried(pod, "/katib")
    beside = pod["containers"][1]
    assert beside["name"] == "collector" and pod["shareProcessNamespace"] is True
    assert [m["mountPath"] for m in beside["volumeMounts"]] == ["/katib"]
    assert {"name": "KATIB_DB_MANAGER_ADDRESS", "value": cluster.katib} in beside["env"]


def test_a_trial_without_a_command_is_told_what_to_set(cluster):
    experiment = retained(collecting("File", file_at("/katib/m.json", "JSON"), ["true"]), "bare")
    experiment["spec"]["maxFailedTrialCount"] = 0
    container = experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    del container["command"]
    cluster.apply(experiment)
    cluster.kubectl("wait", "--for=condition=Failed", "experiment/bare", "--timeout=60s")
    message = cluster.get("experiment", "bare")["status"]["conditions"][-1]["message"]
    assert "container `main` has no `command`" in message and "Entrypoint" in message, message


def test_only_the_replica_that_counts_is_read_in_the_training_operators_kinds(cluster):
    """Goal: a PyTorchJob's master gets the agent and its workers do not. Method: the object that the operator makes; the
    node runs it, two processes."""
    replica = {"replicas": 1, "restartPolicy": "Never", "template": {"spec": {"containers": [{
        "name": "pytorch", "image": "none", "command": ["sh", "-c", 'echo "loss=$X" > /katib/m.log'],
        "env": [{"name": "X", "value": "${trialParameters.x}"}]}]}}}
    worker = json.loads(json.dumps(replica))
    worker["template"]["spec"]["containers"][0]["command"] = ["true"]
    experiment = retained(collecting("File", file_at("/katib/m.log"), ["true"]), "torch")
    template = experiment["spec"]["trialTemplate"]
    template["primaryContainerName"] = "pytorch"
    template["trialSpec"] = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob",
                             "spec": {"pytorchReplicaSpecs": {"Master": replica, "Worker": worker}}}
    cluster.apply(experiment)
    x, metrics = observed(cluster.ended("torch")["status"])
    assert float(metrics["loss"]["latest"]) == x
    job, = cluster.get("pytorchjobs")["items"]
    specs = job["spec"]["pytorchReplicaSpecs"]
    check_carried(specs["Master"]["template"]["spec"], "/katib")
    other = specs["Worker"]["template"]["spec"]
    assert "initContainers" not in other and other["containers"][0]["command"] == ["true"]
    names = {v["name"] for v in other["containers"][0]["env"]}
    assert {"KATIB_TRIAL_NAME", "KATIB_DB_MANAGER_ADDRESS"} <= names, "every pod of a trial may report"


def test_an_operator_that_trials_cannot_reach_says_what_it_lacks(tmp_path):
    with operated(tmp_path) as alone:
        experiment = retained(collecting("File", file_at("/katib/m.log"), ["true"]), "e")
        experiment["spec"]["maxFailedTrialCount"] = 0
        alone.apply(experiment)
        alone.kubectl("wait", "--for=condition=Failed", "experiment/e", "--timeout=60s")
        assert "--katib-service" in alone.get("experiment", "e")["status"]["conditions"][-1]["message"]


def test_a_collector_of_the_users_own_runs_beside_on_one_machine(tmp_path, mizzen):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(custom(tmp_path)))
    done = mizzen("tune", file, "-o", "json", env={"MIZZEN_DATA_DIR": str(tmp_path / "data")})
    x, metrics = observed(json.loads(done.stdout))
    assert float(metrics["loss"]["latest"]) == x and float(metrics["loss"]["max"]) == 9

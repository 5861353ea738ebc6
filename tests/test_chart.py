"""The chart against a real helm, and the operator over the embedded API server's socket, as a cluster."""

import json
import subprocess

import yaml
from clusters import CHART, operated
from conftest import ENVIRONMENT, HELM, run
from test_cluster import experiment_spec, shell_pipeline


def helm(*command):
    done = subprocess.run([HELM, *map(str, command)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_chart_lints_and_renders():
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)
    objects = [o for o in yaml.safe_load_all(helm("template", "m", CHART, "--include-crds")) if o]
    kinds = [o["kind"] for o in objects]
    for kind in ("CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Deployment"):
        assert kind in kinds, kinds
    crds = {o["metadata"]["name"] for o in objects if o["kind"] == "CustomResourceDefinition"}
    assert crds >= {"experiments.kubeflow.org", "trials.kubeflow.org", "inferenceservices.serving.kserve.io",
                    "pipelineruns.mizzen.dev"}


def test_the_chart_puts_dbmanager_where_trials_find_it():
    """Goal: the Service, the operator's own address for trials and its flags agree. Method: the rendered objects, and
    the operator's own reading of the flags."""
    objects = [o for o in yaml.safe_load_all(helm(
        "template", "m", CHART, "--namespace", "kubeflow", "--set", "imagePullSecrets[0].name=regcred")) if o]
    of = {(o["kind"], o["metadata"]["name"]): o for o in objects}
    pod = of["Deployment", "m-mizzen"]["spec"]["template"]
    operator = pod["spec"]["containers"][0]
    service = of["Service", "katib-db-manager"]["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    port = service["ports"][0]
    assert {"name": port["targetPort"], "containerPort": port["port"]} in operator["ports"]
    flags = dict(flag.lstrip("-").split("=", 1) for flag in operator["args"] if "=" in flag)
    assert flags["katib-service"] == "katib-db-manager.kubeflow:6789", "where Katib's SDK looks for it"
    assert flags["katib-port"] == "6789" and flags["katib-address"] == "0.0.0.0" and "--allow-remote" in operator["args"]
    assert flags["image"] == operator["image"] and flags["image-pull-secret"] == "regcred"
    assert operator["readinessProbe"]["grpc"]["port"] == port["port"]
    policy = of["NetworkPolicy", "m-mizzen-db-manager"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["ingress"][0]["from"] == [{"podSelector": {}}], "pods of this namespace alone"
    rules = of["Role", "m-mizzen"]["rules"]
    assert any("pytorchjobs" in rule["resources"] and "create" in rule["verbs"] for rule in rules)
    # The operator takes these flags; there is no cluster here to go further.
    done = run("operator", *operator["args"], check=False, env={"KUBECONFIG": "/nonexistent", "MIZZEN_DATA_DIR": "/tmp"})
    assert "cannot use the cluster" in done.stderr, done.stderr
    off = helm("template", "m", CHART, "--set", "dbManager.networkPolicy.enabled=false,dbManager.serviceName=metrics")
    assert "kind: NetworkPolicy" not in off and "--katib-service=metrics.default:6789" in off


def test_the_operator_runs_experiments_pipelines_and_services_on_a_cluster(tmp_path):
    """Goal: the controllers work from outside, through a socket and a kubeconfig, as on a cluster."""
    with operated(tmp_path) as cluster:
        kubectl = cluster.kubectl
        command = ["sh", "-c", 'echo "loss=$X"']
        cluster.apply(experiment_spec("e", command))
        status = cluster.ended("e")["status"]
        assert status["trialsSucceeded"] == 4
        assert status["currentOptimalTrial"]["observation"]["metrics"][0]["name"] == "loss"

        run = {"apiVersion": "mizzen.dev/v1alpha1", "kind": "PipelineRun", "metadata": {"name": "r"},
               "spec": {"pipelineSpecYaml": yaml.safe_dump(shell_pipeline("echo hi"))}}
        cluster.apply(run)
        kubectl("wait", "--for=jsonpath={.status.state}=SUCCEEDED", "pipelinerun/r", "--timeout=60s")
        assert kubectl("get", "jobs", "-l", "mizzen.dev/run=r", "-o", "name").count("job") == 1

        service = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "s"},
                   "spec": {"predictor": {"model": {
                       "modelFormat": {"name": "onnx"}, "storageUri": "pvc://models/s"}}}}
        cluster.apply(service)
        kubectl("wait", "--for=create", "deployment/s-predictor", "--timeout=30s")
        deployment = cluster.get("deployment", "s-predictor")
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        assert container["command"] == ["mizzen", "serve"]
        assert "--model-repository" in container["args"]
        ready = {"status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1,
                            "observedGeneration": deployment["metadata"]["generation"]}}
        kubectl("patch", "deployment", "s-predictor", "--subresource=status", "--type=merge", "-p", json.dumps(ready))
        kubectl("wait", "--for=condition=Ready", "inferenceservice/s", "--timeout=30s")

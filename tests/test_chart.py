"""The chart against a real helm, and the operator over the embedded API server's socket, as a cluster."""

import json
import subprocess

import yaml
from conftest import ENVIRONMENT, HELM, KUBECTL, MIZZEN, ROOT, up
from test_cluster import experiment_spec, shell_pipeline

CHART = ROOT / "charts/mizzen"


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


def test_the_operator_runs_experiments_pipelines_and_services_on_a_cluster(tmp_path):
    """Goal: the controllers work from outside, through a socket and a kubeconfig, as on a cluster. Method: an
    API server and node without controllers, the chart's own CRDs, and `mizzen operator` beside them."""
    with up(tmp_path / "cluster", "--no-controllers") as cluster:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://{cluster.at['api']}"}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]}))

        def kubectl(*command, input=None):
            done = subprocess.run([KUBECTL, "--kubeconfig", str(kubeconfig), *command], input=input, text=True,
                                  capture_output=True, timeout=90, env=ENVIRONMENT)
            assert done.returncode == 0, done.stderr
            return done.stdout

        kubectl("apply", "-f", str(CHART / "crds"))
        shared = tmp_path / "shared"
        shared.mkdir()
        operator = subprocess.Popen(
            [MIZZEN, "operator", "--data-dir", str(shared)], stdout=subprocess.PIPE, text=True,
            stderr=open(tmp_path / "operator.log", "w"), env={**ENVIRONMENT, "KUBECONFIG": str(kubeconfig)})
        try:
            assert operator.stdout.readline() == "ready operator\n"
            command = ["sh", "-c", 'echo "loss=$X"']
            kubectl("apply", "-f", "-", input=json.dumps(experiment_spec("e", command)))
            kubectl("wait", "--for=condition=Succeeded", "experiment/e", "--timeout=60s")
            status = json.loads(kubectl("get", "experiment", "e", "-o", "json"))["status"]
            assert status["trialsSucceeded"] == 4
            assert status["currentOptimalTrial"]["observation"]["metrics"][0]["name"] == "loss"

            run = {"apiVersion": "mizzen.dev/v1alpha1", "kind": "PipelineRun", "metadata": {"name": "r"},
                   "spec": {"pipelineSpecYaml": yaml.safe_dump(shell_pipeline("echo hi"))}}
            kubectl("apply", "-f", "-", input=json.dumps(run))
            kubectl("wait", "--for=jsonpath={.status.state}=SUCCEEDED", "pipelinerun/r", "--timeout=60s")
            assert kubectl("get", "jobs", "-l", "mizzen.dev/run=r", "-o", "name").count("job") == 1

            service = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "s"},
                       "spec": {"predictor": {"model": {
                           "modelFormat": {"name": "onnx"}, "storageUri": "pvc://models/s"}}}}
            kubectl("apply", "-f", "-", input=json.dumps(service))
            kubectl("wait", "--for=create", "deployment/s-predictor", "--timeout=30s")
            deployment = json.loads(kubectl("get", "deployment", "s-predictor", "-o", "json"))
            container = deployment["spec"]["template"]["spec"]["containers"][0]
            assert container["command"] == ["mizzen", "serve"]
            assert "--model-repository" in container["args"]
            ready = {"status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1,
                                "observedGeneration": deployment["metadata"]["generation"]}}
            kubectl("patch", "deployment", "s-predictor", "--subresource=status", "--type=merge", "-p", json.dumps(ready))
            kubectl("wait", "--for=condition=Ready", "inferenceservice/s", "--timeout=30s")
        finally:
            operator.terminate()
            assert operator.wait(20) == 0

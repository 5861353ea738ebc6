"""`mizzen up` against the unmodified kubectl and the `kubernetes` Python client."""

import json
import subprocess

import yaml
from conftest import ENVIRONMENT, KUBECTL, ROOT
from kubernetes import client as kubernetes

JOB = {
    "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "hello"},
    "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [
        {"name": "main", "image": "none", "command": ["sh", "-c", "echo hello $WHO; echo again"],
         "env": [{"name": "WHO", "valueFrom": {"configMapKeyRef": {"name": "who", "key": "name"}}}]}]}}},
}


def test_kubectl_applies_waits_shows_and_deletes_a_job(kubectl):
    kubectl("create", "configmap", "who", "--from-literal=name=world")
    kubectl("apply", "-f", "-", input=json.dumps(JOB))
    kubectl("wait", "--for=condition=complete", "job/hello", "--timeout=30s")
    assert kubectl("logs", "job/hello").stdout == "hello world\nagain\n"
    table = kubectl("get", "jobs").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE"]
    assert table[1].split()[:3] == ["hello", "Complete", "1/1"]
    pods = kubectl("get", "pods", "-o", "wide").stdout
    assert "Completed" in pods
    described = kubectl("describe", "job", "hello").stdout
    assert "Pods Statuses:" in described and "1 Succeeded" in described
    kubectl("label", "job", "hello", "tier=test")
    assert kubectl("get", "jobs", "-l", "tier=test", "-o", "name").stdout == "job.batch/hello\n"
    kubectl("delete", "job", "hello")
    assert kubectl("get", "pods", "-o", "name").stdout == "", "what it owned goes with it"


def test_apply_changes_what_changed_and_keeps_the_rest(kubectl):
    thing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}}
    kubectl("apply", "-f", "-", input=json.dumps(thing))
    kubectl("annotate", "configmap", "c", "kept=yes")
    del thing["data"]["a"]
    thing["data"]["b"] = "3"
    assert "configured" in kubectl("apply", "-f", "-", input=json.dumps(thing)).stdout
    assert "unchanged" in kubectl("apply", "-f", "-", input=json.dumps(thing)).stdout
    stored = json.loads(kubectl("get", "configmap", "c", "-o", "json").stdout)
    assert stored["data"] == {"b": "3"} and stored["metadata"]["annotations"]["kept"] == "yes"


def test_namespaces_and_secrets_are_their_own(kubectl):
    kubectl("create", "namespace", "team")
    kubectl("create", "secret", "generic", "s", "--from-literal=k=v", "-n", "team")
    assert kubectl("get", "secrets", "-n", "team", "-o", "name").stdout == "secret/s\n"
    assert kubectl("get", "secrets", "-o", "name").stdout == ""
    kubectl("delete", "namespace", "team", "--wait=true")
    missing = kubectl("get", "secrets", "s", "-n", "team", check=False)
    assert missing.returncode == 1 and "NotFound" in missing.stderr


def test_a_following_log_ends_with_its_job(kubectl, up_server):
    job = json.loads(json.dumps(JOB))
    job["metadata"]["name"] = "slow"
    job["spec"]["template"]["spec"]["containers"][0].update(
        command=["sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.2; done"], env=[])
    kubectl("apply", "-f", "-", input=json.dumps(job))
    kubectl("wait", "--for=condition=Ready", "pod", "-l", "job-name=slow", "--timeout=30s")
    followed = subprocess.run(
        [KUBECTL, "--server", f"http://{up_server.at['api']}", "logs", "-f", "job/slow"],
        capture_output=True, text=True, timeout=30, env=ENVIRONMENT)
    assert followed.stdout == "line 1\nline 2\nline 3\n", followed.stderr


def test_custom_resources_have_columns_and_explain_themselves(kubectl):
    run = {"apiVersion": "mizzen.dev/v1alpha1", "kind": "PipelineRun", "metadata": {"name": "r"},
           "spec": {"pipelineSpecYaml": yaml.safe_dump(shell_pipeline("echo hi"))}}
    kubectl("apply", "-f", "-", input=json.dumps(run))
    kubectl("wait", "--for=jsonpath={.status.state}=SUCCEEDED", "pipelinerun/r", "--timeout=30s")
    header, row = kubectl("get", "pipelineruns").stdout.splitlines()
    assert header.split() == ["NAME", "STATE", "TASKS", "DURATION", "AGE"]
    assert row.split()[:3] == ["r", "SUCCEEDED", "1/1"]
    for kind in ("experiments", "trials", "inferenceservices", "pipelineruns"):
        assert kubectl("get", kind).returncode == 0
        assert "DESCRIPTION" in kubectl("explain", kind).stdout


def test_the_tuning_example_runs_as_kubectl_reads_it(kubectl):
    kubectl("apply", "-f", str(ROOT / "examples/tune/experiment.yaml"))
    kubectl("wait", "--for=condition=Succeeded", "experiment/bowl", "--timeout=60s")
    header, row = kubectl("get", "experiments").stdout.splitlines()
    assert header.split() == ["NAME", "TYPE", "STATUS", "TRIALS", "SUCCEEDED", "BEST", "AGE"]
    assert row.split()[:3] == ["bowl", "Succeeded", "True"]
    assert "Current Optimal Trial" in kubectl("describe", "experiment", "bowl").stdout


def test_bad_objects_are_refused_by_field(kubectl):
    experiment = experiment_spec("x", ["true"])
    experiment["spec"]["parameters"][0]["feasibleSpace"] = {"min": "2", "max": "1"}
    refused = kubectl("apply", "-f", "-", input=json.dumps(experiment), check=False)
    assert refused.returncode == 1
    for word in ("spec.parameters[0].feasibleSpace", "min", "max"):
        assert word in refused.stderr, refused.stderr
    cyclic = shell_pipeline("true")
    tasks = cyclic["root"]["dag"]["tasks"]
    tasks["a"] = {**tasks["step"], "dependentTasks": ["b"], "taskInfo": {"name": "a"}}
    tasks["b"] = {**tasks["step"], "dependentTasks": ["a"], "taskInfo": {"name": "b"}}
    run = {"apiVersion": "mizzen.dev/v1alpha1", "kind": "PipelineRun", "metadata": {"name": "r"},
           "spec": {"pipelineSpecYaml": yaml.safe_dump(cyclic)}}
    refused = kubectl("apply", "-f", "-", input=json.dumps(run), check=False)
    assert refused.returncode == 1 and "cycle" in refused.stderr, refused.stderr
    unknown = kubectl("apply", "-f", "-", input='{"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}}', check=False)
    assert unknown.returncode == 1


def test_the_python_client_lists_watches_and_patches(up_server):
    api = kubernetes.CoreV1Api(kubernetes.ApiClient(kubernetes.Configuration(host=f"http://{up_server.at['api']}")))
    made = api.create_namespaced_config_map("default", kubernetes.V1ConfigMap(
        metadata=kubernetes.V1ObjectMeta(generate_name="c-"), data={"a": "1"}))
    assert made.metadata.name.startswith("c-") and made.metadata.uid
    patched = api.patch_namespaced_config_map(made.metadata.name, "default", {"data": {"a": None, "b": "2"}})
    assert patched.data == {"b": "2"}
    assert made.metadata.name in [m.metadata.name for m in api.list_namespaced_config_map("default").items]
    api.delete_namespaced_config_map(made.metadata.name, "default")


def shell_pipeline(command, name="shell"):
    """The smallest pipeline: one step that runs a shell command."""
    return {
        "pipelineInfo": {"name": name},
        "schemaVersion": "2.1.0",
        "sdkVersion": "kfp-2.17.0",
        "root": {"dag": {"tasks": {"step": {
            "componentRef": {"name": "comp-step"}, "taskInfo": {"name": "step"}, "cachingOptions": {}}}}},
        "components": {"comp-step": {"executorLabel": "exec-step"}},
        "deploymentSpec": {"executors": {"exec-step": {"container": {
            "image": "alpine", "command": ["sh", "-c"], "args": [command]}}}},
    }


def experiment_spec(name, command, algorithm="tpe", trials=4, parallel=2):
    """An Experiment over one double whose trials run a command with `$X` set."""
    return {
        "apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": {"name": name},
        "spec": {
            "objective": {"type": "minimize", "objectiveMetricName": "loss"},
            "algorithm": {"algorithmName": algorithm},
            "maxTrialCount": trials, "parallelTrialCount": parallel, "maxFailedTrialCount": 0,
            "parameters": [{"name": "x", "parameterType": "double", "feasibleSpace": {"min": "-1", "max": "1"}}],
            "trialTemplate": {
                "primaryContainerName": "main",
                "trialParameters": [{"name": "x", "reference": "x"}],
                "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": {
                    "backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [
                        {"name": "main", "image": "none", "command": command,
                         "env": [{"name": "X", "value": "${trialParameters.x}"}],
                         "resources": {"requests": {"cpu": "1m"}}}]}}}},
            },
        },
    }

"""PyTorchJob and TrainJob as processes of one machine, by themselves and as trials."""

import json

import pytest
import yaml
from conftest import ROOT, until

PRINT = ('echo "rank=$RANK world=$WORLD_SIZE addr=$MASTER_ADDR port=$MASTER_PORT nodes=$PET_NNODES '
         'noderank=$PET_NODE_RANK procs=$PET_NPROC_PER_NODE"')

# Everyone must be there before anyone goes on: rank 0 listens where the others come.
MEET = """
import os, socket
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(address) as server:
        found = sorted(int(server.accept()[0].recv(8)) for _ in range(world - 1))
    print("met", found)
else:
    while True:
        try:
            socket.create_connection(address).sendall(str(rank).encode())
            break
        except OSError:
            pass
"""


def replica(replicas, command, restart="Never"):
    return {"replicas": replicas, "restartPolicy": restart, "template": {"spec": {"containers": [
        {"name": "pytorch", "image": "none", "command": command, "resources": {"requests": {"cpu": "1m"}}}]}}}


def pytorch(name, master, worker=None, workers=2, restart="Never", **spec):
    specs = {"Master": replica(1, master, restart)}
    if worker:
        specs["Worker"] = replica(workers, worker, restart)
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": name},
            "spec": {"pytorchReplicaSpecs": specs, **spec}}


def train(name, command, nodes=2, **trainer):
    return {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": name},
            "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": {
                "numNodes": nodes, "command": command, "resourcesPerNode": {"requests": {"cpu": "1m"}}, **trainer}}}


@pytest.fixture
def apply(kubectl):
    def call(thing, check=True):
        return kubectl("apply", "-f", "-", input=json.dumps(thing), check=check)
    until(lambda: kubectl("get", "pytorchjobs,trainjobs", check=False).returncode == 0)
    return call


def read(kubectl, *what):
    return json.loads(kubectl("get", *what, "-o", "json").stdout)


def fields(line):
    return dict(field.split("=") for field in line.split())


def test_the_replicas_of_a_pytorch_job_meet(kubectl, apply):
    meet = ["python3", "-c", MEET]
    apply(pytorch("ddp", meet, meet, workers=3))
    kubectl("wait", "--for=condition=Succeeded", "pytorchjob/ddp", "--timeout=40s")
    assert kubectl("logs", "ddp-master-0").stdout == "met [1, 2, 3]\n"
    status = read(kubectl, "pytorchjob", "ddp")["status"]
    types = {c["type"]: c for c in status["conditions"]}
    assert types["Created"]["reason"] == "PyTorchJobCreated" and types["Succeeded"]["reason"] == "PyTorchJobSucceeded"
    assert types.get("Running", {"status": "False"})["status"] == "False" and status["completionTime"]
    assert status["replicaStatuses"]["Master"]["succeeded"] == 1
    labels = read(kubectl, "pod", "ddp-worker-2")["metadata"]["labels"]
    assert labels["training.kubeflow.org/job-name"] == "ddp" and labels["training.kubeflow.org/replica-type"] == "worker"
    masters = kubectl("get", "pods", "-l", "training.kubeflow.org/job-role=master", "-o", "name").stdout
    assert masters == "pod/ddp-master-0\n"
    assert kubectl("get", "pytorchjobs").stdout.split()[:3] == ["NAME", "STATE", "AGE"]
    kubectl("delete", "pytorchjob", "ddp")
    assert kubectl("get", "pods", "-o", "name").stdout == "", "what it owned goes with it"


def test_each_process_finds_its_place(kubectl, apply):
    show = ["sh", "-c", PRINT]
    apply(pytorch("p", show, show, nprocPerNode="2"))
    apply(train("t", show, nodes=3, numProcPerNode=1, env=[{"name": "A", "value": "1"}]))
    kubectl("wait", "--for=condition=Succeeded", "pytorchjob/p", "--timeout=40s")
    until(lambda: all(p["status"]["phase"] == "Succeeded" for p in read(kubectl, "pods")["items"]))
    ports = set()
    for pod, rank in (("p-master-0", "0"), ("p-worker-0", "1"), ("p-worker-1", "2")):
        found = fields(kubectl("logs", pod).stdout)
        ports.add(found.pop("port"))
        assert found == {"rank": rank, "world": "6", "addr": "127.0.0.1", "nodes": "3", "noderank": rank, "procs": "2"}
    kubectl("wait", "--for=condition=Complete", "trainjob/t", "--timeout=40s")
    selector = "jobset.sigs.k8s.io/replicatedjob-name=node,jobset.sigs.k8s.io/jobset-name=t"
    pods = read(kubectl, "pods", "-l", selector)["items"]
    lines = [fields(kubectl("logs", pod["metadata"]["name"]).stdout) for pod in pods]
    assert sorted(line["rank"] for line in lines) == ["0", "1", "2"]
    ports |= {line["port"] for line in lines}
    assert {(line["world"], line["nodes"], line["procs"]) for line in lines} == {("3", "3", "1")}
    assert len(ports) == 2, "each job has its own port"
    status = read(kubectl, "trainjob", "t")["status"]
    assert status["jobsStatus"][0]["name"] == "node" and status["jobsStatus"][0]["succeeded"] == 1
    assert status["conditions"][0]["reason"] == "AllJobsCompleted"


def test_one_failure_ends_all(kubectl, apply):
    sleep = ["sh", "-c", "sleep 600"]
    apply(pytorch("p", sleep, ["sh", "-c", "[ $RANK = 2 ] && exit 3; sleep 600"]))
    apply(train("t", ["sh", "-c", "[ $RANK = 1 ] && exit 3; sleep 600"], nodes=3))
    kubectl("wait", "--for=condition=Failed", "pytorchjob/p", "--timeout=40s")
    kubectl("wait", "--for=condition=Failed", "trainjob/t", "--timeout=40s")
    condition = read(kubectl, "pytorchjob", "p")["status"]["conditions"][-1]
    assert condition["message"] == "PyTorchJob p is failed because 1 Worker replica(s) failed."
    until(lambda: not [p for p in read(kubectl, "pods")["items"] if p["status"]["phase"] in ("Running", "Pending")])


def test_restarts_are_counted(kubectl, apply, tmp_path):
    tries = tmp_path / "tries"
    apply(pytorch("again", ["sh", "-c", f"echo x >> {tries}; [ $(wc -l < {tries}) -ge 3 ]"], restart="OnFailure"))
    kubectl("wait", "--for=condition=Succeeded", "pytorchjob/again", "--timeout=40s")
    assert tries.read_text().count("x") == 3
    apply(pytorch("never", ["false"], restart="OnFailure", runPolicy={"backoffLimit": 1}))
    kubectl("wait", "--for=condition=Failed", "pytorchjob/never", "--timeout=40s")
    assert read(kubectl, "pytorchjob", "never")["status"]["conditions"][-1]["reason"] == "BackoffLimitExceeded"
    marks = tmp_path / "marks"  # and `$$` is how a pod's command writes `$`
    apply(pytorch("killed", ["sh", "-c", f"echo x >> {marks}; [ $(wc -l < {marks}) -ge 2 ] || kill -9 $$$$"], restart="ExitCode"))
    kubectl("wait", "--for=condition=Succeeded", "pytorchjob/killed", "--timeout=40s")
    assert marks.read_text().count("x") == 2


def conformance(kind):
    """Katib's own example of a PyTorchJob, or the same over a TrainJob, with a program that needs no image."""
    command = ["sh", "-c", 'echo "epoch 1: loss=${trialParameters.learningRate} trial=$KATIB_TRIAL_NAME"; [ $RANK = 0 ] || echo loss=0.000001']
    experiment = {
        "apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": {"name": "e"},
        "spec": {"parallelTrialCount": 2, "maxTrialCount": 3, "maxFailedTrialCount": 0,
                 "objective": {"type": "minimize", "objectiveMetricName": "loss"},
                 "algorithm": {"algorithmName": "random"},
                 "parameters": [{"name": "lr", "parameterType": "double", "feasibleSpace": {"min": "0.01", "max": "0.05"}}],
                 "trialTemplate": {"trialParameters": [{"name": "learningRate", "reference": "lr"}]}}}
    template = experiment["spec"]["trialTemplate"]
    if kind == "PyTorchJob":
        template["primaryContainerName"] = "pytorch"
        template["trialSpec"] = pytorch("x", command, command, workers=1, restart="OnFailure")
    else:
        template["primaryContainerName"] = "node"
        template["trialSpec"] = train("x", command)
    del template["trialSpec"]["metadata"]
    return experiment


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_trials_may_be_distributed(tmp_path, mizzen, kind):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(conformance(kind)))
    env = {"MIZZEN_DATA_DIR": str(tmp_path / "data")}
    result = json.loads(mizzen("tune", file, "-o", "json", env=env).stdout)
    assert result["succeeded"] and result["trialsSucceeded"] == 3
    best = result["currentOptimalTrial"]
    loss = float(best["observation"]["metrics"][0]["min"])
    assert loss == float(best["parameterAssignments"][0]["value"]), "only the master's metrics count"


def test_a_distributed_trial_that_fails_is_told(tmp_path, mizzen):
    experiment = conformance("PyTorchJob")
    specs = experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["pytorchReplicaSpecs"]
    specs["Worker"]["restartPolicy"] = "Never"
    specs["Worker"]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c", "echo no memory ${trialParameters.learningRate}; exit 1"]
    specs["Master"]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c", "sleep 600; echo ${trialParameters.learningRate}"]
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    done = mizzen("tune", file, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=False)
    assert done.returncode == 1 and "Failed" in done.stderr, done.stderr


@pytest.mark.parametrize("shows, api, kind", [
    ("the training operator's others", "kubeflow.org/v1", "TFJob"),
    ("MPI", "kubeflow.org/v1", "MPIJob"),
    ("XGBoost", "kubeflow.org/v1", "XGBoostJob"),
    ("Argo", "argoproj.io/v1alpha1", "Workflow"),
    ("Tekton", "tekton.dev/v1beta1", "PipelineRun"),
])
def test_kinds_of_a_cluster_are_refused_at_once(tmp_path, mizzen, shows, api, kind):
    experiment = conformance("PyTorchJob")
    template = experiment["spec"]["trialTemplate"]
    template["trialSpec"].update(apiVersion=api, kind=kind)
    template.update(successCondition="status.phase", failureCondition="status.phase")
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    done = mizzen("tune", file, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=False)
    assert done.returncode == 2, (shows, done.stderr)
    for word in (kind, "spec.trialTemplate.trialSpec.kind", "PyTorchJob", "TrainJob", "Job (batch/v1)", "cluster"):
        assert word in done.stderr, (shows, done.stderr)


def test_bad_training_jobs_are_refused_by_field(apply):
    broken = pytorch("x", ["true"])
    broken["spec"]["pytorchReplicaSpecs"]["Master"]["replicas"] = 2
    refused = apply(broken, check=False)
    assert refused.returncode == 1 and "pytorchReplicaSpecs.Master.replicas" in refused.stderr, refused.stderr
    broken = train("x", ["true"])
    broken["spec"]["runtimeRef"]["name"] = "deepspeed-distributed"
    refused = apply(broken, check=False)
    assert refused.returncode == 1 and "torch-distributed" in refused.stderr, refused.stderr


def template_experiment(command):
    return {
        "apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": {"name": "e"},
        "spec": {"parallelTrialCount": 1, "maxTrialCount": 2, "maxFailedTrialCount": 0,
                 "objective": {"type": "minimize", "objectiveMetricName": "loss"}, "algorithm": {"algorithmName": "random"},
                 "parameters": [{"name": "lr", "parameterType": "double", "feasibleSpace": {"min": "0.01", "max": "0.05"}}],
                 "trialTemplate": {"primaryContainerName": "main", "trialParameters": [{"name": "lr", "reference": "lr"}],
                                   "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": {
                                       "restartPolicy": "Never", "containers": [{"name": "main", "image": "none", "command": command}]}}}}}}}


def test_a_template_from_a_config_map_and_metadata_of_the_trial(kubectl):
    experiment = template_experiment(["sh", "-c", "echo name=${trialParameters.name} space=${trialParameters.space} kind=${trialParameters.kind} loss=${trialParameters.lr}"])
    template = experiment["spec"]["trialTemplate"]
    run = template.pop("trialSpec")
    kubectl("create", "configmap", "templates", f"--from-literal=job.yaml={yaml.safe_dump(run)}")
    template["configMap"] = {"configMapName": "templates", "configMapNamespace": "default", "templatePath": "job.yaml"}
    template["retain"] = True
    template["trialParameters"] += [
        {"name": "name", "reference": "${trialSpec.Name}"}, {"name": "space", "reference": "${trialSpec.Namespace}"},
        {"name": "kind", "reference": "${trialSpec.Kind}"}]
    template["successCondition"] = 'status.conditions.#(type=="Complete")#|#(status=="True")#'
    template["failureCondition"] = 'status.conditions.#(type=="Failed")#|#(status=="True")#'
    kubectl("apply", "-f", "-", input=json.dumps(experiment))
    kubectl("wait", "--for=condition=Succeeded", "experiment/e", "--timeout=40s")
    jobs = read(kubectl, "jobs")["items"]
    assert len(jobs) == 2, "`retain` keeps the run objects"
    for job in jobs:
        name = job["metadata"]["name"]
        assert f"name={name} space=default kind=Job loss=" in kubectl("logs", f"job/{name}").stdout


def test_run_objects_go_without_retain(kubectl):
    kubectl("apply", "-f", "-", input=json.dumps(template_experiment(["sh", "-c", "echo loss=${trialParameters.lr}"])))
    kubectl("wait", "--for=condition=Succeeded", "experiment/e", "--timeout=40s")
    until(lambda: read(kubectl, "jobs")["items"] == [])


def test_katibs_own_pytorch_example_is_taken_as_it_is(kubectl, apply):
    """The example's program lies in an image; here it stands for one that is not there, which the trial says."""
    assert ROOT.exists()
    replica_spec = {"replicas": 1, "restartPolicy": "OnFailure", "template": {"spec": {"containers": [{
        "name": "pytorch", "image": "ghcr.io/kubeflow/katib/pytorch-mnist-cpu:latest",
        "command": ["python3", "-c", "print('loss=${trialParameters.learningRate}')", "--momentum=${trialParameters.momentum}"]}]}}}
    experiment = conformance("PyTorchJob")
    spec = experiment["spec"]
    spec["parameters"].append({"name": "momentum", "parameterType": "double", "feasibleSpace": {"min": "0.5", "max": "0.9"}})
    spec["trialTemplate"]["trialParameters"].append({"name": "momentum", "reference": "momentum"})
    spec["trialTemplate"]["trialSpec"]["spec"]["pytorchReplicaSpecs"] = {"Master": replica_spec, "Worker": replica_spec}
    apply(experiment)
    kubectl("wait", "--for=condition=Succeeded", "experiment/e", "--timeout=40s")
    assert read(kubectl, "experiment", "e")["status"]["trialsSucceeded"] == 3

"""Digits, from data to a served model: load, tune, train, evaluate, export, register, deploy.

Compile it with the KFP SDK (`python examples/digits/pipeline.py` writes pipeline.yaml beside this file) and
run it anywhere that runs KFP v2: `mizzen run examples/digits/pipeline.yaml`. The steps that talk to the
cluster use the plain `kubernetes` client, so they work the same in a pod and on a laptop.
"""

from pathlib import Path
from typing import NamedTuple

from kfp import compiler, dsl
from kfp.dsl import ClassificationMetrics, Dataset, Input, Metrics, Model, Output

IMAGE = "python:3.11"
SKLEARN = "scikit-learn==1.9.1"
KUBERNETES = "kubernetes==30.1.0"
ONNX_EXPORT = "skl2onnx==1.20.0"
ONNX_RUNTIME = "onnxruntime==1.31.1"
TRAIN = (Path(__file__).parent / "train.py").read_text()


@dsl.component(base_image=IMAGE, packages_to_install=[SKLEARN])
def load(train: Output[Dataset], test: Output[Dataset]):
    """Takes the 1,797 handwritten digits that scikit-learn ships and holds a fifth of them back."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    split = train_test_split(images, digits.target, test_size=0.2, stratify=digits.target, random_state=0)
    for artifact, x, y in ((train, split[0], split[2]), (test, split[1], split[3])):
        with open(artifact.path, "wb") as file:
            np.savez(file, images=x, labels=y)
        artifact.metadata["rows"] = len(x)
    print(f"{len(split[0])} images to train on, {len(split[1])} held out")


@dsl.component(base_image=IMAGE, packages_to_install=[KUBERNETES, SKLEARN])
def tune(program: str, data: Input[Dataset], name: str, trials: int, parallel: int) -> NamedTuple(
    "Best", [("parameters", dict), ("accuracy", float)]
):
    """Finds good hyperparameters with a Katib Experiment and waits for it."""
    import collections
    import hashlib
    import json
    import os
    import time

    import urllib3
    from kubernetes import client, config, watch

    def parameter(name, kind, **space):
        return {"name": name, "parameterType": kind, "feasibleSpace": space}

    space = [
        parameter("learning-rate", "double", min="0.0001", max="0.1", distribution="logUniform"),
        parameter("hidden", "int", min="16", max="128", step="16"),
        parameter("alpha", "double", min="0.000001", max="0.1", distribution="logUniform"),
        parameter("activation", "categorical", list=["relu", "tanh", "logistic"]),
        parameter("batch-size", "discrete", list=["32", "64", "128"]),
    ]
    arguments = [f"--{p['name']}=${{trialParameters.{p['name']}}}" for p in space]
    container = {
        "name": "training",
        "image": "python:3.11",
        "command": ["python3", "-c", program, f"--data={data.path}", "--validate=0.2", *arguments],
        "resources": {"requests": {"cpu": "100m"}},
    }
    experiment = {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {},
        "spec": {
            "objective": {
                "type": "maximize",
                "objectiveMetricName": "validation-accuracy",
                "additionalMetricNames": ["validation-loss"],
            },
            "algorithm": {
                "algorithmName": "tpe",
                "algorithmSettings": [{"name": "random_state", "value": "7"}],
            },
            "maxTrialCount": trials,
            "parallelTrialCount": parallel,
            "maxFailedTrialCount": 3,
            "parameters": space,
            "trialTemplate": {
                "primaryContainerName": "training",
                "trialParameters": [{"name": p["name"], "reference": p["name"]} for p in space],
                "trialSpec": {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "spec": {
                        "backoffLimit": 0,
                        "template": {"spec": {"containers": [container], "restartPolicy": "Never"}},
                    },
                },
            },
        },
    }

    # The name follows from what is asked: a step that starts again finds its experiment, and a run that
    # asks something else does not find another's.
    digest = hashlib.sha256(json.dumps(experiment, sort_keys=True).encode()).hexdigest()
    name = experiment["metadata"]["name"] = f"{name[:31]}-{digest[:8]}"

    (config.load_kube_config if os.environ.get("KUBECONFIG") else config.load_incluster_config)()
    namespace = os.environ.get("MIZZEN_NAMESPACE", "default")
    api = client.CustomObjectsApi()
    group = ("kubeflow.org", "v1beta1", namespace, "experiments")
    try:
        api.create_namespaced_custom_object(*group, experiment)
    except client.ApiException as error:
        if error.status != 409:  # it is there already: this step was started before and carries on
            raise

    def states():
        """The experiment's status, whenever it changes, also through a restart of the API server."""
        only = f"metadata.name={name}"
        while True:
            try:
                for event in watch.Watch().stream(
                    api.list_namespaced_custom_object, *group, field_selector=only, timeout_seconds=300
                ):
                    yield event["object"].get("status", {})
            except (urllib3.exceptions.HTTPError, client.ApiException) as error:
                print(f"lost the API server, trying again: {error}", flush=True)
                time.sleep(1)

    seen = None
    for status in states():
        done = status.get("trialsSucceeded", 0)
        best = status.get("currentOptimalTrial", {})
        observed = {m["name"]: m for m in best.get("observation", {}).get("metrics", [])}
        accuracy = observed.get("validation-accuracy", {}).get("max")
        if (done, accuracy) != seen:
            print(f"{done} of {trials} trials succeeded, best validation-accuracy {accuracy}", flush=True)
            seen = (done, accuracy)
        ended = {c["type"]: c for c in status.get("conditions", []) if c["status"] == "True"}
        if "Failed" in ended:
            raise RuntimeError(f"experiment {name} failed: {ended['Failed'].get('message')}")
        if "Succeeded" in ended:
            break
    parameters = {a["name"]: a["value"] for a in best["parameterAssignments"]}
    print(f"best of {done}: {parameters}")
    return collections.namedtuple("Best", ["parameters", "accuracy"])(parameters, float(accuracy))


@dsl.component(base_image=IMAGE, packages_to_install=[SKLEARN])
def train(program: str, data: Input[Dataset], parameters: dict, model: Output[Model]):
    """Trains on all training data with the best parameters."""
    import subprocess
    import sys

    arguments = [f"--{name}={value}" for name, value in parameters.items()]
    command = [sys.executable, "-c", program, f"--data={data.path}", f"--out={model.path}", *arguments]
    subprocess.run(command, check=True)
    model.metadata["framework"] = "scikit-learn"
    model.metadata.update(parameters)


@dsl.component(base_image=IMAGE, packages_to_install=[SKLEARN])
def evaluate(
    model: Input[Model], test: Input[Dataset], metrics: Output[Metrics], confusion: Output[ClassificationMetrics]
) -> float:
    """Says how the model does on images it has never seen."""
    import joblib
    import numpy as np
    from sklearn.metrics import accuracy_score, confusion_matrix

    data = np.load(test.path)
    predicted = joblib.load(model.path).predict(data["images"])
    accuracy = float(accuracy_score(data["labels"], predicted))
    metrics.log_metric("accuracy", accuracy)
    metrics.log_metric("images", len(predicted))
    matrix = confusion_matrix(data["labels"], predicted)
    confusion.log_confusion_matrix([str(digit) for digit in range(10)], matrix.tolist())
    print(f"accuracy {accuracy:.4f} on {len(predicted)} held-out images")
    print(matrix)
    return accuracy


@dsl.component(base_image=IMAGE, packages_to_install=[SKLEARN, ONNX_EXPORT, ONNX_RUNTIME])
def export(model: Input[Model], test: Input[Dataset], onnx_model: Output[Model]):
    """Writes the model as ONNX and checks that it still gives the same answers."""
    import pathlib

    import joblib
    import numpy as np
    import onnxruntime
    from skl2onnx import to_onnx

    trained = joblib.load(model.path)
    images = np.load(test.path)["images"]
    exported = to_onnx(trained, images[:1], options={"zipmap": False}, final_types=None)
    folder = pathlib.Path(onnx_model.path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(exported.SerializeToString())
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    labels, probabilities = session.run(None, {name: images})
    np.testing.assert_array_equal(labels, trained.predict(images))
    np.testing.assert_allclose(probabilities, trained.predict_proba(images), atol=1e-4)
    onnx_model.metadata["framework"] = "onnx"
    print(f"same answers on {len(images)} images; input {name}, outputs {[o.name for o in session.get_outputs()]}")


@dsl.component(base_image=IMAGE)
def register(onnx_model: Input[Model], name: str, accuracy: float) -> str:
    """Enters the model as a new version into the model registry."""
    import json
    import os
    import urllib.request

    base = os.environ["MODEL_REGISTRY_URL"].rstrip("/") + "/api/model_registry/v1alpha3"

    def call(path, body):
        data = json.dumps(body).encode()
        request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    note = {"accuracy": {"double_value": accuracy, "metadataType": "MetadataDoubleValue"}}
    entry = call("/registered_models:register", {
        "name": name,
        "uri": onnx_model.uri,
        "modelFormatName": "onnx",
        "customProperties": note,
    })
    print(f"registered {name} version {entry['name']} at {onnx_model.uri}")
    return entry["name"]


@dsl.component(base_image=IMAGE, packages_to_install=[KUBERNETES])
def deploy(onnx_model: Input[Model], name: str, version: str) -> str:
    """Deploys the model as a KServe InferenceService and waits until it is ready."""
    import os
    import time

    import urllib3
    from kubernetes import client, config, watch

    (config.load_kube_config if os.environ.get("KUBECONFIG") else config.load_incluster_config)()
    namespace = os.environ.get("MIZZEN_NAMESPACE", "default")
    api = client.CustomObjectsApi()
    group = ("serving.kserve.io", "v1beta1", namespace, "inferenceservices")
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "labels": {"model-registry/version": version}},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "onnx"},
                    "protocolVersion": "v2",
                    "storageUri": onnx_model.uri,
                },
                "batcher": {"maxBatchSize": 32, "maxLatency": 2},
            }
        },
    }
    try:
        generation = api.create_namespaced_custom_object(*group, service)["metadata"]["generation"]
    except client.ApiException as error:
        if error.status != 409:
            raise
        patched = api.patch_namespaced_custom_object(*group, name, service)
        generation = patched["metadata"]["generation"]
    def states():
        """The service's status, whenever it changes, also through a restart of the API server."""
        only = f"metadata.name={name}"
        while True:
            try:
                for event in watch.Watch().stream(
                    api.list_namespaced_custom_object, *group, field_selector=only, timeout_seconds=300
                ):
                    yield event["object"].get("status", {})
            except (urllib3.exceptions.HTTPError, client.ApiException) as error:
                print(f"lost the API server, trying again: {error}", flush=True)
                time.sleep(1)

    for status in states():
        ready = {c["type"]: c for c in status.get("conditions", [])}.get("Ready", {})
        if ready.get("status") == "True" and status.get("observedGeneration", generation) >= generation:
            url = status["url"]
            break
        if ready.get("status") == "False" and ready.get("reason") == "ModelLoadFailed":
            raise RuntimeError(f"{name} does not load: {ready.get('message')}")
    print(f"{name} answers at {url}")
    return url


@dsl.pipeline(name="digits", description="Handwritten digits, from data to a served model")
def digits(name: str = "digits", trials: int = 12, parallel: int = 3) -> str:
    data = load()
    best = tune(program=TRAIN, data=data.outputs["train"], name=name, trials=trials, parallel=parallel)
    model = train(program=TRAIN, data=data.outputs["train"], parameters=best.outputs["parameters"])
    score = evaluate(model=model.outputs["model"], test=data.outputs["test"])
    exported = export(model=model.outputs["model"], test=data.outputs["test"])
    entry = register(
        onnx_model=exported.outputs["onnx_model"], name=name, accuracy=score.outputs["Output"]
    )
    served = deploy(onnx_model=exported.outputs["onnx_model"], name=name, version=entry.output)
    return served.output


if __name__ == "__main__":
    compiler.Compiler().compile(digits, str(Path(__file__).with_suffix(".yaml")))

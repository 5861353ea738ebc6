"""The whole journey on real data: brings Mizzen up, runs the digits pipeline, asks the deployed model.

`make demo` runs it. It prints what was found and how fast the answers came, and leaves nothing running
unless it is told to --keep.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--mizzen", default=str(ROOT / "target/release/mizzen"), help="the binary")
parser.add_argument("--port-base", type=int, help="first of five ports in place of 8000-8002, 8080 and 6789; 0 for any")
parser.add_argument("--data-dir", default=str(ROOT / "data/demo"), help="where state goes; emptied first")
parser.add_argument("--keep", action="store_true", help="leave it running")
parser.add_argument("--seconds", type=float, default=4.0, help="length of each load measurement")
args = parser.parse_args()

MIZZEN = str(pathlib.Path(args.mizzen).resolve())
DATA = pathlib.Path(args.data_dir).resolve()


def say(text):
    print(f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text, flush=True)


def fail(text):
    print(f"demo: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


def held_out():
    """The fifth of the data set that the pipeline holds back, by the same split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    _, test_images, _, labels = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    return test_images, labels


def bring_up():
    """Starts `mizzen up`; returns the process and its addresses."""
    if DATA.exists():
        shutil.rmtree(DATA)
    DATA.mkdir(parents=True)
    command = [MIZZEN, "up", "--data-dir", str(DATA)]
    if args.port_base is not None:
        command += ["--port-base", str(args.port_base)]
    # Steps and trials run under the `python3` of PATH: the one that has the pinned packages.
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    log = open(DATA / "mizzen.log", "w")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
    )
    line = process.stdout.readline()
    if not line.startswith("ready "):
        process.wait()
        log.close()
        fail(f"mizzen did not start (log: {DATA / 'mizzen.log'}):\n{(DATA / 'mizzen.log').read_text()[-2000:]}"
             "\nif a port is taken, move them all: make demo PORT_BASE=9000")
    return process, dict(field.split("=", 1) for field in line.split()[1:])


def take_down(process):
    """Stops it as an operator would, and makes sure that it ended well."""
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        fail("mizzen did not stop within a minute of SIGTERM")
    if code != 0:
        fail(f"mizzen ended with status {code}; its log: {DATA / 'mizzen.log'}")


def mizzen_json(*command):
    done = subprocess.run([MIZZEN, *command, "-o", "json"], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        fail(f"`mizzen {' '.join(command)}` ended with status {done.returncode}")
    return json.loads(done.stdout)


def accuracies(at, images, labels):
    """Asks the model about every held-out image over each protocol, by the unmodified Triton client."""
    import tritonclient.grpc as triton_grpc
    import tritonclient.http as triton_http

    def ask(client, library, **how):
        metadata = client.get_model_metadata("digits", **({"as_json": True} if library is triton_grpc else {}))
        name = metadata["inputs"][0]["name"]
        right = 0
        for start in range(0, len(images), 32):
            batch = images[start:start + 32]
            tensor = library.InferInput(name, list(batch.shape), "FP32")
            tensor.set_data_from_numpy(batch, **how)
            wanted = [library.InferRequestedOutput("label", **how)]
            labels_out = client.infer("digits", [tensor], outputs=wanted).as_numpy("label")
            right += int((labels_out.ravel() == labels[start:start + 32]).sum())
        return right / len(images)

    with contextlib.closing(triton_http.InferenceServerClient(at["http"])) as http:
        yield "V2 REST, JSON", ask(http, triton_http, binary_data=False)
        yield "V2 REST, binary", ask(http, triton_http, binary_data=True)
    with contextlib.closing(triton_grpc.InferenceServerClient(at["grpc"])) as grpc:
        yield "V2 gRPC", ask(grpc, triton_grpc)


def deploy_unbatched(at):
    """A second service of the same model that answers every request on its own, to compare with."""
    from kubernetes import client, watch

    configuration = client.Configuration(host=f"http://{at['api']}")
    api = client.CustomObjectsApi(client.ApiClient(configuration))
    group = ("serving.kserve.io", "v1beta1", "default", "inferenceservices")
    deployed = api.get_namespaced_custom_object(*group, "digits")["spec"]["predictor"]["model"]
    folder = DATA / "unbatched"
    shutil.copytree(deployed["storageUri"].removeprefix("file://"), folder / "1")
    (folder / "config.pbtxt").write_text("max_batch_size: 32\n")  # takes rows, but combines no requests
    api.create_namespaced_custom_object(*group, {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "digits-unbatched"},
        "spec": {"predictor": {"model": {**deployed, "storageUri": str(folder)}}},
    })
    for event in watch.Watch().stream(
        api.list_namespaced_custom_object, *group, field_selector="metadata.name=digits-unbatched", timeout_seconds=30
    ):
        conditions = event["object"].get("status", {}).get("conditions", [])
        if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
            return
    fail("digits-unbatched did not become ready")


def measure(at, images):
    """Requests per second and latency, without batching and with it, one image a request."""
    data = DATA / "held-out.json"
    data.write_text(json.dumps({"data": [{"X": image.tolist()} for image in images]}))
    for what, model in (("without batching", "digits-unbatched"), ("with batching", "digits")):
        for protocol, port in (("rest-json", "http"), ("rest-binary", "http"), ("grpc", "grpc")):
            report, = mizzen_json(
                "bench", model, "--url", at[port], "--protocol", protocol, "--concurrency", "32",
                "--duration", str(args.seconds), "--warmup", "1", "--input-data", str(data),
            )
            yield what, report


def main():
    began = time.monotonic()
    images, labels = held_out()
    process, at = bring_up()
    try:
        say(f"mizzen is up: API http://{at['api']}, REST http://{at['http']}, gRPC {at['grpc']}")
        say("running examples/digits/pipeline.yaml")
        run = mizzen_json("run", str(HERE / "pipeline.yaml"), "--server", f"http://{at['api']}")
        took = time.monotonic() - began

        experiments = mizzen_json("get", "experiments", "--server", f"http://{at['api']}")["items"]
        best = experiments[0]["status"]["currentOptimalTrial"]
        print()
        say("best parameters")
        for assignment in best["parameterAssignments"]:
            print(f"  {assignment['name']:14} {assignment['value']}")
        trials = experiments[0]["status"]["trialsSucceeded"]
        print(f"  found in {trials} trials; the whole run took {took:.0f} s")

        say("held-out accuracy of the deployed model")
        found = dict(accuracies(at, images, labels))
        for protocol, accuracy in found.items():
            print(f"  {protocol:16} {accuracy:.4f}  ({len(images)} images)")
        if len(set(found.values())) != 1 or min(found.values()) < 0.95:
            fail(f"expected the same accuracy of at least 0.95 over every protocol, got {found}")

        say("load: 32 clients, one image a request")
        deploy_unbatched(at)
        print(f"  {'':18}{'':14}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}")
        for what, report in measure(at, images):
            latency = report["latency_ms"]
            print(f"  {what:18}{report['protocol']:14}{report['requests_per_second']:12.0f}"
                  f"{latency['p50']:9.2f}{latency['p99']:9.2f}")

        print()
        say("look around" if args.keep else "with KEEP=1 you could look around")
        print(f"  kubectl --server http://{at['api']} get experiments,trials,pipelineruns,inferenceservices")
        print(f"  curl http://{at['http']}/v2/models/digits")
        print(f"  curl http://{at['metrics']}/metrics")
        print(f"  state and logs: {DATA}")
        assert run["state"] == "SUCCEEDED", run
    except BaseException:
        take_down(process)
        raise
    if args.keep:
        print(f"  stop it: kill {process.pid}")
    else:
        take_down(process)


main()

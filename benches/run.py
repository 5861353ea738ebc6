"""Measures Mizzen on this machine and writes benches/results/.

`make bench` runs all of it; `python benches/run.py serving` one part. Every figure is of the release binary,
and each result names machine, commit and command.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benches/serving")]

import measure  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("parts", nargs="*", help="serving, hotpath, tuning, pipelines, idle; all where absent")
parser.add_argument("--mizzen", default=str(ROOT / "target/release/mizzen"))
parser.add_argument("--seconds", type=float, default=5.0, help="length of each load measurement")
parser.add_argument("--rounds", type=int, default=7, help="pairs of measurements of `hotpath`")
parser.add_argument("--concurrency", type=int, default=16, help="requests at once in `hotpath`")
args = parser.parse_args()

MIZZEN = str(pathlib.Path(args.mizzen).resolve())
LIBRARY = str(next((ROOT / ".cache/onnxruntime/lib").glob("libonnxruntime.so.*")))
ENVIRONMENT = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}


@contextlib.contextmanager
def serve(repository):
    """The model server over a repository; yields its addresses and process id."""
    process = subprocess.Popen(
        [MIZZEN, "--log", "warn", "serve", "--model-repository", str(repository), "--http-port", "0",
         "--grpc-port", "0", "--metrics-port", "0"], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        yield dict(field.split("=", 1) for field in process.stdout.readline().split()[1:]), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def cpu_seconds(pid):
    return sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[11:13])) / 100


def rss_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def bench(at, pid, model, protocol, concurrency, rows=1, streams=1):
    """One load measurement, and the server's own processor time for each request of it."""
    address = at["grpc" if protocol == "grpc" else "http"]
    command = [MIZZEN, "bench", model, "-u", address, "-p", protocol, "-c", str(concurrency), "-b", str(rows),
               "--streams", str(streams), "--duration", str(args.seconds), "--warmup", "0", "-o", "json"]
    subprocess.run([*command, "--requests", "2000"], check=True, capture_output=True)  # warm
    before = cpu_seconds(pid)
    report, = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    report["server_cpu_us_per_request"] = (cpu_seconds(pid) - before) * 1e6 / report["ok"]
    return report


def bare(model, batch):
    command = ["cargo", "bench", "--quiet", "--bench", "bare_engine", "--", str(model), str(batch), str(args.seconds), LIBRARY]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()[-1])


def perceptron(width=1024, layers=4):
    """A model heavy enough that batching matters: `layers` products of `width` x `width`."""
    import models
    import numpy as np
    from onnx import TensorProto, helper

    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        matrix = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        weights.append(helper.make_tensor(f"w{layer}", TensorProto.FLOAT, [width, width], matrix.tobytes(), raw=True))
        out = "y" if layer == layers - 1 else f"r{layer}"
        nodes += [helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]), helper.make_node("Relu", [f"m{layer}"], [out])]
        last = out
    info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
    return models.graph(nodes, [info("x")], [info("y")], weights)


def serving(scratch):
    import models

    repository = scratch / "models"
    models.place(repository, "identity", models.identity("FP32", ("n", 16)), config="max_batch_size: 64\n")
    batched = "max_batch_size: 32\ndynamic_batching { max_queue_delay_microseconds: 1000 preferred_batch_size: [ 32 ] }\n" \
              "instance_group [ { count: 1 kind: KIND_CPU } ]\nparameters { key: \"intra_op_thread_count\" value { string_value: \"1\" } }\n"
    models.place(repository, "perceptron", perceptron(), config=batched)
    engine = bare(repository / "identity/1/model.onnx", 1)
    print(f"identity, bare engine: {engine['cpu_us_per_run']:.1f} µs of processor time a run")
    result = {"identity_bare": engine, "identity": [], "batched": []}
    with serve(repository) as (at, pid):
        for protocol in ("rest-json", "rest-binary", "grpc"):
            report = bench(at, pid, "identity", protocol, 16)
            result["identity"].append(report)
            print(f"identity, {protocol}, 16 at once: {report['requests_per_second']:.0f} requests/s, server "
                  f"{report['server_cpu_us_per_request']:.1f} µs, generator {report['client_cpu_us_per_request']:.1f} µs "
                  f"of processor time a request; p50 {report['latency_ms']['p50']:.2f} p99 {report['latency_ms']['p99']:.2f} ms")
        model = repository / "perceptron/1/model.onnx"
        # A gRPC connection with six requests at once is what tritonclient's channels make.
        loads = (("rest-binary", 1, 96, 1), ("grpc", 1, 96, 6), ("grpc", 1, 96, 1), ("rest-binary", 32, 3, 1))
        for protocol, rows, concurrency, streams in loads:
            # In turn, so that a machine that slows down slows both.
            pairs = []
            for _ in range(3):
                alone = bare(model, 32)
                served = bench(at, pid, "perceptron", protocol, concurrency, rows, streams)
                pairs.append((served["rows_per_second"] / alone["rows_per_second"], alone, served))
            ratio = statistics.median(p[0] for p in pairs)
            result["batched"].append({"protocol": protocol, "rows": rows, "requests_per_connection": streams, "ratio": ratio,
                                      "ratios": [p[0] for p in pairs], "bare": pairs[0][1], "served": pairs[0][2]})
            print(f"perceptron, batch 32, {protocol}, {rows} rows a request, {streams} at once on a "
                  f"connection: {pairs[0][2]['rows_per_second']:.0f} rows/s "
                  f"served, {pairs[0][1]['rows_per_second']:.0f} bare: ratio {ratio:.2f} "
                  f"({', '.join(f'{p[0]:.2f}' for p in pairs)})")
    return result


@contextlib.contextmanager
def bare_server():
    """hyper and tonic with nothing behind them; yields their addresses and process id."""
    build = ["cargo", "bench", "--quiet", "--no-run", "--bench", "bare_server", "--message-format", "json"]
    lines = subprocess.run(build, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    binary = next(made["executable"] for made in map(json.loads, lines)
                  if made.get("executable") and made["target"]["name"] == "bare_server")
    process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield dict(field.split("=", 1) for field in process.stdout.readline().split()[1:]), process.pid
    finally:
        process.stdin.close()
        assert process.wait(30) == 0


def hotpath(scratch):
    """What a request costs the server in processor time, beside hyper and tonic that only send it back.

    In turn and several times, because a machine that is busy makes a request dearer for both.
    """
    import models

    repository = scratch / "models"
    models.place(repository, "identity", models.identity("FP32", ("n", 16)), config="max_batch_size: 64\n")
    protocols = ("grpc", "rest-binary", "rest-json")
    turns = {protocol: [] for protocol in protocols}
    with serve(repository) as (ours, our_pid), bare_server() as (bare, bare_pid):
        for _ in range(args.rounds):
            for protocol in protocols:
                costs = {}
                for name, at, pid in (("bare", bare, bare_pid), ("ours", ours, our_pid)):
                    report = bench(at, pid, "identity", protocol, args.concurrency)
                    costs[name] = {key: report[key] for key in ("server_cpu_us_per_request", "requests_per_second")}
                turns[protocol].append({**costs, "load": os.getloadavg()[0]})
    result = {"concurrency": args.concurrency, "turns": turns}
    for protocol, pairs in turns.items():
        cost = lambda name: [pair[name]["server_cpu_us_per_request"] for pair in pairs]
        ours, bare = statistics.median(cost("ours")), statistics.median(cost("bare"))
        more = statistics.median(a - b for a, b in zip(cost("ours"), cost("bare")))
        result[protocol] = {"ours_us": ours, "bare_us": bare, "more_us": more, "requests_per_cpu_second": 1e6 / ours}
        print(f"{protocol}, {args.concurrency} at once: {ours:.1f} µs of the server's processor time a request, "
              f"{bare:.1f} µs where it is only sent back: {more:.1f} µs more in the middle of {args.rounds} pairs "
              f"({', '.join(f'{a:.0f}-{b:.0f}' for a, b in zip(cost('ours'), cost('bare')))})")
    return result


def experiment(command, trials, parallel):
    from test_cluster import experiment_spec
    spec = experiment_spec("bench", command, algorithm="random", trials=trials, parallel=parallel)
    spec["spec"]["parallelTrialCount"] = parallel
    return spec


def tuning(scratch):
    import yaml

    starts, file, firsts = scratch / "starts", scratch / "experiment.yaml", []
    for turn in range(7):
        starts.unlink(missing_ok=True)
        file.write_text(yaml.safe_dump(experiment(["sh", "-c", f'date +%s%N >> {starts}; echo "loss=$X"'], 2, 2)))
        began = time.time_ns()
        subprocess.run([MIZZEN, "tune", str(file)], check=True, capture_output=True,
                       env={**ENVIRONMENT, "MIZZEN_DATA_DIR": str(scratch / f"first-{turn}")})
        firsts.append((int(starts.read_text().split()[0]) - began) / 1e6)
    trials = 200
    file.write_text(yaml.safe_dump(experiment(["sh", "-c", 'echo "loss=$X"'], trials, 4)))
    began = time.monotonic()
    subprocess.run([MIZZEN, "tune", str(file)], check=True, capture_output=True,
                   env={**ENVIRONMENT, "MIZZEN_DATA_DIR": str(scratch / "rate")})
    rate = trials / (time.monotonic() - began)
    print(f"first trial runs {statistics.median(firsts):.0f} ms after `mizzen tune` "
          f"({', '.join(f'{f:.0f}' for f in firsts)}); {rate:.0f} trials/s that do nothing, 4 at once")
    return {"first_trial_ms": firsts, "trials_per_second": rate, "trials": trials, "parallel": 4}


def chain(steps):
    """A pipeline of steps that do nothing, one after the other."""
    from test_cluster import shell_pipeline

    pipeline = shell_pipeline("true")
    step = pipeline["root"]["dag"]["tasks"].pop("step")
    for number in range(steps):
        pipeline["root"]["dag"]["tasks"][f"s{number}"] = {
            **step, "taskInfo": {"name": f"s{number}"}, "dependentTasks": [f"s{number - 1}"] if number else []}
    return pipeline


def pipelines(scratch):
    def seconds(steps):
        file = scratch / f"chain-{steps}.yaml"
        file.write_text(json.dumps(chain(steps)))
        began = time.monotonic()
        subprocess.run([MIZZEN, "run", str(file)], check=True, capture_output=True,
                       env={**ENVIRONMENT, "MIZZEN_DATA_DIR": str(scratch / f"chain-{steps}-{began}")})
        return time.monotonic() - began

    began = time.monotonic()
    for _ in range(100):
        subprocess.run(["sh", "-c", "true"])
    process = (time.monotonic() - began) * 10
    short, long = [statistics.median(seconds(n) for _ in range(3)) for n in (10, 110)]
    step = (long - short) * 10
    print(f"a step of a pipeline takes {step:.1f} ms, of which {process:.1f} ms are the process itself: "
          f"{step - process:.1f} ms overhead")
    return {"step_ms": step, "process_ms": process, "overhead_ms": step - process}


def idle(scratch):
    empty = scratch / "empty"
    empty.mkdir()
    times = []
    for _ in range(10):
        began = time.monotonic()
        with serve(empty) as (_, pid):
            times.append((time.monotonic() - began) * 1e3)
            memory = rss_mib(pid)
    size = pathlib.Path(MIZZEN).stat().st_size / 2**20
    print(f"`mizzen serve` without models: ready in {statistics.median(times):.0f} ms, {memory:.1f} MiB resident; "
          f"the binary is {size:.1f} MiB")
    return {"ready_ms": times, "resident_mib": memory, "binary_mib": size}


def main():
    parts = {"idle": idle, "serving": serving, "hotpath": hotpath, "tuning": tuning, "pipelines": pipelines}
    chosen = args.parts or list(parts)
    result = {"machine": measure.machine(ROOT, " ".join(["python benches/run.py", *sys.argv[1:]]))}
    print(json.dumps(result["machine"]))
    for part in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            result[part] = parts[part](pathlib.Path(scratch))
    name = "-".join([result["machine"]["date"], result["machine"]["commit"], *args.parts])
    path = HERE / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


main()

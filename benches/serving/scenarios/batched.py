"""What is left of the engine's own throughput when single rows come over the wire and the server batches them."""

import json
import subprocess

import numpy as np

import peers as all_peers
import zoo
from harness import figure, median, table

# The model, the shape of a row, the batches that the bare engine tries, and over what rows travel.
MODELS = {
    "perceptron": (lambda: zoo.perceptron([1024] * 5), (1024,), (8, 32, 64), ("rest-binary", "grpc")),
    "mobilenet": (zoo.mobile_net, (3, 224, 224), (1, 4, 8), ("rest-binary", "grpc")),
}
CONFIG = "max_batch_size: {batch}\ndynamic_batching {{ max_queue_delay_microseconds: 1000 preferred_batch_size: [ {batch} ] }}\n"


def bare(model, batch, seconds):
    """Rows per second of a loop over the engine with nothing around it, in a process of its own."""
    library = next((all_peers.mizzen.ROOT / ".cache/onnxruntime/lib").glob("libonnxruntime.so.*"))
    built = sorted(all_peers.Mizzen.binary.parent.glob("deps/bare_engine-*[!.d]"), key=lambda p: p.stat().st_mtime)
    command = [built[-1]] if built else ["cargo", "bench", "--quiet", "--bench", "bare_engine", "--"]
    done = subprocess.run([*map(str, command), str(model), str(batch), str(seconds), str(library)], check=True,
                          capture_output=True, text=True, cwd=all_peers.mizzen.ROOT)
    return json.loads(done.stdout.splitlines()[-1])["rows_per_second"]


def run(bench):
    takers, result = bench.those("Mizzen", "Triton"), {}
    for name, (make, row, batches, protocols) in MODELS.items():
        repository, model = bench.scratch / f"batched-{name}", make()
        zoo.place(repository, name, model)
        file = repository / name / "1/model.onnx"
        tried = {batch: bare(file, batch, min(bench.seconds, 2)) for batch in batches}
        best = max(tried, key=tried.get)
        (repository / name / "config.pbtxt").write_text(CONFIG.format(batch=best) + zoo.ENGINE)
        x = np.random.default_rng(0).random((1, *row), np.float32)
        expected = zoo.session(repository, name).run(["y"], {"x": x})[0]
        turns = []
        with bench.started(takers, repository, name) as servers:
            ready = bench.ready(takers, servers, protocols, name, x, expected)
            for _ in range(bench.rounds):
                turn = {"bare": bare(file, best, bench.seconds), "served": {}}
                for protocol in protocols:
                    for peer in takers:
                        if call := ready.get((peer.name, protocol)):
                            # Three batches under way: one in the engine, one that fills, one that is answered.
                            report = bench.load(servers[peer.name], call, max(4, 3 * best), what=f"batched {name}")
                            if report:
                                turn["served"][f"{peer.name}, {protocol}"] = report.figures()
                turns.append(turn)
        result[name] = {"tried": tried, "batch": best, "rounds": turns}
    return result


def markdown(result):
    rows = []
    for name, of_model in result.items():
        rows.append([f"{name}, bare loop", of_model["batch"], figure(median([t["bare"] for t in of_model["rounds"]])),
                     "1.00", "", ""])
        for who in dict.fromkeys(w for t in of_model["rounds"] for w in t["served"]):
            turns = [(t["served"][who], t["bare"]) for t in of_model["rounds"] if who in t["served"]]
            rows.append([f"{name}, {who}", of_model["batch"], figure(median([s["requests_per_second"] for s, _ in turns])),
                         figure(median([s["requests_per_second"] / b for s, b in turns]), 2),
                         figure(median([s["p99"] for s, _ in turns]), 1), sum(s["failed"] for s, _ in turns)])
    return ("Requests of one row; the bare loop runs the same engine at its best batch size with nothing around it. "
            "On a machine of few cores the load tool takes its part of them from the server.\n\n" + table(
                ["", "batch", "rows/s", "÷ bare", "p99 ms", "failed"], rows))

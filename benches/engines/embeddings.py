"""Embeddings of texts of mixed lengths through the server, against a bare loop over ONNX Runtime.

`python benches/engines/embeddings.py` after `make build`; writes benches/results/. The model is MiniLM (6 layers, 384
wide), once in Candle and once in ONNX Runtime, each with all processors. The bare loop has it as easy as can be: texts
are tokenised before, sorted by length and run in batches of the size that turns out best.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benches/serving")]

import encoders  # noqa: E402
import measure  # noqa: E402

# Words of a text: most are short, some are long, as queries and passages come.
LENGTHS = [6, 9, 12, 16, 24, 32, 48, 64, 96, 180]
TEXTS = 400
BATCHES = [1, 2, 4, 8, 16, 32]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--mizzen", default=str(ROOT / "target/release/mizzen"))
parser.add_argument("--seconds", type=float, default=6.0, help="length of each measurement")
parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turn")
parser.add_argument("--concurrency", type=int, default=32, help="requests of one text each at once")
parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches/results", help="folder of the result")
args = parser.parse_args()


def texts():
    rng = np.random.default_rng(0)
    words = "the of and to in is for on that by this with as an from model data small large red fox river city".split()
    return [" ".join(rng.choice(words, rng.choice(LENGTHS))) for _ in range(TEXTS)]


@contextlib.contextmanager
def serve(repository):
    process = subprocess.Popen(
        [args.mizzen, "--log", "warn", "serve", "--model-repository", str(repository), "--http-port", "0",
         "--grpc-port", "0", "--metrics-port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        yield dict(field.split("=", 1) for field in process.stdout.readline().split()[1:])["http"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def post(connection, path, body):
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"HTTP {answer.status}: {text[:200]}")
    return json.loads(text)


def served(address, model, all_texts, tokens):
    """Tokens per second, and milliseconds a request took, by quantile."""
    turn, lock, until = [0], threading.Lock(), time.monotonic() + args.seconds
    latencies, done = [], [0]

    def client():
        connection = http.client.HTTPConnection(address)
        while time.monotonic() < until:
            with lock:
                index = turn[0] % len(all_texts)
                turn[0] += 1
            began = time.monotonic()
            post(connection, "/embed", {"inputs": all_texts[index], "model": model})
            ended = time.monotonic()
            with lock:
                if ended <= until:
                    latencies.append((ended - began) * 1e3)
                    done[0] += tokens[index]

    with concurrent.futures.ThreadPoolExecutor(args.concurrency) as pool:
        for future in [pool.submit(client) for _ in range(args.concurrency)]:
            future.result()
    latencies.sort()
    quantile = lambda q: latencies[min(len(latencies) - 1, int(q * len(latencies)))]
    return {"tokens_per_second": done[0] / args.seconds, "texts_per_second": len(latencies) / args.seconds,
            "p50_ms": quantile(0.5), "p99_ms": quantile(0.99)}


def bare(session, ids, batch):
    """Tokens per second of a loop over texts that are sorted by length."""
    order, done, at, began = sorted(ids, key=len), 0, 0, time.monotonic()
    while time.monotonic() - began < args.seconds / 2:
        group = order[at:at + batch] or order[:batch]
        at = at + batch if at + batch < len(order) else 0
        longest = max(map(len, group))
        rows = np.zeros((len(group), longest), np.int64)
        mask = np.zeros_like(rows)
        for row, text in enumerate(group):
            rows[row, :len(text)], mask[row, :len(text)] = text, 1
        session.run(None, {"input_ids": rows, "attention_mask": mask, "token_type_ids": np.zeros_like(rows)})
        done += sum(map(len, group))
    return done / (time.monotonic() - began)


def main():
    machine = measure.machine(ROOT, "python benches/engines/embeddings.py " + " ".join(sys.argv[1:]))
    with tempfile.TemporaryDirectory(prefix="mizzen-embeddings-") as scratch:
        repository = pathlib.Path(scratch) / "models"
        for engine in ("onnx", "candle"):
            encoders.minilm(repository, engine, engine)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            str(repository / "onnx/1/model.onnx"), options, providers=["CPUExecutionProvider"])
        all_texts, result = texts(), {"bare": {}, "onnx": [], "candle": []}
        with serve(repository) as address:
            connection = http.client.HTTPConnection(address)
            tokenised = post(connection, "/tokenize", {"inputs": all_texts, "model": "onnx"})
            ids = [[token["id"] for token in text] for text in tokenised]
            for engine in ("onnx", "candle"):  # warm
                for at in range(0, 96, 32):
                    post(connection, "/embed", {"inputs": all_texts[at:at + 32], "model": engine})
            for _ in range(args.rounds):
                for batch in BATCHES:
                    result["bare"].setdefault(batch, []).append(bare(session, ids, batch))
                for engine in ("onnx", "candle"):
                    result[engine].append(served(address, engine, all_texts, list(map(len, ids))))
        best = max(BATCHES, key=lambda batch: statistics.median(result["bare"][batch]))
        alone = statistics.median(result["bare"][best])
        result["bare_best"] = {"batch": best, "tokens_per_second": alone}
        print(f"bare ONNX Runtime, batch {best}: {alone:.0f} tokens/s")
        for engine in ("onnx", "candle"):
            middle = lambda key: statistics.median(turn[key] for turn in result[engine])
            result[f"{engine}_ratio"] = middle("tokens_per_second") / alone
            print(f"{engine}, {args.concurrency} requests of one text at once: {middle('tokens_per_second'):.0f} tokens/s, "
                  f"{middle('texts_per_second'):.0f} texts/s, p50 {middle('p50_ms'):.0f} p99 {middle('p99_ms'):.0f} ms; "
                  f"{result[f'{engine}_ratio']:.2f} of the bare loop")
    file = args.out / f"{machine['date']}-{machine['commit']}-embeddings.json"
    file.write_text(json.dumps({"machine": machine, **result}, indent=1) + "\n")
    print(f"written to {file}")


if __name__ == "__main__":
    main()

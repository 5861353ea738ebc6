"""What a server takes before it does anything: memory, time to start, bytes on disk."""

import pathlib
import shutil
import subprocess
import time

import numpy as np

import zoo
from harness import figure, median, table

MODEL = "tiny"


def size_mib(path):
    """Bytes of a file or of all files of a folder."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file() and not f.is_symlink()]
    return sum(f.stat().st_size for f in files) / 2**20


def stripped_mib(binary, scratch):
    copy = scratch / "stripped"
    shutil.copy(binary, copy)
    subprocess.run(["strip", str(copy)], check=True)
    return size_mib(copy)


def on_disk(peer, scratch):
    """What one has to have for the peer: its binary without symbols, or its Python environment; engine included apart from ours."""
    if peer.name == "Mizzen":
        return stripped_mib(peer.binary, scratch)
    if peer.name == "Triton":
        return stripped_mib(peer.home / "bin/tritonserver", scratch) + size_mib(peer.backends / "onnxruntime") + size_mib(
            peer.home.parents[1] / "nvidia_pytriton.libs")
    return size_mib(pathlib.Path(peer.python).parents[1])


def run(bench):
    empty, repository = bench.scratch / "empty", bench.scratch / "footprint"
    empty.mkdir()
    zoo.place(repository, MODEL, zoo.perceptron([16, 64, 10]), "max_batch_size: 64\n")
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)
    expected = zoo.session(repository, MODEL).run(["y"], {"x": x})[0]
    result = {}
    for peer in bench.peers:
        entry = result[peer.name] = {"on_disk_mib": on_disk(peer, bench.scratch), "first_answer_s": [], "with_model_mib": []}
        if peer.name in ("Mizzen", "Triton"):
            entry.update(empty_s=[], empty_mib=[])
            for _ in range(1 if bench.quick else 5):
                began = time.monotonic()
                server = peer.start(empty, bench.scratch)
                entry["empty_s"].append(time.monotonic() - began)
                entry["empty_mib"].append(server.rss_mib())
                server.stop()
        for _ in range(1 if bench.quick or not peer.idles else bench.rounds):
            began = time.monotonic()
            with bench.started([peer], repository, MODEL) as servers:
                if bench.ready([peer], servers, peer.protocols[-1:], MODEL, x, expected):
                    entry["first_answer_s"].append(time.monotonic() - began)
                    entry["with_model_mib"].append(servers[peer.name].rss_mib())
        bench.say(f"footprint, {peer.name}: {entry}")
    return result


def markdown(result):
    rows = [[name, figure(median(e.get("empty_s", [])), 3), figure(median(e.get("empty_mib", []))),
             figure(median(e["first_answer_s"]), 2), figure(median(e["with_model_mib"])), figure(e["on_disk_mib"])]
            for name, e in result.items()]
    return ("Memory is resident, of all processes. On disk: our binary without symbols (ONNX Runtime's library, 28 MiB, comes on "
            "top); Triton's server, its libraries and one backend; the Python environment of the others.\n\n" + table(
                ["server", "start without models s", "idle MiB", "start to first right answer s", "with a tiny model MiB",
                 "on disk MiB"], rows))

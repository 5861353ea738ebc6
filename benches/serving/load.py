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


HANGS_AFTER_S = 90  # a load of seconds that takes so long is a load tool or a server that hangs


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


def warm(server, call, concurrency, seconds):
    """Warms up, and returns what keeps `concurrency` requests under way for about so many seconds."""
    if call.protocol != "grpc":
        wrk(server, call, concurrency, 1)
        return lambda: wrk(server, call, concurrency, seconds)
    # h2load's own timer leaves some of many connections running for ever, so it is told a number of requests:
    # what the rate seen just before makes of the seconds.
    before = h2load(server, call, concurrency, 10 * concurrency)
    before = h2load(server, call, concurrency, max(10 * concurrency, int(before.per_second * 0.5)))
    requests = max(10 * concurrency, int(before.per_second * seconds))
    return lambda: h2load(server, call, concurrency, requests)


def run(name, arguments):
    command, environment = install.tool(name)
    try:
        return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, timeout=HANGS_AFTER_S,
                              env={**os.environ, **environment})
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{name} did not end within {HANGS_AFTER_S} s") from error


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


def h2load(server, call, concurrency, requests):
    """It does not look at grpc-status, so the bytes of the answers are held against a right answer's."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = pathlib.Path(folder, "body"), pathlib.Path(folder, "log")
        body.write_bytes(call.body)
        done = run("h2load", ["-t", 1, "-c", concurrency, "-m", 1, "-n", requests, "-d", body, "--log-file", log,
                              "-H", "content-type: application/grpc", "-H", "te: trailers",
                              f"http://{server.grpc}{call.path}"])
        took = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines()
                      if line.split("\t")[1] == "200") if log.exists() else []
    counts = re.search(r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored",
                       done.stdout)
    data = re.search(r"\((\d+)\) data", done.stdout)
    took_all = re.search(r"finished in ([0-9.]+)(us|ms|s|m)", done.stdout)
    if not counts or not data or not took_all:
        raise RuntimeError(f"h2load gave no figures: {done.stdout[-500:]}{done.stderr[-500:]}")
    succeeded, failed = int(counts[4]), int(counts[5]) + int(counts[6])
    errors = f"{failed} failed" if failed else ""
    right = int(data[1]) // call.answer_bytes if call.answer_bytes else succeeded
    if succeeded > right:  # an error is an answer without a message
        errors = ", ".join(filter(None, [errors, f"{succeeded - right} answers without a message"]))
        failed, succeeded = failed + succeeded - right, right
    at = lambda share: took[min(len(took) - 1, int(share * len(took)))] / 1e3 if took else math.nan
    seconds = float(took_all[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[took_all[2]]
    return Load(succeeded, failed, seconds, at(0.5), at(0.99), at(0.999), errors)

"""Answers in time when more comes than can be done: 1.2 times the capacity, requests of mixed length, 50 ms."""

import json
import subprocess

import numpy as np

import measure
import peers as all_peers
import zoo
from harness import figure, median, ratio, table

MODEL, WIDTH = "tokens", 64
# Lengths of the requests, and how wide the model is. Of the first, a run costs what its positions do, and a batch
# saves little; of the second it costs what reading the weights does, and a batch is nearly free.
MIXES = {"8 to 128": ((8, 128), 512), "1 to 16": ((1, 16), 1024)}
OBJECTIVE_MS, OVERLOAD = 50, 1.2
# Gaps between arrivals: their standard deviation as a share of their mean. 1 is Poisson.
ARRIVALS = {"poisson": 1, "bursty": 4}
# What an operator with this objective sets, and what comes of leaving it at its default.
POLICIES = {
    "timeout": "dynamic_batching { default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 40000 } }\n",
    "default": "dynamic_batching { }\n",
}


def bench_command(server, lengths, seconds, *load):
    """Our own generator over REST with binary tensors: it is the one that keeps an open loop."""
    done = subprocess.run(
        [str(all_peers.Mizzen.binary), "bench", MODEL, "-u", server.http, "-p", "rest-binary", "--shape",
         f"x:{lengths[0]}..{lengths[1]},{WIDTH}", "--duration", str(seconds), "--warmup", "1", "-o", "json", *map(str, load)],
        capture_output=True, text=True)
    if not done.stdout.startswith("["):
        raise RuntimeError(f"`mizzen bench` gave no figures: {done.stderr[-500:]}")
    return json.loads(done.stdout)[0]


def run(bench):
    result = {"capacity": {}, "rounds": []}
    for mix, (lengths, hidden) in MIXES.items():
        for policy, scheduler in POLICIES.items():
            measure_mix(bench, result, mix, lengths, hidden, policy, scheduler)
    return result


def measure_mix(bench, result, mix, lengths, hidden, policy, scheduler):
    takers = bench.those("Mizzen", "Triton")
    repository = bench.scratch / f"goodput-{hidden}-{policy}"
    zoo.place(repository, MODEL, zoo.tokens(WIDTH, hidden), f"max_batch_size: 16\n{scheduler}")
    x = np.random.default_rng(0).random((1, lengths[1], WIDTH), np.float32)
    expected = zoo.session(repository, MODEL).run(["y"], {"x": x})[0]
    with bench.started(takers, repository, MODEL) as servers:
        bench.ready(takers, servers, ["rest-binary"], MODEL, x, expected)
        if mix not in result["capacity"]:
            result["capacity"][mix] = {
                name: median([bench_command(server, lengths, 2, "-c", 32)["requests_per_second"]
                              for _ in range(1 if bench.quick else 3)])
                for name, server in servers.items()}
        rate = OVERLOAD * max(result["capacity"][mix].values())
        for turn in range(bench.rounds):
            for arrivals, cv in ARRIVALS.items():
                for name, server in servers.items():
                    before = server.cpu()
                    seen = bench_command(server, lengths, 2 * bench.seconds, "--rate", f"{rate:.0f}", "--cv", cv,
                                         "--connections", 512, "--objective", OBJECTIVE_MS, "--seed", turn + 1,
                                         "--timeout", 5)
                    result["rounds"].append({
                        "server": name, "lengths": mix, "policy": policy, "arrivals": arrivals, "rate": rate,
                        "server_cpu_seconds": measure.cpu_between(before, server.cpu()), **seen})
                    bench.say(f"goodput, lengths {mix}, {policy}, {arrivals}, {name}: {seen['goodput_per_second']:.0f} of "
                              f"{rate:.0f} requests/s in time, p99 {seen['latency_ms']['p99']:.0f} ms")


def markdown(result):
    groups = {}
    for turn in result["rounds"]:
        groups.setdefault((turn["lengths"], turn["policy"], turn["arrivals"], turn["server"]), []).append(turn)
    rows = []
    for (mix, policy, arrivals, name), turns in groups.items():
        ours = groups.get((mix, policy, arrivals, "Mizzen"), [])
        good = lambda of: [t["goodput_per_second"] for t in of]
        rows.append([f"{name}, lengths {mix}, {arrivals}, queue policy: {policy}", figure(turns[0]["rate"]), figure(median(good(turns))),
                     figure(100 * (median([g / turns[0]["rate"] for g in good(turns)]) or 0)),
                     figure(median([t["latency_ms"]["p50"] for t in turns]), 1),
                     figure(median([t["latency_ms"]["p99"] for t in turns]), 1),
                     figure(median([t["failed"] for t in turns])), figure(ratio(good(ours), good(turns)), 2)])
    capacity = "; ".join(f"lengths {mix}: " + ", ".join(f"{name} {rate:.0f}/s" for name, rate in rates.items())
                         for mix, rates in result["capacity"].items())
    return (f"Capacity in a closed loop: {capacity}. Offered: {OVERLOAD} times the larger. An answer counts if it comes within "
            f"{OBJECTIVE_MS} ms of when its request was due. Lengths are drawn uniformly; bursty "
            f"arrivals have gaps with a coefficient of variation of {ARRIVALS['bursty']}. Latencies are of what was answered.\n\n"
            + table(["", "offered/s", "in time/s", "% in time", "p50 ms", "p99 ms", "refused or failed", "Mizzen ÷ it"], rows))

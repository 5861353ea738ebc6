"""What a server costs by itself: a model that takes microseconds, every protocol, few and many requests at once."""

import numpy as np

import calls
import zoo
from harness import figure, median, ratio, table

MODEL = "tiny"
CONCURRENCY = (1, 16, 64)


def run(bench):
    repository = bench.scratch / "overhead"
    zoo.place(repository, MODEL, zoo.perceptron([16, 64, 10]), "max_batch_size: 64\n")
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)
    expected = zoo.session(repository, MODEL).run(["y"], {"x": x})[0]
    steady = [peer for peer in bench.peers if peer.idles]
    cells = {}

    def measure_in_turn(takers):
        with bench.started(takers, repository, MODEL) as servers:
            ready = bench.ready(takers, servers, calls.V2_PROTOCOLS, MODEL, x, expected)
            for turn in range(bench.rounds):
                for protocol in calls.V2_PROTOCOLS:
                    for concurrency in CONCURRENCY[1:2] if bench.quick else CONCURRENCY:
                        for peer in takers:
                            # The others are far enough apart to be seen in every second round.
                            if turn % 2 and peer.name not in ("Mizzen", "Triton"):
                                continue
                            call = ready.get((peer.name, protocol))
                            report = call and bench.load(servers[peer.name], call, concurrency, what="overhead")
                            if report:
                                cells.setdefault((peer.name, protocol, concurrency), []).append(report.figures())

    measure_in_turn(steady)
    for peer in bench.peers:
        if not peer.idles:
            measure_in_turn([peer])
    return {"cells": [{"server": s, "protocol": p, "concurrency": c, "rounds": rounds,
                       **{name: median([r[name] for r in rounds]) for name in
                          ("requests_per_second", "server_cpu_us_per_request", "requests_per_cpu_second", "p50", "p99",
                           "p99_9", "server_rss_mib")},
                       "failed": sum(r["failed"] for r in rounds)}
                      for (s, p, c), rounds in cells.items()]}


def markdown(result):
    cells = {(c["server"], c["protocol"], c["concurrency"]): c for c in result["cells"]}
    rows = []
    for cell in result["cells"]:
        ours = cells.get(("Mizzen", cell["protocol"], cell["concurrency"]))
        of = lambda name: [r[name] for r in cell["rounds"]]
        ratios = [ratio([r[name] for r in ours["rounds"]], of(name)) if ours else None
                  for name in ("requests_per_second", "requests_per_cpu_second")]
        rows.append([cell["server"], cell["protocol"], cell["concurrency"], figure(cell["requests_per_second"]),
                     figure(cell["server_cpu_us_per_request"]), figure(cell["p50"], 2), figure(cell["p99"], 2),
                     figure(cell["p99_9"], 2), figure(cell["server_rss_mib"]), cell["failed"],
                     figure(ratios[0], 2), figure(ratios[1], 2)])
    order = {"grpc": 0, "rest-binary": 1, "rest-json": 2}
    rows.sort(key=lambda row: (order[row[1]], row[2], row[0] != "Mizzen"))
    head = ["server", "protocol", "at once", "requests/s", "server CPU µs", "p50 ms", "p99 ms", "p99.9 ms", "MiB",
            "failed", "Mizzen ÷ it, requests/s", "Mizzen ÷ it, requests/CPU-s"]
    return ("A perceptron of 16-64-10, one row a request. CPU is the server's, of all its processes, for each answer.\n\n"
            + table(head, rows))

"""Much JSON: one image of 3x224x224 numbers a request, about 3 MB of text, to a model that computes next to nothing."""

import numpy as np

import zoo
from harness import figure, median, ratio, table

MODEL = "image"
CONCURRENCY = 4


def run(bench):
    repository = bench.scratch / "image_json"
    zoo.place(repository, MODEL, zoo.mean_of_image(), "max_batch_size: 8\n")
    x = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    expected = zoo.session(repository, MODEL).run(["y"], {"x": x})[0]
    peers = [peer for peer in bench.peers if peer.idles and "rest-json" in peer.protocols]
    rounds, size = {}, 0
    with bench.started(peers, repository, MODEL) as servers:
        ready = bench.ready(peers, servers, ["rest-json"], MODEL, x, expected)
        for _ in range(bench.rounds):
            for peer in peers:
                if (call := ready.get((peer.name, "rest-json"))) is None:
                    continue
                size = len(call.body)
                if report := bench.load(servers[peer.name], call, CONCURRENCY, what="image_json"):
                    rounds.setdefault(peer.name, []).append(report.figures())
    return {"concurrency": CONCURRENCY, "body_bytes": size, "rounds": rounds}


def markdown(result):
    ours, rows = result["rounds"].get("Mizzen", []), []
    for name, rounds in result["rounds"].items():
        of = lambda key, of_whom=rounds: [r[key] for r in of_whom]
        of_cpu = ratio(of("requests_per_cpu_second", ours), of("requests_per_cpu_second"))
        rows.append([name, figure(median(of("requests_per_second")), 1),
                     figure((median(of("server_cpu_us_per_request")) or 0) / 1e3, 1), figure(median(of("p50")), 1),
                     figure(median(of("p99")), 1), figure(median(of("server_rss_mib"))), sum(of("failed")),
                     figure(of_cpu, 2)])
    return (f"{result['body_bytes'] / 1e6:.1f} MB of JSON a request, {result['concurrency']} requests at once.\n\n" + table(
        ["server", "requests/s", "server CPU ms", "p50 ms", "p99 ms", "MiB", "failed", "Mizzen ÷ it, requests/CPU-s"], rows))

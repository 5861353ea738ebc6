"""Milliseconds for one suggestion after many trials of ten parameters, ours: the least and the median of several.

`python benches/tuning/latency.py tpe gp auto`
"""

import random
import statistics
import sys

import peers
import problems


def main(samplers, lengths=(100, 1000, 5000)):
    rng = random.Random(0)
    real = [problems.double(f"x{i}", 1e-5, 1, log=i % 2 == 0) for i in range(10)]
    mixed = real[:6] + [problems.integer("n", 1, 200), problems.integer("m", 8, 1024, log=True),
                        problems.discrete("batch", [16, 32, 64, 128]), problems.categorical("kind", ["a", "b", "c"])]
    for label, space in (("10 doubles", real), ("10 mixed", mixed)):
        for length in lengths:
            history = []
            for i in range(length):
                # Half of the trials lie around one point, as in a search that has begun to converge.
                near = i % 2 == 1
                point = {}
                for p in space:
                    kind = p["parameterType"]
                    if kind in ("discrete", "categorical"):
                        point[p["name"]] = rng.choice(p["feasibleSpace"]["list"])
                    else:
                        low, high, log = peers.bounds(p)
                        u = 0.3 + 0.05 * rng.gauss(0, 1) if near else rng.random()
                        u = min(max(u, 0.0), 1.0)
                        value = low * (high / low) ** u if log else low + u * (high - low)
                        point[p["name"]] = str(min(max(round(value), int(low)), int(high)) if kind == "int" else
                                               min(max(value, low), high))
                value = sum((float(v) - 0.2) ** 2 for v in point.values() if v.replace(".", "").isdigit())
                history.append([point, value])
            for sampler in samplers:
                asker = peers.Ours(sampler, space, 1, history)
                times = [asker.call({"ask": 1})["seconds"] * 1e3 for _ in range(5)]
                print(f"{label}, {length} trials, {sampler}: {min(times):.2f} ms, median {statistics.median(times):.2f}",
                      flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

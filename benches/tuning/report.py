"""Ranks and normalised regrets with intervals, from the file of runs.

Normalised regret is a sampler's regret divided by the median regret of single points drawn at random, so 1 is not to
have searched. Where the optimum is not known it is the best value that any run has seen. `of random` is the geometric
mean of the regret divided by that of random search on the same problem, with a floor of 1e-12, which is about a
double's precision of these functions. Intervals are 95 %, by bootstrap over problems.
"""

import collections
import json
import pathlib

import numpy as np

FLOOR = 1e-12


def read(path):
    path = pathlib.Path(path)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key(run):
    return tuple(run[k] for k in ("suite", "problem", "sampler", "seed", "budget", "parallel"))


def interval(values, statistic):
    rng = np.random.default_rng(0)
    values = np.asarray(values)
    means = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(2000)]
    return statistic(values), *np.percentile(means, [2.5, 97.5])


def report(args):
    at = args.at or args.budget
    runs = [r for r in read(args.runs) if r["suite"] == args.suite and r["budget"] >= at]
    best_seen = collections.defaultdict(lambda: np.inf)
    for r in runs:
        best_seen[r["problem"]] = min(best_seen[r["problem"]], min(r["regret"]))
    unknown = args.suite == "sklearn"
    ends, random, medians, cost = (collections.defaultdict(list) for _ in range(4))
    for r in runs:
        shift = best_seen[r["problem"]] if unknown else 0.0
        regret = r["regret"][at - 1] - shift
        if r["sampler"] == "random":
            random[r["problem"]].append(regret)
            medians[r["problem"]].append(r["median"] - shift)
        if r["parallel"] == args.parallel:
            ends[r["sampler"], r["problem"]].append(regret)
            cost[r["sampler"]].append(r["seconds"] / r["budget"])
    chosen = args.samplers or sorted({s for s, _ in ends})
    shared = [p for p in sorted({p for _, p in ends}) if random[p] and all((s, p) in ends for s in chosen)]
    scale = {p: np.median(medians[p]) for p in shared}
    by_chance = {p: np.mean(np.log(np.maximum(np.divide(random[p], scale[p]), FLOOR))) for p in shared}
    # One number a problem: over seeds, the mean for means and the mean logarithm for geometric means.
    normalised = {s: np.array([np.mean(np.divide(ends[s, p], scale[p])) for p in shared]) for s in chosen}
    logs = {s: np.array([np.mean(np.log(np.maximum(np.divide(ends[s, p], scale[p]), FLOOR))) - by_chance[p] for p in shared])
            for s in chosen}
    ranks = {s: [] for s in chosen}
    for p in shared:
        for seed in range(min(len(ends[s, p]) for s in chosen)):
            values = np.array([ends[s, p][seed] for s in chosen])
            for s, v in zip(chosen, values):
                ranks[s].append(1 + np.sum(values < v) + (np.sum(values == v) - 1) / 2)
    seeds = min((len(ends[s, p]) for s in chosen for p in shared), default=0)
    lines = [f"{args.suite}: {len(shared)} problems, {seeds} seeds, {at} evaluations, {args.parallel} at once", "",
             "| sampler | mean rank | mean normalised regret | of random | ms a suggestion |", "|---|---|---|---|---|"]
    figures = {"suite": args.suite, "problems": len(shared), "seeds": seeds, "evaluations": at,
               "parallel": args.parallel, "samplers": {}}
    for s in sorted(chosen, key=lambda s: np.mean(logs[s]) if shared else 0):
        rank, mean = interval(ranks[s], np.mean), interval(normalised[s], np.mean)
        geometric = interval(logs[s], lambda v: np.exp(np.mean(v)))
        ms = np.mean(cost[s]) * 1e3
        show = lambda v: f"{v[0]:.3g} ({v[1]:.3g} to {v[2]:.3g})"
        lines.append(f"| {s} | {show(rank)} | {show(mean)} | {show(geometric)} | {ms:.3g} |")
        figures["samplers"][s] = {"mean_rank": rank, "mean_regret": mean, "of_random": geometric,
                                  "ms_a_suggestion": ms}
    if args.each:
        lines += ["", "ln(regret / random) by problem", "problem " + " ".join(f"{s:>16.16}" for s in chosen)]
        groups = collections.defaultdict(list)
        for i, p in enumerate(shared):
            groups[p[:9] if p.startswith("bbob") and "mixint" not in p else p].append(i)
        for group, members in groups.items():
            lines.append(f"{group[:26]:26} " + " ".join(f"{np.mean(logs[s][members]):16.2f}" for s in chosen))
    return "\n".join(lines), figures

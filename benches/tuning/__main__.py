"""Runs samplers, ours and peers, over suites of problems, and reports ranks and regrets.

`python benches/tuning run bbob-d5 auto nevergrad-NGOpt --budget 100` appends one line a search to benches/tuning's
scratch file (--runs) and skips what is there already, so that a run may be cut and continued;
`python benches/tuning report bbob-d5 --budget 100` reads it, prints the tables and, with --save, writes
benches/results. README.md says how to install the peers.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "serving")]

import measure  # noqa: E402
import peers  # noqa: E402
import problems  # noqa: E402
import report  # noqa: E402


def search(problem, sampler, seed, budget, parallel):
    """One search: the regret of the best point after each evaluation, seconds spent deciding, and the median value."""
    asker = peers.make(sampler, problem.space, seed, budget, parallel)
    rng = np.random.default_rng(seed)
    best, told_best, trace, values = float("inf"), float("inf"), [], []
    while len(trace) < budget:
        points = asker.ask(min(parallel, budget - len(trace)))
        for point in points:
            value = problem.objective(point)
            told = value + problem.noise * rng.normal()
            # With noise, a search ends with the point that looked best, whatever it is.
            if told < told_best:
                best, told_best = value, told
            trace.append(best - (problem.optimum or 0.0))
            values.append(value)
            asker.tell(point, told)
    return trace, asker.seconds, float(np.median(values)) - (problem.optimum or 0.0)


def run(args):
    done = {report.key(r) for r in report.read(args.runs)}
    found = problems.suite(args.suite)
    if args.only:
        found = [p for p in found if any(word in p.name for word in args.only.split(","))]
    began = time.monotonic()
    for seed in range(args.seed, args.seed + args.seeds):
        for problem in found:
            for sampler in args.samplers:
                record = {"suite": args.suite, "problem": problem.name, "sampler": sampler, "seed": seed,
                          "budget": args.budget, "parallel": args.parallel}
                if report.key(record) in done:
                    continue
                if time.monotonic() - began > args.seconds:
                    sys.exit(f"stopped after {args.seconds} s; run it again to go on")
                record["regret"], record["seconds"], record["median"] = search(
                    problem, sampler, seed, args.budget, args.parallel)
                with open(args.runs, "a") as file:
                    file.write(json.dumps(record) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "report"])
    parser.add_argument("suite", help=problems.suite.__doc__)
    parser.add_argument("samplers", nargs="*", help="ours by name (`gp:acquisition=ucb` with settings), or a peer's")
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--parallel", type=int, default=1, help="points asked for at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", help="problems whose name holds one of these, by commas")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop before the next search after this long")
    parser.add_argument("--runs", default=str(HERE / "runs.jsonl"))
    parser.add_argument("--at", type=int, help="report after this many evaluations")
    parser.add_argument("--each", action="store_true", help="report each function as well")
    parser.add_argument("--save", action="store_true", help="write the report to benches/results")
    args = parser.parse_args()
    if args.action == "run":
        run(args)
        return
    text, figures = report.report(args)
    print(text)
    if args.save:
        root = HERE.parents[1]
        machine = measure.machine(root, " ".join(["python benches/tuning", *sys.argv[1:]]))
        batches = f"-{args.parallel}-parallel" if args.parallel > 1 else ""
        name = f"{machine['date']}-{machine['commit']}-tuning-{args.suite}-{args.at or args.budget}{batches}"
        (root / f"benches/results/{name}.json").write_text(json.dumps({"machine": machine, **figures}, indent=1) + "\n")
        print(f"written to benches/results/{name}.json")


main()

"""Measures Mizzen beside other servers on this machine: `python benches/serving [SCENARIO…] [--quick]`.

Everyone gets the same models, the same ONNX Runtime with one thread, and the same load tool in the same run; servers
are loaded in turn, round by round, and figures are medians over rounds. The results name machine, commit and command
and go to benches/results; docs/guides/bench.md tells more.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import traceback

import harness
import measure
import peers
import scenarios

ROOT = pathlib.Path(__file__).resolve().parents[2]

parser = argparse.ArgumentParser(prog="python benches/serving", description=__doc__)
parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(scenarios.ALL)}; all where absent")
parser.add_argument("--peers", default=",".join(peer.name for peer in peers.ALL), help="who takes part [%(default)s]")
parser.add_argument("--mizzen", type=pathlib.Path, help="our binary [target/release/mizzen]")
parser.add_argument("--seconds", type=float, default=3, help="length of each load [%(default)s]")
parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured, in turn [%(default)s]")
parser.add_argument("--quick", action="store_true", help="a minute that shows that it all works; not for figures")
parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches/results", help="folder of the results")
args = parser.parse_args()


def main():
    chosen = args.scenarios or list(scenarios.ALL)
    wanted = {name.strip().lower() for name in args.peers.split(",")}
    if args.mizzen:
        peers.Mizzen.binary = args.mizzen.resolve()
    say = lambda text: print(text, file=sys.stderr, flush=True)
    here, missing = harness.prepared([peer() for peer in peers.ALL if peer.name.lower() in wanted], say)
    machine = measure.machine(ROOT, "python benches/serving " + " ".join(sys.argv[1:]))
    result = {"machine": machine, "peers": [peer.describe() for peer in here], "unavailable": missing}
    args.out.mkdir(parents=True, exist_ok=True)
    suffix = "-" + "-".join(args.scenarios) if args.scenarios else ""
    stem = args.out / f"{machine['date']}-{machine['commit']}-serving{suffix}{'-quick' if args.quick else ''}"
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="mizzen-peers-") as scratch:
            bench = harness.Bench(here, missing, pathlib.Path(scratch), 1 if args.quick else args.seconds,
                                  1 if args.quick else args.rounds, args.quick)
            load = os.getloadavg()[0]
            try:
                result[name] = {"load_before": load, "result": scenarios.ALL[name].run(bench)}
            except Exception:  # the other scenarios go on, and the results say that this one did not
                traceback.print_exc()
                missing[f"the scenario {name}"] = traceback.format_exc().strip().splitlines()[-1]
        # After each scenario, so that what was measured stays if a later one fails.
        stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        stem.with_suffix(".md").write_text(markdown(result, [n for n in chosen if n in result]))
    print(stem.with_suffix(".md").read_text())
    say(f"written to {stem}.json and .md")


def markdown(result, measured):
    """The results for people."""
    machine = result["machine"]
    text = [f"# Mizzen beside other servers, {machine['date']}", ""]
    if args.quick:
        text += ["Quick mode: these figures show only that the harness works.", ""]
    loads = ", ".join(f"{name} {result[name]['load_before']:.1f}" for name in measured)
    text += [f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}; commit "
             f"{machine['commit']}{'' if machine['clean'] else ' with changes'}; `{machine['command']}`. Load average before each "
             f"scenario: {loads}.", "", "; ".join(result["peers"]) + ".", ""]
    left_out = [f"- Left out: {name}: {why.splitlines()[0][:200]}" for name, why in result["unavailable"].items()]
    text += [*left_out, ""] if left_out else []
    for name in measured:
        text += [f"## {name.replace('_', ' ').capitalize()}", "", scenarios.ALL[name].markdown(result[name]["result"]), ""]
    return "\n".join(text)

main()

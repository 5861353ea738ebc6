"""Moves from Triton to Mizzen: `python benches/serving/migration`.

Starts Triton on a repository, runs `client.py`, stops it, starts Mizzen on the same repository with the same flags and
runs the same script; prints what both said, and where it differs. `--flags` prints the table of flags that
docs/guides/migrating-from-triton.md holds; `--check` says whether the guide's table is still the one.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import install  # noqa: E402
import peers  # noqa: E402
from differential import repository  # noqa: E402
from migration import notes  # noqa: E402

GUIDE = HERE.parents[2] / "docs/guides/migrating-from-triton.md"
FLAGS = ["--model-control-mode=explicit", "--load-model=*", "--exit-on-error=false", "--strict-readiness=false",
         "--exit-timeout-secs=5", "--log-verbose=0"]

parser = argparse.ArgumentParser(prog="python benches/serving/migration", description=__doc__)
parser.add_argument("--mizzen", type=pathlib.Path, help="our binary [target/release/mizzen]")
parser.add_argument("--flags", action="store_true", help="print the table of flags")
parser.add_argument("--check", action="store_true", help="fail if the guide's table of flags is not the one that holds")
args = parser.parse_args()


def flags_of(command):
    """The flags that a program's help names."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    return re.findall(r"^ *(?:-\w, )?--([a-z0-9-]+)", done.stdout + done.stderr, re.M)


def taken(flag):
    """Whether our binary takes a flag that its help does not name; the port is wrong, so that it starts nothing."""
    done = subprocess.run([peers.Mizzen.binary, "serve", f"--{flag}", "1", "--http-port", "x"], capture_output=True, text=True)
    return "unexpected argument" not in done.stderr


def table(triton):
    """Triton's flags and what becomes of them, from both programs' own words."""
    ours = flags_of([peers.Mizzen.binary, "serve", "--help"])
    ours += re.findall(r"alias: --([a-z0-9-]+)", subprocess.run(
        [peers.Mizzen.binary, "serve", "--help"], capture_output=True, text=True).stdout)
    rows = []
    for flag in dict.fromkeys(flags_of([triton.home / "bin/tritonserver", "--help"])):
        if flag == "help":
            continue
        how = "same" if flag in ours else "warns" if taken(flag) else "refused"
        rows.append(f"| `--{flag}` | {how} | {notes.FLAGS.get(flag, '')} |")
    return "\n".join(["| Triton's flag | here | |", "|---|---|---|", *rows])


def main():
    if args.mizzen:
        peers.Mizzen.binary = args.mizzen.resolve()
    both = [peers.Triton(), peers.Mizzen()]
    try:
        for peer in both:
            peer.prepare()
    except install.Unavailable as error:
        sys.exit(f"{peer.name} cannot be had here: {error}")
    if args.flags or args.check:
        made = table(both[0])
        if args.flags:
            print(made)
        stale = args.check and made not in GUIDE.read_text()
        sys.exit(f"the table of flags in {GUIDE.name} is not the one that holds; --flags prints that" if stale else 0)
    said = []
    for peer in both:
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            repository.make(scratch / "models")
            server = peer.start(scratch / "models", scratch, flags=FLAGS)
            done = subprocess.run([sys.executable, HERE / "client.py", server.http, server.grpc], capture_output=True, text=True)
            server.stop()
            said.append((done.stdout + done.stderr).splitlines())
    for theirs, ours in zip(*said):
        print(f"  {theirs}" if theirs == ours else f"T {theirs}\nM {ours}")
    sys.exit(f"the script went different ways: {[s[-3:] for s in said]}" if len(said[0]) != len(said[1]) else 0)


main()

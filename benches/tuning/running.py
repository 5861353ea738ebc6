"""How fast trials are run, and at what cost: Mizzen beside Optuna and Ray Tune, in turn, in one run.

The trial does nothing and is a process of its own everywhere: `sh`, which makes a file named by its point (so that
the trials that really ran are counted, and the first is timed) and prints the objective. All search at random, two
trials at once, and stop after as many trials. Optuna runs as its documentation has it for processes: one worker
process for each trial at once, over a journal file and over SQLite. Ray Tune runs a function that starts the process,
with actors reused, which is the fastest that it offers.

    python3 benches/tuning/running.py                  # 200 trials, three rounds, the release binary
    python3 benches/tuning/running.py --trials 20 --rounds 1 --mizzen target/debug/mizzen

Peers are fetched once into virtual environments of their own (see benches/serving/install.py).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "benches/serving")]

import install  # noqa: E402
import measure  # noqa: E402

OPTUNA = ["optuna==5.0.0", "SQLAlchemy==2.0.49"]
RAY = ["ray[tune]==2.56.1"]

# What every peer's trial runs; Mizzen's has it as its command.
TRIAL = ': > "$STARTS/$X"; echo "loss=$X"'

RUN_TRIAL = """
import os, subprocess
def trial(x):
    done = subprocess.run(["sh", "-c", os.environ["TRIAL"]], env={**os.environ, "X": repr(x)}, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().removeprefix("loss="))
"""

OPTUNA_WORKER = RUN_TRIAL + """
import sys
import optuna
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
optuna.logging.set_verbosity(optuna.logging.WARNING)
kind, where, trials = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "journal":
    from optuna.storages.journal import JournalFileBackend
    storage = optuna.storages.JournalStorage(JournalFileBackend(where))
else:
    storage = optuna.storages.RDBStorage(f"sqlite:///{where}", engine_kwargs={"connect_args": {"timeout": 60}})
study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True, sampler=optuna.samplers.RandomSampler())
if len(sys.argv) > 4:  # makes the tables, before the workers meet there
    sys.exit()
# A worker begins no trial once as many are done or under way.
enough = MaxTrialsCallback(trials, states=(TrialState.COMPLETE, TrialState.RUNNING))
study.optimize(lambda t: trial(t.suggest_float("x", -1, 1)), callbacks=[enough])
"""

RAY_TUNE = RUN_TRIAL + """
import sys
import ray
from ray import tune
where, trials, parallel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ray.init(num_cpus=parallel, include_dashboard=False, log_to_driver=False, _temp_dir=where + "/t")
tune.Tuner(
    lambda config: {"loss": trial(config["x"])},
    param_space={"x": tune.uniform(-1, 1)},
    tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=parallel, metric="loss", mode="min", reuse_actors=True),
    run_config=tune.RunConfig(storage_path=where + "/results", verbose=0),
).fit()
"""


class Memory(threading.Thread):
    """The most memory that all processes with a mark in their environment have had together, each page counted once."""

    def __init__(self, mark):
        super().__init__(daemon=True)
        self.mark, self.most, self.done = mark.encode(), 0, threading.Event()

    def run(self):
        while not self.done.wait(0.1):
            self.most = max(self.most, sum(map(self.of, pathlib.Path("/proc").glob("[0-9]*"))))

    def of(self, process):
        try:
            if self.mark not in (process / "environ").read_bytes():
                return 0
            pss = next(line for line in (process / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
            return int(pss.split()[1]) * 1024
        except (OSError, StopIteration):
            return 0


def mizzen(scratch, env, args):
    sys.path.insert(0, str(ROOT / "tests"))
    spec = {
        "objective": {"type": "minimize", "objectiveMetricName": "loss"}, "algorithm": {"algorithmName": "random"},
        "maxTrialCount": args.trials, "parallelTrialCount": args.parallel, "maxFailedTrialCount": 0,
        "parameters": [{"name": "x", "parameterType": "double", "feasibleSpace": {"min": "-1", "max": "1"}}],
        "trialTemplate": {
            "primaryContainerName": "main", "trialParameters": [{"name": "x", "reference": "x"}],
            "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": {"backoffLimit": 0, "template": {"spec": {
                "restartPolicy": "Never", "containers": [{
                    "name": "main", "image": "none", "command": ["sh", "-c", TRIAL],
                    "env": [{"name": "X", "value": "${trialParameters.x}"}, {"name": "STARTS", "value": env["STARTS"]},
                            {"name": "MARK", "value": env["MARK"]}]}]}}}}}}
    file = scratch / "experiment.json"
    experiment = {"apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": {"name": "bench"}, "spec": spec}
    file.write_text(json.dumps(experiment))
    return [[args.mizzen, "tune", str(file), "--data-dir", str(scratch / "data")]], 1


def optuna(kind):
    def commands(scratch, env, args):
        worker = [str(install.venv("optuna-running", *OPTUNA)), "-c", OPTUNA_WORKER, kind, str(scratch / "store"), str(args.trials)]
        return [[*worker, "make"], worker], args.parallel
    return commands


def ray(scratch, env, args):
    # A socket's path must be short, and Ray makes long ones.
    return [[str(install.venv("ray-running", *RAY)), "-c", RAY_TUNE, str(scratch), str(args.trials), str(args.parallel)]], 1


RUNNERS = {"mizzen": mizzen, "optuna-journal": optuna("journal"), "optuna-sqlite": optuna("sqlite"), "ray-tune": ray}


def measured(name, args):
    """One run of one of them: trials a second over all of it, the time to the first trial, and memory."""
    with tempfile.TemporaryDirectory(prefix="b", ignore_cleanup_errors=True) as scratch:
        scratch = pathlib.Path(scratch)
        starts, mark = scratch / "starts", uuid.uuid4().hex
        starts.mkdir()
        env = {**os.environ, "MARK": mark, "STARTS": str(starts), "TRIAL": TRIAL, "OMP_NUM_THREADS": "1",
               "RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
        commands, copies = RUNNERS[name](scratch, env, args)
        memory = Memory(mark)
        memory.start()
        began = time.time()
        for command in commands[:-1]:
            subprocess.run(command, env=env, check=True, capture_output=True)
        log = open(scratch / "log", "wb")
        running = [subprocess.Popen(commands[-1], env=env, stdout=log, stderr=log) for _ in range(copies)]
        codes = [process.wait() for process in running]
        took = time.time() - began
        memory.done.set()
        memory.join()
        times = sorted(file.stat().st_mtime_ns / 1e9 for file in starts.iterdir())
        if any(codes) or not args.trials <= len(times) < args.trials + args.parallel:
            words = (scratch / "log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{name} ran {len(times)} of {args.trials} trials and ended with {codes}: {words}")
        return {"trials": len(times), "seconds": took, "trials_per_second": len(times) / took,
                "steady_trials_per_second": (len(times) - 1) / max(times[-1] - times[0], 1e-9),
                "first_trial_seconds": times[0] - began, "memory_bytes": memory.most, "load": os.getloadavg()[0]}


COLUMNS = [("trials/s", "trials_per_second", "{:.1f}"), ("trials/s after the first", "steady_trials_per_second", "{:.1f}"),
           ("first trial, s", "first_trial_seconds", "{:.2f}"), ("memory, MiB", "memory_bytes", "{:.0f}")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runners", nargs="*", choices=[*RUNNERS, []], help=f"of {', '.join(RUNNERS)}; all where absent")
    parser.add_argument("--mizzen", default=str(ROOT / "target/release/mizzen"))
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write benches/results as well")
    args = parser.parse_args()
    args.mizzen = str(pathlib.Path(args.mizzen).resolve())
    names, runs, away = args.runners or list(RUNNERS), {}, {}
    for turn in range(args.rounds):
        for name in names[turn % len(names):] + names[:turn % len(names)]:  # none is always the first
            try:
                if name not in away:
                    runs.setdefault(name, []).append(measured(name, args))
            except install.Unavailable as why:
                away[name] = str(why)
                print(f"{name}: {why}", file=sys.stderr)
    middle = {name: {key: statistics.median(run[key] for run in of) for _, key, _ in COLUMNS} for name, of in runs.items()}
    print(f"| {args.trials} trials, {args.parallel} at once |" + "".join(f" {head} |" for head, _, _ in COLUMNS))
    print("|---|" + "---|" * len(COLUMNS))
    for name, of in middle.items():
        scale = {"memory_bytes": 2**20}
        cells = []
        for _, key, form in COLUMNS:
            text = form.format(of[key] / scale.get(key, 1))
            if name != "mizzen" and "mizzen" in middle:
                ours, theirs = middle["mizzen"][key], of[key]
                better = ours / theirs if key.endswith("_per_second") else theirs / ours
                text += f" (ours is {better:.1f} times better)" if better >= 1 else f" (ours is {1 / better:.1f} times worse)"
            cells.append(text)
        print(f"| {name} |" + "".join(f" {cell} |" for cell in cells))
    if args.save:
        result = {"machine": measure.machine(ROOT, " ".join(["python benches/tuning/running.py", *sys.argv[1:]])),
                  "trials": args.trials, "parallel": args.parallel, "runs": runs, "unavailable": away}
        stamp = "-".join([result["machine"]["date"], result["machine"]["commit"], "tuning-running"])
        (ROOT / "benches/results" / f"{stamp}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""`mizzen tune` killed without warning, at moments nobody chose.

`MIZZEN_KILLS=200 pytest tests/test_tune_kills.py` kills as often as that; the seed is printed and can be set with
`MIZZEN_SEED`.
"""

import collections
import os
import random
import signal
import sqlite3
import subprocess
import time

import pytest
import yaml
from conftest import ENVIRONMENT, MIZZEN
from test_cluster import experiment_spec

KILLS = int(os.environ.get("MIZZEN_KILLS", 6))
SEED = int(os.environ.get("MIZZEN_SEED", random.randrange(1 << 32)))
TRIALS = 12


class Search:
    """One experiment in a data directory of its own, whose trials leave a line in a file when they run."""

    def __init__(self, folder, algorithm, parallel):
        folder.mkdir()
        self.ran, self.data = folder / "ran", folder / "data"
        spec = experiment_spec(
            "e", ["sh", "-c", f'echo "$KATIB_TRIAL_NAME" >> {self.ran}; echo "loss=$X"'], algorithm, TRIALS, parallel)
        spec["spec"]["algorithm"]["algorithmSettings"] = [{"name": "random_state", "value": "7"}]
        self.file = folder / "experiment.yaml"
        self.file.write_text(yaml.safe_dump(spec))

    def start(self):
        return subprocess.Popen(
            [MIZZEN, "tune", self.file, "-o", "json"], env={**ENVIRONMENT, "MIZZEN_DATA_DIR": str(self.data)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)

    def trials(self):
        """What became of each trial, by its index: state, parameter and objective; and the names of all."""
        with sqlite3.connect(self.data / "mizzen.db") as db:
            rows = db.execute("SELECT json FROM api_objects WHERE resource = 'trials.kubeflow.org'").fetchall()
        found, names = {}, []
        for (text,) in rows:
            trial = yaml.safe_load(text)
            index = int(trial["metadata"]["labels"]["mizzen.dev/trial-index"])
            assert index not in found, f"two trials have index {index}"
            found[index] = (
                trial["status"]["conditions"][-1]["type"], trial["spec"]["parameterAssignments"],
                trial["status"]["observation"]["metrics"])
            names.append(trial["metadata"]["name"])
        return found, names


def finish(search):
    process = search.start()
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words.decode()


@pytest.mark.parametrize("algorithm, parallel", [("random", 3), ("tpe", 1)])
def test_kills_at_any_moment_lose_nothing_and_repeat_nothing(tmp_path, algorithm, parallel):
    """Goal: an experiment that is killed again and again ends as one that was left alone: the same trials, each run
    once. Method: kill at random moments of what an undisturbed run takes, start again, compare."""
    whole = Search(tmp_path / "whole", algorithm, parallel)
    began = time.monotonic()
    finish(whole)
    took = time.monotonic() - began
    expected, _ = whole.trials()
    assert sorted(expected) == list(range(TRIALS))

    print(f"MIZZEN_SEED={SEED}")
    draw, kills, searches = random.Random(SEED), 0, 0
    while kills < KILLS:
        search = Search(tmp_path / str(searches), algorithm, parallel)
        searches += 1
        while kills < KILLS:
            process = search.start()
            try:
                process.wait(draw.uniform(0, took))
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
            finally:
                process.stderr.close()
        finish(search)
        found, names = search.trials()
        assert found == expected, f"after {kills} kills"
        ran = collections.Counter(search.ran.read_text().split())
        assert ran == collections.Counter(names), f"after {kills} kills, a trial ran twice or never"

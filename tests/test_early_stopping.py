"""Early stopping: hopeless trials are ended while they run, seen from the outside."""

import json
import os
import pathlib

import pytest
import yaml
from conftest import ROOT
from test_cluster import experiment_spec

CONFORMANCE = pathlib.Path(os.environ.get("MIZZEN_CONFORMANCE_DIR", ROOT / "../shared/conformance")) / "katib"

# The first trials are good and end; those after them are bad and would go on for a minute.
TRIALS = r"""
mktemp {0}/XXXXXX > /dev/null; n=$(ls {0} | wc -l)
if [ $n -le 3 ]; then for i in 1 2 3 4 5; do {1} $((10 - i)); done; exit; fi
for i in $(seq 600); do {1} 100; sleep 0.1; done
"""


def script(tmp_path, report):
    marks = tmp_path / "marks"
    marks.mkdir()
    return ["sh", "-c", TRIALS.replace("{0}", str(marks)).replace("{1}", report)]


def tune(tmp_path, mizzen, experiment, *flags, check=True):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    return mizzen("tune", file, *flags, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=check)


@pytest.mark.parametrize("shows, collector", [
    ("stdout", None),
    ("a file", {"collector": {"kind": "File"}, "source": {"fileSystemPath": {"path": "/katib/m.log"}}}),
])
def test_a_hopeless_trial_is_stopped_and_shown(tmp_path, mizzen, shows, collector):
    command = script(tmp_path, "say")
    sink = "" if collector is None else " >> /katib/m.log"
    command[2] = f"say() {{ echo loss=$1{sink}; }}\n" + command[2]
    experiment = experiment_spec("e", command, trials=5, parallel=1)
    experiment["spec"]["earlyStopping"] = {"algorithmName": "medianstop"}
    if collector:
        experiment["spec"]["metricsCollectorSpec"] = collector
    done = tune(tmp_path, mizzen, experiment)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    states = [row[1] for row in rows]
    assert sorted(states) == ["EarlyStopped"] * 2 + ["Succeeded"] * 3, (shows, done.stdout, done.stderr)
    assert [row[2] for row in rows] == ["5", "5", "5", "100", "100"], shows
    assert done.stderr.count("EarlyStopped") == 2


@pytest.mark.parametrize("shows, rule, words", [
    ("a value out of range", {"algorithmName": "medianstop", "algorithmSettings": [{"name": "start_step", "value": "0"}]},
     ["earlyStopping", "start_step", "`0`", "from 1"]),
    ("another's setting", {"algorithmName": "asha", "algorithmSettings": [{"name": "start_step", "value": "4"}]},
     ["earlyStopping", "start_step", "r_min"]),
    ("a setting that is missing", {"algorithmName": "hyperband"}, ["earlyStopping", "r_l"]),
    ("no such rule", {"algorithmName": "wilcoxon"}, ["wilcoxon", "asha, hyperband, medianstop"]),
])
def test_settings_are_refused_by_name(tmp_path, mizzen, shows, rule, words):
    experiment = experiment_spec("e", ["true"])
    experiment["spec"]["earlyStopping"] = rule
    done = tune(tmp_path, mizzen, experiment, check=False)
    assert done.returncode == 2, shows
    for word in words:
        assert word in done.stderr, (shows, done.stderr)


def test_katibs_own_example_runs_with_a_stub_in_place_of_the_image(tmp_path, mizzen):
    path = CONFORMANCE / "early-stopping/median-stop.yaml"
    if not path.exists():
        pytest.skip("Katib's examples are not here")
    experiment = yaml.safe_load(path.read_text())
    experiment["metadata"].pop("namespace")
    experiment["spec"].update(maxTrialCount=4, parallelTrialCount=1)
    container = experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    container["command"] = script(tmp_path, "say")
    container["command"][2] = "say() { echo loss=$1; }\n" + container["command"][2]
    # The template's parameters have to occur in it.
    container["args"] = ["${trialParameters.learningRate}", "${trialParameters.momentum}"]
    result = json.loads(tune(tmp_path, mizzen, experiment, "-o", "json").stdout)
    assert result["trials"] == 4 and result["trialsSucceeded"] == 3, result

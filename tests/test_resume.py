"""Experiments that go on: a raised budget by policy, a goal that stops what runs, searches that go in rounds, and
services of the user's own that come and go."""

import json
import os
import pathlib
import subprocess

import pytest
import yaml
from conftest import ENVIRONMENT, KUBECTL, ROOT, Server, until, up
from test_cluster import experiment_spec

LOSS = ["sh", "-c", 'echo "loss=$X"']
EXAMPLES = pathlib.Path(os.environ.get("MIZZEN_CONFORMANCE_DIR", ROOT.parent / "shared/conformance")) / "katib/resume-experiment"


def call(server, *command, input=None, check=True):
    done = subprocess.run([KUBECTL, "--server", f"http://{server.at['api']}", *command], input=input,
                          capture_output=True, text=True, timeout=90, env=ENVIRONMENT)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def get(server, kind, name):
    return json.loads(call(server, "get", kind, name, "-o", "json").stdout)


def trials(server, experiment):
    found = call(server, "get", "trials", "-l", f"katib.kubeflow.org/experiment={experiment}", "-o", "json").stdout
    return sorted(json.loads(found)["items"], key=lambda t: int(t["metadata"]["labels"]["mizzen.dev/trial-index"]))


def apply(server, experiment):
    call(server, "apply", "-f", "-", input=json.dumps(experiment))


def ended(server, name, **counts):
    def look():
        status = get(server, "experiment", name).get("status", {})
        over = any(c["type"] in ("Succeeded", "Failed") and c["status"] == "True" for c in status.get("conditions", []))
        return over and all(status.get(k) == v for k, v in counts.items()) and status
    return until(look)


def value(trial, name="x"):
    return next(a["value"] for a in trial["spec"]["parameterAssignments"] if a["name"] == name)


@pytest.mark.parametrize("policy, file", [("LongRunning", "long-running-resume.yaml"), ("FromVolume", "from-volume-resume.yaml")])
def test_katibs_examples_of_resuming_go_on_when_their_budget_is_raised(up_server, policy, file):
    """Goal: what Katib's two examples are for. Method: the files themselves where they are at hand, else one like
    them; their image's program stands in for one that prints a loss."""
    if (EXAMPLES / file).exists():
        experiment = yaml.safe_load((EXAMPLES / file).read_text())
    else:
        experiment = experiment_spec("example", LOSS, trials=12, parallel=3)
        experiment["spec"].update(resumePolicy=policy, parameters=[
            {"name": n, "parameterType": "double", "feasibleSpace": {"min": "0.01", "max": "0.9"}} for n in ("lr", "momentum")])
    assert experiment["spec"]["resumePolicy"] == policy
    name = experiment["metadata"]["name"]
    experiment["metadata"]["namespace"] = "default"
    template = experiment["spec"]["trialTemplate"]
    container = template["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    template["trialParameters"] = [{"name": "lr", "reference": "lr"}, {"name": "momentum", "reference": "momentum"}]
    container.pop("env", None)
    container["command"] = ["sh", "-c", "echo loss=${trialParameters.lr} # ${trialParameters.momentum}"]
    experiment["spec"]["objective"].pop("goal", None)
    apply(up_server, experiment)
    first = ended(up_server, name, trials=12)
    names = [t["metadata"]["name"] for t in trials(up_server, name)]
    call(up_server, "patch", "experiment", name, "--type=merge", "-p", '{"spec": {"maxTrialCount": 14}}')
    again = ended(up_server, name, trialsSucceeded=14)
    after = trials(up_server, name)
    assert [t["metadata"]["name"] for t in after][:12] == names, "what was done stays done"
    assert len({value(t, "lr") for t in after}) == 14
    assert float(again["currentOptimalTrial"]["bestObjective"]) <= float(first["currentOptimalTrial"]["bestObjective"])
    lower = call(up_server, "patch", "experiment", name, "--type=merge", "-p", '{"spec": {"maxTrialCount": 13}}', check=False)
    assert lower.returncode != 0 and "maxTrialCount" in lower.stderr


def test_a_resumed_experiment_survives_a_crash(tmp_path):
    experiment = experiment_spec("e", LOSS, trials=3)
    experiment["spec"]["resumePolicy"] = "LongRunning"
    data = tmp_path / "data"
    with up(data) as server:
        apply(server, experiment)
        ended(server, "e", trials=3)
        call(server, "patch", "experiment", "e", "--type=merge", "-p", '{"spec": {"maxTrialCount": 6}}')
        server.kill()
    with up(data) as server:
        ended(server, "e", trialsSucceeded=6)
        assert len(trials(server, "e")) == 6


def test_a_goal_stops_the_trials_that_run(up_server):
    experiment = experiment_spec("e", ["sh", "-c", 'if [ "$X" = 1 ]; then echo loss=0; else echo loss=1; sleep 600; fi'], trials=9, parallel=3)
    experiment["spec"]["objective"]["goal"] = 0.5
    experiment["spec"]["algorithm"] = {"algorithmName": "grid"}
    experiment["spec"]["parameters"] = [{"name": "x", "parameterType": "categorical", "feasibleSpace": {"list": ["1", "2", "3"]}}]
    apply(up_server, experiment)
    status = ended(up_server, "e")
    assert status["conditions"][-1]["reason"] == "ExperimentGoalReached"
    until(lambda: not any(t.get("status", {}).get("conditions", [{}])[-1].get("type") == "Running" for t in trials(up_server, "e")))
    until(lambda: json.loads(call(up_server, "get", "pods", "-o", "json").stdout)["items"] == [])


def rounds(name, algorithm, settings, parameters, command, trials, parallel):
    experiment = experiment_spec(name, command, trials=trials, parallel=parallel)
    experiment["spec"]["algorithm"] = {
        "algorithmName": algorithm,
        "algorithmSettings": [{"name": k, "value": v} for k, v in settings.items()]}
    experiment["spec"]["parameters"] = parameters
    template = experiment["spec"]["trialTemplate"]
    template["trialParameters"] = [{"name": p["name"], "reference": p["name"]} for p in parameters]
    container = template["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": p["name"].upper(), "value": "${trialParameters." + p["name"] + "}"} for p in parameters]
    return experiment


def double(name, min_="0", max_="1"):
    return {"name": name, "parameterType": "double", "feasibleSpace": {"min": min_, "max": max_}}


def test_hyperband_goes_on_with_the_best_and_bears_a_trial_that_fails(up_server):
    """Brackets of 9, 3 and 1, of 5 and 1, and of 3 trials; one of the first rung fails: it is the worst there."""
    command = ["sh", "-c", 'if [ "$EPOCHS" = 1 ] && [ ! -e $ONCE ]; then : > $ONCE; exit 3; fi; echo "loss=$X"']
    experiment = rounds(
        "e", "hyperband", {"r_l": "9", "resource_name": "epochs", "eta": "3"},
        [double("x"), {"name": "epochs", "parameterType": "int", "feasibleSpace": {"min": "1", "max": "9"}}],
        command, trials=22, parallel=9)
    container = experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "ONCE", "value": str(pathlib.Path(up_server.log.name).with_suffix(".once"))})
    experiment["spec"]["maxFailedTrialCount"] = 3
    apply(up_server, experiment)
    ended(up_server, "e", trialsFailed=1)
    rung = {n: {value(t): t for t in trials(up_server, "e") if value(t, "epochs") == n} for n in ("1", "3", "9")}
    first = trials(up_server, "e")[:9]
    assert {value(t, "epochs") for t in first} == {"1"}
    failed = [value(t) for t in first if t["status"]["conditions"][-1]["type"] == "Failed"]
    good = sorted((v for v in map(value, first) if v not in failed), key=float)
    assert set(good[:3]) <= set(rung["3"]) and good[0] in rung["9"] and not set(failed) & set(rung["3"])


def test_a_population_goes_on_from_checkpoints(up_server):
    """Each trial adds a line to what its parent left: a member of generation n finds n of them."""
    command = ["sh", "-c", 'cat /ckpt/lines 2>/dev/null | wc -l | sed s/^/before=/; echo "$KATIB_TRIAL_NAME" >> /ckpt/lines; echo "loss=$X"; cat /ckpt/lines | sed s/^/line:/']
    experiment = rounds(
        "e", "pbt", {"suggestion_trial_dir": "/ckpt", "n_population": "5", "truncation_threshold": "0.4"},
        [double("x")], command, trials=15, parallel=5)
    experiment["spec"]["objective"]["additionalMetricNames"] = ["before"]
    experiment["spec"]["resumePolicy"] = "FromVolume"
    apply(up_server, experiment)
    ended(up_server, "e", trialsSucceeded=15)
    by_name = {t["metadata"]["name"]: t for t in trials(up_server, "e")}
    label = "pbt.suggestion.katib.kubeflow.org/"
    generations = []
    for trial in by_name.values():
        generation = int(trial["metadata"]["labels"][label + "generation"])
        generations.append(generation)
        metrics = {m["name"]: m["latest"] for m in trial["status"]["observation"]["metrics"]}
        assert int(metrics["before"]) == generation, "what the parents left is there"
        parent = trial["metadata"]["labels"].get(label + "parent")
        assert (parent is None) == (generation == 0)
        if parent:
            assert int(by_name[parent]["metadata"]["labels"][label + "generation"]) == generation - 1
    assert sorted(generations) == [0] * 5 + [1] * 5 + [2] * 5
    losses = [min(float(value(t)) for t in by_name.values() if t["metadata"]["labels"][label + "generation"] == str(g)) for g in range(3)]
    assert losses[0] >= losses[2], "the best of a population is kept"


def test_an_algorithm_that_is_a_service_may_come_late_and_go(tmp_path):
    """Goal: an experiment whose algorithm is the user's own service waits for it, says so, and loses nothing. Method:
    ours stands in for the user's; it is started late, stopped in the middle, and started again at the same port."""
    first = Server("suggest", "--port", 0, data_dir=tmp_path / "first")
    address = first.at["suggestion"]
    port = address.rsplit(":", 1)[1]
    first.stop()
    gate = tmp_path / "gate"
    experiment = experiment_spec("e", ["sh", "-c", f'echo "loss=$X"; while [ ! -e {gate} ]; do sleep 0.05; done'], trials=6, parallel=2)
    experiment["spec"]["algorithm"] = {"algorithmName": "tpe"}

    def waiting(server):
        conditions = get(server, "experiment", "e").get("status", {}).get("conditions", [{}])
        return conditions[-1].get("reason") == "SuggestionUnavailable" and conditions[-1]["message"]

    with up(tmp_path / "data", "--suggestion", f"tpe={address}") as server:
        apply(server, experiment)
        assert address in until(lambda: waiting(server))
        second = Server("suggest", "--port", port, data_dir=tmp_path / "second")
        until(lambda: len(trials(server, "e")) == 2)
        second.stop()
        gate.touch()
        until(lambda: waiting(server))
        assert get(server, "experiment", "e")["status"]["trialsSucceeded"] == 2
        third = Server("suggest", "--port", port, data_dir=tmp_path / "third")
        try:
            ended(server, "e", trialsSucceeded=6)
        finally:
            third.stop()
        assert len({value(t) for t in trials(server, "e")}) == 6
        experiment["metadata"]["name"] = "refused"
        experiment["spec"]["algorithm"]["algorithmSettings"] = [{"name": "gama", "value": "1"}]
        third = Server("suggest", "--port", port, data_dir=tmp_path / "fourth")
        try:
            apply(server, experiment)
            assert "`gamma`" in ended(server, "refused")["conditions"][-1]["message"]
        finally:
            third.stop()


def test_tune_says_how_auto_chose(tmp_path, mizzen):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment_spec("e", LOSS, algorithm="auto", trials=9, parallel=1)))
    told = mizzen("tune", file, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}).stderr
    last = next(line for line in told.splitlines() if line.startswith("`auto` suggested last by: "))
    assert "design" in last or "process" in last, last


@pytest.mark.parametrize("flag, words", [
    ("mine", ["NAME=HOST:PORT"]), ("mine=nowhere", ["nowhere", "host:port"]), ("mine=https://a:1", ["https://a:1"]),
])
def test_a_service_that_is_no_address_is_refused_at_start(mizzen, tmp_path, flag, words):
    done = mizzen("up", "--port-base", 0, "--suggestion", flag, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=False)
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr

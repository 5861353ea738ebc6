"""`mizzen tune` and `mizzen run`: with no server, with one, cut off in the middle, and with bad input."""

import json
import re
import signal
import subprocess
import sys

import pytest
import yaml
from conftest import ENVIRONMENT, KUBECTL, MIZZEN, ROOT, up
from test_cluster import experiment_spec, shell_pipeline

LOSS = ["sh", "-c", 'echo "loss=$X"']


def test_tune_needs_no_server_and_finds_the_best(tmp_path, mizzen):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment_spec("e", LOSS, trials=6)))
    data = {"MIZZEN_DATA_DIR": str(tmp_path / "data")}
    done = mizzen("tune", file, "-o", "json", env=data)
    result = json.loads(done.stdout)
    assert result["succeeded"] and result["trialsSucceeded"] == 6
    best = result["currentOptimalTrial"]
    assert float(best["observation"]["metrics"][0]["min"]) == float(best["parameterAssignments"][0]["value"])
    assert done.stderr.count("Succeeded") >= 6, "each trial's end is one line"
    again = json.loads(mizzen("tune", file, "-o", "json", env=data).stdout)
    assert again == result, "an experiment that ended is not run again"


def test_tune_through_a_server_shows_the_same(tmp_path, up_server, mizzen):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment_spec("e", LOSS, algorithm="random")))
    server = f"http://{up_server.at['api']}"
    table = mizzen("tune", file, "--server", server).stdout
    assert table.splitlines()[0].split() == ["TRIAL", "STATUS", "LOSS", "X"]
    assert len(table.splitlines()) == 5
    trials = mizzen("get", "trials", "--server", server).stdout
    assert trials.count("Succeeded") == 4, trials


def test_a_context_of_the_kubeconfig_chooses_the_cluster(tmp_path, up_server, mizzen):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://{up_server.at['api']}"}}],
        "users": [{"name": "u", "user": {}}], "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u"}}]}))
    env = {"KUBECONFIG": str(kubeconfig)}
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment_spec("e", LOSS)))
    assert json.loads(mizzen("tune", file, "--context", "there", "-o", "json", env=env).stdout)["trialsSucceeded"] == 4
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(yaml.safe_dump(shell_pipeline("echo from the cluster")))
    mizzen("run", pipeline, "--context", "there", "--name", "r", env=env)
    assert mizzen("logs", "run/r", "step", "--context", "there", env=env).stdout == "from the cluster\n"
    assert "deleted" in mizzen("delete", "pipelinerun", "r", "--context", "there", env=env).stdout
    wrong = mizzen("get", "trials", "--context", "elsewhere", env=env, check=False)
    assert wrong.returncode == 2 and "elsewhere" in wrong.stderr


@pytest.mark.parametrize("shows, change, words", [
    ("no such algorithm", {"algorithm": {"algorithmName": "tpee"}}, ["tpee", "tpe"]),
    ("no objective", {"objective": None}, ["objective"]),
    ("a template with a hole", {"trialTemplate": {"trialParameters": [{"name": "y", "reference": "x"}]}}, ["y"]),
    ("more at once than in all", {"parallelTrialCount": 9}, ["parallelTrialCount", "9"]),
    ("a field that is not there", {"maxTrailCount": 3}, ["maxTrailCount"]),
])
def test_an_experiment_that_cannot_work_is_refused_in_words(tmp_path, mizzen, shows, change, words):
    experiment = experiment_spec("e", LOSS)
    for key, value in change.items():
        if isinstance(value, dict) and key in experiment["spec"]:
            experiment["spec"][key].update(value)
        elif value is None:
            del experiment["spec"][key]
        else:
            experiment["spec"][key] = value
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    done = mizzen("tune", file, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=False)
    assert done.returncode == 2, (shows, done.returncode, done.stderr)
    for word in words:
        assert word in done.stderr, (shows, done.stderr)


def test_a_trial_whose_command_is_not_there_fails_the_experiment_in_words(tmp_path, mizzen):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment_spec("e", ["no-such-command"])))
    done = mizzen("tune", file, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=False)
    assert done.returncode == 1
    assert "no-such-command" in done.stderr, done.stderr


def test_run_executes_a_pipeline_and_the_second_time_takes_it_from_the_cache(tmp_path, mizzen):
    marker = tmp_path / "ran"
    pipeline = shell_pipeline(f"echo x >> {marker}")
    pipeline["root"]["dag"]["tasks"]["step"]["cachingOptions"] = {"enableCache": True}
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(pipeline))
    data = {"MIZZEN_DATA_DIR": str(tmp_path / "data")}
    for _ in range(2):
        result = json.loads(mizzen("run", file, "-o", "json", env=data).stdout)
        assert result["state"] == "SUCCEEDED"
    assert marker.read_text() == "x\n", "the second run took the step from the cache"
    mizzen("run", file, "--no-cache", env=data)
    assert marker.read_text() == "x\nx\n"


def test_a_failing_step_fails_the_run_with_its_last_words(tmp_path, mizzen):
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(shell_pipeline("echo it went wrong; exit 3")))
    done = mizzen("run", file, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=False)
    assert done.returncode == 1
    assert "step" in done.stderr and "3" in done.stderr and "it went wrong" in done.stderr, done.stderr


@pytest.mark.parametrize("shows, spoil, words", [
    ("no YAML", lambda p: "a: [", []),
    ("an unknown field", lambda p: yaml.safe_dump({**p, "components_1": {}}), ["components_1"]),
    ("a component that is not there", lambda p: yaml.safe_dump(p).replace("name: comp-step", "name: comp-gone"), ["comp-gone"]),
    ("no name", lambda p: yaml.safe_dump({**p, "pipelineInfo": {}}), ["pipelineInfo"]),
])
def test_a_pipeline_that_cannot_work_is_refused_in_words(tmp_path, mizzen, shows, spoil, words):
    file = tmp_path / "pipeline.yaml"
    file.write_text(spoil(shell_pipeline("true")))
    done = mizzen("run", file, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=False)
    assert done.returncode == 2, (shows, done.stderr)
    for word in words + ["pipeline.yaml"]:
        assert word in done.stderr, (shows, done.stderr)


def test_parameters_are_checked_by_name_and_type(tmp_path, mizzen):
    pipeline = shell_pipeline("true")
    pipeline["root"]["inputDefinitions"] = {"parameters": {
        "n": {"parameterType": "NUMBER_INTEGER", "isOptional": True, "defaultValue": 3}}}
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(pipeline))
    data = {"MIZZEN_DATA_DIR": str(tmp_path / "data")}
    for given, words in (("m=1", ["m", "n"]), ("n=many", ["n", "many"]), ("n", ["NAME=VALUE"])):
        done = mizzen("run", file, "-p", given, env=data, check=False)
        assert done.returncode == 2, (given, done.stderr)
        for word in words:
            assert word in done.stderr, (given, done.stderr)
    mizzen("run", file, "-p", "n=4", env=data)


def test_a_killed_server_carries_on_and_counts_nothing_twice(tmp_path):
    """Goal: kill -9 in the middle loses and repeats nothing. Method: every trial and step leaves a line in a
    file; the server is killed once some are there, and started again."""
    ran, steps = tmp_path / "trials", tmp_path / "steps"
    data = tmp_path / "data"
    trial = ["sh", "-c", f'echo "$KATIB_TRIAL_NAME" >> {ran}; sleep 0.5; echo "loss=$X"']
    pipeline = shell_pipeline("")
    tasks = pipeline["root"]["dag"]["tasks"]
    step = tasks.pop("step")
    for number in range(4):
        name = f"step-{number}"
        tasks[name] = {**step, "taskInfo": {"name": name}, "componentRef": {"name": f"comp-{name}"}}
        tasks[name]["dependentTasks"] = [f"step-{number - 1}"] if number else []
        pipeline["components"][f"comp-{name}"] = {"executorLabel": f"exec-{name}"}
        pipeline["deploymentSpec"]["executors"][f"exec-{name}"] = {"container": {
            "image": "alpine", "command": ["sh", "-c"], "args": [f"echo {name} >> {steps}; sleep 0.5"]}}

    def kubectl(server, *command, input=None):
        done = subprocess.run([KUBECTL, "--server", f"http://{server.at['api']}", *command], input=input,
                              capture_output=True, text=True, timeout=90, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with up(data) as server:
        kubectl(server, "apply", "-f", "-", input=json.dumps(experiment_spec("e", trial, trials=8, parallel=2)))
        kubectl(server, "apply", "-f", "-", input=json.dumps({
            "apiVersion": "mizzen.dev/v1alpha1", "kind": "PipelineRun", "metadata": {"name": "r"},
            "spec": {"pipelineSpecYaml": yaml.safe_dump(pipeline)}}))
        # Some work is done and some is under way: the third trial has begun.
        kubectl(server, "wait", "--for=jsonpath={.status.trialsSucceeded}=2", "experiment/e", "--timeout=30s")
        server.kill()
    with up(data) as server:
        kubectl(server, "wait", "--for=jsonpath={.status.state}=SUCCEEDED", "pipelinerun/r", "--timeout=60s")
        kubectl(server, "wait", "--for=condition=Succeeded", "experiment/e", "--timeout=60s")
        status = json.loads(kubectl(server, "get", "experiment", "e", "-o", "json"))["status"]
        trials = json.loads(kubectl(server, "get", "trials", "-o", "json"))["items"]
    assert status["trialsSucceeded"] == 8 and len(trials) == 8
    names = ran.read_text().split()
    assert sorted(names) == sorted({t["metadata"]["name"] for t in trials}), "each trial ran exactly once"
    assert steps.read_text().split() == [f"step-{n}" for n in range(4)], "each step ran exactly once, in order"


def test_interrupting_tune_leaves_nothing_running_and_the_same_command_carries_on(tmp_path):
    ran = tmp_path / "trials"
    file = tmp_path / "experiment.yaml"
    command = ["sh", "-c", f'echo begin >> {ran}; sleep 0.4; echo "loss=$X"']
    file.write_text(yaml.safe_dump(experiment_spec("e", command, trials=6, parallel=2)))
    environment = {**ENVIRONMENT, "MIZZEN_DATA_DIR": str(tmp_path / "data")}
    first = subprocess.Popen([MIZZEN, "tune", str(file)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    for line in first.stderr:
        if "Succeeded" in line:
            break
    first.send_signal(signal.SIGINT)
    words = first.stderr.read()
    assert first.wait(20) == 1 and "carries the experiment on" in words, words
    left = subprocess.run(["pgrep", "-f", f"echo begin >> {ran}"], capture_output=True, text=True).stdout
    assert left == "", "no trial is left running"
    second = subprocess.run([MIZZEN, "tune", str(file), "-o", "json"], capture_output=True, text=True, env=environment, timeout=60)
    assert json.loads(second.stdout)["trialsSucceeded"] == 6, second.stderr


def test_a_data_directory_is_used_by_one_server_and_others_find_it(tmp_path, mizzen):
    data = tmp_path / "data"
    with up(data) as server:
        env = {"MIZZEN_DATA_DIR": str(data)}
        second = mizzen("up", "--port-base", 0, env=env, check=False)
        assert second.returncode == 2 and server.at["api"] in second.stderr, second.stderr
        file = tmp_path / "pipeline.yaml"
        file.write_text(yaml.safe_dump(shell_pipeline("true")))
        mizzen("run", file, "--name", "through", env=env)
        assert "through" in mizzen("get", "pipelineruns", "--server", f"http://{server.at['api']}").stdout


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path, mizzen):
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = mizzen("up", "--port-base", 0, env={"MIZZEN_DATA_DIR": str(blocked / "data")}, check=False)
    assert done.returncode != 0 and str(blocked) in done.stderr and "--data-dir" in done.stderr, done.stderr


def test_the_compiled_pipeline_is_not_stale(tmp_path):
    """The YAML in the repository is what the SDK makes of the Python beside it."""
    source = ROOT / "examples/digits/pipeline.py"
    fresh = tmp_path / "pipeline.py"
    fresh.write_text(source.read_text())
    (tmp_path / "train.py").write_text((source.parent / "train.py").read_text())
    subprocess.run([sys.executable, str(fresh)], check=True, capture_output=True)
    assert (tmp_path / "pipeline.yaml").read_text() == (source.parent / "pipeline.yaml").read_text(), \
        "examples/digits/pipeline.yaml is stale; run `make bless`"


def test_the_digits_journey(tmp_path):
    """The demo itself, with the binary under test: data to served model, and nothing left running."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/digits/demo.py"), "--mizzen", MIZZEN, "--port-base", "0",
         "--data-dir", str(tmp_path / "demo"), "--seconds", "0.5"],
        capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("V2 REST, JSON", "V2 REST, binary", "V2 gRPC"):
        accuracy = float(re.search(rf"{line}\s+([\d.]+)", done.stdout).group(1))
        assert accuracy >= 0.95
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "demo")], capture_output=True, text=True).stdout
    assert left == "", "nothing is left running"

"""Trials and steps that print more than anyone reads: disk and memory stay bounded, metrics stay exact."""

import json
import pathlib
import sys
import urllib.request

import yaml
from conftest import up, until
from test_cluster import experiment_spec

MIB = 1 << 20


def get(server, path):
    with urllib.request.urlopen(f"http://{server.at['api']}{path}", timeout=60) as answer:
        return answer.read().decode()


def objects(server, kind, group="apis/kubeflow.org/v1beta1"):
    return json.loads(get(server, f"/{group}/namespaces/default/{kind}"))["items"]


def ended(server):
    """The one trial of the experiment, once that has ended."""
    over = [e for e in objects(server, "experiments") for c in e.get("status", {}).get("conditions", [])
            if c["type"] in ("Succeeded", "Failed") and c["status"] == "True"]
    return over and objects(server, "trials")[0]


def message(trial):
    return trial["status"]["conditions"][-1]["message"]


def memory(server):
    """The most memory the server has had, in bytes."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def on_disk(data):
    return sum(log.stat().st_blocks * 512 for log in data.glob("pods/**/log"))


# Prints a burst, a value in its middle, and waits until it is told to go on: so the test knows what was read.
BURSTS = r"""
import os, sys, time
directory, bursts, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
line = "x" * 99 + "\n"
print("the first line", flush=True)
for n in range(bursts):
    half = line * (size // 200)
    value = {7: "-5.25", 11: "99.75"}.get(n, f"{n / 1000}")
    os.write(1, (half + f"loss={value}\n" + half).encode())
    open(f"{directory}/up{n}", "w").close()
    while not os.path.exists(f"{directory}/go{n}"):
        time.sleep(0.002)
print("loss=0.5\nthe last line", flush=True)
"""


def test_a_trial_that_prints_hundreds_of_megabytes(tmp_path):
    """Goal: 240 MB of output against a bound of 32 MiB: the disk holds the bound, the memory of the server does not
    grow with the output, values printed in what is gone by the end count, and all are told.
    Method: the trial goes on when its last value is known, as a trial does that prints slower than it is read."""
    bursts, size, bound = 20, 12_000_000, 32 * MIB
    (tmp_path / "bursts.py").write_text(BURSTS)
    command = [sys.executable, str(tmp_path / "bursts.py"), str(tmp_path), str(bursts), str(size)]
    experiment = experiment_spec("much", command, trials=1, parallel=1)
    data = tmp_path / "data"
    with up(data, "--max-log-size", bound) as server:
        before = memory(server)
        create(server, experiment)
        trial = until(lambda: objects(server, "trials"))[0]
        series = f"/tuning/v1/series/{trial['metadata']['uid']}/newest"
        for n in range(bursts):
            until(lambda: (tmp_path / f"up{n}").exists())
            value = {7: "-5.25", 11: "99.75"}.get(n, f"{n / 1000}")
            until(lambda: json.loads(get(server, series))["metrics"].get("loss") == [value])
            until(lambda: on_disk(data) <= bound)
            if n == bursts - 1:
                pod = objects(server, "pods", "api/v1")[0]["metadata"]["name"]
                log = get(server, f"/api/v1/namespaces/default/pods/{pod}/log")
                events = objects(server, "events", "api/v1")
            (tmp_path / f"go{n}").touch()
        trial = until(lambda: ended(server))
        grown = memory(server) - before
    metric = trial["status"]["observation"]["metrics"][0]
    assert (metric["min"], metric["max"], metric["latest"]) == ("-5.25", "99.75", "0.5")
    assert "bytes were dropped" in message(trial) and "its metrics were read before" in message(trial), message(trial)
    assert log.startswith("the first line\n") and len(log) <= bound + 1000
    assert sum(line.startswith("mizzen: ") and "were dropped here" in line for line in log.splitlines()) == 1
    assert any(event["reason"] == "LogCut" for event in events), [event["reason"] for event in events]
    assert grown < 64 * MIB, f"the server grew by {grown / MIB:.0f} MiB"


def test_a_trial_that_prints_nothing_but_values(tmp_path):
    """Goal: of 200,000 values at most ten thousand are kept, and the observation is that of all of them."""
    script = tmp_path / "values.py"
    script.write_text("""
for n in range(200_000):
    print("loss=%s" % {54_321: -7, 123_456: 7}.get(n, (n * 7919 % 1000) / 1000))
print("loss=0.25")
""")
    experiment = experiment_spec("values", [sys.executable, str(script)], trials=1, parallel=1)
    with up(tmp_path / "data") as server:
        before = memory(server)
        create(server, experiment)
        trial = until(lambda: ended(server))
        series = json.loads(get(server, f"/tuning/v1/series/{trial['metadata']['uid']}"))["metrics"]["loss"]
        grown = memory(server) - before
    metric = trial["status"]["observation"]["metrics"][0]
    assert (metric["min"], metric["max"], metric["latest"]) == ("-7", "7", "0.25")
    assert 2_000 <= len(series) <= 10_000 and {"-7", "7"} <= set(series)
    assert (series[0], series[-1]) == ("0.0", "0.25")
    assert grown < 64 * MIB, f"the server grew by {grown / MIB:.0f} MiB"


def test_output_that_nobody_could_read_in_time_is_told(tmp_path, mizzen):
    """Goal: what was dropped before it was searched for metrics is said in the trial's condition, and the trial
    succeeds by what its log still has. Method: 200 MB at once, against the smallest bound."""
    experiment = experiment_spec("fast", ["sh", "-c", "yes some words | head -c 200000000; echo; echo loss=1"], trials=1, parallel=1)
    file = tmp_path / "fast.yaml"
    file.write_text(yaml.safe_dump(experiment))
    with up(tmp_path / "data", "--max-log-size", MIB) as server:
        create(server, experiment)
        trial = until(lambda: ended(server))
    assert trial["status"]["observation"]["metrics"][0]["latest"] == "1"
    assert "of them no metrics were looked for" in message(trial), message(trial)


def create(server, experiment):
    body = json.dumps({**experiment, "metadata": {**experiment["metadata"], "namespace": "default"}}).encode()
    url = f"http://{server.at['api']}/apis/kubeflow.org/v1beta1/namespaces/default/experiments"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).read()


def test_the_bound_is_checked(mizzen):
    done = mizzen("up", "--max-log-size", 1000, check=False)
    assert done.returncode == 2 and "1048576" in done.stderr, done.stderr

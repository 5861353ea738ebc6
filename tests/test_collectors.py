"""A trial's metrics from every source, and trials on bad days: `mizzen tune` with real processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest
import yaml
from conftest import ENVIRONMENT, MIZZEN, ROOT
from test_cluster import experiment_spec

CONFORMANCE = pathlib.Path(os.environ.get("MIZZEN_CONFORMANCE_DIR", ROOT / "../shared/conformance")) / "katib"


def collecting(kind, source, command, **spec):
    experiment = experiment_spec("e", command, trials=2, parallel=2)
    experiment["spec"]["metricsCollectorSpec"] = {"collector": {"kind": kind}, "source": source}
    experiment["spec"].update(spec)
    return experiment


def tune(tmp_path, mizzen, experiment, check=True):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    done = mizzen("tune", file, "-o", "json", env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=check)
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def observed(result):
    best = result["currentOptimalTrial"]
    return float(best["parameterAssignments"][0]["value"]), {m["name"]: m for m in best["observation"]["metrics"]}


def file_at(path, format="TEXT"):
    return {"fileSystemPath": {"path": path, "kind": "File", "format": format}}


# Writes one scalar as TensorFlow does, framed and summed, to a file below the directory given.
EVENTS = r"""
import os, struct, sys
def crc(data):
    c = 0xffffffff
    for byte in data:
        c ^= byte
        for _ in range(8):
            c = (c >> 1) ^ (0x82f63b78 if c & 1 else 0)
    c ^= 0xffffffff
    return struct.pack("<I", (((c >> 15) | (c << 17)) + 0xa282ead8) & 0xffffffff)
def record(data):
    size = struct.pack("<Q", len(data))
    return size + crc(size) + data + crc(data)
def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data
directory, values = sys.argv[1], [float(v) for v in sys.argv[2:]]
os.makedirs(directory, exist_ok=True)
with open(os.path.join(directory, "events.out.tfevents.1.host"), "wb") as f:
    f.write(record(b"\x09" + struct.pack("<d", 1.0) + field(3, b"brain.Event:2")))
    for step, value in enumerate(values):
        summary = field(1, field(1, b"loss") + b"\x15" + struct.pack("<f", value))
        f.write(record(b"\x09" + struct.pack("<d", 2.0 + step) + field(5, summary)))
    f.write(struct.pack("<Q", 99))
"""

# Serves the value until it was fetched three times.
PAGE = r"""
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
left = 3
class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        global left
        left -= 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"# TYPE loss gauge\nloss{rank=\"0\"} " + sys.argv[2].encode() + b"\n")
    def log_message(self, *_): pass
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Page)
while left > 0:
    server.handle_request()
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("shows, kind, source, command", [
    ("a text file", "File", file_at("/var/log/katib/metrics.log"),
     ["sh", "-c", 'echo "loss=9" >> /var/log/katib/metrics.log; echo "epoch 1 loss=$X" >> /var/log/katib/metrics.log']),
    ("a JSON file: numbers, texts and a broken line", "File", file_at("/katib/m.json", "JSON"),
     ["sh", "-c", """f=/katib/m.json; echo '{"loss": "9"}' > $f; echo '{"loss' >> $f; echo "{\\"loss\\": $X}" >> $f"""]),
    ("a filter", "File", {**file_at("/katib/m.log"), "filter": {"metricsFormat": [r"\{metricName: ([\w|-]+), metricValue: ((-?\d+)(\.\d+)?)\}"]}},
     ["sh", "-c", 'echo "{metricName: loss, metricValue: $X}" > /katib/m.log']),
])
def test_files_are_read(tmp_path, mizzen, shows, kind, source, command):
    result, _ = tune(tmp_path, mizzen, collecting(kind, source, command))
    x, metrics = observed(result)
    assert result["trialsSucceeded"] == 2, shows
    assert float(metrics["loss"]["min"]) == pytest.approx(x), shows
    assert not pathlib.Path("/katib").exists(), "the path is the trial's alone"


def test_event_files_are_read_as_tensorflow_writes_them(tmp_path, mizzen):
    script = tmp_path / "write.py"
    script.write_text(EVENTS)
    source = {"fileSystemPath": {"path": "/var/log/katib/tfevent/", "kind": "Directory"}}
    command = ["sh", "-c", f"{sys.executable} {script} /var/log/katib/tfevent/train 9 $X"]
    result, _ = tune(tmp_path, mizzen, collecting("TensorFlowEvent", source, command))
    x, metrics = observed(result)
    assert float(metrics["loss"]["latest"]) == pytest.approx(x, rel=1e-6) and float(metrics["loss"]["max"]) == 9


def test_a_page_is_read_while_it_is_served(tmp_path, mizzen):
    port, script = free_port(), tmp_path / "serve.py"
    script.write_text(PAGE)
    experiment = collecting("PrometheusMetric", {"httpGet": {"port": port, "path": "/metrics"}},
                            ["sh", "-c", f"{sys.executable} {script} {port} $X"])
    experiment["spec"].update(parallelTrialCount=1)
    result, _ = tune(tmp_path, mizzen, experiment)
    x, metrics = observed(result)
    assert float(metrics["loss"]["latest"]) == x and result["trialsSucceeded"] == 2


def test_a_trial_without_the_metric_is_told_where_to_put_it(tmp_path, mizzen):
    experiment = collecting("File", file_at("/katib/m.json", "JSON"), ["true"], maxFailedTrialCount=0)
    _, words = tune(tmp_path, mizzen, experiment, check=False)
    assert "/katib/m.json" in words and "loss" in words, words


def test_a_trial_without_a_command_says_so(tmp_path, mizzen):
    experiment = collecting("File", file_at("/katib/m.json", "JSON"), ["true"], maxFailedTrialCount=0)
    del experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]["command"]
    _, words = tune(tmp_path, mizzen, experiment, check=False)
    assert "has no `command`" in words and "set `command`" in words, words


@pytest.mark.parametrize("name", ["file-metrics-collector-with-json-format", "metrics-collection-strategy"])
def test_katibs_own_examples_run_with_a_stub_in_place_of_the_image(tmp_path, mizzen, name):
    path = CONFORMANCE / "metrics-collector" / f"{name}.yaml"
    if not path.exists():
        pytest.skip("Katib's examples are not here")
    experiment = yaml.safe_load(path.read_text())
    experiment["spec"].update(maxTrialCount=2, parallelTrialCount=2)
    experiment["metadata"].pop("namespace")
    container = experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    # What the image does: metrics go to --log-path as JSON, else to stdout.
    stub = r'''
out=
for word in "$@"; do case $word in --log-path=*) out=${word#--log-path=};; --lr=*) lr=${word#--lr=};; esac; done
if [ -n "$out" ]; then for v in 0.1 $lr; do printf '{"accuracy": "%s", "loss": "%s", "timestamp": 1700000000.5}\n' $v $v >> $out; done
else for v in 0.1 $lr; do echo "accuracy=$v loss=$v"; done; fi
'''
    container["command"] = ["sh", "-c", stub, "stub", *container["command"][2:]]
    result, words = tune(tmp_path, mizzen, experiment)
    assert result["trialsSucceeded"] == 2, words
    metrics = observed(result)[1]
    assert set(metrics) == {"accuracy", "loss"} and metrics["accuracy"]["max"] == "0.1"


# --- bad days -------------------------------------------------------------------------------------------


def job(experiment):
    return experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]


@pytest.mark.parametrize("shows, script", [
    ("garbage", r"head -c 4000000 /dev/urandom; printf '\nloss=1\n'"),
    ("a line without an end", r"head -c 30000000 /dev/zero | tr '\0' x; printf '\nloss=1\n'"),
    ("not-a-number first", "echo loss=nan; echo loss=inf; echo loss=; echo loss=1"),
])
def test_whatever_is_printed_the_metric_is_found(tmp_path, mizzen, shows, script):
    result, _ = tune(tmp_path, mizzen, experiment_spec("e", ["sh", "-c", script], trials=1, parallel=1))
    assert observed(result)[1]["loss"]["latest"] == "1", shows


def test_words_in_place_of_numbers_are_no_objective_but_no_failure(tmp_path, mizzen):
    experiment = collecting("File", file_at("/katib/m.json", "JSON"), ["sh", "-c", """echo '{"loss": "low"}' > /katib/m.json"""])
    result, _ = tune(tmp_path, mizzen, experiment)
    assert observed(result)[1]["loss"] == {"name": "loss", "min": "unavailable", "max": "unavailable", "latest": "low"}


def test_a_trial_that_never_ends_is_ended_with_all_it_started(tmp_path, mizzen):
    """Goal: the deadline ends the trial, its children, and one that will not hear of it."""
    marks = tmp_path / "pids"
    # In a container's command `$$` is one dollar.
    script = f"trap '' TERM; (trap '' TERM; sleep 300) & echo $! >> {marks}; echo $$$$ >> {marks}; while :; do sleep 300; done"
    experiment = collecting("File", file_at("/katib/m.log"), ["sh", "-c", script], maxFailedTrialCount=0)
    job(experiment)["activeDeadlineSeconds"] = 2
    job(experiment)["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    experiment["spec"].update(maxTrialCount=1, parallelTrialCount=1)
    _, words = tune(tmp_path, mizzen, experiment, check=False)
    assert "deadline" in words.lower(), words
    pids = [int(pid) for pid in marks.read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        assert not alive(pid), f"{pid} is left"


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("script, status", [("exit 3", 3), ("kill -TERM $$", -15), ("kill -KILL $$", -9), ("kill -SEGV $$", -11)])
def test_the_agent_ends_as_its_command_does(script, status):
    done = subprocess.run([MIZZEN, "agent", "--", "sh", "-c", f"echo out; echo err >&2; {script}"],
                          capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "out\n", "err\n")

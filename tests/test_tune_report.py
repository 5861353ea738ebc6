"""`mizzen tune report`: pages, plots and tables of experiments that went well, badly and strangely."""

import csv
import html.parser
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml
from conftest import up
from test_cluster import experiment_spec

PLOTS = ["history", "parallel", "importance", "slices", "contour", "curves"]


class Page(html.parser.HTMLParser):
    """The tags of a page, its visible text, and what it would load."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.loads, self.plots, self.text, self.data = [], [], [], [], "", ""
        self.feed(text)
        assert not self.open, f"tags are left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.loads += [attrs[name] for name in ("src", "href", "srcset") if attrs.get(name)]
        if "data-plot" in attrs:
            self.plots.append(attrs["data-plot"])
        if tag not in ("meta", "input", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data = self.data or data
        elif self.open and self.open[-1] != "style":
            self.text += data + "\n"


def tune(mizzen, tmp_path, experiment, check=True):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    env = {"MIZZEN_DATA_DIR": str(tmp_path / "data")}
    done = mizzen("tune", file, env=env, check=check)
    return env, done


def rich(trials=12):
    """An experiment over a logarithm, a whole number, a choice and an order, with two metrics that are reported
    more than once."""
    program = ('for i in 1 2 3 4; do echo "loss=$(python3 -c "print(($LR*1000+$UNITS)/$i)")"; echo "accuracy=0.$i"; done; '
               'echo "opt=$OPT" > /dev/null')
    experiment = experiment_spec("rich", ["sh", "-c", program], algorithm="random", trials=trials, parallel=4)
    spec = experiment["spec"]
    spec["objective"]["additionalMetricNames"] = ["accuracy"]
    spec["parameters"] = [
        {"name": "lr", "parameterType": "double", "feasibleSpace": {"min": "0.0001", "max": "0.1", "distribution": "logUniform"}},
        {"name": "units", "parameterType": "int", "feasibleSpace": {"min": "4", "max": "64"}},
        {"name": "opt", "parameterType": "categorical", "feasibleSpace": {"list": ["sgd", "adam", "a <b> & 'c' \"d\""]}},
        {"name": "batch", "parameterType": "discrete", "feasibleSpace": {"list": ["16", "32", "64"]}},
    ]
    template = spec["trialTemplate"]
    names = ["lr", "units", "opt", "batch"]
    template["trialParameters"] = [{"name": name, "reference": name} for name in names]
    container = template["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": name.upper(), "value": "${trialParameters.%s}" % name} for name in names]
    return experiment


def test_a_report_in_every_format(tmp_path, mizzen):
    env, done = tune(mizzen, tmp_path, rich())
    assert "mizzen tune report rich" in done.stderr, "the end says where to look"

    page_file = tmp_path / "rich.html"
    done = mizzen("tune", "report", "rich", "--output", page_file, env=env)
    assert done.stdout == "" and str(page_file) in done.stderr and "12 trials" in done.stderr
    text = page_file.read_text()
    page = Page(text)
    assert sorted(set(page.plots)) == sorted(PLOTS) and len(page.plots) == 12, "each plot, wide and narrow"
    assert page.loads == [] and not re.findall(r"https?://(?!www\.w3\.org/)\S+", text), "nothing is loaded"
    assert "mizzen logs trial/rich-" in page.text and "prefers-color-scheme:dark" in text
    data = json.loads(page.data)
    assert len(data["rows"]) == 12 and sorted(data["ranks"]) == list(range(12))
    assert {row[5] for row in data["rows"]} <= {"sgd", "adam", "a <b> & 'c' \"d\""} and "<b>" not in text

    table = mizzen("tune", "report", "rich", "--format", "csv", env=env).stdout
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 12 and {row["state"] for row in rows} == {"Succeeded"}
    best = min(rows, key=lambda row: float(row["objective"]))
    for row in rows:
        assert float(row["metric.loss.min"]) == float(row["objective"]) <= float(row["metric.loss.max"])
        assert row["metric.accuracy.latest"] == "0.4" and float(row["seconds"]) >= 0 and row["ended"].endswith("Z")
        assert 1e-4 <= float(row["parameter.lr"]) <= 0.1 and row["parameter.batch"] in ("16", "32", "64")

    whole = json.loads(mizzen("tune", "report", "rich", "--format", "json", env=env).stdout)
    assert whole["best"] == best["trial"] and len(whole["trials"]) == 12 and whole["state"] == "Succeeded"
    assert set(whole["importance"]) == {"lr", "units", "opt", "batch"}
    for trial in whole["trials"]:
        series = {s["metric"]: s["values"] for s in trial["series"]}
        assert len(series["loss"]) == 4 and series["accuracy"] == ["0.1", "0.2", "0.3", "0.4"]
        assert trial["value"] == float(trial["objective"])

    plots = tmp_path / "plots"
    mizzen("tune", "report", "rich", "--format", "svg", "-o", plots, env=env)
    assert sorted(f.name for f in plots.iterdir()) == sorted(f"{p}.svg" for p in PLOTS)
    for file in plots.iterdir():
        root = ElementTree.fromstring(file.read_text())
        marks = [e for e in root.iter() if e.tag.endswith(("circle", "path", "rect"))]
        assert root.tag.endswith("svg") and len(marks) > 5, file


def test_plots_as_pictures(tmp_path, mizzen):
    env, _ = tune(mizzen, tmp_path, rich(4))
    pictures = tmp_path / "pictures"
    done = mizzen("tune", "report", "rich", "--format", "png", "-o", pictures, env=env, check=False)
    if done.returncode != 0:
        assert "no font" in done.stderr and "--font" in done.stderr, done.stderr
        pytest.skip("this machine has no font")
    for plot in PLOTS:
        data = (pictures / f"{plot}.png").read_bytes()
        width, height = (int.from_bytes(data[at:at + 4], "big") for at in (16, 20))
        assert data.startswith(b"\x89PNG") and width == 1600 and height > 100, plot
    (tmp_path / "no.ttf").write_bytes(b"no font")
    done = mizzen("tune", "report", "rich", "--format", "png", "--font", tmp_path / "no.ttf", env=env, check=False)
    assert done.returncode == 2 and "no.ttf" in done.stderr, done.stderr


def test_trials_that_failed_and_values_that_are_no_numbers(tmp_path, mizzen):
    # By the parameter: a failure, NaN, a word, nothing at all, and numbers.
    program = 'case $X in a) exit 3;; b) echo loss=nan;; c) echo "loss=<script>";; d) true;; *) echo "loss=1.5";; esac'
    experiment = experiment_spec("odd", ["sh", "-c", program], algorithm="grid", trials=6, parallel=2)
    spec = experiment["spec"]
    spec["maxFailedTrialCount"] = 6
    values = ["a", "b", "c", "d", "=1+1", "</script><script>alert(1)</script>"]
    spec["parameters"] = [{"name": "x", "parameterType": "categorical", "feasibleSpace": {"list": values}}]
    spec["metricsCollectorSpec"] = {"source": {"filter": {"metricsFormat": [r"(\w+)=(\S+)"]}}}
    env, _ = tune(mizzen, tmp_path, experiment, check=False)
    table = mizzen("tune", "report", "odd", "--format", "csv", env=env).stdout
    rows = {row["parameter.x"]: row for row in csv.DictReader(io.StringIO(table))}
    assert rows["a"]["state"] == "Failed" and rows["d"]["state"] == "MetricsUnavailable"
    assert rows["c"]["objective"] == "<script>" and "'=1+1" in rows, "a formula is text"
    assert rows["'=1+1"]["objective"] == "1.5"
    file = tmp_path / "odd.html"
    mizzen("tune", "report", "odd", "-o", file, env=env)
    text = file.read_text()
    page = Page(text)
    assert text.count("<script") == 2 and "alert(1)</script>" not in text, "what users wrote is text"
    assert values[5] in page.text and set(page.plots) == set(PLOTS)
    for plot_dir in ("svg",):
        mizzen("tune", "report", "odd", "--format", plot_dir, "-o", tmp_path / plot_dir, env=env)
        for svg in (tmp_path / plot_dir).iterdir():
            ElementTree.fromstring(svg.read_text())
    json.loads(mizzen("tune", "report", "odd", "--format", "json", env=env).stdout)


def test_while_an_experiment_runs_through_its_server(tmp_path, mizzen):
    gate = tmp_path / "gate"
    experiment = experiment_spec("slow", ["sh", "-c", f"echo loss=3; echo loss=2; while [ ! -e {gate} ]; do sleep 0.1; done"])
    with up(tmp_path / "data") as server:
        address = f"http://{server.at['api']}"
        file = tmp_path / "experiment.json"
        file.write_text(json.dumps(experiment))
        import subprocess
        from conftest import ENVIRONMENT, MIZZEN, until
        tuning = subprocess.Popen([MIZZEN, "tune", str(file), "--server", address], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)

        def report():
            done = mizzen("tune", "report", "slow", "--server", address, "--format", "json", check=False)
            return json.loads(done.stdout) if done.returncode == 0 else None
        running = until(lambda: (r := report()) and [t for t in r["trials"] if t["state"] == "Running" and "series" in t] and r)
        assert running["best"] is None and running["state"] == "Running"
        page = tmp_path / "slow.html"
        mizzen("tune", "report", "slow", "-o", page, env={"MIZZEN_DATA_DIR": str(tmp_path / "data")})
        assert "no trial has ended" in Page(page.read_text()).text, "the data directory's server is asked"
        gate.touch()
        out, err = tuning.communicate(timeout=60)
        assert tuning.returncode == 0, err
        assert f"mizzen tune report slow --server {address}" in err
        curves = report()["trials"][0]["series"][0]
        assert curves == {"metric": "loss", "values": ["3", "2"]}


def test_what_is_not_there_is_said(tmp_path, mizzen):
    env = {"MIZZEN_DATA_DIR": str(tmp_path / "none")}
    done = mizzen("tune", "report", "x", env=env, check=False)
    assert done.returncode == 3 and "--data-dir" in done.stderr, done.stderr
    assert not (tmp_path / "none").exists(), "looking makes nothing"
    env, _ = tune(mizzen, tmp_path, experiment_spec("e", ["sh", "-c", "echo loss=1"]))
    done = mizzen("tune", "report", "other", env=env, check=False)
    assert done.returncode == 3 and "other" in done.stderr, done.stderr
    done = mizzen("tune", "report", "e", "--format", "svg", "-o", "-", env=env, check=False)
    assert done.returncode == 2 and "--output" in done.stderr, done.stderr
    done = mizzen("tune", "report", "e", "-o", tmp_path / "no" / "such" / "dir.html", env=env, check=False)
    assert done.returncode != 0 and "dir.html" in done.stderr, done.stderr
    done = mizzen("tune", env=env, check=False)
    assert done.returncode == 2 and "FILE" in done.stderr, done.stderr


def test_the_end_shows_the_best_twenty(tmp_path, mizzen):
    _, done = tune(mizzen, tmp_path, experiment_spec("many", ["sh", "-c", 'echo "loss=$X"'], algorithm="sobol", trials=24, parallel=8))
    lines = done.stdout.splitlines()
    assert len(lines) == 21 and "4 more trials" in done.stderr
    values = [float(line.split()[2]) for line in lines[1:]]
    assert values == sorted(values)

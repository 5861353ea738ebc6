"""The chart's dashboards, alerts and monitor: what they ask for is what a server shows."""

import json
import re
import subprocess

import models
import numpy as np
import tritonclient.http as triton_http
import yaml
from conftest import ENVIRONMENT, HELM, ROOT
from test_metrics import named, text

CHART = ROOT / "charts/mizzen"
ON = [part for name in ("dashboards", "podMonitor", "alerts") for part in ("--set", f"monitoring.{name}.enabled=true")]
NAMES = re.compile(r"\b(?:nv|mizzen|process|request)_[a-z0-9_]+\b")
ALERTS = {"MizzenRequestsFail", "MizzenQueueGrows", "MizzenLatencyOverObjective", "MizzenRequestsShed",
          "MizzenModelNotReady", "MizzenRestarts"}


def helm(*command):
    done = subprocess.run([HELM, *map(str, command)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rendered(*flags):
    objects = yaml.safe_load_all(helm("template", "m", CHART, *flags))
    return {(o["kind"], o["metadata"]["name"]): o for o in objects if o}


def dashboards():
    config = rendered(*ON)[("ConfigMap", "m-mizzen-dashboards")]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    return {name: json.loads(text) for name, text in config["data"].items()}


def rules(*flags):
    (group,) = rendered(*ON, *flags)[("PrometheusRule", "m-mizzen-serving")]["spec"]["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_monitoring_is_off_until_asked_for_and_renders_then():
    kinds = {kind for kind, _ in rendered()}
    assert not kinds & {"ConfigMap", "PodMonitor", "PrometheusRule"}
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, *ON)
    monitor = rendered(*ON, "--set", "monitoring.podMonitor.labels.release=prom")[("PodMonitor", "m-mizzen-serving")]
    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "15s"}]
    refused = subprocess.run([HELM, "template", "m", CHART, "--set", "monitoring.alerts.errorShare=2"],
                             capture_output=True, text=True, env=ENVIRONMENT)
    assert refused.returncode != 0 and "errorShare" in refused.stderr


def test_alerts_say_what_is_wrong_and_follow_their_values():
    found = rules()
    assert set(found) == ALERTS
    for name, rule in found.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "description"}, name
        assert "{{ $" in rule["annotations"]["summary"], f"{name} does not say which"
        assert rule["expr"].count("(") == rule["expr"].count(")"), name
    changed = rules("--set", "monitoring.alerts.latencyObjectiveMs=20", "--set", "monitoring.alerts.pendingRequests=7")
    assert changed["MizzenLatencyOverObjective"]["expr"].endswith("> 20")
    assert "> 7" in changed["MizzenQueueGrows"]["expr"]


def test_every_name_asked_for_is_one_that_a_server_shows(tmp_path, serve):
    """Goal: no panel is empty and no alert asleep because of a name. Method: the names in all their expressions
    against the page of a server that has answered."""
    models.place(tmp_path / "models", "twice", models.affine(2.0), config="max_batch_size: 8\ndynamic_batching { }\n")
    server = serve(tmp_path / "models", "--metrics-interval-ms", 20)
    client = triton_http.InferenceServerClient(server.at["http"])
    tensor = triton_http.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    shown = set()
    while "nv_cpu_utilization" not in shown:  # which takes two looks
        client.infer("twice", [tensor])
        shown = {name for name, _ in named(text(server))}

    asked = {name: rule["expr"] for name, rule in rules().items()}
    for file, dashboard in dashboards().items():
        assert dashboard["uid"] and len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                asked[f"{file}: {panel['title']} {target['refId']}"] = target["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                asked[f"{file}: ${variable['name']}"] = variable["query"]["query"]
    assert len(asked) > 30
    for where, expression in asked.items():
        names = set(NAMES.findall(expression))
        assert names, f"{where} asks for nothing: {expression}"
        assert names <= shown, f"{where} asks for {names - shown}"

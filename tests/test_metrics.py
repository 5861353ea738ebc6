"""The metrics endpoint as Prometheus reads it, under traffic and under reload."""

import math
import urllib.error
import urllib.request

import models
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

TRITON_COUNTERS = [
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    *(f"nv_inference_{stage}_duration_us" for stage in
      ("request", "queue", "compute_input", "compute_infer", "compute_output")),
]
TRITON_GAUGES = [
    "nv_inference_pending_request_count", "nv_model_load_duration_secs", "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes",
]
TRITON_HISTOGRAMS = [
    f"nv_inference_{stage}_duration_histogram_us" for stage in
    ("request", "queue", "compute_input", "compute_infer", "compute_output")
]


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    models.place(folder, "twice", models.affine(2.0), config="max_batch_size: 8\ndynamic_batching { }\n")
    return folder


def text(server):
    with urllib.request.urlopen(f"http://{server.at['metrics']}/metrics") as response:
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return response.read().decode()


def named(page):
    """Every sample with its name as it stands there: the parser calls every counter `_total`."""
    declared = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            yield (family.name if family.type == "counter" and family.name in declared else sample.name), sample


def scrape(server):
    return {family.name: family for family in text_string_to_metric_families(text(server))}


def samples(server):
    """Every sample by its name and labels."""
    page = text(server)
    return {(name, frozenset(sample.labels.items())): sample.value for name, sample in named(page)}


def value(found, name, **labels):
    return found[(name, frozenset(labels.items()))]


def infer(server, times=1):
    client = triton_http.InferenceServerClient(server.at["http"])
    for _ in range(times):
        tensor = triton_http.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
        assert client.infer("twice", [tensor]).as_numpy("y").tolist() == [[2.0] * 4]


def test_the_exposition_is_clean(repository, serve):
    """Goal: any Prometheus takes the page as it is. Method: its own parser, and the rules that `promtool check
    metrics` and a server have for types, names, help and histograms."""
    server = serve(repository)
    infer(server, 5)
    page = text(server)
    assert page.endswith("\n")
    names = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)), "a family is declared twice"
    helped = {line.split()[2] for line in page.splitlines() if line.startswith("# HELP")}
    assert helped == set(names)
    found = scrape(server)
    for family in found.values():
        assert family.documentation and family.type != "unknown", family.name
        keys = [(s.name, frozenset(s.labels.items())) for s in family.samples]
        assert len(keys) == len(set(keys)), f"{family.name} has a sample twice"
        assert all(not math.isnan(s.value) and s.value >= 0 for s in family.samples), family.name
        if family.type == "histogram":
            check_histogram(family)
    types = {
        line.split()[2]: line.split()[3] for line in page.splitlines() if line.startswith("# TYPE")}
    for name, kind in types.items():
        assert not name.startswith("mizzen_") or name.endswith("_total") == (kind == "counter"), name
    assert [types[n] for n in TRITON_COUNTERS] == ["counter"] * len(TRITON_COUNTERS)
    assert [types[n] for n in TRITON_HISTOGRAMS] == ["histogram"] * len(TRITON_HISTOGRAMS)
    missing = [n for n in TRITON_GAUGES if types.get(n) != "gauge"]
    assert missing in ([], ["nv_cpu_utilization"]), missing  # which takes two looks


def check_histogram(family):
    series = {}
    for sample in family.samples:
        labels = frozenset((k, v) for k, v in sample.labels.items() if k != "le")
        series.setdefault(labels, {"buckets": []})
        kind = sample.name[len(family.name):]
        if kind == "_bucket":
            series[labels]["buckets"].append((float(sample.labels["le"]), sample.value))
        else:
            series[labels][kind] = sample.value
    for one in series.values():
        bounds, counts = zip(*one["buckets"])
        assert list(bounds) == sorted(bounds) and bounds[-1] == math.inf, family.name
        assert list(counts) == sorted(counts) and counts[-1] == one["_count"], family.name


def test_what_is_counted_is_what_happened(repository, serve):
    server = serve(repository)
    infer(server, 3)
    grpc = triton_grpc.InferenceServerClient(server.at["grpc"])
    with pytest.raises(InferenceServerException):
        grpc.infer("absent", [triton_grpc.InferInput("x", [1, 4], "FP32").set_data_from_numpy(
            np.ones((1, 4), np.float32))])
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://{server.at['http']}/v2/models/absent")
    found = samples(server)
    model = {"model": "twice", "version": "1"}
    assert value(found, "nv_inference_request_success", **model) == 3
    assert value(found, "nv_inference_request_duration_histogram_us_count", **model) == 3
    assert value(found, "mizzen_batch_rows_sum", **model) == 3
    assert value(found, "mizzen_batch_rows_bucket", **model, le="1") == 3
    assert value(found, "request_predict_seconds_count", model_name="twice") == 3
    assert value(found, "mizzen_model_ready", model="twice") == 1
    releases = [v for (name, labels), v in found.items() if name == "mizzen_batch_releases_total"]
    assert sum(releases) == 3
    sheds = {dict(labels)["reason"]: v for (name, labels), v in found.items() if name == "mizzen_requests_shed_total"}
    assert len(sheds) >= 2 and not any(sheds.values()), "reasons are there before they occur"
    assert value(found, "mizzen_responses_total", protocol="http", code="404") == 1
    assert value(found, "mizzen_responses_total", protocol="http", code="200") >= 3
    assert value(found, "mizzen_responses_total", protocol="grpc", code="5") == 1
    assert value(found, "mizzen_requests_in_flight", protocol="http") == 0
    assert value(found, "mizzen_connections", protocol="grpc") >= 1
    assert value(found, "process_threads") > 2 and value(found, "process_start_time_seconds") > 1.6e9
    (version,) = [dict(labels)["version"] for (name, labels) in found if name == "mizzen_build_info"]
    assert version.count(".") == 2
    assert "mizzen_trace_spans_total" not in {name for name, _ in found}, "nothing is traced unless asked for"
    grpc.close()


def test_no_counter_falls_when_a_model_is_reloaded(repository, serve):
    """Goal: rates survive reloads. Method: every counter and histogram of the page before, after reloads, and
    after an unload and a load."""
    server = serve(repository, "--model-control-mode", "explicit", "--load-model", "twice")
    client = triton_http.InferenceServerClient(server.at["http"])
    model = {"model": "twice", "version": "1"}

    def growing():
        kinds = {name: family.type for name, family in scrape(server).items()}
        found = samples(server)
        return {key: v for key, v in found.items()
                if any(key[0].startswith(name) and kind in ("counter", "histogram") for name, kind in kinds.items())}

    infer(server, 4)
    before = growing()
    for turn in range(3):
        client.load_model("twice")
        after = growing()
        assert set(before) <= set(after)
        fallen = {key: (v, after[key]) for key, v in before.items() if after[key] < v}
        assert not fallen
        infer(server, 2)
        before = growing()
        assert value(before, "nv_inference_request_success", **model) == 4 + 2 * (turn + 1)
    client.unload_model("twice")
    gone = samples(server)
    assert ("nv_inference_request_success", frozenset(model.items())) not in gone
    assert ("mizzen_model_ready", frozenset({("model", "twice")})) not in gone, "it is not meant to be served"
    client.load_model("twice")
    assert value(samples(server), "nv_inference_request_success", **model) == 10


def test_latencies_are_shown_as_triton_configures_them(repository, serve, mizzen):
    server = serve(
        repository, "--metrics-config", "summary_latencies=true", "--metrics-config=summary_quantiles=0.5:0.05,0.99:0.01",
        "--metrics-config", "counter_latencies=false", "--metrics-config", "histogram_latencies=false",
        "--metrics-interval-ms", "100")
    infer(server, 10)
    found = scrape(server)
    summary = found["nv_inference_request_summary_us"]
    quantiles = {s.labels["quantile"]: s.value for s in summary.samples if "quantile" in s.labels}
    assert summary.type == "summary" and set(quantiles) == {"0.5", "0.99"}
    assert 0 < quantiles["0.5"] <= quantiles["0.99"] < 60e6
    assert {s.value for s in summary.samples if s.name.endswith("_count")} == {10.0}
    assert not [name for name in found if name.endswith("_duration_us") or "histogram" in name]
    refused = mizzen("serve", "--model-repository", repository, "--metrics-config", "colour=red", check=False)
    assert refused.returncode == 2 and "counter_latencies" in refused.stderr


def test_a_model_that_does_not_load_is_shown_as_not_ready(repository, serve):
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    server = serve(repository)
    found = samples(server)
    assert value(found, "mizzen_model_ready", model="broken") == 0
    assert value(found, "mizzen_model_ready", model="twice") == 1
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"http://{server.at['metrics']}/metrics", method="POST"))
    assert refused.value.code == 405

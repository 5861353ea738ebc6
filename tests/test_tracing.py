"""Traces, as an OpenTelemetry collector gets them; and logs that say which trace they belong to."""

import concurrent.futures
import http.server
import json
import queue
import struct
import threading
import urllib.request

import models
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from prometheus_client.parser import text_string_to_metric_families

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
SERVER, ERROR = 2, 2


def fields(data):
    """A protobuf message's fields by number; the format is simple enough to need no generated code."""
    found, at = {}, 0

    def varint():
        nonlocal at
        number, shift = 0, 0
        while True:
            byte = data[at]
            at, number, shift = at + 1, number | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return number

    while at < len(data):
        key = varint()
        match key & 7:
            case 0: value = varint()
            case 1: value, at = struct.unpack_from("<Q", data, at)[0], at + 8
            case 5: value, at = struct.unpack_from("<I", data, at)[0], at + 4
            case 2:
                length = varint()
                value, at = data[at:at + length], at + length
        found.setdefault(key >> 3, []).append(value)
    return found


def attributes(pairs):
    def plain(value):
        ((number, (content,)),) = fields(value).items()
        return content.decode() if number == 1 else content
    return {fields(pair)[1][0].decode(): plain(fields(pair)[2][0]) for pair in pairs}


class Span:
    """One span of an OTLP message (opentelemetry/proto/trace/v1/trace.proto)."""

    def __init__(self, message, resource):
        found = fields(message)
        self.trace, self.id = found[1][0].hex(), found[2][0].hex()
        self.parent = found.get(4, [b""])[0].hex()
        self.name, self.kind = found[5][0].decode(), found[6][0]
        self.start, self.end = found[7][0], found[8][0]
        self.attributes = attributes(found.get(9, []))
        self.links = [(fields(link)[1][0].hex(), fields(link)[2][0].hex()) for link in found.get(13, [])]
        self.status = fields(found[15][0]).get(3, [0])[0] if 15 in found else 0
        self.resource = resource


class Collector:
    """Takes OTLP over HTTP on a port of its own."""

    def __init__(self, hold=None):
        self.spans, self.seen = queue.Queue(), []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if hold:
                    hold.wait(30)
                if self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf":
                    collector.take(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body):
        for group in fields(body)[1]:
            resource = attributes(fields(fields(group)[1][0]).get(1, []))
            for scope in fields(group)[2]:
                for span in fields(scope)[2]:
                    self.spans.put(Span(span, resource))

    def until(self, enough):
        """The spans so far, once they are enough."""
        while not enough(self.seen):
            self.seen.append(self.spans.get(timeout=20))
        return self.seen

    def traces(self, *names):
        """The spans so far, once there is one of each of these names."""
        return self.until(lambda seen: set(names) <= {span.name for span in seen})


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.server.shutdown()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    models.place(folder, "twice", models.affine(2.0),
                 config="max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: [ 4 ] }\n")
    models.place(folder, "slow", models.slow(200), config="max_batch_size: 8\n")
    return folder


def flags(url, *more):
    settings = ["mode=opentelemetry", f"opentelemetry,url={url}", "opentelemetry,bsp_schedule_delay=20", *more]
    return [part for setting in settings for part in ("--trace-config", setting)]


def infer(library, client, model="twice", width=4, **how):
    tensor = library.InferInput("x", [1, width], "FP32")
    tensor.set_data_from_numpy(np.ones((1, width), np.float32))
    return client.infer(model, [tensor], **how).as_numpy("y")


def children(spans, parent):
    return {span.name: span for span in spans if span.parent == parent.id and span.name != "batch"}


STAGES = ("batch", "queue", "compute", "gather", "run", "scatter")


@pytest.mark.parametrize("library, wire, name", [
    (triton_http, "http", "POST /v2/models/{model}/infer"),
    (triton_grpc, "grpc", "inference.GRPCInferenceService/ModelInfer"),
], ids=["http", "grpc"])
def test_a_request_continues_its_callers_trace(repository, serve, collector, library, wire, name):
    """Goal: one tree from the caller to the engine, over either wire. Method: a caller's `traceparent`, and every
    edge of the tree that comes out, with its times."""
    server = serve(repository, *flags(collector.url, "rate=0", "opentelemetry,resource=team=vision"))
    client = library.InferenceServerClient(server.at[wire])
    infer(library, client, headers={"traceparent": SAMPLED})
    spans = collector.traces(name, *STAGES)
    assert {span.trace for span in spans} == {TRACE}
    (request,) = [span for span in spans if span.name == name]
    assert request.parent == SPAN and request.kind == SERVER and request.status == 0
    assert request.resource["service.name"] == "mizzen" and request.resource["team"] == "vision"
    if wire == "http":
        assert request.attributes["http.response.status_code"] == 200
        assert request.attributes["url.path"] == "/v2/models/twice/infer"
    else:
        assert request.attributes["rpc.grpc.status_code"] == 0
        assert request.attributes["rpc.method"] == "ModelInfer"
    below = children(spans, request)
    assert set(below) == {"queue", "compute"}
    queued, compute = below["queue"], below["compute"]
    assert compute.attributes == {"triton.model_name": "twice", "triton.model_version": "1"}
    parts = children(spans, compute)
    assert set(parts) == {"gather", "run", "scatter"}
    moments = [request.start, queued.start, queued.end, compute.start, parts["gather"].start, parts["gather"].end,
               parts["run"].start, parts["run"].end, parts["scatter"].end, compute.end]
    slips = [b - a for a, b in zip(moments, moments[1:])]
    assert min(slips) > -1_000_000, slips  # the clocks of a moment are read one after the other
    (batch,) = [span for span in spans if span.name == "batch"]
    assert compute.links == [(TRACE, batch.id)] and batch.links == [(TRACE, request.id)]


def test_requests_of_one_batch_are_linked_by_it(repository, serve, collector):
    server = serve(repository, *flags(collector.url, "rate=1"))
    client = triton_http.InferenceServerClient(server.at["http"], concurrency=4)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: infer(triton_http, triton_http.InferenceServerClient(server.at["http"])), range(4)))
    spans = collector.until(lambda seen: sum(span.name == "compute" for span in seen) == 4 and
                            sum(span.name.startswith("POST") for span in seen) == 4)
    requests = {(span.trace, span.id) for span in spans if span.name.startswith("POST")}
    assert len({trace for trace, _ in requests}) == 4, "each is a trace of its own"
    batches = {(span.trace, span.id): span for span in spans if span.name == "batch"}
    linked = set()
    for at, batch in batches.items():
        assert batch.attributes["mizzen.batch.requests"] == len(batch.links) == batch.attributes["mizzen.batch.rows"]
        members = [span for span in spans if span.name == "compute" and span.links == [at]]
        assert {(span.trace, span.parent) for span in members} == set(batch.links)
        linked |= set(batch.links)
    assert linked == requests
    client.close()


def test_who_is_traced_is_the_callers_choice_and_then_the_rates(repository, serve, collector):
    server = serve(repository, *flags(collector.url, "rate=0"))
    client = triton_http.InferenceServerClient(server.at["http"])
    infer(triton_http, client)
    infer(triton_http, client, headers={"traceparent": UNSAMPLED})
    infer(triton_http, client, headers={"traceparent": "00-nonsense"})
    urllib.request.urlopen(urllib.request.Request(
        f"http://{server.at['http']}/v2/health/ready", headers={"traceparent": SAMPLED}))
    infer(triton_http, client, headers={"traceparent": SAMPLED})
    assert server.stop() == 0, "what waits is sent before the end"
    spans = collector.traces("POST /v2/models/{model}/infer", *STAGES)
    while not collector.spans.empty():
        spans.append(collector.spans.get())
    assert sorted(span.name for span in spans) == sorted(["POST /v2/models/{model}/infer", *STAGES])


def test_a_streams_requests_and_a_failure_are_traced(repository, serve, collector):
    server = serve(repository, *flags(collector.url, "rate=1"))
    client = triton_grpc.InferenceServerClient(server.at["grpc"])
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    for _ in range(2):
        tensor = triton_grpc.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
        client.async_stream_infer("twice", [tensor])
    assert all(hasattr(answers.get(timeout=20), "as_numpy") for _ in range(2))
    client.stop_stream()
    spans = collector.until(lambda seen: sum(span.name == "compute" for span in seen) == 2 and
                            "inference.GRPCInferenceService/ModelStreamInfer" in {span.name for span in seen})
    (stream,) = [span for span in spans if span.name.endswith("ModelStreamInfer")]
    assert [span.parent for span in spans if span.name == "compute"] == [stream.id] * 2

    models.place(repository, "later", models.affine(1.0))  # not loaded
    with pytest.raises(Exception, match="later"):
        infer(triton_http, triton_http.InferenceServerClient(server.at["http"]), "later")
    spans = collector.traces("POST /v2/models/{model}/infer")
    (failed,) = [span for span in spans if span.name.startswith("POST")]
    assert failed.attributes["http.response.status_code"] == 404 and failed.status == 0, "the caller's mistake"
    client.close()


def outcomes(server):
    with urllib.request.urlopen(f"http://{server.at['metrics']}/metrics") as response:
        page = response.read().decode()
    return {sample.labels["outcome"]: sample.value for family in text_string_to_metric_families(page)
            for sample in family.samples if sample.name == "mizzen_trace_spans_total"}


def test_a_collector_that_hangs_holds_nobody_up_and_what_is_lost_is_counted(repository, serve):
    """Goal: requests never wait for the collector, and memory for spans is bounded. Method: one that takes the
    first spans and does not answer, and room for eight spans."""
    release = threading.Event()
    hanging = Collector(hold=release)
    try:
        server = serve(repository, *flags(hanging.url, "rate=1", "opentelemetry,bsp_max_queue_size=8"))
        client = triton_http.InferenceServerClient(server.at["http"])
        requests = 12
        for _ in range(requests):
            infer(triton_http, client, "slow", width=256)
        spans = requests * 7
        lost = outcomes(server)
        assert lost["sent"] == 0 and spans - 8 <= lost["overflowed"] <= spans, lost
    finally:
        release.set()
    hanging.until(lambda seen: len(seen) >= 1)
    assert server.stop() == 0
    hanging.server.shutdown()


def test_a_collector_that_is_away_is_noted_once(repository, serve, tmp_path):
    closed = Collector()
    closed.server.shutdown()
    closed.server.server_close()
    server = serve(repository, *flags(closed.url, "rate=1"))
    client = triton_http.InferenceServerClient(server.at["http"])
    infer(triton_http, client)
    assert server.stop() == 0
    log = (tmp_path / "serve.log").read_text()
    assert log.count("the trace collector takes no spans") == 1, log


def test_logs_name_the_trace_and_keep_secrets(repository, serve, collector, tmp_path):
    server = serve(repository, *flags(collector.url, "rate=0"), "--log-format", "json",
                   "--log", "info,mizzen::access=debug")
    client = triton_http.InferenceServerClient(server.at["http"])
    infer(triton_http, client, headers={"traceparent": SAMPLED, "authorization": "Bearer hunter2"},
          query_params={"token": "hunter3"})
    infer(triton_http, client)
    spans = collector.traces("POST /v2/models/{model}/infer")
    (request,) = [span for span in spans if span.name.startswith("POST")]
    assert server.stop() == 0
    log = (tmp_path / "serve.log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    traced, untraced = [line for line in lines if line.get("message") == "answered" and "/infer" in line["request"]]
    assert (traced["trace_id"], traced["span_id"]) == (TRACE, request.id) and traced["code"] == 200
    assert "trace_id" not in untraced
    assert "hunter" not in log and "hunter" not in str([span.attributes for span in spans])


def test_a_setting_that_cannot_be_followed_says_what_can(repository, mizzen):
    for setting, want in [
        ("mode=other", "`opentelemetry` or `triton`"),
        ("triton,level=TIMESTAMPS", "triton,file=FILE"),
        ("mode=opentelemetry,x", "setting"),
    ]:
        refused = mizzen("serve", "--model-repository", repository, "--trace-config", setting, check=False)
        assert refused.returncode == 2 and want in refused.stderr, refused.stderr
    refused = mizzen("serve", "--model-repository", repository, check=False, env={
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert refused.returncode == 2 and "4318" in refused.stderr

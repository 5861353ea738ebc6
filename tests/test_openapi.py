"""The OpenAPI document against the running binary: nothing it says is untrue, whatever is sent."""

import json
import urllib.request

import models
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance, response_headers_conformance, response_schema_conformance, status_code_conformance,
)

CHECKS = [status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]

# Not offered, not ready, too late: the only 5xx that a client may see of a server without a fault, where documented.
FAULTLESS = (501, 503, 504)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from conftest import Server

    repository = tmp_path_factory.mktemp("openapi") / "models"
    repository.mkdir()
    models.place(repository, "double", models.affine(2.0), config="max_batch_size: 8\n")
    models.place(repository, "words", models.identity("BYTES", ("n",)))
    models.place(repository, "unloaded", models.affine(1.0))
    (repository / "repeat" / "1").mkdir(parents=True)
    (repository / "repeat" / "config.pbtxt").write_text(models.REPEAT)
    started = Server(
        "serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
        "--model-control-mode=explicit", "--load-model=double", "--load-model=words", "--load-model=repeat",
        "--allow-client-shm=true", data_dir=tmp_path_factory.mktemp("openapi-log") / "serve",
    )
    yield started
    assert started.stop() == 0


@pytest.fixture(scope="module")
def document(server):
    with urllib.request.urlopen(f"http://{server.at['http']}/openapi.json") as reply:
        return json.load(reply)


@pytest.fixture(scope="module")
def operations(document):
    schema = schemathesis.openapi.from_dict(document)
    return {result.ok().definition.raw["operationId"]: result.ok() for result in schema.get_all_operations()}


def quick(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck))


def check(server, case):
    """Sends a request and holds the answer against the document."""
    answer = case.call(base_url=f"http://{server.at['http']}", timeout=20)
    what = (case.operation.label, answer.status_code, answer.content[:300], case.body)
    assert answer.status_code < 500 or answer.status_code in FAULTLESS, what
    case.validate_response(answer, checks=CHECKS)
    if answer.status_code >= 400:
        assert json.loads(answer.content)["error"], what
    return answer.status_code


def test_the_document_names_every_call(document):
    assert document["openapi"].startswith("3.1")
    for path in ("/v2", "/v2/models/{model}/infer", "/v1/models/{model}:predict", "/v2/models/{model}/generate_stream"):
        assert path in document["paths"], path


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_server_does_what_the_document_says(server, operations, mode):
    """Hundreds of generated requests, valid and not: no fault, and no status, type, header or body that is not
    documented."""
    seen = set()
    for operation in operations.values():
        # Any text is a name, so that only a body can be wrong.
        if mode == GenerationMode.NEGATIVE and "requestBody" not in operation.definition.raw:
            continue

        @quick(12)
        @given(case=operation.as_strategy(generation_mode=mode), model=st.sampled_from(["double", "words", "repeat", "unloaded", None]))
        def requests(case, model):
            # Names made up lead nowhere; most requests go to a model, and none takes one out of service.
            if model and "model" in (case.path_parameters or {}) and "repository" not in operation.path:
                case.path_parameters["model"] = model
            seen.add((case.operation.label, check(server, case)))

        requests()
    want = {200, 404, 501} if mode == GenerationMode.POSITIVE else {400, 404}
    assert want <= {status for _, status in seen}, "requests of each kind were made"


# Requests that are right, as the models above have it.
DOUBLE = {"id": "7", "parameters": {"timeout": 0, "binary_data_output": False}, "outputs": [{"name": "y", "parameters": {}}],
          "inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {}, "data": [[1, 2, 3, 4], [5.5, 6, -7, 8e9]]}]}
WORDS = {"inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "data": ["a", "\u00e9\n"]}],
         "outputs": [{"name": "y", "parameters": {"binary_data": True, "classification": 0}}]}
RIGHT = [
    ("modelInfer", "double", DOUBLE),
    ("modelInfer", "words", WORDS),
    ("modelInfer2", "double", DOUBLE),
    ("predict", "double", {"signature_name": "serving_default", "instances": [[1, 2, 3, 4], [5, 6, 7, 8]]}),
    ("predict", "double", {"inputs": {"x": [[1, 2, 3, 4]]}}),
    ("predict", "words", {"inputs": ["a", {"b64": "YQ=="}]}),
    ("generate", "double", {"x": [1, 2, 3, 4], "id": "7", "parameters": {"priority": 1, "own": "b"}}),
    ("generateStream", "repeat", {"IN": [1, 2], "DELAY": [0, 1], "WAIT": 0}),
    ("generateStream", "double", {"x": [1, 2, 3, 4]}),
    ("modelLoad", "double", {"parameters": {"config": json.dumps({"max_batch_size": 8})}}),
    ("repositoryIndex", None, {"ready": True}),
    ("updateTraceSetting", None, {"trace_rate": "5", "trace_level": None}),
    ("updateLogging", None, {"log_info": True, "log_verbose_level": 0, "log_format": "default"}),
    ("systemSharedMemoryRegister", None, {"key": "/mizzen-openapi-test", "offset": 0, "byte_size": 16}),
]

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-2**65, 2**65), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=6),
    st.sampled_from(["FP64", "BYTES", "UINT8", "x", "y", 0, -1, 2**31, 2**63, [], {}, [[]], [None], {"a": [1]}, [1, 2, 3], "1e400"]),
)

# What a model would wait for is not made long.
SHORT = ODD.filter(lambda value: isinstance(value, bool) or not isinstance(value, (int, float)) or value < 10)


def places(value, at=()):
    """The way to every value in a document."""
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*at, key))


def changed(value, at, new):
    if not at:
        return new
    copy = value.copy()
    copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


@st.composite
def nearly(draw, right):
    """A request that is right but for at most two things."""
    body = right
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.sampled_from(list(places(body))))
        body = changed(body, at, draw(SHORT if at[:1] in (("DELAY",), ("WAIT",)) else ODD))
    return body


def test_requests_that_are_nearly_right_get_answers_that_are_documented(server, operations):
    """What is generated from a schema hardly ever comes as far as a model. These do, or nearly."""
    seen = {}
    for name, model, right in RIGHT:
        operation = operations[name]

        @quick(60)
        @given(body=nearly(right))
        def requests(body):
            path = {"model": model or "", "version": "1", "region": "r"}
            path = {key: value for key, value in path.items() if "{" + key + "}" in operation.path}
            case = operation.Case(path_parameters=path, body=body, media_type="application/json")
            seen.setdefault(name, set()).add(check(server, case))

        requests()
    assert all({200, 400} <= statuses for name, statuses in seen.items() if name != "systemSharedMemoryRegister"), seen


BINARY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
          "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}


def test_binary_requests_that_are_nearly_right_get_answers_that_are_documented(server, operations):
    operation, seen = operations["modelInfer"], set()

    @quick(120)
    @given(head=st.one_of(st.just(BINARY), nearly(BINARY)), off=st.sampled_from([0, 0, 0, -1, 1, 17, -10**9, 10**18]),
           tail=st.one_of(st.just(bytes(16)), st.binary(max_size=33)), bare=st.sampled_from([False, False, True]))
    def requests(head, off, tail, bare):
        text = b"" if bare else json.dumps(head).encode()
        headers = {"Inference-Header-Content-Length": str(len(text) + off)}
        case = operation.Case(path_parameters={"model": "double"}, headers=headers, body=text + tail,
                              media_type="application/octet-stream")
        seen.add(check(server, case))

    requests()
    assert {200, 400} <= seen, seen


def test_a_document_that_is_wrong_is_found_out(server, document):
    """That the checks above can fail: one answer, held against documents that do not fit it."""
    def without_status(responses):
        del responses["200"]

    def another_type(responses):
        responses["200"]["content"] = {"text/plain": {}}

    def another_body(responses):
        responses["200"]["content"]["application/json"]["schema"] = {"type": "object", "required": ["alive"]}

    for spoil in (None, without_status, another_type, another_body):
        copy = json.loads(json.dumps(document))
        if spoil:
            spoil(copy["paths"]["/v2/health/live"]["get"]["responses"])
        case = schemathesis.openapi.from_dict(copy)["/v2/health/live"]["GET"].Case()
        if spoil is None:
            assert check(server, case) == 200
        else:
            with pytest.raises(FailureGroup):
                check(server, case)

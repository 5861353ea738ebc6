"""The OpenAPI document against the running binary: nothing it says is untrue, whatever is sent."""

import json
import urllib.request

import models
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from conftest import Server

    repository = tmp_path_factory.mktemp("openapi") / "models"
    repository.mkdir()
    models.place(repository, "double", models.affine(2.0), config="max_batch_size: 8\n")
    started = Server(
        "serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
        "--model-control-mode=explicit", "--load-model=double",
        data_dir=tmp_path_factory.mktemp("openapi-log") / "serve",
    )
    yield started
    started.stop()


@pytest.fixture(scope="module")
def document(server):
    with urllib.request.urlopen(f"http://{server.at['http']}/openapi.json") as reply:
        return json.load(reply)


def test_the_document_names_every_call(document):
    assert document["openapi"].startswith("3.1")
    for path in ("/v2", "/v2/models/{model}/infer", "/v1/models/{model}:predict", "/v2/models/{model}/generate_stream"):
        assert path in document["paths"], path


def test_the_server_does_what_the_document_says(server, document):
    """A few hundred generated requests, valid and not: no fault, no status that is not documented."""
    schema = schemathesis.openapi.from_dict(document)
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=16, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case):
            names = case.path_parameters or {}
            if "model" in names and len(str(names["model"])) % 2:
                names["model"] = "double"  # names made up lead nowhere: half of the requests go to a model
            answer = case.call(base_url=f"http://{server.at['http']}")
            documented = {int(status) for status in operation.definition.raw["responses"]}
            seen.add(answer.status_code)
            what = (operation.label, answer.status_code, answer.content[:300])
            assert answer.status_code in documented, what
            assert answer.status_code not in (500, 502), what
            if answer.status_code >= 400:
                assert set(json.loads(answer.content)) >= {"error"}, what

        check()
    assert {200, 400, 404} <= seen, "requests of each kind were made"

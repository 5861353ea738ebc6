"""Ask and tell over REST: the guide's own program, callers at the same time, and a server that is killed."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import schemathesis
from conftest import ENVIRONMENT, ROOT, up
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
ALGORITHMS = ["random", "tpe", "multivariate-tpe", "bayesianoptimization", "gp", "cmaes", "sobol", "auto"]


def call(server, method, route, body=None):
    request = urllib.request.Request(
        f"http://{server.at['api']}/api/tuning/v1/{route}", method=method, data=json.dumps(body or {}).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def study(name, algorithm="random"):
    range_ = {"min": 0, "max": 1}
    return {"name": name, "algorithm": {"algorithmName": algorithm}, "parameters": [
        {"name": "x", "parameterType": "double", "feasibleSpace": range_},
        {"name": "y", "parameterType": "double", "feasibleSpace": range_}]}


def ask(server, name, count=1):
    status, answer = call(server, "POST", f"studies/{name}/ask", {"count": count})
    assert status == 200, answer
    return answer["items"]


def test_the_guides_program_does_what_it_says(up_server):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guides/migrating-from-optuna.md").read_text(), re.S)
    program = next(b for b in blocks if "urllib" in b)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                          env={**ENVIRONMENT, "MIZZEN_SERVER": f"http://{up_server.at['api']}"})
    assert done.returncode == 0, done.stderr
    best = eval(done.stdout, {})
    assert abs(best["x"]) < 1.5 and best["kind"] in ("square", "cube")
    status, answer = call(up_server, "GET", "studies/curve")
    assert status == 200 and answer["best"]["parameters"] == best


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_callers_at_the_same_time_get_different_points(up_server, algorithm):
    assert call(up_server, "POST", "studies", study("s", algorithm))[0] == 200

    def worker(_):
        got = []
        for _ in range(3):
            (trial,) = ask(up_server, "s")
            got.append(trial)
            value = sum((v - 0.3) ** 2 for v in trial["parameters"].values())
            assert call(up_server, "POST", f"studies/s/trials/{trial['number']}/tell", {"value": value})[0] == 200
        return got

    with ThreadPoolExecutor(4) as pool:
        trials = [t for got in pool.map(worker, range(4)) for t in got]
    assert sorted(t["number"] for t in trials) == list(range(12))
    assert len({tuple(t["parameters"].items()) for t in trials}) == 12


def test_a_killed_server_forgets_nothing(tmp_path):
    with up(tmp_path / "data") as server:
        call(server, "POST", "studies", study("s", "auto"))
        asked = ask(server, "s", 4)
        for trial in asked[:2]:
            call(server, "POST", f"studies/s/trials/{trial['number']}/tell", {"value": trial["parameters"]["x"]})
        call(server, "POST", "studies/s/trials/2/report", {"step": 1, "value": 0.5})
        server.kill()
    with up(tmp_path / "data") as server:
        trials = call(server, "GET", "studies/s/trials")[1]["items"]
        assert [t["state"] for t in trials] == ["succeeded", "succeeded", "running", "running"]
        assert trials[2]["intermediate"] == [{"step": 1, "value": 0.5}]
        assert [t["parameters"] for t in trials] == [t["parameters"] for t in asked]
        (new,) = ask(server, "s")
        assert new["number"] == 4 and new["parameters"] not in [t["parameters"] for t in asked]
        assert call(server, "GET", "studies/s/best")[1]["value"] == min(t["parameters"]["x"] for t in asked[:2])


def test_what_is_wrong_is_refused_in_words(up_server):
    call(up_server, "POST", "studies", study("s"))
    for route, body, status, word in (
        ("studies", study("s", "sobol"), 409, "another name"), ("studies", study("t", "sobl"), 400, "`sobol`"),
        ("studies/s/ask", {"count": 10**9}, 400, "count"), ("studies/s/trials/9/tell", {"value": 1}, 404, "trial 9"),
        ("studies/s/trials/9/tell", {"value": "much"}, 400, "much"), ("studies/none/ask", {}, 404, "`none`"),
    ):
        got, answer = call(up_server, "POST", route, body)
        assert got == status and word in answer["message"], (route, body, answer)




# --- the OpenAPI document ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """A server with studies that are full and empty, and its document."""
    with up(tmp_path_factory.mktemp("documented") / "data") as server:
        for name in ("full", "empty"):
            assert call(server, "POST", "studies", study(name))[0] == 200
        ask(server, "full", 3)
        assert call(server, "POST", "studies/full/trials/0/tell", {"value": 0.5})[0] == 200
        status, document = call(server, "GET", "openapi.json")
        assert status == 200 and document["openapi"].startswith("3.1")
        yield server, document


def test_the_document_names_every_call(documented):
    calls = {(method, path.removeprefix("/api/tuning/v1/")) for path, of in documented[1]["paths"].items() for method in of}
    assert {("post", "studies"), ("get", "studies/{study}"), ("delete", "studies/{study}"), ("post", "studies/{study}/ask"),
            ("post", "studies/{study}/trials/{number}/tell"), ("get", "studies/{study}/trials")} <= calls


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_server_does_what_the_document_says(documented, mode):
    """Generated requests, valid and not: no fault, and no status, type or body that is not documented."""
    server, document = documented
    seen = set()
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = result.ok()
        if mode == GenerationMode.NEGATIVE and "requestBody" not in operation.definition.raw:
            continue

        @settings(max_examples=15, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode), known=st.sampled_from(["full", "full", "empty", None]),
               number=st.sampled_from([0, 1, 2, None]))
        def requests(case, known, number):
            # Names made up lead nowhere; most requests go to a study, and none deletes it.
            if known and "study" in (case.path_parameters or {}) and operation.method != "delete":
                case.path_parameters["study"] = known
                if number is not None and "number" in case.path_parameters:
                    case.path_parameters["number"] = number
            answer = case.call(base_url=f"http://{server.at['api']}", timeout=30)
            what = (operation.label, case.path_parameters, answer.status_code, answer.content[:300], case.body)
            assert answer.status_code < 500, what
            case.validate_response(answer, checks=CHECKS)
            seen.add((operation.definition.raw["operationId"], answer.status_code))

        requests()
    want = {"study", "ask", "trials", "best"} if mode == GenerationMode.POSITIVE else set()
    assert want <= {name for name, status in seen if status == 200}, "requests of each kind were answered"
    assert {400, 404} & {status for _, status in seen}

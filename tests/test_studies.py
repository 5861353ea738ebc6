"""Ask and tell over REST: the guide's own program, callers at the same time, and a server that is killed."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ENVIRONMENT, ROOT, up

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



"""TorchScript in the shipped binary, asked by the real client over both protocols.

The modules are compiled from source by an example of the plug-in's crate: `make torch` builds both.
"""

import concurrent.futures
import json
import pathlib
import shutil
import subprocess

import conftest
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

COMPILER = pathlib.Path(conftest.MIZZEN).resolve().parent / "examples/torchscript"
PLUGIN = COMPILER.parent.parent.parent / "lib/mizzen/libmizzen_torch.so"
SPEECH = conftest.ROOT / ".cache/torch/models/silero_vad.jit"

pytestmark = pytest.mark.skipif(
    not (COMPILER.exists() and PLUGIN.exists()), reason="libtorch is for Linux on x86-64, and `make torch` brings it"
)

CLIENTS = [("http", httpclient), ("grpc", grpcclient)]


def compiled(path, source, *buffers):
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([COMPILER, path, *buffers], input=source, text=True, check=True, timeout=60)


def place(repository, name, source, config, *buffers):
    compiled(repository / name / "1/model.pt", source, *buffers)
    (repository / name / "config.pbtxt").write_text(config)


def tensors(kind, *specs):
    each = [f'{{ name: "{name}" data_type: TYPE_{dtype} dims: [ {dims} ] }}' for name, dtype, dims in specs]
    return f"{kind} [ {', '.join(each)} ]\n"


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    models = tmp_path_factory.mktemp("torch")
    x = tensors("input", ("INPUT__0", "FP32", 2), ("INPUT__1", "FP32", 2))
    place(
        models, "tuple", "def forward(self, a: Tensor, b: Tensor):\n    return a + b, a * b * self.scale\n",
        'platform: "pytorch_libtorch"\nmax_batch_size: 8\n' + x + tensors("output", ("OUTPUT__0", "FP32", 2), ("OUTPUT__1", "FP32", 2)), "scale=1:10",
    )
    place(
        models, "dict", "def forward(self, d: Dict[str, Tensor]):\n"
        "    return {'sum': d['a'] + d['b'], 'all': {'a': d['a'], 'words': [d['b']]}}\n",
        'backend: "pytorch"\nmax_batch_size: 8\n' + tensors("input", ("a", "FP32", 2), ("b", "FP32", 2))
        + tensors("output", ("all[words][0]", "FP32", 2), ("sum", "FP32", 2)),
    )
    # Nothing names the engine but the file.
    place(
        models, "words", "def forward(self, words: List[str]):\n"
        "    out: List[str] = []\n    for word in words:\n        out.append(word.upper())\n    return out\n",
        tensors("input", ("words", "STRING", -1)) + tensors("output", ("loud", "STRING", -1)),
    )
    place(
        models, "picky", "def forward(self, x: Tensor):\n    assert bool(x.min() >= 0), 'only what is positive'\n    return x\n",
        'backend: "torch"\n' + tensors("input", ("x", "FP32", -1)) + tensors("output", ("y", "FP32", -1)),
    )
    place(
        models, "broken", "def forward(self, x: Tensor):\n    return x\n",
        'backend: "pytorch"\n' + tensors("input", ("x", "FP32", -1)) + tensors("output", ("y", "FP32", -1)),
    )
    file = models / "broken/1/model.pt"
    file.write_bytes(file.read_bytes()[:-100])
    # Some tenths of a second, in which other requests arrive.
    place(
        models, "slow", "def forward(self, x: Tensor):\n"
        "    y = x\n    for i in range(100000):\n        y = y + 1.0\n    return y - 100000.0\n",
        'backend: "pytorch"\nmax_batch_size: 8\ninstance_group { count: 1 }\ndynamic_batching { }\n'
        + tensors("input", ("x", "FP32", 2)) + tensors("output", ("y", "FP32", 2)),
    )
    return models


@pytest.fixture
def repository(tmp_path, compiled_once):
    return shutil.copytree(compiled_once, tmp_path / "models")


def client_of(kind, module, server):
    return module.InferenceServerClient(server.at[kind])


def infer(module, client, model, arrays, outputs=None):
    inputs = []
    for name, array in arrays.items():
        datatype = "BYTES" if array.dtype == object else {"f": "FP32", "i": "INT64"}[array.dtype.kind]
        inputs.append(module.InferInput(name, array.shape, datatype))
        inputs[-1].set_data_from_numpy(array)
    wanted = [module.InferRequestedOutput(name) for name in outputs or []]
    return client.infer(model, inputs, outputs=wanted or None)


def floats(*rows):
    return np.array(rows, np.float32)


@pytest.mark.parametrize("kind, module", CLIENTS, ids=["http", "grpc"])
def test_tuples_dicts_and_strings_by_tritons_names(repository, serve, kind, module):
    client = client_of(kind, module, serve(repository))
    a, b = floats([1, 2], [3, 4], [5, 6]), floats([10, 20], [30, 40], [50, 60])
    answer = infer(module, client, "tuple", {"INPUT__0": a, "INPUT__1": b})
    np.testing.assert_allclose(answer.as_numpy("OUTPUT__0"), a + b)
    np.testing.assert_allclose(answer.as_numpy("OUTPUT__1"), a * b * 10)

    answer = infer(module, client, "dict", {"b": b, "a": a})
    np.testing.assert_allclose(answer.as_numpy("sum"), a + b)
    np.testing.assert_allclose(answer.as_numpy("all[words][0]"), b)

    words = np.array(["ab", "", "çd"], object)
    answer = infer(module, client, "words", {"words": words})
    assert [text.decode() for text in answer.as_numpy("loud")] == ["AB", "", "çD"]  # TorchScript's `upper` is of ASCII


def test_requests_share_batches_and_get_their_own_rows(repository, serve):
    server = serve(repository)
    rows = [floats([i, 2 * i]) for i in range(9)]
    with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:

        def ask(row):
            client = client_of("http", httpclient, server)
            return infer(httpclient, client, "slow", {"x": row}).as_numpy("y")

        answers = list(pool.map(ask, rows))
    for row, answer in zip(rows, answers):
        np.testing.assert_allclose(answer, row)
    stats = client_of("http", httpclient, server).get_inference_statistics("slow")["model_stats"][0]
    assert stats["inference_count"] == 9 and stats["execution_count"] < 9, stats


@pytest.mark.parametrize("kind, module", CLIENTS, ids=["http", "grpc"])
def test_an_exception_is_the_answer_to_its_request_alone(repository, serve, kind, module):
    client = client_of(kind, module, serve(repository))
    for _ in range(3):
        with pytest.raises(InferenceServerException, match="only what is positive") as raised:
            infer(module, client, "picky", {"x": floats(1, -1)})
        assert raised.value.status() in ("500", "StatusCode.INTERNAL")
        np.testing.assert_allclose(infer(module, client, "picky", {"x": floats(1, 2)}).as_numpy("y"), [1, 2])
    with pytest.raises(InferenceServerException) as raised:
        infer(module, client, "picky", {"x": np.array([1, 2])})
    assert raised.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_the_file_or_the_configuration_that_does_not_fit_is_named(repository, serve):
    place(
        repository, "misnamed", "def forward(self, x: Tensor, y: Tensor):\n    return x\n",
        tensors("input", ("x", "FP32", -1)) + tensors("output", ("y", "FP32", -1)),
    )
    compiled(repository / "silent/1/model.pt", "def forward(self, x: Tensor):\n    return x\n")
    client = client_of("http", httpclient, serve(repository))
    index = {model["name"]: model for model in client.get_model_repository_index()}
    assert index["tuple"]["state"] == "READY"
    assert index["broken"]["state"] == "UNAVAILABLE" and "model.pt" in index["broken"]["reason"], index["broken"]
    assert "argument `y: Tensor` of `forward` has no input" in index["misnamed"]["reason"]
    assert "config.pbtxt must: `forward` has the arguments `x: Tensor`" in index["silent"]["reason"]
    config = client.get_model_config("words")
    assert (config["backend"], config["platform"]) == ("pytorch", "pytorch_libtorch")
    assert config["default_model_filename"] == "model.pt"
    assert client.get_model_metadata("tuple")["platform"] == "pytorch_libtorch"


def test_a_machine_without_the_plug_in_serves_the_rest_and_says_how_to_get_it(repository, serve, tmp_path, mizzen):
    (repository / "same/1").mkdir(parents=True)
    (repository / "same/config.pbtxt").write_text(
        'backend: "identity"\n' + tensors("input", ("INPUT0", "FP32", 2)) + tensors("output", ("OUTPUT0", "FP32", 2))
    )
    (tmp_path / "empty").mkdir()
    absent = {"MIZZEN_PLUGIN_DIR": str(tmp_path / "empty")}
    client = client_of("http", httpclient, serve(repository, env=absent))
    index = {model["name"]: model for model in client.get_model_repository_index()}
    assert index["same"]["state"] == "READY"
    reason = index["tuple"]["reason"]
    assert "make torch" in reason and str(tmp_path / "empty") in reason, reason

    def doctor(**env):
        found = json.loads(mizzen("doctor", "-o", "json", env={"MIZZEN_DATA_DIR": str(tmp_path), **env}).stdout)
        return next(entry for entry in found if entry["what"] == "engine pytorch")

    assert "make torch" in doctor(**absent)["missing"]
    there = doctor()
    assert there["found"] == "libtorch 2.11.0" and there["searched"][0].endswith(PLUGIN.name), there
    # The plug-in alone, without libtorch beside it.
    shutil.copy(PLUGIN, tmp_path / "empty")
    alone = doctor(**absent)["missing"]
    assert "libtorch_cpu.so" in alone and "make torch" in alone, alone


def test_a_run_that_nobody_waits_for_any_more_ends(repository, serve):
    place(
        repository, "turns", "def forward(self, x: Tensor):\n"
        "    y = x\n    for i in range(int(x.max())):\n        y = y + 1.0\n    return y\n",
        'backend: "pytorch"\ninstance_group { count: 1 kind: KIND_CPU }\n'
        + tensors("input", ("x", "FP32", 1)) + tensors("output", ("y", "FP32", 1)),
    )
    client = client_of("grpc", grpcclient, serve(repository))
    endless = grpcclient.InferInput("x", [1], "FP32")
    endless.set_data_from_numpy(floats(1e9))
    with pytest.raises(InferenceServerException, match="(?i)deadline"):
        client.infer("turns", [endless], client_timeout=1)
    # The only instance is free again, a quarter of an hour before its time.
    brief = grpcclient.InferInput("x", [1], "FP32")
    brief.set_data_from_numpy(floats(3))
    assert client.infer("turns", [brief], client_timeout=60).as_numpy("y").item() == 6


def test_a_stream_keeps_its_state_from_request_to_request(tmp_path, serve):
    models = tmp_path / "models"
    (models / "speech/1").mkdir(parents=True)
    shutil.copy(SPEECH, models / "speech/1/model.pt")
    (models / "speech/config.pbtxt").write_text(
        'backend: "pytorch"\ninstance_group { count: 1 kind: KIND_CPU }\n'
        + tensors("input", ("x", "FP32", "1, 512"), ("sr", "INT64", 1)) + tensors("output", ("speech", "FP32", "1, 1"))
    )
    server = serve(models)
    client = client_of("grpc", grpcclient, server)
    noise = np.random.default_rng(7).normal(0, 0.1, (1, 512)).astype(np.float32)
    answers = [
        infer(grpcclient, client, "speech", {"x": noise, "sr": np.array([16000])}).as_numpy("speech").item()
        for _ in range(4)
    ]
    assert len(set(answers)) == 4, f"the same chunk says something else each time: {answers}"
    assert all(0 <= answer <= 1 for answer in answers)
    client.close()
    assert server.stop() == 0, "libtorch's threads do not stand in the way of a clean end"

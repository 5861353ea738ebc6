"""`mizzen models import`: each kind of model into a repository, which the shipped binary then serves."""

import gzip
import json
import os
import pathlib
import shutil
import signal
import subprocess
import zipfile

import conftest
import encoders
import models
import numpy as np
import onnx
import pytest
import test_torch
import tritonclient.http as triton_http
from onnx import external_data_helper

VAD = conftest.ROOT / ".cache/torch/models"


@pytest.fixture
def place(tmp_path, mizzen):
    """Imports into a repository of the test's own; returns what was done."""
    def call(path, *flags, check=True, env=None):
        done = mizzen("models", "import", path, "--model-repository", tmp_path / "models", "-o", "json", *flags, check=check, env=env)
        return json.loads(done.stdout) if check else done
    return call


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob("*") if path.is_file())


def ask(server, model, arrays, outputs=None):
    client = triton_http.InferenceServerClient(server.at["http"])
    inputs = []
    for name, array in arrays.items():
        kind = "BYTES" if array.dtype == object else {v: k for k, v in models.NUMPY.items()}[array.dtype.type]
        inputs.append(triton_http.InferInput(name, array.shape, kind))
        inputs[-1].set_data_from_numpy(array)
    wanted = [triton_http.InferRequestedOutput(name, **more) for name, more in (outputs or {}).items()]
    return client.infer(model, inputs, outputs=wanted or None)


def with_weights_in(model, location):
    """The model, its one constant in a file of this name; and what that file holds."""
    constant = model.graph.initializer[0]
    data = onnx.numpy_helper.to_array(constant).tobytes()
    constant.ClearField("float_data")
    constant.raw_data = data
    external_data_helper.set_external_data(constant, location)
    constant.ClearField("raw_data")
    return model.SerializeToString(), data


def nothing_in(repository):
    return not repository.exists() or not list(repository.iterdir())


def test_onnx_is_served_by_the_written_configuration(tmp_path, place, serve):
    onnx.save(models.affine(3.0), str(tmp_path / "triple.onnx"))
    done = place(tmp_path / "triple.onnx")
    assert (done["name"], done["version"], done["backend"]) == ("triple", 1, "onnxruntime")
    assert done["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert done["answer"][0]["first_values"] == [0, 0.75, 1.5, 2.25]
    assert files(tmp_path / "models") == ["triple/1/model.onnx", "triple/config.pbtxt"]
    text = (tmp_path / "models/triple/config.pbtxt").read_text()
    for line in ('backend: "onnxruntime"', "max_batch_size: 4", '{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }', "dynamic_batching { }"):
        assert line in text
    # The file says everything: nothing is left to be taken from the model.
    server = serve(tmp_path / "models", "--disable-auto-complete-config")
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(ask(server, "triple", {"x": x}).as_numpy("y"), 3 * x)


def test_external_data_comes_along(tmp_path, place, serve):
    model, weights = with_weights_in(models.affine(5.0), "deep/weights.bin")
    (tmp_path / "made/deep").mkdir(parents=True)
    (tmp_path / "made/model.onnx").write_bytes(model)
    (tmp_path / "made/deep/weights.bin").write_bytes(weights)
    assert place(tmp_path / "made/model.onnx")["name"] == "made", "`model` is no name: the directory's is"
    shutil.rmtree(tmp_path / "made")
    assert files(tmp_path / "models/made") == ["1/deep/weights.bin", "1/model.onnx", "config.pbtxt"]
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(ask(serve(tmp_path / "models"), "made", {"x": x}).as_numpy("y"), 5 * x)


def test_external_data_that_is_absent_or_elsewhere_is_refused(tmp_path, place):
    for location, words in (("gone.bin", "there is no file"), ("../out.bin", "not a path below")):
        path = tmp_path / "m.onnx"
        path.write_bytes(with_weights_in(models.affine(5.0), location)[0])
        done = place(path, check=False)
        assert done.returncode == 2 and words in done.stderr and location in done.stderr, done.stderr
        assert nothing_in(tmp_path / "models")


@pytest.mark.parametrize("kind", ["candle", "shards", "onnx"])
def test_a_hugging_face_directory_answers_to_text(tmp_path, place, serve, kind):
    encoders.tiny_classifier(tmp_path / "made", "classes", kind, labels=3)
    folder = tmp_path / "made/classes/1"
    (folder / "pytorch_model.bin").write_bytes(b"not wanted")
    # As Hugging Face's cache lays files out.
    (tmp_path / "blob").write_bytes((folder / "config.json").read_bytes())
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("../../../blob")
    done = place(folder, "--name", "classes")
    assert "Hugging Face" in done["what"] and done["backend"] == ("onnxruntime" if kind == "onnx" else "candle")
    made = tmp_path / "models/classes/1"
    assert not (made / "config.json").is_symlink() and not (made / "pytorch_model.bin").exists()
    assert (made / "1_Pooling/config.json").exists() and (made / "tokenizer.json").exists()
    server = serve(tmp_path / "models")
    text = subprocess.run(["curl", "-sf", f"http://{server.at['http']}/predict", "-d", json.dumps({"inputs": "a few words"})],
                          capture_output=True, check=True).stdout
    scores = json.loads(text)
    assert {entry["label"] for entry in scores} == {"class-0", "class-1", "class-2"}
    assert abs(sum(entry["score"] for entry in scores) - 1) < 1e-5


def test_optimums_layout_and_the_choice_of_an_engine(tmp_path, place):
    encoders.tiny_classifier(tmp_path / "made", "both", "candle", labels=1)
    encoders.tiny_classifier(tmp_path / "made", "other", "onnx", labels=1)
    folder = tmp_path / "made/both/1"
    (folder / "onnx").mkdir()
    shutil.copy(tmp_path / "made/other/1/model.onnx", folder / "onnx/model.onnx")
    assert place(folder, "--name", "a")["backend"] == "onnxruntime"
    done = place(folder, "--name", "b", "--backend", "candle")
    assert done["backend"] == "candle"
    assert not list((tmp_path / "models/b").rglob("*.onnx")) and not list((tmp_path / "models/a").rglob("*.safetensors"))
    odd = place(folder, "--name", "c", "--backend", "pytorch", check=False)
    assert odd.returncode == 2 and "pytorch" in odd.stderr


@test_torch.pytestmark
def test_torchscript_takes_its_signature_from_the_command_line(tmp_path, place, serve):
    path = tmp_path / "sum.pt"
    test_torch.compiled(path, "def forward(self, a: Tensor, b: Tensor):\n    return a + b, a * b\n")
    silent = place(path, check=False)
    assert silent.returncode == 2, silent.stderr
    for words in ("`a: Tensor`, `b: Tensor`", "--input-tensor", "--output-tensor"):
        assert words in silent.stderr
    assert nothing_in(tmp_path / "models")
    done = place(path, "--input-tensor", "a:FP32:2", "--input-tensor", "b:FP32:2", "--output-tensor", "sum:FP32:2",
                 "--output-tensor", "product:FP32:2", "--max-batch-size", 8)
    assert done["answer"][0]["first_values"] == [0, 0.5]
    wrong = place(path, "--name", "wrong", "--input-tensor", "a:FP32:2", "--input-tensor", "b:FP32:2", "--output-tensor", "s:INT64:2", check=False)
    assert wrong.returncode != 0 and "`s`" in wrong.stderr, "the prediction shows a signature that is not the module's"
    server = serve(tmp_path / "models")
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([[5, 6], [7, 8]], np.float32)
    answer = ask(server, "sum", {"a": a, "b": b})
    np.testing.assert_array_equal(answer.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(answer.as_numpy("product"), a * b)


@pytest.mark.skipif(not VAD.exists(), reason="`make torch` brings the speech model")
def test_values_and_sizes_that_a_model_insists_on(tmp_path, place):
    failed = place(VAD / "silero_vad.onnx", check=False)
    assert failed.returncode != 0 and "--shape and --value" in failed.stderr, failed.stderr
    assert nothing_in(tmp_path / "models")
    done = place(VAD / "silero_vad.onnx", "--shape", "input:1,576", "--value", "sr=16000")
    assert 0 <= done["answer"][0]["first_values"][0] <= 1
    for flag in (("--shape", "inputs:1,576"), ("--value", "srx=1"), ("--value", "sr=x")):
        odd = place(VAD / "silero_vad.onnx", "--name", "b", *flag, check=False)
        assert odd.returncode == 2 and flag[0] in odd.stderr, odd.stderr


def test_versions_are_added_and_replaced_and_the_configuration_kept(tmp_path, place, serve):
    for factor in (2, 3, 4):
        onnx.save(models.affine(float(factor)), str(tmp_path / f"{factor}.onnx"))
    place(tmp_path / "2.onnx", "--name", "m")
    again = place(tmp_path / "3.onnx", "--name", "m", check=False)
    assert again.returncode == 4 and "--model-version 2" in again.stderr and "--force" in again.stderr
    config = tmp_path / "models/m/config.pbtxt"
    mine = config.read_text() + "version_policy { all { } }\n"
    config.write_text(mine)
    place(tmp_path / "3.onnx", "--name", "m", "--model-version", 2)
    place(tmp_path / "4.onnx", "--name", "m", "--force")
    assert config.read_text() == mine
    shared = place(tmp_path / "2.onnx", "--name", "m", "--model-version", 3, "--max-batch-size", 2, check=False)
    assert shared.returncode == 4 and "config.pbtxt" in shared.stderr
    server, x = serve(tmp_path / "models"), np.ones((1, 4), np.float32)
    client = triton_http.InferenceServerClient(server.at["http"])
    for version, factor in (("1", 4), ("2", 3)):
        given = triton_http.InferInput("x", [1, 4], "FP32")
        given.set_data_from_numpy(x)
        assert client.infer("m", [given], model_version=version).as_numpy("y")[0, 0] == factor
    # What does not fit the configuration that is there changes nothing.
    onnx.save(models.affine(2.0, ("n", 7)), str(tmp_path / "wide.onnx"))
    wide = place(tmp_path / "wide.onnx", "--name", "m", "--model-version", 3, check=False)
    assert wide.returncode == 2 and "`x` has shape [-1,7]" in wide.stderr
    assert sorted(os.listdir(tmp_path / "models/m")) == ["1", "2", "config.pbtxt"]
    place(tmp_path / "2.onnx", "--name", "m", "--force", "--max-batch-size", 0)
    assert "max_batch_size: 0" in config.read_text()


def test_a_running_server_takes_it_up(tmp_path, place, serve, mizzen):
    onnx.save(models.affine(2.0), str(tmp_path / "m.onnx"))
    (tmp_path / "models").mkdir()
    server = serve(tmp_path / "models", "--model-control-mode=explicit")
    polling = serve(tmp_path / "models", "--model-control-mode=poll", "--repository-poll-secs=1")
    place(tmp_path / "m.onnx")
    mizzen("models", "load", "m", "-u", server.at["http"])
    x = np.ones((1, 4), np.float32)
    assert ask(server, "m", {"x": x}).as_numpy("y")[0, 0] == 2
    client = triton_http.InferenceServerClient(polling.at["http"])
    conftest.until(lambda: client.is_model_ready("m"))


def test_what_is_no_model_is_refused_by_what_it_is(tmp_path, place):
    def written(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    onnx_bytes = models.affine(2.0).SerializeToString()
    with zipfile.ZipFile(tmp_path / "checkpoint.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    cases = [
        (tmp_path / "absent", 3, ["absent"]),
        (written("notes.txt", b"hello"), 2, ["hello", "expected ONNX"]),
        (written("empty.onnx", b""), 2, ["empty file"]),
        (written("short.onnx", onnx_bytes[:-9]), 2, ["cut short"]),
        (written("pointer.onnx", b"version https://git-lfs.github.com/spec/v1\n"), 8, ["git lfs pull"]),
        (tmp_path / "checkpoint.pt", 8, ["checkpoint", "torch.onnx.export"]),
        (written("half.pt", (tmp_path / "checkpoint.pt").read_bytes()[:-9]), 2, ["damaged"]),
        (written("model.h5", b"\x89HDF\r\n\x1a\n"), 8, ["Keras"]),
        (written("archive.tar.gz", gzip.compress(b"x")), 2, ["expected ONNX"]),
        (written("alone/m.safetensors", (2).to_bytes(8, "little") + b"{}"), 2, ["config.json"]),
        (written("hf/pytorch_model.bin", b"x").parent, 8, ["safe_serialization"]),
        (written("tf/saved_model.pb", b"x").parent, 8, ["tf2onnx"]),
        (written("there/config.pbtxt", b"").parent, 2, ["repository already"]),
        (tmp_path / "empty", 2, ["expected a directory"]),
        (tmp_path / "pipe", 2, ["neither a file nor a directory"]),
    ]
    for path, status, words in cases:
        done = place(path, check=False)
        assert done.returncode == status, (path, done.stderr)
        assert all(word in done.stderr for word in words), (path, done.stderr)
        assert nothing_in(tmp_path / "models"), path


def test_wrong_names_and_places_are_refused(tmp_path, place, mizzen):
    onnx.save(models.affine(2.0), str(tmp_path / "m.onnx"))
    for name in ("../up", "a/b", ".hidden", "..", "", "x" * 300):
        done = place(tmp_path / "m.onnx", "--name", name, check=False)
        assert done.returncode == 2, (name, done.stderr)
    assert nothing_in(tmp_path / "models") and not (tmp_path / "up").exists()
    for flags in (("--model-version", 0), ("--model-version", "x"), ("--input-tensor", "x"), ("--model-repository", "s3://bucket")):
        assert place(tmp_path / "m.onnx", *flags, check=False).returncode == 2, flags
    (tmp_path / "file").write_text("")
    done = mizzen("models", "import", tmp_path / "m.onnx", "--model-repository", tmp_path / "file/models", check=False)
    assert done.returncode == 2 and "cannot write" in done.stderr
    if os.geteuid() != 0:
        (tmp_path / "sealed").mkdir(mode=0o500)
        done = mizzen("models", "import", tmp_path / "m.onnx", "--model-repository", tmp_path / "sealed", check=False)
        assert done.returncode == 5, done.stderr


def test_a_machine_without_the_engine_may_import_all_the_same(tmp_path, place):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"):
            archive.writestr(name, b"")
    (tmp_path / "nothing").mkdir()
    absent = {"MIZZEN_PLUGIN_DIR": str(tmp_path / "nothing")}
    done = place(path, check=False, env=absent)
    assert done.returncode == 8 and "make torch" in done.stderr and "--no-check" in done.stderr, done.stderr
    place(path, "--no-check", "--input-tensor", "x:FP32:3,-1", "--output-tensor", "y:STRING:1", env=absent)
    text = (tmp_path / "models/m/config.pbtxt").read_text()
    assert 'dims: [ 3, -1 ]' in text and "TYPE_STRING" in text and 'backend: "pytorch"' in text


def test_a_configuration_of_ones_own(tmp_path, place):
    onnx.save(models.affine(2.0), str(tmp_path / "m.onnx"))
    mine = tmp_path / "mine.pbtxt"
    mine.write_text('backend: "onnxruntime"\nmax_batch_size: 2 # mine\n')
    place(tmp_path / "m.onnx", "--model-config", mine)
    assert (tmp_path / "models/m/config.pbtxt").read_text() == mine.read_text()
    mine.write_text("max_bach_size: 2\n")
    slip = place(tmp_path / "m.onnx", "--name", "b", "--model-config", mine, check=False)
    assert slip.returncode == 2 and "max_bach_size" in slip.stderr
    assert sorted(os.listdir(tmp_path / "models")) == ["m"]


def test_a_signal_ends_it_and_leaves_nothing(tmp_path):
    onnx.save(models.slow(20_000_000), str(tmp_path / "slow.onnx"))
    repository = tmp_path / "models"
    process = subprocess.Popen(
        [conftest.MIZZEN, "models", "import", str(tmp_path / "slow.onnx"), "--model-repository", str(repository)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=conftest.ENVIRONMENT,
    )
    conftest.until(lambda: list(repository.glob(".mizzen-import-*/slow/config.pbtxt")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "stopped" in errors, errors
    assert nothing_in(tmp_path / "models")


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for the disk."""
    (tmp_path / "models").mkdir()
    onnx.save(models.affine(2.0), str(tmp_path / "m.onnx"))
    big = tmp_path / "big"
    encoders.tiny_classifier(big, "m", "candle", labels=1)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 100; trap "" XFSZ; exec "$@"', "-", conftest.MIZZEN, "models", "import", str(big / "m/1"),
         "--name", "m", "--model-repository", str(tmp_path / "models")],
        capture_output=True, text=True, env=conftest.ENVIRONMENT, timeout=60,
    )
    assert done.returncode == 9 and "left to copy" in done.stderr, (done.returncode, done.stderr)
    assert nothing_in(tmp_path / "models")


def typed(text, server):
    """Types the `curl` line that an import shows, at a server on another port."""
    line = next(line for line in text.splitlines() if line.startswith("  curl "))
    command = line.replace("http://127.0.0.1:8000", f"http://{server.at['http']}").replace("curl ", "curl -sfS ", 1)
    return subprocess.run(["bash", "-c", command], capture_output=True, check=True, text=True, timeout=60).stdout


def test_the_line_to_type_works(tmp_path, mizzen, serve):
    onnx.save(models.affine(2.0), str(tmp_path / "a b.onnx"))
    encoders.tiny_classifier(tmp_path / "made", "ranker", "candle", labels=1)
    encoders.tiny_classifier(tmp_path / "made", "classes", "candle", labels=3)
    flags = ("--model-repository", tmp_path / "models")
    said = [mizzen("models", "import", tmp_path / path, *name, *flags).stdout for path, *name in (
        ("a b.onnx",), ("made/ranker/1", "--name", "ranker"), ("made/classes/1", "--name", "classes"))]
    answers = [json.loads(typed(text, server)) for server in [serve(tmp_path / "models")] for text in said]
    assert answers[0]["outputs"][0]["data"] == [0, 0.5, 1, 1.5]
    assert answers[1][0]["index"] == 0 and len(answers[2]) == 3


def test_the_words_for_people(tmp_path, mizzen):
    onnx.save(models.affine(2.0), str(tmp_path / "m.onnx"))
    text = mizzen("models", "import", tmp_path / "m.onnx", "--model-repository", tmp_path / "my models").stdout
    lines = text.splitlines()
    assert lines[0].startswith("imported m: ONNX")
    assert [line.split()[:4] for line in lines if line.startswith(("input", "output"))] == [
        ["input", "x", "FP32", "[-1,4]"], ["output", "y", "FP32", "[-1,4]"]]
    assert f"  mizzen serve --model-repository '{tmp_path}/my models'" in lines
    curl = next(line for line in lines if line.startswith("  curl"))
    assert "/v2/models/m/infer" in curl and "poll" in text
    assert "loaded in" in text and "answered in" in text
    help = mizzen("models", "import", "--help").stdout
    for words in ("Hugging Face", "--shape", "Examples:", "Exits 2"):
        assert words in help

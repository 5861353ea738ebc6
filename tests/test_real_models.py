"""Models that people use, with their real weights: imported as they come, and asked as their own libraries ask them."""

import json
import pathlib
import sys

import conftest
import efficientnet
import numpy as np
import onnxruntime
import pytest
import test_torch
from test_import import ask, place  # noqa: F401, a fixture

MODELS = conftest.ROOT / ".cache/models"
OCR = {"detector": "ch_PP-OCRv4_det_infer.onnx", "reader": "ch_PP-OCRv4_rec_infer.onnx", "turner": "ch_ppocr_mobile_v2.0_cls_infer.onnx"}


def bare(path):
    """The model in ONNX Runtime alone, on a thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0], session.get_modelmeta().custom_metadata_map


def test_magika_tells_files_apart(tmp_path, place, serve):
    done = place(MODELS / "magika/model.onnx")
    assert done["name"] == "magika" and done["inputs"] == [{"name": "bytes", "datatype": "INT32", "shape": [-1, 2048]}]
    config = json.loads((MODELS / "magika/config.min.json").read_text())
    server, (alone, _) = serve(tmp_path / "models"), bare(MODELS / "magika/model.onnx")

    def features(data):
        """The file's beginning and end without white space, as the library cuts them out."""
        size, pad = config["beg_size"], config["padding_token"]
        begin = list(data[:config["block_size"]].lstrip()[:size])
        end = list(data[-config["block_size"]:].rstrip()[-size:])
        return begin + [pad] * (size - len(begin)) + [pad] * (size - len(end)) + end

    files = {
        "python": pathlib.Path(conftest.__file__).read_bytes(),
        "rust": (conftest.ROOT / "cli/main.rs").read_bytes(),
        "toml": (conftest.ROOT / "Cargo.toml").read_bytes(),
        "markdown": (conftest.ROOT / "docs/architecture.md").read_bytes(),
        "elf": pathlib.Path(sys.executable).resolve().read_bytes(),
    }
    x = np.array([features(data) for data in files.values()], np.int32)
    # More rows than a batch takes: they are split, and put together again.
    got = ask(server, "magika", {"bytes": x}).as_numpy("target_label")
    assert [config["target_labels_space"][row.argmax()] for row in got] == list(files)
    np.testing.assert_allclose(got, alone(x), atol=1e-5)


# Five by seven points a letter.
LETTERS = {
    "H": "10001 10001 10001 11111 10001 10001 10001", "E": "11111 10000 10000 11110 10000 10000 11111",
    "L": "10000 10000 10000 10000 10000 10000 11111", "A": "01110 10001 10001 11111 10001 10001 10001",
    "T": "11111 00100 00100 00100 00100 00100 00100", "N": "10001 11001 11001 10101 10011 10011 10001",
    "4": "00010 00110 01010 10010 11111 00010 00010", "2": "01110 10001 00001 00110 01000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001",
}


def written(text, scale):
    """Black letters on white, 0 to 255."""
    lines = ["0".join(LETTERS[letter].split()[row] for letter in text) for row in range(7)]
    points = np.array([[point == "1" for point in line] for line in lines])
    return np.where(np.kron(np.pad(points, 2), np.ones((scale, scale), bool)), 0, 255).astype(np.float32)


def test_ocr_reads_what_is_written_at_any_size(tmp_path, place, serve):
    for name, file in OCR.items():
        height, width = {"detector": (96, 160), "reader": (48, 96), "turner": (48, 192)}[name]
        place(MODELS / "rapidocr" / file, "--name", name, "--shape", f"x:3,{height},{width}")
    server = serve(tmp_path / "models")
    alone = {name: bare(MODELS / "rapidocr" / file) for name, file in OCR.items()}

    def run(name, x):
        answer = ask(server, name, {"x": x}).as_numpy(ask_output(server, name))
        np.testing.assert_allclose(answer, alone[name][0](x), atol=1e-4, err_msg=name)
        return answer

    characters = ["", *alone["reader"][1]["character"].splitlines(), " "]
    for text, scale in (("MAN", 4), ("HEALTH42", 5)):
        line = written(text, scale)
        page = np.full((160, 416), 255, np.float32)
        top, left = 32, 64
        page[top:top + line.shape[0], left:left + line.shape[1]] = line
        # As ImageNet's images are scaled.
        mean, deviation = (np.array(numbers)[:, None, None] for numbers in ((.485, .456, .406), (.229, .224, .225)))
        there = run("detector", ((page / 255 - mean) / deviation)[None].astype(np.float32))[0, 0] > 0.3
        rows, columns = np.where(there)
        assert top <= rows.min() and rows.max() < top + line.shape[0], "it is found"
        assert left <= columns.min() and columns.max() < left + line.shape[1]
        # To 48 points of height; the width follows.
        width = line.shape[1] * 48 // line.shape[0]
        small = line[np.arange(48) * line.shape[0] // 48][:, np.arange(width) * line.shape[1] // width]
        x = np.repeat((small / 127.5 - 1)[None, None], 3, 1).astype(np.float32)
        best = run("reader", x)[0].argmax(1)
        read = "".join(characters[i] for i, before in zip(best, [0, *best]) if i != before)
        assert read == text
        upright = np.zeros((2, 3, 48, 192), np.float32)
        upright[0, :, :, :min(width, 192)] = x[0, :, :, :192]
        upright[1] = upright[0, :, ::-1, ::-1]
        turned = run("turner", upright)
        assert turned[0].argmax() == 0 and turned[1].argmax() == 1, "the second is upside down"


def ask_output(server, name):
    import urllib.request

    with urllib.request.urlopen(f"http://{server.at['http']}/v2/models/{name}") as answer:
        return json.load(answer)["outputs"][0]["name"]


@pytest.fixture(scope="module")
def network():
    return efficientnet.weights()


# Classes of ImageNet.
BALL, SCREEN = 722, 904


def pictures():
    """A ball before something pale, and the mesh of a window screen."""
    y, x = np.mgrid[0:224, 0:224] / 112 - 1
    ball = [np.where(x * x + y * y < 0.4, colour, 0.9) for colour in (0.95, 0.2, -0.9)]
    mesh = [np.where((np.sin(40 * y) > 0.9) | (np.sin(40 * x) > 0.9), -0.9, 0.9)] * 3
    return np.array([ball, mesh], np.float32)


def test_efficientnet_answers_alike_in_three_engines(tmp_path, place, serve, network):
    efficientnet.write_onnx(tmp_path / "onnx.onnx", network)
    efficientnet.write_directory(tmp_path / "candle", network)
    names = ["onnx", "candle"]
    for name in ("onnx.onnx", "candle"):
        done = place(tmp_path / name)
        assert done["inputs"] == [{"name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, 224, 224]}]
        assert done["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 1000]}]
    if test_torch.PLUGIN.exists() and test_torch.COMPILER.exists():
        efficientnet.write_torchscript(tmp_path / "torch.pt", network)
        place(tmp_path / "torch.pt", "--input-tensor", "pixel_values:FP32:3,224,224", "--output-tensor", "logits:FP32:1000", "--max-batch-size", 4)
        names.append("torch")
    server, x = serve(tmp_path / "models"), pictures()
    want = bare(tmp_path / "onnx.onnx")[0](x)
    assert list(want.argmax(1)) == [BALL, SCREEN]
    for name in names:
        got = ask(server, name, {"pixel_values": x}).as_numpy("logits")
        assert list(got.argmax(1)) == [BALL, SCREEN], name
        np.testing.assert_allclose(got, want, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("change, words", [
    (lambda config, tensors: config.update(variant="lite1"), "_blocks."),
    (lambda config, tensors: config.update(variant="b0"), "lite0"),
    (lambda config, tensors: config.update(image_size=5), "image_size"),
    (lambda config, tensors: config.update(num_classes=7), "_fc.weight"),
    (lambda config, tensors: tensors.pop("_blocks.3._bn1.running_var"), "_blocks.3._bn1.running_var"),
    (lambda config, tensors: tensors.update(extra=np.zeros(3, np.float32)), "extra"),
])
def test_efficientnets_files_that_do_not_fit_are_named(tmp_path, place, network, change, words):
    config, tensors = dict(efficientnet.CONFIG), dict(network)
    change(config, tensors)
    efficientnet.write_directory(tmp_path / "wrong", tensors)
    (tmp_path / "wrong/config.json").write_text(json.dumps(config))
    done = place(tmp_path / "wrong", check=False)
    assert done.returncode == 2 and words in done.stderr, done.stderr

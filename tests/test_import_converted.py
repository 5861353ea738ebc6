"""`mizzen models import` of what only Python reads: it becomes ONNX, and answers as the library itself does."""

import json
import os
import pickle
import shutil
import sys

import joblib
import lightgbm
import models
import numpy as np
import onnx
import pandas
import test_torch
import xgboost
import yaml
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from test_import import ask, nothing_in, place  # noqa: F401, a fixture

# Conversions run under the Python of the tests, which has the packages.
IRIS, KINDS = load_iris(return_X_y=True)
IRIS = IRIS.astype(np.float32)


def pickled(path, model, **flags):
    path.parent.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, path, **flags)
    return path


def test_pickles_are_read_by_those_who_trust_them_only(tmp_path, place):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap()))
    done = place(tmp_path / "trap.pkl", check=False)
    assert done.returncode == 5 and "--trust-pickle" in done.stderr and "runs" in done.stderr
    assert not (tmp_path / "sprung").exists()
    done = place(tmp_path / "trap.pkl", "--trust-pickle", check=False)
    assert done.returncode == 2 and "expected a model of scikit-learn" in done.stderr, done.stderr
    assert (tmp_path / "sprung").exists() and nothing_in(tmp_path / "models")


def test_scikit_learn_answers_as_its_own_predict_does(tmp_path, place, serve):
    names = np.array(["setosa", "versicolor", "virginica"])
    made = {
        "words": make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(IRIS, names[KINDS]),
        "forest": RandomForestClassifier(10, random_state=0).fit(IRIS, KINDS),
        "chosen": GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [2, 3]}).fit(IRIS, KINDS),
        "boosted": make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=5)).fit(IRIS, KINDS),
        "light": make_pipeline(StandardScaler(), lightgbm.LGBMClassifier(n_estimators=5, verbose=-1)).fit(IRIS, KINDS),
        "ridge": Ridge().fit(IRIS[:, :3], IRIS[:, 3]),
        "axes": PCA(2).fit(IRIS),
    }
    for name, model in made.items():
        compress = 3 if name == "forest" else 0
        done = place(pickled(tmp_path / f"{name}.joblib", model, compress=compress), "--trust-pickle")
        assert done["backend"] == "onnxruntime" and done["what"].startswith("scikit-learn "), done
    assert (tmp_path / "models/words/labels.txt").read_text().split() == list(names)
    server = serve(tmp_path / "models")
    for name, model in made.items():
        x = IRIS[::15][:, :3] if name == "ridge" else IRIS[::15]
        answers = [ask(server, name, {"input": x[at:at + 4]}) for at in range(0, len(x), 4)]
        if name == "axes":
            got = np.concatenate([a.as_numpy("variable") for a in answers])
            np.testing.assert_allclose(got, model.transform(x), atol=1e-5)
        elif name == "ridge":
            got = np.concatenate([a.as_numpy("variable") for a in answers]).ravel()
            np.testing.assert_allclose(got, model.predict(x), rtol=1e-5)
        else:
            got = np.concatenate([a.as_numpy("probabilities") for a in answers])
            np.testing.assert_allclose(got, model.predict_proba(x), atol=1e-5, err_msg=name)
            labels = np.concatenate([a.as_numpy("label") for a in answers]).ravel()
            labels = [label.decode() if isinstance(label, bytes) else label for label in labels]
            assert labels == list(model.predict(x)), name
    # The classes by their names, as clients of Triton ask for them.
    answer = ask(server, "words", {"input": IRIS[:1]}, outputs={"probabilities": {"class_count": 2}})
    assert answer.as_numpy("probabilities")[0][0].decode().endswith(":0:setosa")


def test_xgboost_and_lightgbm_in_their_own_files(tmp_path, place, serve):
    """No code runs to read these: nobody has to trust them."""
    classes = xgboost.XGBClassifier(n_estimators=5).fit(pandas.DataFrame(IRIS, columns=list("abcd")), KINDS)
    numbers = xgboost.XGBRegressor(n_estimators=5).fit(IRIS[:, :3], IRIS[:, 3])
    light = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(IRIS, KINDS)
    classes.save_model(tmp_path / "classes.json")
    numbers.save_model(tmp_path / "numbers.ubj")
    light.booster_.save_model(tmp_path / "light.txt")
    for file in ("classes.json", "numbers.ubj", "light.txt"):
        place(tmp_path / file)
    # The same in pickles, where the library's class is known.
    place(pickled(tmp_path / "pickled.pkl", light), "--trust-pickle")
    server = serve(tmp_path / "models")
    x = IRIS[::40]
    for name, model in (("classes", classes), ("light", light), ("pickled", light)):
        answer = ask(server, name, {"input": x})
        np.testing.assert_allclose(answer.as_numpy("probabilities"), model.predict_proba(x), atol=1e-6)
        np.testing.assert_array_equal(answer.as_numpy("label").ravel(), model.predict(x))
    np.testing.assert_allclose(ask(server, "numbers", {"input": x[:, :3]}).as_numpy("variable").ravel(), numbers.predict(x[:, :3]), atol=1e-5)


def test_columns_of_a_table_are_inputs_of_their_own(tmp_path, place, serve):
    table = pandas.DataFrame({"age": [1.0, 2.0, 3.0, 4.0], "town": ["a", "b", "a", "c"]})
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["town"]), (StandardScaler(), ["age"]))
    model = make_pipeline(columns, LogisticRegression()).fit(table, [0, 1, 0, 1])
    path = pickled(tmp_path / "people.pkl", model)
    untold = place(path, "--trust-pickle", check=False)
    assert untold.returncode == 2 and "`age`, `town`" in untold.stderr and "--input-tensor" in untold.stderr
    place(path, "--trust-pickle", "--input-tensor", "age:FP32:1", "--input-tensor", "town:STRING:1")
    # MLflow says it itself.
    folder = mlflow_model(tmp_path / "logged", {"sklearn": {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}},
                          [{"type": "float", "name": "age", "required": True}, {"type": "string", "name": "town", "required": True}])
    shutil.copy(path, folder / "model.pkl")
    place(folder, "--trust-pickle")
    server = serve(tmp_path / "models")
    given = {"age": table[["age"]].to_numpy(np.float32), "town": table[["town"]].to_numpy(object)}
    for name in ("people", "logged"):
        np.testing.assert_allclose(ask(server, name, given).as_numpy("probabilities"), model.predict_proba(table), atol=1e-6)


def mlflow_model(folder, flavors, inputs=None, outputs=None):
    """A directory as MLflow writes it, but for the model's own file."""
    folder.mkdir(parents=True)
    flavors = {"python_function": {"loader_module": "mlflow", "python_version": "3.11.7", "env": {"conda": "conda.yaml"}}, **flavors}
    written = {"artifact_path": "model", "flavors": flavors, "mlflow_version": "3.4.0", "utc_time_created": "2026-01-01 00:00:00.000000"}
    if inputs:
        written["signature"] = {"inputs": json.dumps(inputs), "outputs": outputs and json.dumps(outputs), "params": None}
    (folder / "MLmodel").write_text(yaml.safe_dump(written))
    (folder / "conda.yaml").write_text("dependencies: []\n")
    return folder


def test_mlflow_models_by_their_flavors(tmp_path, place, serve):
    tensor = lambda *shape: [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": list(shape)}}]
    folder = mlflow_model(tmp_path / "converted", {"onnx": {"data": "model.onnx", "onnx_version": "1.19.0"}}, tensor(-1, 4))
    onnx.save(models.affine(2.0), str(folder / "model.onnx"))
    assert place(folder)["what"] == "MLflow, ONNX", "without Python, and without trust"

    boosted = xgboost.XGBClassifier(n_estimators=3).fit(IRIS, KINDS)
    folder = mlflow_model(tmp_path / "boosted", {"xgboost": {"data": "model.ubj", "model_class": "xgboost.sklearn.XGBClassifier"}}, tensor(-1, 4))
    boosted.save_model(folder / "model.ubj")
    place(folder)

    columns = [{"type": "double", "name": name, "required": True} for name in "abcd"]
    forest = RandomForestClassifier(5, random_state=0).fit(IRIS, KINDS)
    folder = mlflow_model(tmp_path / "forest", {"sklearn": {"pickled_model": "model.pkl"}}, columns)
    pickled(folder / "model.pkl", forest)
    assert place(folder, check=False).returncode == 5
    place(folder, "--trust-pickle")

    server = serve(tmp_path / "models")
    np.testing.assert_array_equal(ask(server, "converted", {"x": IRIS[:2]}).as_numpy("y"), 2 * IRIS[:2])
    for name, model in (("boosted", boosted), ("forest", forest)):
        np.testing.assert_allclose(ask(server, name, {"input": IRIS[::50]}).as_numpy("probabilities"), model.predict_proba(IRIS[::50]), atol=1e-6)

    for flavors, status, words in (
        ({"spacy": {"data": "m"}}, 8, ["spacy", "`onnx`"]),
        ({"onnx": {"data": "../model.onnx"}}, 2, ["not a path below"]),
        ({"onnx": {"data": "absent.onnx"}}, 3, ["absent.onnx"]),
    ):
        folder = mlflow_model(tmp_path / f"wrong{len(words)}{status}", flavors)
        done = place(folder, check=False)
        assert done.returncode == status and all(word in done.stderr for word in words), done.stderr
    (folder / "MLmodel").write_text("flavors: [")
    done = place(folder, check=False)
    assert done.returncode == 2 and "MLmodel" in done.stderr


@test_torch.pytestmark
def test_mlflows_torchscript_has_its_signature(tmp_path, place):
    tensor = lambda *shape: [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": list(shape)}}]
    folder = mlflow_model(tmp_path / "script", {"pytorch": {"model_data": "data", "pytorch_version": "2.8.0"}}, tensor(-1, 2), tensor(-1, 2))
    test_torch.compiled(folder / "data/model.pth", "def forward(self, x: Tensor):\n    return x * 2\n")
    done = place(folder)
    assert done["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 2]}]
    assert done["answer"][0]["first_values"] == [0, 0.5]


def test_a_conversion_that_fails_says_why(tmp_path, place):
    path = pickled(tmp_path / "m.pkl", LogisticRegression(max_iter=500).fit(IRIS, KINDS))

    def python(name, text):
        script = tmp_path / name
        script.write_text("#!/bin/bash\n" + text)
        script.chmod(0o755)
        return script

    bare = python("bare", f'exec {sys.executable} -S "$@"')
    sleeping = python("sleeping", 'echo "still at it" >&2; sleep 600 & wait')
    broken = python("broken", "echo 'Traceback: no luck' >&2; exit 7")
    unfitted = pickled(tmp_path / "unfitted.pkl", LogisticRegression())
    other = pickled(tmp_path / "other.pkl", {"weights": [1, 2]})
    strange = pickled(tmp_path / "strange.pkl", LocalOutlierFactor(2).fit(IRIS))
    cases = [
        (path, ("--python", bare), 8, ["-m pip install", str(bare)]),
        (path, ("--python", tmp_path / "nowhere"), 8, ["cannot start", "--python"]),
        (path, ("--python", sleeping, "--convert-timeout", 1), 7, ["within 1 s", "still at it"]),
        (path, ("--python", broken), 2, ["no luck", "exit status: 7"]),
        (unfitted, (), 2, ["fitted"]),
        (other, (), 2, ["builtins.dict"]),
        (strange, (), 2, ["LocalOutlierFactor"]),
    ]
    for path, flags, status, words in cases:
        done = place(path, "--trust-pickle", *flags, check=False)
        assert done.returncode == status, (flags, done.stderr)
        assert all(word in done.stderr for word in words), (flags, done.stderr)
        assert nothing_in(tmp_path / "models")

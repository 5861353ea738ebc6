"""Makes ONNX of a model of scikit-learn, XGBoost or LightGBM, for `mizzen models import`.

Called as `python convert.py REQUEST`, a file of JSON: `model` (a file), `library` (whose own format it is, or null for
a pickle), `columns` (name, datatype and dims of inputs, where they are known), `out` (a file to write) and `report` (a file of JSON to
write: what the model is, and its labels; or what is missing, or wrong).
"""

import json
import sys
import warnings

PACKAGES = {"sklearn": "scikit-learn", "cv2": "opencv-python", "yaml": "pyyaml"}


class Refused(Exception):
    """With a sentence for people."""


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    try:
        report = converted(request)
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        report = {"missing": PACKAGES.get(name, name)}
    except Refused as error:
        report = {"wrong": str(error)}
    with open(request["report"], "w", encoding="utf-8") as file:
        json.dump(report, file)


def converted(request):
    warnings.filterwarnings("ignore")
    model = loaded(request["model"], request["library"])
    library = type(model).__module__.split(".")[0]
    if library not in ("sklearn", "xgboost", "lightgbm"):
        raise Refused(f"it holds a {type(model).__module__}.{type(model).__qualname__}; expected a model of scikit-learn, XGBoost or LightGBM")
    import skl2onnx  # noqa: F401, the types of inputs are its

    inputs = inputs_of(model, request["columns"])
    onnx_model = {"sklearn": from_sklearn, "xgboost": from_xgboost, "lightgbm": from_lightgbm}[library](model, inputs)
    rows_are_free(onnx_model)
    with open(request["out"], "wb") as file:
        file.write(onnx_model.SerializeToString())
    return {"what": f"{name_of(library)} {type(model).__name__}", "labels": labels_of(model, onnx_model)}


def name_of(library):
    return {"sklearn": "scikit-learn", "xgboost": "XGBoost", "lightgbm": "LightGBM"}[library]


def loaded(path, library):
    if library == "xgboost":
        import xgboost

        return xgboost.Booster(model_file=path)
    if library == "lightgbm":
        import lightgbm

        return lightgbm.Booster(model_file=path)
    try:
        # Reads what pickle writes, too, and what is compressed.
        import joblib

        return joblib.load(path)
    except ModuleNotFoundError as error:
        if error.name != "joblib":
            raise
    import pickle

    with open(path, "rb") as file:
        return pickle.load(file)


def inputs_of(model, columns):
    """The inputs for the converters: as told, else one of all features."""
    from skl2onnx.common import data_types

    kinds = {
        "FP32": data_types.FloatTensorType, "FP64": data_types.DoubleTensorType, "INT64": data_types.Int64TensorType,
        "INT32": data_types.Int32TensorType, "BOOL": data_types.BooleanTensorType, "BYTES": data_types.StringTensorType,
    }
    by_name = columns_by_name(model)
    # Numbers in columns are one matrix, unless the model asks for them by their names.
    flat = columns and all(column.get("column") and column["datatype"] != "BYTES" for column in columns)
    if by_name and not columns:
        names = ", ".join(f"`{name}`" for name in by_name)
        raise Refused(f"it takes columns by name: say the type of each with --input-tensor NAME:TYPE:1 (FP32, INT64, STRING, ...): {names}")
    if not columns or (flat and not by_name):
        return [("input", data_types.FloatTensorType([None, features_of(model)]))]
    inputs = []
    for column in columns:
        kind = kinds.get(column["datatype"])
        if kind is None:
            raise Refused(f"input `{column['name']}` is of type {column['datatype']}; expected one of {', '.join(kinds)}")
        inputs.append((column["name"], kind([None, *(None if size < 0 else size for size in column["dims"])])))
    return inputs


def columns_by_name(model):
    """The columns that a ColumnTransformer somewhere in the model asks for by their names."""
    if not any(type(part).__name__ == "ColumnTransformer" for part in parts(model)):
        return []
    return [name for name in getattr(model, "feature_names_in_", []) if isinstance(name, str)]


def parts(model, depth=0):
    yield model
    if depth > 8:
        return
    inner = [step for _, step in getattr(model, "steps", None) or []]
    inner += [entry[1] for entry in getattr(model, "transformers", None) or []]
    inner += [part for _, part in getattr(model, "estimators", None) or [] if not isinstance(part, str)] if hasattr(model, "named_estimators") else []
    for name in ("estimator", "final_estimator", "best_estimator_"):
        inner.append(getattr(model, name, None))
    for part in inner:
        if part is not None:
            yield from parts(part, depth + 1)


def features_of(model):
    for name in ("n_features_in_", "num_features", "num_feature"):
        count = getattr(model, name, None)
        count = count() if callable(count) else count
        if isinstance(count, int) and count > 0:
            return count
    raise Refused("it does not say how many features it takes: is it fitted? If it is, say it with --input-tensor input:FP32:N")


def from_sklearn(model, inputs):
    from skl2onnx import to_onnx
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
    from sklearn.base import is_classifier

    used = {type(part).__module__.split(".")[0] for part in parts(model)}
    register(used)
    # Tensors, where the default is a list of dictionaries that no server can send.
    options = {id(model): {"zipmap": False}} if is_classifier(model) else None
    try:
        return to_onnx(model, initial_types=inputs, options=options, target_opset={"": 17, "ai.onnx.ml": 3})
    except (MissingConverter, MissingShapeCalculator) as error:
        reason = str(error).strip().splitlines()[0]
        raise Refused(f"skl2onnx has no converter for a part of it: {reason}") from error


def register(used):
    """What skl2onnx's documentation says of pipelines that end in XGBoost or LightGBM."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes, calculate_linear_regressor_output_shapes

    options = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
    if "xgboost" in used:
        import xgboost
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

        update_registered_converter(xgboost.XGBClassifier, "XGBoostXGBClassifier", calculate_linear_classifier_output_shapes, convert_xgboost, options=options)
        update_registered_converter(xgboost.XGBRegressor, "XGBoostXGBRegressor", calculate_linear_regressor_output_shapes, convert_xgboost)
    if "lightgbm" in used:
        import lightgbm
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        options = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
        update_registered_converter(lightgbm.LGBMClassifier, "LightGbmLGBMClassifier", calculate_linear_classifier_output_shapes, convert_lightgbm, options=options)
        update_registered_converter(lightgbm.LGBMRegressor, "LightGbmLGBMRegressor", calculate_linear_regressor_output_shapes, convert_lightgbm, options={"split": None})


def from_xgboost(model, inputs):
    import onnxmltools

    # The converter takes names of the form f0, f1, ... only.
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    booster.feature_names = None
    return onnxmltools.convert_xgboost(model, initial_types=typed(inputs), target_opset=15)


def from_lightgbm(model, inputs):
    import onnxmltools

    return onnxmltools.convert_lightgbm(model, initial_types=typed(inputs), target_opset=15, zipmap=False)


def typed(inputs):
    """The same types as onnxmltools names them."""
    from onnxmltools.convert.common import data_types

    if len(inputs) != 1:
        raise Refused(f"it takes one matrix, and {len(inputs)} inputs are given")
    # Their trees compare numbers of 32 bits, whatever they are given.
    return [(name, data_types.FloatTensorType(kind.shape)) for name, kind in inputs]


def rows_are_free(model):
    """Rows of outputs are as many as those of the inputs; a converter that says 1 is wrong."""
    for output in model.graph.output:
        if not output.type.HasField("tensor_type"):
            raise Refused(f"output `{output.name}` is no tensor, which is all that a client can be sent")
        dims = output.type.tensor_type.shape.dim
        if dims:
            dims[0].ClearField("dim_value")
            dims[0].dim_param = "rows"


def labels_of(model, onnx_model):
    classes = getattr(model, "classes_", None)
    if classes is None or getattr(classes, "ndim", 1) != 1:
        return None
    for output in onnx_model.graph.output:
        dims = output.type.tensor_type.shape.dim
        if "prob" in output.name and len(dims) == 2:
            names = [" ".join(str(label).split()) for label in classes]
            return {"output": output.name, "names": names}
    return None


if __name__ == "__main__":
    main()

"""The classification extension with labels, as Triton's own image client uses it."""

import models
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

CONFIG = """max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "LABELS" } ]
"""


def test_classes_carry_the_labels_of_the_models_file(tmp_path, serve):
    repository = tmp_path / "models"
    models.place(repository, "m", models.affine(2.0), config=CONFIG.replace("LABELS", "labels.txt"))
    (repository / "m/labels.txt").write_text("cat\ndog\n\n")
    server = serve(repository)
    x = np.array([[1, 4, 3, 2]], np.float32)
    for library, client in ((triton_http, triton_http.InferenceServerClient(server.at["http"])),
                            (triton_grpc, triton_grpc.InferenceServerClient(server.at["grpc"]))):
        tensor = library.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(x)
        wanted = [library.InferRequestedOutput("y", class_count=4)]
        classes = client.infer("m", [tensor], outputs=wanted).as_numpy("y")
        # The third label is empty and the fourth is missing.
        assert classes.tolist() == [[b"8.000000:1:dog", b"6.000000:2", b"4.000000:3", b"2.000000:0:cat"]]


def test_labels_that_are_not_there_keep_the_model_from_serving(tmp_path, serve):
    repository = tmp_path / "models"
    for name, file in (("absent", "labels.txt"), ("outside", "../secret")):
        models.place(repository, name, models.affine(2.0), config=CONFIG.replace("LABELS", file))
    (repository / "secret").write_text("x\n")
    client = triton_http.InferenceServerClient(serve(repository).at["http"])
    reasons = {entry["name"]: entry.get("reason", "") for entry in client.get_model_repository_index()}
    assert "label_filename" in reasons["absent"] and "labels.txt" in reasons["absent"]
    assert "model's directory" in reasons["outside"]

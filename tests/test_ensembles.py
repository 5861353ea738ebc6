"""Models made of models, against the unmodified Triton client."""

import concurrent.futures
import json
import queue
import urllib.error
import urllib.request

import models
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper
from conftest import until
from tritonclient.utils import InferenceServerException

EXPLICIT = "--model-control-mode=explicit"
BATCHED = "max_batch_size: 16\ndynamic_batching { max_queue_delay_microseconds: 2000 }\n"


def step(model, inputs, outputs, version=-1):
    def maps(field, names):
        return "".join(f'{field} {{ key: "{key}" value: "{value}" }} ' for key, value in names.items())

    return f'{{ model_name: "{model}" model_version: {version} {maps("input_map", inputs)}{maps("output_map", outputs)}}}'


def ensemble(repository, name, steps, inputs=("in",), outputs=("out",), batch=8, dims=4):
    def tensors(field, names):
        listed = ", ".join(f'{{ name: "{n}" data_type: TYPE_FP32 dims: [ {dims} ] }}' for n in names)
        return f"{field} [ {listed} ]\n"

    (repository / name / "1").mkdir(parents=True, exist_ok=True)
    (repository / name / "config.pbtxt").write_text(
        f'platform: "ensemble"\nmax_batch_size: {batch}\n' + tensors("input", inputs) + tensors("output", outputs)
        + "ensemble_scheduling { step [ " + ", ".join(steps) + " ] }\n"
    )


def add():
    """s = a + b, and d = a - b"""
    def row(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 4))

    return models.graph(
        [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Sub", ["a", "b"], ["d"])],
        [row("a"), row("b")], [row("s"), row("d")],
    )


@pytest.fixture
def repository(tmp_path):
    """fork: in → double → t; t → triple → u, t → five → v; u + v → out, u - v → other."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name, factor in (("double", 2.0), ("triple", 3.0), ("five", 5.0)):
        models.place(folder, name, models.affine(factor), config=BATCHED)
    models.place(folder, "add", add(), config=BATCHED)
    ensemble(folder, "fork", [
        step("add", {"a": "u", "b": "v"}, {"s": "out", "d": "other"}),
        step("triple", {"x": "t"}, {"y": "u"}),
        step("five", {"x": "t"}, {"y": "v"}),
        step("double", {"x": "in"}, {"y": "t"}, version=1),
    ], outputs=("out", "other"))
    return folder


def clients(server):
    return [
        (triton_http, triton_http.InferenceServerClient(server.at["http"], concurrency=8)),
        (triton_grpc, triton_grpc.InferenceServerClient(server.at["grpc"])),
    ]


def infer(library, client, array, model="fork", outputs=None, **more):
    tensor = library.InferInput("in", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    wanted = outputs and [library.InferRequestedOutput(name) for name in outputs]
    return client.infer(model, [tensor], outputs=wanted, **more)


def statistics(client, model):
    return client.get_inference_statistics(model)["model_stats"][0]


def test_an_ensemble_looks_and_answers_like_any_model(repository, serve):
    server = serve(repository)
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    for library, client in clients(server):
        answer = infer(library, client, sent, request_id="r1")
        np.testing.assert_array_equal(answer.as_numpy("out"), sent * 16)
        np.testing.assert_array_equal(answer.as_numpy("other"), sent * -4)
        as_json = {"as_json": True} if library is triton_grpc else {}
        metadata = client.get_model_metadata("fork", **as_json)
        assert metadata["platform"] == "ensemble" and metadata["versions"] == ["1"]
        assert [t["name"] for t in metadata["outputs"]] == ["out", "other"]
        assert [int(d) for d in metadata["inputs"][0]["shape"]] == [-1, 4]
        config = client.get_model_config("fork", **as_json)
        config = config.get("config", config)
        assert config["platform"] == "ensemble" and config.get("backend", "") == ""
        steps = config["ensemble_scheduling"]["step"]
        assert [s["model_name"] for s in steps] == ["add", "triple", "five", "double"]
        assert steps[0]["output_map"] == {"s": "out", "d": "other"}
        assert not config.get("instance_group") and "optimization" not in config
        with pytest.raises(InferenceServerException, match="at most 8"):
            infer(library, client, np.ones((9, 4), np.float32))
        with pytest.raises(InferenceServerException, match="shape"):
            infer(library, client, np.ones((1, 5), np.float32))


def test_an_ensemble_over_a_stream_gives_one_final_answer(repository, serve):
    _, (library, client) = clients(serve(repository))
    sent, answers = np.arange(8, dtype=np.float32).reshape(2, 4), queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    tensor = library.InferInput("in", [2, 4], "FP32")
    tensor.set_data_from_numpy(sent)
    for number in range(3):
        client.async_stream_infer("fork", [tensor], request_id=str(number), enable_empty_final_response=True)
    for number in range(3):
        result, error = answers.get(timeout=20)
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("out"), sent * 16)
        response = result.get_response()
        assert (response.id, response.parameters["triton_final_response"].bool_param) == (str(number), True)
    client.stop_stream()
    assert answers.empty()


def test_each_model_and_the_ensemble_count_what_they_did(repository, serve):
    server = serve(repository)
    _, (library, shared) = clients(server)  # of the two, this client may be shared by threads
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sent = [np.full((1 + n % 3, 4), n, np.float32) for n in range(60)]
        for array, answer in zip(sent, pool.map(lambda a: infer(library, shared, a), sent)):
            np.testing.assert_array_equal(answer.as_numpy("out"), array * 16)
    (_, client), _ = clients(server)
    rows = sum(len(array) for array in sent)
    own = statistics(client, "fork")
    assert (own["inference_count"], own["execution_count"], own["inference_stats"]["success"]["count"]) == (rows, 60, 60)
    assert own["inference_stats"]["compute_infer"]["ns"] > 0
    for model in ("double", "triple", "five", "add"):
        stats = statistics(client, model)
        assert (stats["inference_count"], stats["inference_stats"]["success"]["count"]) == (rows, 60), model
        # Steps of several requests may share a batch where they meet; none runs twice.
        assert 0 < stats["execution_count"] <= 60, model


def test_only_what_is_asked_for_is_computed(repository, serve):
    ensemble(repository, "pair", [
        step("double", {"x": "in"}, {"y": "out"}), step("triple", {"x": "in"}, {"y": "other"}),
    ], outputs=("out", "other"))
    server = serve(repository)
    (library, client), _ = clients(server)
    answer = infer(library, client, np.ones((1, 4), np.float32), "pair", ["other"])
    assert answer.as_numpy("other")[0, 0] == 3.0 and answer.as_numpy("out") is None
    assert statistics(client, "triple")["inference_count"] == 1
    assert statistics(client, "double")["inference_count"] == 0


def test_ensembles_are_made_of_ensembles(repository, serve):
    ensemble(repository, "outer", [
        step("fork", {"in": "in"}, {"out": "middle"}), step("double", {"x": "middle"}, {"y": "out"}),
    ])
    server = serve(repository)
    (library, client), _ = clients(server)
    sent = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(infer(library, client, sent, "outer").as_numpy("out"), sent * 32)
    assert statistics(client, "fork")["inference_count"] == 2
    assert statistics(client, "add")["inference_count"] == 2


def test_loading_brings_the_models_and_unloading_takes_them_along(repository, serve):
    server = serve(repository, EXPLICIT, "--load-model=five")
    for library, client in clients(server):
        names = ("fork", "add", "double", "triple", "five")
        ready = lambda: [name for name in names if client.is_model_ready(name)]
        client.load_model("fork")
        assert ready() == list(names)
        client.unload_model("fork")
        assert ready() == ["add", "double", "triple", "five"]
        client.load_model("fork")
        client.unload_model("fork", unload_dependents=True)
        assert ready() == ["five"], "which was asked for by its own name"


def test_readiness_follows_the_models(repository, serve):
    server = serve(repository, EXPLICIT, "--load-model=*")
    (library, client), _ = clients(server)
    assert client.is_model_ready("fork") and client.is_server_ready()
    client.unload_model("triple")
    assert not client.is_model_ready("fork")
    with pytest.raises(InferenceServerException, match="triple"):
        infer(library, client, np.ones((1, 4), np.float32))
    row, = [row for row in client.get_model_repository_index() if row["name"] == "fork"]
    assert row["state"] == "UNAVAILABLE" and "triple" in row["reason"]
    client.load_model("triple")
    assert client.is_model_ready("fork")
    assert infer(library, client, np.ones((1, 4), np.float32)).as_numpy("out")[0, 0] == 16.0


def test_a_model_of_an_ensemble_is_replaced_under_load(repository, serve):
    server = serve(repository, EXPLICIT, "--load-model=*")
    (library, client), _ = clients(server)
    done, seen = [], set()

    def ask(_):
        mine = triton_grpc.InferenceServerClient(server.at["grpc"])
        while not done:
            seen.add(float(infer(triton_grpc, mine, np.ones((2, 4), np.float32)).as_numpy("out")[0, 0]))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, n) for n in range(3)]
        for turn in range(10):
            models.place(repository, "five", models.affine(4.0 if turn % 2 else 5.0))
            client.load_model("five")
        done.append(True)
        for one in asking:
            one.result()
    assert seen == {16.0, 14.0}


def test_what_cannot_be_an_ensemble_says_why(repository, serve):
    double = step("double", {"x": "in"}, {"y": "out"})
    cases = {
        "cycle": ([step("double", {"x": "b"}, {"y": "c"}), step("triple", {"x": "c"}, {"y": "b"}), double], {}, "wait for one another"),
        "unmade": ([step("double", {"x": "nowhere"}, {"y": "out"})], {}, "tensor `nowhere` is neither an input"),
        "unused": ([double, step("triple", {"x": "in"}, {"y": "spare"})], {}, "tensor `spare` is used by no step"),
        "twice": ([double, step("triple", {"x": "in"}, {"y": "out"})], {}, "tensor `out` is already made by step 0"),
        "absent": ([step("absent_model", {"x": "in"}, {"y": "out"})], {}, "needs model `absent_model`"),
        "no_input": ([step("double", {"z": "in"}, {"y": "out"})], {}, "model `double` has no input `z`; it has `x`"),
        "unmapped": ([step("add", {"a": "in"}, {"s": "out"})], {}, "input `b` of model `add` gets no tensor"),
        "large": ([double], {"batch": 99}, "field `max_batch_size`: expected at most 16"),
        "wide": ([double], {"dims": 5}, "has shape [-1,5] as input of the ensemble and [-1,4] as input `x` of model `double`"),
        "itself": ([step("itself", {"in": "in"}, {"out": "out"})], {}, "the ensemble needs itself"),
    }
    for name, (steps, more, _) in cases.items():
        ensemble(repository, name, steps, **more)
    server = serve(repository, "--strict-readiness=false")
    (_, client), _ = clients(server)
    rows = {row["name"]: row for row in client.get_model_repository_index()}
    for name, (_, _, want) in cases.items():
        assert rows[name]["state"] == "UNAVAILABLE" and want in rows[name]["reason"], (name, rows[name])
    assert rows["fork"]["state"] == "READY"
    # The configuration of a load call is held to the same.
    with pytest.raises(InferenceServerException, match="at least one `step`"):
        explicit = serve(repository, EXPLICIT)
        triton_http.InferenceServerClient(explicit.at["http"]).load_model("fork", config=json.dumps(
            {"platform": "ensemble", "input": [], "output": []}))


def test_a_timeout_passes_through_and_a_failed_step_is_named(repository, serve):
    models.place(repository, "slow", models.slow(400), config="instance_group { count: 1 }")
    (repository / "queue/1").mkdir(parents=True)
    (repository / "queue/config.pbtxt").write_text(
        'platform: "ensemble"\n'
        'input { name: "in" data_type: TYPE_FP32 dims: [ -1, 256 ] }\noutput { name: "out" data_type: TYPE_FP32 dims: [ -1, 256 ] }\n'
        "ensemble_scheduling { step [ " + step("slow", {"x": "in"}, {"y": "out"}) + " ] }\n")
    (repository / "slow/config.pbtxt").write_text("max_batch_size: 0\n")
    server = serve(repository)
    sent = np.ones((64, 256), np.float32)

    def ask(n):
        library, client = clients(server)[1]
        try:
            return infer(library, client, sent, "queue", timeout=None if n == 0 else 1000) is not None
        except InferenceServerException as error:
            # Refused on arrival where the wait is predicted to be too long, else when it has been.
            text = str(error)
            assert "slow" in text and ("timeout" in text or "1ms is the limit" in text), error
            return False

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answered = list(pool.map(ask, range(6)))
    assert answered[0] and not all(answered), "some waited longer than they would"


# values, delays, wait → repeat → word, at; word → double → twice
STREAMED = """
platform: "ensemble"
max_batch_size: 0
input [ { name: "values" data_type: TYPE_INT32 dims: [ -1 ] },
        { name: "delays" data_type: TYPE_UINT32 dims: [ -1 ] },
        { name: "wait" data_type: TYPE_UINT32 dims: [ 1 ] } ]
output [ { name: "at" data_type: TYPE_UINT32 dims: [ 1 ] }, { name: "twice" data_type: TYPE_INT32 dims: [ 1 ] } ]
ensemble_scheduling { step [
""" + step("twice", {"x": "word"}, {"y": "twice"}) + ", " + step(
    "repeat_int32", {"IN": "values", "DELAY": "delays", "WAIT": "wait"}, {"OUT": "word", "IDX": "at"}) + " ] }\n"


@pytest.fixture
def streamed(tmp_path, serve):
    """A server of an ensemble that has a decoupled step."""
    folder = tmp_path / "models"
    for name, config in (("repeat_int32", models.REPEAT), ("streamed", STREAMED)):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    add = models.graph([helper.make_node("Add", ["x", "x"], ["y"])],
                       [helper.make_tensor_value_info("x", TensorProto.INT32, ("n",))],
                       [helper.make_tensor_value_info("y", TensorProto.INT32, ("n",))])
    models.place(folder, "twice", add, config="max_batch_size: 0")
    return serve(folder)


def ask_streamed(client, values, delays, model="streamed", **more):
    inputs = []
    for name, data, dtype, wire in (("values", values, np.int32, "INT32"), ("delays", delays, np.uint32, "UINT32"),
                                    ("wait", [0], np.uint32, "UINT32")):
        inputs.append(triton_grpc.InferInput(name, [len(data)], wire))
        inputs[-1].set_data_from_numpy(np.array(data, dtype))
    client.async_stream_infer(model, inputs, **more)


def final(response):
    return response.parameters["triton_final_response"].bool_param


def test_each_answer_of_a_decoupled_step_is_an_answer_of_the_ensemble(streamed):
    """Goal: the ensemble streams as its step does, in order, and says when it is over. Method: two requests at once
    over one stream, one of which is slow, and one that is answered by nothing but the end."""
    (_, rest), (_, client) = clients(streamed)
    assert client.get_model_config("streamed").config.model_transaction_policy.decoupled
    assert rest.get_model_config("streamed")["model_transaction_policy"] == {"decoupled": True}
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    ask_streamed(client, [1, 2, 3], [0, 200, 200], request_id="slow", enable_empty_final_response=True)
    ask_streamed(client, list(range(40)), [0] * 40, request_id="long", enable_empty_final_response=True)
    ask_streamed(client, [], [], request_id="none", enable_empty_final_response=True)
    got, over = {"slow": [], "long": [], "none": []}, []
    while len(over) < 3:
        result, error = answers.get(timeout=20)
        assert error is None
        response = result.get_response()
        assert response.model_name == "streamed"
        if final(response):
            assert len(response.outputs) == 0
            over.append(response.id)
        else:
            got[response.id].append((int(result.as_numpy("twice")[0]), int(result.as_numpy("at")[0])))
    assert got == {"slow": [(2, 0), (4, 1), (6, 2)], "long": [(2 * n, n) for n in range(40)], "none": []}
    assert over[-1] == "slow", "a slow one holds up nobody else"
    # An error is the only answer of a request that cannot start, and the stream goes on.
    ask_streamed(client, [1, 2], [0], request_id="odd")
    result, error = answers.get(timeout=20)
    assert "streamed" in str(error) or "repeat_int32" in str(error), error
    client.stop_stream()
    own = statistics(rest, "streamed")
    assert own["inference_stats"]["success"]["count"] == 3 and own["inference_stats"]["fail"]["count"] == 1
    assert statistics(rest, "twice")["inference_stats"]["success"]["count"] == 43
    assert own["response_stats"]["2"]["success"]["count"] == 2


def test_generate_stream_of_an_ensemble_is_an_event_for_each_answer(streamed):
    body = json.dumps({"values": [4, 5], "delays": [0, 0], "wait": 0, "id": "g"}).encode()
    url = f"http://{streamed.at['http']}/v2/models/streamed/"
    with urllib.request.urlopen(urllib.request.Request(url + "generate_stream", body)) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in reply.read().decode().splitlines() if line]
    assert [(event["twice"], event["at"], event["model_name"]) for event in events] == [
        (8, 0, "streamed"), (10, 1, "streamed")]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url + "generate", body))
    assert refused.value.code == 400 and b"generate_stream" in refused.value.read()
    library, client = clients(streamed)[0]
    tensors = []
    for name, wire, dtype in (("values", "INT32", np.int32), ("delays", "UINT32", np.uint32), ("wait", "UINT32", np.uint32)):
        tensors.append(library.InferInput(name, [1], wire))
        tensors[-1].set_data_from_numpy(np.zeros(1, dtype))
    with pytest.raises(InferenceServerException, match="doesn't support models with decoupled transaction policy"):
        client.infer("streamed", tensors)


def test_cancelling_a_stream_cancels_the_steps_of_its_ensembles(streamed):
    (_, rest), (_, client) = clients(streamed)
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    ask_streamed(client, [1, 2], [0, 600_000])
    result, error = answers.get(timeout=20)
    assert error is None and int(result.as_numpy("twice")[0]) == 2
    client.stop_stream(cancel_requests=True)
    counts = lambda model: statistics(rest, model)["inference_stats"]["fail"]["count"]
    for model in ("streamed", "repeat_int32"):
        until(lambda: counts(model) == 1)
    assert statistics(rest, "twice")["inference_stats"]["fail"]["count"] == 0



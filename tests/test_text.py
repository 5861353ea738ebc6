"""Models asked with text: the unmodified `openai` client, and the routes of text-embeddings-inference."""

import concurrent.futures
import json
import urllib.error
import urllib.request

import encoders
import models
import numpy as np
import openai
import pytest
import tritonclient.http as triton_http

SENTENCES = [
    "This is an example sentence", "Each sentence is converted", "short",
    "A much longer text, with many more words than the others, so that it is of another length and is not run "
    "together with them: " + "the quick brown fox jumps over the lazy dog " * 6,
]


@pytest.fixture(scope="module", params=["onnx", "candle"])
def server(request, tmp_path_factory):
    from conftest import Server

    repository = tmp_path_factory.mktemp("text") / "models"
    repository.mkdir()
    encoders.minilm(repository, "minilm", request.param)
    encoders.tiny_classifier(repository, "ranker", request.param, labels=1)
    encoders.tiny_classifier(repository, "classes", request.param, labels=3)
    models.place(repository, "plain", models.identity("FP32"))
    started = Server(
        "serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
        data_dir=tmp_path_factory.mktemp("text-log") / "serve",
    )
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"http://{server.at['http']}/v1", api_key="none", max_retries=0)


def ask(server, path, body=None, status=200):
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{server.at['http']}{path}", data)
    try:
        with urllib.request.urlopen(request) as answer:
            got, answer = answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        got, answer = error.code, json.loads(error.read())
    assert got == status, answer
    return answer


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_embeddings_are_those_that_sentence_transformers_gives(client):
    answer = client.embeddings.create(model="minilm", input=SENTENCES)
    assert [row.index for row in answer.data] == [0, 1, 2, 3]
    vectors = np.array([row.embedding for row in answer.data])
    assert vectors.shape == (4, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    # The model card's first components of this sentence.
    assert np.allclose(vectors[0][:3], [6.7657e-02, 6.3496e-02, 4.8713e-02], atol=2e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens
    assert answer.usage.prompt_tokens == sum(
        len(client.post("/../tokenize", body={"inputs": text, "model": "minilm"}, cast_to=object)[0])
        for text in SENTENCES)


def test_every_form_of_input_and_of_answer(server, client):
    text = SENTENCES[0]
    ids = [token["id"] for token in ask(server, "/tokenize", {"inputs": text, "model": "minilm"})[0]]
    assert ids[0] == 101 and ids[-1] == 102
    first = client.embeddings.create(model="minilm", input=text, encoding_format="float").data[0].embedding
    for given in ([text], ids, [ids]):
        for form in ("float", "base64"):
            answer = ask(server, "/v1/embeddings", {"model": "minilm", "input": given, "encoding_format": form})
            vector = answer["data"][0]["embedding"]
            if form == "base64":
                import base64
                vector = np.frombuffer(base64.b64decode(vector), np.float32)
            assert np.allclose(vector, first, atol=1e-6)
    cut = client.embeddings.create(model="minilm", input=text, dimensions=8).data[0].embedding
    assert len(cut) == 8 and abs(np.linalg.norm(cut) - 1) < 1e-6
    assert cosine(cut, first[:8]) > 0.999999


def test_texts_of_all_lengths_at_once_get_their_own_vectors(client):
    texts = [("word " * (1 + i * 7 % 120)).strip() + f" {i}" for i in range(96)]
    alone = {}
    for i in (0, 17, 50, 95):
        alone[i] = client.embeddings.create(model="minilm", input=texts[i]).data[0].embedding
    together = client.embeddings.create(model="minilm", input=texts).data
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        apart = list(pool.map(lambda t: client.embeddings.create(model="minilm", input=t).data[0].embedding, texts))
    for i, vector in enumerate(apart):
        assert cosine(vector, together[i].embedding) > 1 - 1e-6, i
    for i, vector in alone.items():
        assert cosine(vector, together[i].embedding) > 1 - 1e-6, i


def test_text_embeddings_inference_routes(server):
    rows = ask(server, "/embed", {"inputs": SENTENCES, "model": "minilm"})
    only = ask(server, "/embed", {"inputs": SENTENCES[1]})  # one model embeds
    assert cosine(rows[1], only[0]) > 1 - 1e-6
    raw = ask(server, "/embed", {"inputs": SENTENCES[1], "normalize": False})
    assert np.linalg.norm(raw[0]) > 2 and cosine(raw[0], only[0]) > 1 - 1e-6
    tokens = ask(server, "/embed_all", {"inputs": SENTENCES[:2]})
    assert cosine(np.mean(tokens[1], axis=0), raw[0]) > 1 - 1e-6
    simple = ask(server, "/tokenize", {"inputs": "Hello, wörld", "model": "minilm"})[0]
    assert [t["text"] for t in simple] == ["[CLS]", "Hello", ",", "wörld", "[SEP]"] or simple[1]["text"] == "Hello"
    assert simple[0]["special"] and simple[1] == {"id": 7592, "text": "Hello", "special": False, "start": 0, "stop": 5}
    ids = [t["id"] for t in simple]
    assert ask(server, "/decode", {"ids": ids, "model": "minilm"}) == ["hello, world"]
    info = ask(server, "/info?model=minilm")
    assert info["model_type"] == {"embedding": {"pooling": "mean"}} and info["max_input_length"] == 256
    assert ask(server, "/health")["ready"]


def test_pairs_are_ranked_and_texts_classified(server):
    query, texts = "what is a fox", ["a fox is an animal", "bread", "the weather today is fine and mild"]
    ranks = ask(server, "/rerank", {"query": query, "texts": texts, "return_text": True})
    assert sorted(rank["index"] for rank in ranks) == [0, 1, 2]
    assert [rank["score"] for rank in ranks] == sorted((rank["score"] for rank in ranks), reverse=True)
    assert all(rank["text"] == texts[rank["index"]] for rank in ranks)
    raw = ask(server, "/rerank", {"query": query, "texts": texts, "raw_scores": True})
    by_index = {rank["index"]: rank["score"] for rank in raw}
    for rank in ranks:
        assert abs(rank["score"] - 1 / (1 + np.exp(-by_index[rank["index"]]))) < 1e-6
    pair = ask(server, "/predict", {"inputs": [query, texts[1]], "model": "ranker", "raw_scores": True})
    assert abs(pair[0]["score"] - by_index[1]) < 1e-5
    labels = ask(server, "/predict", {"inputs": "some text", "model": "classes"})
    assert {label["label"] for label in labels} == {"class-0", "class-1", "class-2"}
    assert abs(sum(label["score"] for label in labels) - 1) < 1e-6
    many = ask(server, "/predict", {"inputs": [["some text"], [query, texts[0]]], "model": "classes"})
    assert len(many) == 2 and many[0] == labels


def test_both_engines_give_the_same_scores(tmp_path, serve):
    engines = ("onnx", "candle", "shards")
    for engine in engines:
        encoders.tiny_classifier(tmp_path / "models", engine, engine, labels=3)
    server = serve(tmp_path / "models")
    texts = [["some text"], ["a question", "an answer, which is longer than the question"], ["x " * 60]]
    answers = [ask(server, "/predict", {"inputs": texts, "model": m, "raw_scores": True}) for m in engines]
    for first, *others in zip(*answers):
        for other in others:
            assert [label["label"] for label in first] == [label["label"] for label in other]
            assert np.allclose([label["score"] for label in first], [label["score"] for label in other], atol=1e-4)


def test_what_is_wrong_is_said_in_the_words_of_each_api(server, client):
    with pytest.raises(openai.NotFoundError, match="nosuch"):
        client.embeddings.create(model="nosuch", input="x")
    with pytest.raises(openai.BadRequestError, match="text 1 is empty"):
        client.embeddings.create(model="minilm", input=["x", ""])
    with pytest.raises(openai.BadRequestError, match="1 to 384"):
        client.embeddings.create(model="minilm", input="x", dimensions=1000)
    with pytest.raises(openai.BadRequestError, match="token 40000 is not one of"):
        client.embeddings.create(model="minilm", input=[1, 40000])
    with pytest.raises(openai.APIStatusError, match="the model takes 256") as too_long:
        client.embeddings.create(model="minilm", input="word " * 300)
    assert too_long.value.status_code == 413
    assert too_long.value.body["type"] == "invalid_request_error"
    cut = client.embeddings.create(model="minilm", input="word " * 300, extra_body={"truncate": True})
    assert cut.usage.prompt_tokens == 256
    cases = [
        # (path, body, status, words)
        ("/embed", {"inputs": []}, 400, "1 to 2048 texts, got 0"),
        ("/embed", {"inputs": 5}, 400, "a text, a list of texts"),
        ("/embed", {"inputs": ["a", 1]}, 400, "both in one list"),
        ("/embed", {"inputs": "a", "model": "plain"}, 501, "not asked with text"),
        ("/embed", {"inputs": "a", "model": "ranker"}, 501, "ranks pairs"),
        ("/embed", {"inputs": "a", "prompt_name": "query"}, 400, "no prompt `query`"),
        ("/embed", b"{", 400, "JSON"),
        ("/rerank", {"query": "a", "texts": []}, 400, "1 to 2048"),
        ("/rerank", {"texts": ["a"]}, 400, "query"),
        ("/tokenize", {"inputs": "a"}, 400, "expected one of"),
        ("/predict", {"inputs": [["a", "b", "c"]], "model": "classes"}, 400, "a pair of texts, got 3"),
        ("/decode", {"ids": [99999], "model": "minilm"}, 400, "token 99999"),
    ]
    for path, body, status, words in cases:
        answer = ask(server, path, body, status)
        assert words in answer["error"], (path, body, answer)
        assert answer["error_type"] == ("Validation" if status < 500 else "Backend")


def test_models_are_listed_for_both_of_their_clients(server, client):
    names = {model.id for model in client.models.list()}
    assert {"minilm", "ranker", "classes", "plain"} <= names
    assert client.models.retrieve("minilm").id == "minilm"
    assert set(ask(server, "/v1/models")["models"]) == names


def test_the_same_model_is_still_one_of_tensors(server):
    triton = triton_http.InferenceServerClient(server.at["http"])
    config = triton.get_model_config("minilm")
    assert config["max_batch_size"] == 32
    assert config["parameters"]["padding_inputs"]["string_value"].startswith("input_ids[0]=0")
    inputs = []
    for name, values in (("input_ids", [[101, 7592, 102]]), ("attention_mask", [[1, 1, 1]]), ("token_type_ids", [[0, 0, 0]])):
        tensor = triton_http.InferInput(name, [1, 3], "INT64")
        tensor.set_data_from_numpy(np.array(values, np.int64))
        inputs.append(tensor)
    hidden = triton.infer("minilm", inputs).as_numpy("last_hidden_state")
    assert hidden.shape == (1, 3, 384)
    assert cosine(hidden[0].mean(axis=0), ask(server, "/embed", {"inputs": "hello"})[0]) > 1 - 1e-6


def test_a_batch_has_so_many_tokens(tmp_path, serve):
    repository = tmp_path / "models"
    for name, tokens in (("ranker", "20"), ("wrong", "many"), ("default", None)):
        encoders.tiny_classifier(repository, name, "candle", labels=1)
        if tokens:
            parameter = 'parameters { key: "max_batch_tokens" value { string_value: "%s" } }\n' % tokens
            (repository / name / "config.pbtxt").write_text(parameter)
    models.place(repository, "plain", models.identity("FP32"), config=parameter.replace("many", "9"))
    server = serve(repository, "--exit-on-error", "false")
    texts = ["one", "two", "three", "four", "five", "six"]
    assert len(ask(server, "/tokenize", {"inputs": "one", "model": "ranker"})[0]) == 3
    assert len(ask(server, "/rerank", {"query": "one", "texts": texts, "model": "ranker"})) == 6
    triton = triton_http.InferenceServerClient(server.at["http"])
    counted = triton.get_inference_statistics("ranker")["model_stats"][0]
    # Pairs of 5 tokens: four have 20.
    assert (counted["inference_count"], counted["execution_count"]) == (6, 2)
    assert triton.get_model_config("default")["parameters"]["max_batch_tokens"]["string_value"] == "4096"
    index = {entry["name"]: entry.get("reason", "") for entry in ask(server, "/v2/repository/index", b"")}
    assert "`parameters.max_batch_tokens`: expected a whole number of tokens above 0, got `many`" in index["wrong"]
    assert "`parameters.max_batch_tokens`: expected `padding_inputs` with it" in index["plain"]


def test_a_tokenizer_that_is_none_is_named(tmp_path):
    from conftest import Server

    repository = tmp_path / "models"
    encoders.tiny_classifier(repository, "broken", "onnx", labels=1)
    (repository / "broken/1/tokenizer.json").write_text("{}")
    encoders.tiny_classifier(repository, "dense", "onnx", labels=1)
    (repository / "dense/1/modules.json").write_text('[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]')
    server = Server("serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
                    "--exit-on-error", "false", data_dir=tmp_path / "serve")
    try:
        index = {entry["name"]: entry["reason"] for entry in ask(server, "/v2/repository/index", b"")}
        assert "tokenizer.json" in index["broken"] and "not a tokenizer" in index["broken"]
        assert "module `Dense` is not offered" in index["dense"]
    finally:
        server.stop()


def test_a_token_is_for_its_models_by_the_name_in_the_body(tmp_path, serve):
    import hashlib

    for name in ("hers", "his", "other"):
        encoders.tiny_classifier(tmp_path / "models", name, "onnx", labels=1)
    token, policy = "a-token-of-some-length", tmp_path / "policy.toml"
    policy.write_text(f'[[tokens]]\nname = "alice"\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
                      'allow = [{ models = ["hers"], categories = ["inference"] }]\n')
    server = serve(tmp_path / "models", "--auth-file", policy)

    def status(path, body, token=token):
        request = urllib.request.Request(f"http://{server.at['http']}{path}", json.dumps(body).encode())
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    body = {"query": "a", "texts": ["b"]}
    assert status("/rerank", {**body, "model": "hers"})[0] == 200
    assert status("/rerank", body)[0] == 200  # the only one that she may ask
    got, text = status("/rerank", {**body, "model": "his"})
    assert got == 403 and "`his`" in text
    assert status("/rerank", {**body, "model": "nosuch"})[0] == 403
    assert status("/rerank", {**body, "model": "hers"}, token=None)[0] == 401
    got, text = status("/v1/embeddings", {"input": "x"})
    assert got == 404 and "`his`" not in text and "`other`" not in text

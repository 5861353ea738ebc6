"""A model that makes text, asked in Triton's ways: the names of Triton's backend for vLLM, and vLLM's metrics."""

import concurrent.futures
import json
import pathlib
import queue
import urllib.error
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.utils
from conftest import ROOT, Server, until
from prometheus_client.parser import text_string_to_metric_families

GGUF = ROOT / ".cache/models/smollm2/model.gguf"
PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
ANSWER = "The capital of France is Paris."


def place(repository, name, config="", count=1):
    """The model under a name, with a cache of some thousand tokens unless the configuration says otherwise."""
    directory = pathlib.Path(repository) / name
    for version in range(1, count + 1):
        (directory / str(version)).mkdir(parents=True)
        (directory / str(version) / "model.gguf").symlink_to(GGUF)
    parameters = {"max_model_len": "600", "max_num_seqs": "4", "intra_op_thread_count": "1"}
    lines = [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()
             if key not in config]
    (directory / "config.pbtxt").write_text("\n".join(['backend: "candle"', *lines, config]))


def parameter(key, value):
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def serve(repository, tmp_path, *flags):
    return Server("serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
                  *flags, data_dir=tmp_path / "serve")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("generation")
    place(scratch / "models", "smollm2")
    started = serve(scratch / "models", scratch, "--model-control-mode", "explicit", "--load-model", "smollm2")
    yield started
    assert started.stop() == 0


def post(server, path, body, status=200):
    request = urllib.request.Request(f"http://{server.at['http']}{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            got, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        got, text = error.code, error.read()
    assert got == status, text
    return json.loads(text) if text and not text.startswith(b"data:") else text


def generate(server, text, status=200, **parameters):
    body = {"text_input": text, "parameters": {"temperature": 0, **parameters}}
    return post(server, "/v2/models/smollm2/generate", body, status)


def metrics(server):
    with urllib.request.urlopen(f"http://{server.at['metrics']}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {(sample.name, sample.labels.get("finished_reason")): sample.value
                for family in families for sample in family.samples
                if family.name.startswith("vllm:") and "le" not in sample.labels}


class Stream:
    """A gRPC stream of the unmodified client; what comes is put into a queue."""

    def __init__(self, server):
        self.came = queue.Queue()
        self.client = triton_grpc.InferenceServerClient(server.at["grpc"])
        self.client.start_stream(lambda result, error: self.came.put(error or result))

    def ask(self, text, stream=True, **sampling):
        inputs = [triton_grpc.InferInput("text_input", [1], "BYTES"), triton_grpc.InferInput("stream", [1], "BOOL"),
                  triton_grpc.InferInput("sampling_parameters", [1], "BYTES")]
        values = [[text.encode()], [stream], [json.dumps(sampling).encode()]]
        for tensor, value, dtype in zip(inputs, values, (object, bool, object)):
            tensor.set_data_from_numpy(np.array(value, dtype=dtype))
        self.client.async_stream_infer("smollm2", inputs, enable_empty_final_response=True)

    def answers(self):
        """The texts, to the end."""
        while True:
            came = self.came.get(timeout=60)
            if isinstance(came, Exception):
                raise came
            if came.get_output("text_output") is not None:
                yield came.as_numpy("text_output")[0].decode()
            if came.get_response().parameters["triton_final_response"].bool_param:
                return


def test_text_comes_whole_or_in_pieces(server):
    assert generate(server, PROMPT, max_tokens=20)["text_output"] == ANSWER
    with_prompt = generate(server, PROMPT, max_tokens=20, exclude_input_in_output=False)
    assert with_prompt["text_output"] == PROMPT + ANSWER
    # A list of texts is none of the things that Triton's parameters can be.
    post(server, "/v2/models/smollm2/generate", {"text_input": PROMPT, "parameters": {"stop": ["a"]}}, status=400)
    stream = Stream(server)
    # Numbers as text, as clients of that backend write them.
    stream.ask(PROMPT, temperature="0", max_tokens="20")
    pieces = list(stream.answers())
    assert len(pieces) > 4 and "".join(pieces) == ANSWER
    stream.ask(PROMPT, stream=False, temperature=0, max_tokens=20)
    assert list(stream.answers()) == [ANSWER]
    stream.client.stop_stream()
    events = post(server, "/v2/models/smollm2/generate_stream",
                  {"text_input": PROMPT, "parameters": {"temperature": 0, "stream": True, "max_tokens": 3}})
    texts = [json.loads(line[6:])["text_output"] for line in events.decode().split("\n\n") if line]
    assert "".join(texts) == "The capital of"


def test_sampling_is_as_asked(server):
    assert generate(server, PROMPT, stop="France")["text_output"] == "The capital of "
    assert generate(server, PROMPT, stop="Paris", include_stop_str_in_output=True)["text_output"].endswith("Paris")
    hot = [generate(server, PROMPT, temperature=1.5, seed=seed, max_tokens=12)["text_output"] for seed in (1, 1, 2, 3)]
    assert hot[0] == hot[1] and len(set(hot)) > 1
    assert generate(server, PROMPT, max_tokens=2)["text_output"] == "The capital"
    assert len(generate(server, PROMPT)["text_output"]) < 80  # vLLM's 16 tokens where nothing is said


@pytest.mark.parametrize("body, says", [
    ({"text_input": ""}, "empty"),
    ({"text_input": "word " * 700}, "600"),
    ({"text_input": "x", "parameters": {"temperature": -1}}, "temperature"),
    ({"text_input": "x", "parameters": {"top_p": "many"}}, "top_p"),
    ({"text_input": "x", "parameters": {"max_tokens": 0}}, "max_tokens"),
    ({"text_input": "x", "parameters": {"n": 2}}, "n"),
    ({"text_input": "x", "parameters": {"best_of_all": 2}}, "best_of_all"),
    ({"parameters": {"max_tokens": 4}}, "text_input"),
])
def test_what_cannot_be_is_refused_by_name(server, body, says):
    error = post(server, "/v2/models/smollm2/generate", body, status=400)["error"]
    assert says in error, error


def test_one_answer_is_not_taken_for_many(server):
    client = triton_grpc.InferenceServerClient(server.at["grpc"])
    text = triton_grpc.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"x"], dtype=object))
    with pytest.raises(tritonclient.utils.InferenceServerException, match="decoupled"):
        client.infer("smollm2", [text])
    described = client.get_model_metadata("smollm2", as_json=True)
    assert [tensor["name"] for tensor in described["inputs"]] == ["text_input"]
    assert client.get_model_config("smollm2").config.model_transaction_policy.decoupled


def test_many_at_once_get_what_each_gets_alone(server):
    prompts = [f"<|im_start|>user\nSay the number {n}.<|im_end|>\n<|im_start|>assistant\n" for n in range(8)]
    alone = [generate(server, prompt, max_tokens=12)["text_output"] for prompt in prompts]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(lambda prompt: generate(server, prompt, max_tokens=12)["text_output"], prompts * 2))
    assert at_once == alone * 2


def test_who_leaves_frees_the_cache_at_once_and_a_reload_loses_nothing(server):
    before = metrics(server)
    stream = Stream(server)
    stream.ask("Once upon a time", temperature=0, max_tokens=590, ignore_eos=True)
    answers = stream.answers()
    next(answers)
    assert metrics(server)["vllm:num_requests_running", None] == 1
    assert metrics(server)["vllm:kv_cache_usage_perc", None] > 0
    stream.client.stop_stream(cancel_requests=True)
    until(lambda: metrics(server)["vllm:num_requests_running", None] == 0)
    assert metrics(server)["vllm:kv_cache_usage_perc", None] == 0

    stream = Stream(server)
    stream.ask("Once upon a time", temperature=0, max_tokens=60, ignore_eos=True)
    answers = stream.answers()
    first = next(answers)
    post(server, "/v2/repository/models/smollm2/load", {})
    rest = list(answers)
    assert len(rest) > 30, "the version that had begun goes on to the end"
    again = generate(server, "Once upon a time", max_tokens=60, ignore_eos=True)["text_output"]
    assert again == first + "".join(rest)
    after = metrics(server)
    made = "vllm:generation_tokens_total", None
    assert after[made] >= before[made] + 120, "no counter falls at a reload"


def test_metrics_count_what_was_asked(server):
    before = metrics(server)
    story = "The history of the city begins long before its first bridge, when " * 2
    generate(server, story + PROMPT, max_tokens=20, stop=" ")
    generate(server, story + PROMPT, max_tokens=2)
    after = until(lambda: (now := metrics(server))["vllm:e2e_request_latency_seconds_count", None]
                  == before["vllm:e2e_request_latency_seconds_count", None] + 2 and now)

    def grew(name, reason=None):
        return after[name, reason] - before.get((name, reason), 0)

    assert grew("vllm:request_success_total", "stop") == 1
    assert grew("vllm:request_success_total", "length") == 1
    assert grew("vllm:time_to_first_token_seconds_count") == 2
    made = grew("vllm:generation_tokens_total")
    assert made == grew("vllm:request_generation_tokens_sum") and 3 <= made <= 22
    assert grew("vllm:inter_token_latency_seconds_count") == made - 2
    assert grew("vllm:prompt_tokens_total") == grew("vllm:request_prompt_tokens_sum") > 40
    assert grew("vllm:prefix_cache_hits_total") >= 16, "the second finds what the first has read"


@pytest.mark.parametrize("config, says", [
    (parameter("max_model_len", "100000"), "max_model_len"),
    (parameter("max_num_seqs", "0"), "max_num_seqs"),
    (parameter("block_size", "12"), "block_size"),
    (parameter("kv_cache_memory_bytes", "100000"), "kv_cache_memory_bytes"),
    ("instance_group { count: 2 }", "instance_group"),
    ("instance_group { kind: KIND_GPU }", "cuda"),
])
def test_a_configuration_that_cannot_be_is_said_at_load(server, tmp_path, config, says):
    place(tmp_path / "models", "wrong", config)
    started = serve(tmp_path / "models", tmp_path, "--exit-on-error", "false")
    try:
        index = post(started, "/v2/repository/index", {})
        assert index[0]["state"] == "UNAVAILABLE" and says in index[0]["reason"], index
    finally:
        started.stop()


def test_sigterm_lets_answers_come_to_their_end(tmp_path):
    place(tmp_path / "models", "smollm2")
    started = serve(tmp_path / "models", tmp_path)
    stream = Stream(started)
    stream.ask("Once upon a time", temperature=0, max_tokens=80, ignore_eos=True)
    answers = stream.answers()
    next(answers)
    started.process.terminate()
    assert len(list(answers)) > 40
    assert started.process.wait(30) == 0

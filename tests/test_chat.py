"""Models that make text: the unmodified `openai` client against a real small model."""

import http.client
import json
import pathlib
import shutil
import urllib.request

import openai
import pytest

SMOLLM2 = pathlib.Path(__file__).resolve().parent.parent / ".cache/models/smollm2/model.gguf"
ASK = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]
# What the model's own template makes of it.
ASKED = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    f"<|im_start|>user\n{ASK[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
)
WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"], "additionalProperties": False}}}
TIME = {"type": "function", "function": {"name": "time", "parameters": {
    "type": "object", "properties": {"zone": {"enum": ["UTC"]}}, "required": ["zone"], "additionalProperties": False}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from conftest import Server

    repository = tmp_path_factory.mktemp("chat") / "models"
    (repository / "smol" / "1").mkdir(parents=True)
    shutil.copy(SMOLLM2, repository / "smol" / "1" / "model.gguf")
    started = Server(
        "serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
        data_dir=tmp_path_factory.mktemp("chat-log") / "serve",
    )
    yield started
    assert started.stop() == 0


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"http://{server.at['http']}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def greedy(client):
    return client.chat.completions.create(model="smol", messages=ASK, temperature=0, max_tokens=24)


def test_a_chat_is_gone_on_with(client, greedy):
    choice, = greedy.choices
    assert greedy.object == "chat.completion" and greedy.id.startswith("chatcmpl-") and greedy.model == "smol"
    assert choice.message.role == "assistant" and "Paris" in choice.message.content
    assert choice.finish_reason == "stop" and choice.message.tool_calls is None and greedy.system_fingerprint
    usage = greedy.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert [model.id for model in client.models.list()] == ["smol"]


def test_the_prompt_is_what_the_models_template_makes(client, greedy):
    answer = client.completions.create(
        model="smol", prompt=ASKED, temperature=0, max_tokens=24, extra_body={"add_special_tokens": False})
    assert answer.choices[0].text == greedy.choices[0].message.content
    assert answer.usage.prompt_tokens == greedy.usage.prompt_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens > 0, "its beginning was read before"
    with_parts = [{"role": "user", "content": [{"type": "text", "text": ASK[0]["content"]}]}]
    again = client.chat.completions.create(model="smol", messages=with_parts, temperature=0, max_tokens=24)
    assert again.choices[0].message.content == greedy.choices[0].message.content


def test_events_are_openais(server, client, greedy):
    body = {"model": "smol", "messages": ASK, "temperature": 0, "max_completion_tokens": 24, "stream": True,
            "stream_options": {"include_usage": True}}
    request = urllib.request.Request(
        f"http://{server.at['http']}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = answer.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and all(event.startswith("data: ") for event in events[:-1])
    chunks = [json.loads(event[6:]) for event in events[:-2]]
    first, *middle, finish, usage = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"} and len({chunk["id"] for chunk in chunks}) == 1
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    assert text == greedy.choices[0].message.content and len(middle) > 3
    assert all(chunk["choices"][0]["finish_reason"] is None and chunk["usage"] is None for chunk in [first, *middle])
    assert finish["choices"][0]["delta"] == {} and finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == greedy.usage.completion_tokens

    with client.chat.completions.stream(model="smol", messages=ASK, temperature=0, max_tokens=24) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text


def test_seeds_make_answers_that_come_again(client):
    def ask(seed):
        answer = client.chat.completions.create(model="smol", messages=ASK, temperature=1.5, max_tokens=12, n=3, seed=seed)
        return [choice.message.content for choice in answer.choices]

    first = ask(7)
    assert first == ask(7) != ask(8)
    assert len(set(first)) > 1, "each choice has a chance of its own"
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(
            model="smol", messages=ASK, temperature=1.5, max_tokens=12, n=3, seed=7, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == first


def test_how_likely_tokens_were(client, greedy):
    answer = client.chat.completions.create(
        model="smol", messages=ASK, temperature=0, max_tokens=24, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == greedy.choices[0].message.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == greedy.choices[0].message.content
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token and token.top_logprobs[0].logprob == token.logprob
    streamed = []
    for chunk in client.chat.completions.create(
            model="smol", messages=ASK, temperature=0, max_tokens=24, logprobs=True, top_logprobs=3, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [token.token for token in streamed] == [token.token for token in tokens]


def test_answers_end_where_they_are_told_to(client, greedy):
    text = greedy.choices[0].message.content
    ask = {"model": "smol", "messages": ASK, "temperature": 0}
    stopped = client.chat.completions.create(**ask, max_tokens=24, stop=["zzz", " Paris"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text.split(" Paris")[0], "stop")
    assert stopped.model_extra["stop_reason"] == " Paris"
    kept = client.chat.completions.create(
        **ask, max_tokens=24, stop=" Paris", extra_body={"include_stop_str_in_output": True}).choices[0]
    assert kept.message.content == text.split(" Paris")[0] + " Paris"
    short = client.chat.completions.create(**ask, max_tokens=2)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2
    longer = client.chat.completions.create(**ask, max_tokens=24, extra_body={"min_tokens": 20})
    assert longer.usage.completion_tokens >= 20
    banned = client.chat.completions.create(
        **ask, max_tokens=24, extra_body={"guided_choice": ["It is Oslo.", "It is Rome."]}).choices[0]
    assert banned.message.content in ("It is Oslo.", "It is Rome.") and banned.finish_reason == "stop"


def test_answers_keep_the_form_they_are_asked_for(client):
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}, "population": {"type": "integer", "maximum": 99}},
              "required": ["city", "population"], "additionalProperties": False}
    formats = [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}},
        {"extra_body": {"guided_json": schema}},
        {"extra_body": {"structured_outputs": {"json": schema}}},
    ]
    for form in formats:
        for temperature in (0, 2):
            answer = client.chat.completions.create(
                model="smol", messages=ASK, temperature=temperature, seed=3, max_tokens=60, **form).choices[0]
            assert answer.finish_reason == "stop"
            city = json.loads(answer.message.content)
            assert set(city) == {"city", "population"} and city["city"] in ("Paris", "Rome") and city["population"] <= 99
    dated = client.chat.completions.create(
        model="smol", messages=ASK, temperature=2, seed=1, max_tokens=30, extra_body={"guided_regex": r"[0-9]{4}-[0-9]{2}"})
    year, month = dated.choices[0].message.content.split("-")
    assert len(year) == 4 and len(month) == 2
    for bad, field in [({"guided_regex": "("}, "guided_regex"), ({"guided_json": {"type": "thing"}}, "guided_json"),
                       ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice")]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="smol", messages=ASK, max_tokens=4, extra_body=bad)
        assert caught.value.param == field


def test_tools_are_called(client):
    ask = {"model": "smol", "messages": [{"role": "user", "content": "How is the weather in Oslo?"}],
           "tools": [WEATHER, TIME], "temperature": 0, "max_tokens": 60}
    answer = client.chat.completions.create(**ask, tool_choice="required", parallel_tool_calls=False).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    call, = answer.message.tool_calls
    assert call.type == "function" and call.id.startswith("call_") and call.function.name in ("weather", "time")
    json.loads(call.function.arguments)
    named = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(**ask, tool_choice=named).choices[0]
    call, = answer.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "weather" and arguments["city"] in ("Paris", "Oslo") and 1 <= arguments["days"] <= 9
    with client.chat.completions.stream(**ask, tool_choice=named) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.arguments == call.function.arguments
    # The call and what it gave go on in the chat.
    history = [*ask["messages"], answer.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    more = client.chat.completions.create(model="smol", messages=history, max_tokens=4)
    assert more.usage.prompt_tokens > 10
    plain = client.chat.completions.create(**{**ask, "max_tokens": 4}, tool_choice="none").choices[0]
    assert plain.message.tool_calls is None


def test_texts_are_gone_on_with(client):
    ask = {"model": "smol", "temperature": 0, "max_tokens": 3}
    one = client.completions.create(**ask, prompt="One, two, three,")
    assert one.object == "text_completion" and one.choices[0].text.startswith(" four") and one.choices[0].finish_reason == "length"
    many = client.completions.create(**ask, prompt=["One, two, three,", "Monday, Tuesday,"], n=2)
    texts = [choice.text for choice in many.choices]
    assert texts[0] == texts[1] == one.choices[0].text and texts[2] == texts[3] != texts[0]
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3] and many.usage.completion_tokens == 12
    echoed = client.completions.create(**ask, prompt="One, two, three,", echo=True, logprobs=2)
    choice = echoed.choices[0]
    assert choice.text == "One, two, three," + one.choices[0].text
    columns = choice.logprobs
    assert "".join(columns.tokens) == choice.text and len(columns.tokens) == echoed.usage.total_tokens
    assert columns.token_logprobs[0] is None and all(logprob <= 0 for logprob in columns.token_logprobs[1:])
    assert all(2 <= len(top) <= 3 for top in columns.top_logprobs[1:])
    assert [choice.text[at:at + len(token)] for at, token in zip(columns.text_offset, columns.tokens)] == columns.tokens
    scored = client.completions.create(**{**ask, "max_tokens": 0}, prompt="One, two, three,", echo=True, logprobs=0).choices[0]
    assert scored.text == "One, two, three," and scored.logprobs.tokens == columns.tokens[:len(scored.logprobs.tokens)]
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**ask, prompt="One, two, three,", echo=True, stream=True))
    assert streamed == choice.text
    best = client.completions.create(**{**ask, "temperature": 1.2}, prompt="One, two, three,", best_of=4, n=1, seed=5)
    assert len(best.choices) == 1 and best.usage.completion_tokens == 12


def test_tokens_go_in_and_out(server, client):
    def ask(path, body):
        request = urllib.request.Request(f"http://{server.at['http']}{path}", json.dumps(body).encode())
        return json.loads(urllib.request.urlopen(request).read())

    made = ask("/tokenize", {"model": "smol", "prompt": "One, two, three,"})
    assert made["count"] == len(made["tokens"]) and made["max_model_len"] > 1000
    assert ask("/detokenize", {"model": "smol", "tokens": made["tokens"]}) == {"prompt": "One, two, three,"}
    chat = ask("/tokenize", {"messages": ASK})
    assert ask("/detokenize", {"tokens": chat["tokens"]}) == {"prompt": ASKED}
    text = client.completions.create(model="smol", prompt="One, two, three,", temperature=0, max_tokens=3).choices[0].text
    tokens = client.completions.create(model="smol", prompt=made["tokens"], temperature=0, max_tokens=3).choices[0].text
    assert tokens == text


@pytest.mark.parametrize("wrong, param, says", [
    ({"temperature": -1}, "temperature", "0 to 100"),
    ({"top_p": 2}, "top_p", "0 to 1"),
    ({"n": 0}, "n", "1 to 128"),
    ({"max_tokens": 10**9}, "max_tokens", "context"),
    ({"max_tokens": 0}, "max_tokens", "1 or more"),
    ({"stop": ["a"] * 99}, "stop", "at most 16"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "number"),
    ({"top_logprobs": 2}, "top_logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 99}, "logprobs", "0 to 20"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
    ({"tool_choice": "required"}, "tool_choice", "tools"),
    ({"messages": []}, "messages", "1 to"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "assistant"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0]", "image_url"),
    ({"extra_body": {"tempreature": 1}}, "tempreature", "not a field"),
    ({"extra_body": {"chat_template": "{{ raise_exception('no thanks') }}"}}, "messages", "no thanks"),
    ({"extra_body": {"chat_template": "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}"}}, None, "work"),
])
def test_what_is_wrong_is_named(client, wrong, param, says):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "smol", "messages": ASK, "max_tokens": 4, **wrong})
    assert caught.value.param == param and says in caught.value.body["message"]
    assert caught.value.type == "invalid_request_error"


def test_what_is_not_there_is_said(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="none", messages=ASK)
    long = [{"role": "user", "content": "word " * 50_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smol", messages=long)
    assert caught.value.code == "context_length_exceeded"


def test_who_goes_away_is_not_worked_for(server, client):
    from conftest import until

    def running():
        with urllib.request.urlopen(f"http://{server.at['metrics']}/metrics") as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("vllm:num_requests_running")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    body = {"model": "smol", "messages": ASK, "temperature": 1, "max_tokens": 1500, "ignore_eos": True, "stream": True, "n": 2}
    connection = http.client.HTTPConnection(server.at["http"])
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = connection.getresponse()
    assert answer.read1(10).startswith(b"data: ")
    until(lambda: running() == 2)
    answer.close()
    connection.close()
    until(lambda: running() == 0)
    assert client.chat.completions.create(model="smol", messages=ASK, max_tokens=2).choices

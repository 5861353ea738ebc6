"""`mizzen models import` of a model that makes text, which the shipped binary then serves."""

import conftest
import openai
import test_chat
from test_import import typed

GGUF = conftest.ROOT / ".cache/models/smollm2/model.gguf"


def test_smollm2_chats_after_its_import(tmp_path, mizzen, serve):
    text = mizzen("models", "import", GGUF, "--model-repository", tmp_path / "models").stdout
    assert text.startswith("imported smollm2: GGUF, 93.81 MiB") and "text_output" in text
    server = serve(tmp_path / "models")
    client = openai.OpenAI(base_url=f"http://{server.at['http']}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(model="smollm2", messages=test_chat.ASK, temperature=0, max_tokens=24)
    assert "Paris" in answer.choices[0].message.content
    assert "text_output" in typed(text, server), "the line that the import shows"

"""OpenAI's own clients, for Python and for JavaScript, read the same of a server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.models.embedder import Embedder
from tests.unit.serving.conftest import Running, Serving, counting_embedder

ROOT = Path(__file__).parents[3]
# `make test-js` installs the client there.
NODE_MODULES = ROOT / "build" / "js" / "node_modules"
ASKED: dict[str, Any] = {
    "model": "nano",
    "messages": [{"role": "user", "content": "한국의 수도는?"}],
    "temperature": 0,
    "max_tokens": 12,
}


@pytest.fixture(scope="module")
def embedding(serving: Serving) -> Iterator[Running]:
    embedder: Embedder = counting_embedder()
    with serving(embedder=("counts", embedder)) as running:
        yield running


@pytest.fixture(scope="module")
def read_by_python(embedding: Running) -> dict[str, Any]:
    openai = pytest.importorskip("openai", reason="the extra 'dev' is not installed")
    with openai.OpenAI(base_url=f"{embedding.url}/v1", api_key="none", max_retries=0) as client:
        create = client.chat.completions.create
        whole = create(**ASKED, logprobs=True, top_logprobs=2)
        chunks = list(create(**ASKED, stream=True, stream_options={"include_usage": True}))
        parts = [{"role": "user", "content": [{"type": "text", "text": "한국의 수도는?"}]}]
        with pytest.raises(openai.NotFoundError) as refused:
            create(**ASKED | {"model": "gpt"})
        vectors = client.embeddings.create(model="counts", input=["가", "나나"]).data
        return {
            "models": [model.id for model in client.models.list()],
            "whole": whole.choices[0].message.content,
            "finish": whole.choices[0].finish_reason,
            "chances": [len(one.top_logprobs) for one in whole.choices[0].logprobs.content],
            "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            "tokens": chunks[-1].usage.completion_tokens,
            "several": [one.message.content for one in create(**ASKED | {"n": 2, "temperature": 1, "seed": 3}).choices],
            "parts": create(**ASKED | {"messages": parts}).choices[0].message.content,
            "text": client.completions.create(model="nano", prompt="옛날에", temperature=0, max_tokens=4)
            .choices[0]
            .text,
            "vectors": [[round(number, 5) for number in one.embedding] for one in vectors],
            "refused": [refused.value.status_code, refused.value.code],
        }


def test_the_python_client(read_by_python: dict[str, Any]) -> None:
    found = read_by_python
    assert found["models"] == ["nano", "counts"]
    assert "서울" in found["whole"] == found["streamed"] == found["parts"]
    assert set(found["chances"]) == {2}
    assert len(found["chances"]) == found["tokens"]
    assert len(found["several"]) == 2
    assert found["refused"] == [404, "model_not_found"]
    assert found["vectors"] == [[0.89443, 0.44721], [0.31623, 0.94868]]


def test_the_javascript_client(embedding: Running, read_by_python: dict[str, Any]) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    if not (NODE_MODULES / "openai").is_dir():
        pytest.skip("needs OpenAI's client for JavaScript: make test-js")
    script = Path(__file__).parent / "official_client.mjs"
    done = subprocess.run(
        [node, str(script), str(NODE_MODULES), embedding.url], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == read_by_python

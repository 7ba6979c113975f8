"""One prompt gives one text, whoever asks: a stream, a file of prompts, a conversation, the server."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.records import Message
from mlx_loopai.generation import session as session_module
from mlx_loopai.generation.answer_stream import Writing, write
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.chat import Chat, ChatOptions
from mlx_loopai.generation.prompts import Prompt
from mlx_loopai.generation.session import Session, fitted
from mlx_loopai.text.filter import Policy
from tests.unit.serving.conftest import Serving

PROMPTS = ["한국의 수도는?", "호랑이 이야기를 들려줘.", "Write a Python function that adds two numbers."]


@dataclass(frozen=True)
class Said:
    text: str
    finished: bool
    n_tokens: int


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(temperature=0),
        GenerationOptions(temperature=0, max_tokens=6),
        GenerationOptions(temperature=0, scripts="off", filter=True, stop=("다", "return")),
    ],
    ids=["defaults", "cut", "filtered and stopped"],
)
def test_one_prompt_gives_one_text(
    nano: Session, serving: Serving, options: GenerationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nano writes no markup; with this policy the filter has its English to take out.
    monkeypatch.setattr(session_module, "policy_of", lambda scripts: Policy())
    with serving() as server:
        fields = options.model_dump(exclude_unset=True)
        for prompt in PROMPTS:
            ids = nano.prompt_ids(Prompt((Message("user", prompt),), "test"))
            request = nano.request(ids, fitted(options, len(ids), nano.loaded.max_positions))
            writing = Writing(request)
            streamed = "".join(write(nano.loaded, writing))
            known = writing.text()
            expected = Said(known.text, known.finished, known.generated_tokens)
            assert streamed == known.text

            [(_, answer)] = write_answers(nano.loaded, [request])
            assert Said(answer.text.text, answer.text.finished, answer.text.generated_tokens) == expected

            turn = Chat(nano, ChatOptions(options, nano.context())).ask(prompt)
            assert "".join(turn.pieces) == known.text
            assert turn.writing.text() == known

            found = server.ask(prompt, **{"max_tokens": None, **fields}).json()
            [choice] = found["choices"]
            served = Said(
                choice["message"]["content"], choice["finish_reason"] != "length", found["usage"]["completion_tokens"]
            )
            assert served == expected
            assert (choice["finish_reason"] == "content_filter") == (known.finished and not known.text.strip())
            assert found["mlx_loopai"]["removed"] == known.removed

"""Answers in a form: they parse whatever the model would rather say, and scripts hold inside them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import regex

from mlx_loopai.errors import InputError
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.constraint import Scripts, build_constraint
from mlx_loopai.generation.engine import SamplingOptions, load_draft, stream
from mlx_loopai.generation.grammar import Grammar, json_schema_grammar, regex_grammar
from mlx_loopai.generation.request import Request
from mlx_loopai.models.load import LoadedModel, load_model

HOT = SamplingOptions(temperature=1.2, top_p=1.0, max_tokens=120, seed=3)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
        "kind": {"enum": ["호랑이", "곰"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}

pytest.importorskip("llguidance", reason="the extra `grammar` is not installed")


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", "fp32")


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA), encoding="utf-8")
    return path


def texts(loaded: LoadedModel, grammar: Grammar, scripts: str) -> list[str]:
    constraint = build_constraint(loaded, Scripts.parse(scripts))
    prompt = loaded.tokenizer.encode("동물을 하나 알려 줘.")
    requests = [Request(prompt, HOT, constraint, row=row, grammar=grammar) for row in range(6)]
    found = dict(write_answers(loaded, requests, batch_rows=4))
    assert "".join(piece.text for piece in stream(loaded, requests[0])) == found[0].text.text
    assert all(answer.text.finished for answer in found.values())
    return [found[row].text.text for row in range(6)]


@pytest.mark.parametrize("scripts", ["off", "ko", "ko+loanwords+gloss"])
def test_json_of_a_schema(nano: LoadedModel, schema: Path, scripts: str) -> None:
    answers = [json.loads(text) for text in texts(nano, json_schema_grammar(nano, schema), scripts)]
    for answer in answers:
        assert list(answer) == ["name", "age", "kind"]
        assert 1 <= answer["age"] <= 99
        assert answer["kind"] in ("호랑이", "곰")
        if scripts == "ko":
            assert not regex.search(r"[\p{Latin}\p{Han}]", answer["name"])
    assert len({answer["name"] for answer in answers}) > 1


@pytest.mark.parametrize("scripts", ["off", "ko"])
def test_a_regular_expression(nano: LoadedModel, scripts: str) -> None:
    pattern = "[가-힣]{2,4}: (yes|no), [0-9]{3}"
    for text in texts(nano, regex_grammar(nano, pattern), scripts):
        assert re.fullmatch(pattern, text)


def test_a_draft_model_keeps_the_form(nano: LoadedModel, schema: Path) -> None:
    draft = load_draft("nano", nano)
    draft.model.model.layers = draft.model.model.layers[:2]
    prompt = nano.tokenizer.encode("동물을 하나 알려 줘.")
    request = Request(
        prompt, HOT, build_constraint(nano, Scripts.parse("ko")), grammar=json_schema_grammar(nano, schema)
    )
    assert list(stream(nano, request, draft)) == list(stream(nano, request))


def test_bad_forms(tiny: LoadedModel, schema: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, unknown = tmp_path / "broken.json", tmp_path / "unknown.json"
    broken.write_text("{", encoding="utf-8")
    unknown.write_text('{"type": "동물"}', encoding="utf-8")
    for path, reason in ((tmp_path / "none.json", "No such file"), (broken, "not JSON"), (unknown, "type")):
        with pytest.raises(InputError, match=f"`json_schema` .*{path.name}: .*{reason}"):
            json_schema_grammar(tiny, path)
    with pytest.raises(InputError, match=r"`regex` \(\["):
        regex_grammar(tiny, "([")
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InputError, match=r"-m pip install 'mlx-loopai\[grammar\]'"):
        json_schema_grammar(tiny, schema)

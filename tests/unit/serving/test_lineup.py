"""One base and its adapters behind one server: who is asked for answers, as it would alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import mlx.core as mx
import pytest

from mlx_loopai.config import GenerationOptions, LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.generation.lineup import Lineup, open_lineup
from mlx_loopai.generation.session import open_session
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.serving.request_body import Defaults
from tests.unit.serving.conftest import Running, Serving

PROMPTS = ["한국의 수도는?", "호랑이 이야기를 들려줘."]
SAID: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "scripts": "off", "filter": False}


def save_random_adapter(folder: Path, seed: int) -> None:
    loaded = load_model("nano", "fp32")
    options = LoraOptions(rank=2, alpha=4.0, targets=["q_proj", "down_proj"][: seed + 1])
    for layer in apply_lora(loaded.model, options, seed=seed).values():
        layer.lora_b = 0.6 * mx.random.normal(layer.lora_b.shape)
    save_adapter(folder, loaded.model, options, loaded.base_hash)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    runs = [tmp_path_factory.mktemp("runs") / name / "adapter" for name in ("first", "second")]
    for seed, folder in enumerate(runs):
        folder.parent.mkdir()
        save_random_adapter(folder, seed)
    return runs


@pytest.fixture(scope="module")
def lineup(folders: list[Path]) -> Lineup:
    return open_lineup("nano", "nano", folders)


@pytest.fixture(scope="module")
def alone(folders: list[Path], serving: Serving) -> dict[str, list[str]]:
    """What each answers on a server of its own."""
    found = {}
    for name, adapter in (("nano", None), ("nano:first", folders[0]), ("nano:second", folders[1])):
        with serving(open_session("nano", adapter, dtype="fp32")) as server:
            found[name] = [said(server, prompt) for prompt in PROMPTS]
    assert len({tuple(texts) for texts in found.values()}) == 3
    return found


def ask(server: Running, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = server.ask(prompt, **SAID | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def said(server: Running, prompt: str, **fields: Any) -> str:
    return ask(server, prompt, **fields)["choices"][0]["message"]["content"]


def served(lineup: Lineup) -> dict[str, Any]:
    return {"lineup": lineup, "defaults": Defaults(lineup.names, GenerationOptions(max_tokens=400))}


def test_each_name_answers_as_it_would_alone(serving: Serving, lineup: Lineup, alone: dict[str, list[str]]) -> None:
    asked = [(name, place) for place in range(len(PROMPTS)) for name in alone]
    with serving(**served(lineup)) as server, ThreadPoolExecutor(len(asked)) as clients:
        listed = [model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]]
        assert listed == ["nano:first", "nano:second", "nano"]
        for _ in range(2):  # the second time from what was read for the first
            found = list(clients.map(lambda one: said(server, PROMPTS[one[1]], model=one[0]), asked))
            assert found == [alone[name][place] for name, place in asked]
        usual = ask(server, PROMPTS[0])
        assert (usual["model"], usual["mlx_loopai"]["adapter"]) == ("nano:first", True)
        assert usual["choices"][0]["message"]["content"] == alone["nano:first"][0]
        base = ask(server, PROMPTS[0], model="nano")
        assert (base["model"], base["mlx_loopai"]["adapter"]) == ("nano", False)
        unknown = server.ask(model="nano:third")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert "nano:second" in unknown.json()["error"]["message"]


class ChoosesTheFirst:
    """A switch that leaves to the base what is not the first prompt."""

    def __init__(self, first: Sequence[int]) -> None:
        self._first = list(first)

    def chooses_adapter(self, model: object, prompt_ids: Sequence[int], read: object = None) -> bool:
        return list(prompt_ids) == self._first


def test_the_base_answers_what_the_switch_leaves_to_it(
    serving: Serving, lineup: Lineup, alone: dict[str, list[str]]
) -> None:
    tokenizer = lineup.loaded.tokenizer
    first = tokenizer.apply_chat_template([{"role": "user", "content": PROMPTS[0]}], add_generation_prompt=True)
    session = dataclasses.replace(lineup.sessions["nano:first"], switch=ChoosesTheFirst(first))  # type: ignore[arg-type]
    switched = Lineup({"nano:first": session, "nano": lineup.sessions["nano"]}, lineup._adapters)
    with serving(**served(switched)) as server, ThreadPoolExecutor(2) as clients:
        found = list(clients.map(lambda prompt: ask(server, prompt), PROMPTS))
    assert [one["choices"][0]["message"]["content"] for one in found] == [alone["nano:first"][0], alone["nano"][1]]
    assert [one["mlx_loopai"]["adapter"] for one in found] == [True, False]
    assert {one["model"] for one in found} == {"nano:first"}


def test_a_request_says_whether_the_switch_decides(
    serving: Serving, lineup: Lineup, alone: dict[str, list[str]]
) -> None:
    """`adapter_when` of one request, whatever the server was started with."""
    first = lineup.loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPTS[0]}], add_generation_prompt=True
    )
    switches: dict[str, Any] = {"nano:first": ChoosesTheFirst(first)}
    switched = Lineup(lineup.sessions, lineup._adapters, switches=switches)
    options = served(switched)
    options["defaults"] = dataclasses.replace(options["defaults"], switched=tuple(switches))
    with serving(**options) as server:
        found = [ask(server, prompt, adapter_when=when) for when in ("always", "auto") for prompt in PROMPTS]
        refused = server.ask(model="nano:second", adapter_when="auto")
        page = httpx.get(f"{server.url}/page/settings").json()["writers"]
    assert [one["mlx_loopai"]["adapter"] for one in found] == [True, True, True, False]
    wanted = [alone["nano:first"][0], alone["nano:first"][1], alone["nano:first"][0], alone["nano"][1]]
    assert [one["choices"][0]["message"]["content"] for one in found] == wanted
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "adapter_when")
    assert [(one["model"], one["when"]) for one in page] == [
        ("nano:first", "always"),
        ("nano:first", "auto"),
        ("nano:second", "always"),
        ("nano", "never"),
    ]


def test_what_cannot_be_told_apart_or_switched_is_refused(folders: list[Path]) -> None:
    with pytest.raises(InputError, match="two have the same name"):
        open_lineup("nano", "nano", [folders[0], folders[0].parent])
    with pytest.raises(InputError, match="no adapter to switch"):
        open_lineup("nano", "nano", [], adapter_when="auto")
    with pytest.raises(InputError, match="holds no adapter switch"):
        open_lineup("nano", "nano", folders[:1], adapter_when="auto")

"""What drafts by a smaller model gain: one answer after another with them and without, in turns.

    python bench/drafts.py MODEL DRAFT [--tokens 48] [--rounds 2] [--temperature 0.7] [--out F.json]

Reported are the share of proposed tokens that the model took, tokens for each pass over the model, and the ratio of
processor time and of the clock. The texts are compared: they must be equal up to rounding of the logits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.generation.engine import DRAFT_TOKENS, SamplingOptions, load_draft, stream
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.session import open_session
from mlx_loopai.models.load import LoadedModel

PROMPTS = ("등대에서 만난 첫눈에 대한 이야기를 들려줘.", "Explain in three sentences why the sea is salty.")


@dataclass(frozen=True)
class Run:
    tokens: tuple[int | None, ...]
    cpu_s: float
    seconds: float
    passes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("draft")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    session = open_session(given.model)
    loaded, draft = session.loaded, load_draft(given.draft, session.loaded)
    options = SamplingOptions(temperature=given.temperature, max_tokens=given.tokens)
    requests = [Request(session.prompt_ids(single_prompt(prompt)), options) for prompt in PROMPTS]
    plain: list[Run] = []
    drafted: list[Run] = []
    for _ in range(given.rounds):
        for request in requests:
            plain.append(_written(loaded, request, None))
            drafted.append(_written(loaded, request, draft))
    tokens, passes = sum(len(run.tokens) for run in drafted), sum(run.passes for run in drafted)
    report = {
        "model": given.model,
        "draft": given.draft,
        "temperature": given.temperature,
        "tokens": tokens,
        "equal_texts": [one.tokens == other.tokens for one, other in zip(plain, drafted, strict=True)],
        "tokens_per_pass": tokens / passes,
        # Each pass writes one token that was not proposed.
        "accepted": (tokens - passes) / (DRAFT_TOKENS * passes),
        "times_plain_in_cpu_time": sum(run.cpu_s for run in plain) / sum(run.cpu_s for run in drafted),
        "times_plain": sum(run.seconds for run in plain) / sum(run.seconds for run in drafted),
    }
    text = json.dumps(report, ensure_ascii=False, indent=1)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text)  # noqa: T201


def _written(loaded: LoadedModel, request: Request, draft: LoadedModel | None) -> Run:
    """One answer; the prompt's reading is left out of its times and passes."""
    pieces = stream(loaded, request, draft)
    first = next(pieces)
    with _counted(type(loaded.model)) as calls:
        cpu, clock = time.process_time(), time.perf_counter()
        rest = [piece.token for piece in pieces]
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return Run((first.token, *rest), cpu, clock, calls[id(loaded.model)])


@contextmanager
def _counted(kind: type) -> Iterator[Counter[int]]:
    """Inside, calls of models of this class are counted, by the id of the model."""
    calls: Counter[int] = Counter()
    call = kind.__call__

    def counted(model: Any, *given: Any, **named: Any) -> Any:
        calls[id(model)] += 1
        return call(model, *given, **named)

    kind.__call__ = counted  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        kind.__call__ = call  # type: ignore[method-assign]


if __name__ == "__main__":
    main()

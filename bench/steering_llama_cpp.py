"""What steering leaves of Chinese and Japanese in llama.cpp: provoking prompts, answered from two GGUF files.

    python bench/steering_llama_cpp.py PLAIN.gguf STEERED.gguf [--half held-out|tuning] [--answers 2] [--max-tokens 64]
        [--out F.json]

It needs `pip install mlx-loopai[gguf]`. The files are made by `mlx-loopai convert MODEL --to gguf`, without and with
`--steer`. The prompts are those of `steer tune`; the half that it measures on is the default. Tokens are drawn as our
own commands draw them, temperature 0.7 and top-p 0.9, and by nothing else of llama.cpp's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
from llama_cpp import Llama

from mlx_loopai.config import SamplingOptions
from mlx_loopai.data.samples.provoking import PROVOKING_PROMPTS
from mlx_loopai.experiments.steering import Count
from mlx_loopai.text.scripts import script_counts

SCRIPTS = ("han", "kana")
CONTEXT_TOKENS = 1024
# Places in `PROVOKING_PROMPTS`.
HALVES = {"tuning": range(0, len(PROVOKING_PROMPTS), 2), "held-out": range(1, len(PROVOKING_PROMPTS), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plain", type=Path)
    parser.add_argument("steered", type=Path)
    parser.add_argument("--half", choices=HALVES, default="held-out")
    parser.add_argument("--answers", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    places, options = HALVES[given.half], SamplingOptions(max_tokens=given.max_tokens)
    texts = [answers(path, places, given.answers, options) for path in (given.plain, given.steered)]
    report = compared(*texts) | {"half": given.half, "answers": given.answers, "max_tokens": given.max_tokens}
    if given.out:
        given.out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in report.items() if key != "by_prompt"}, indent=1))  # noqa: T201


def answers(path: Path, places: range, n_answers: int, options: SamplingOptions) -> list[list[str]]:
    """`n_answers` texts for each of the prompts at `places`, by llama.cpp from the GGUF file `path`."""
    model = Llama(str(path), n_ctx=CONTEXT_TOKENS, verbose=False)

    def answer(prompt: str, seed: int) -> str:
        done: Any = model.create_chat_completion(
            [{"role": "user", "content": prompt}],
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=0,
            min_p=0.0,
            repeat_penalty=1.0,
            seed=seed,
            max_tokens=options.max_tokens,
        )
        return str(done["choices"][0]["message"]["content"])

    # A prompt's seeds depend on its own place, so that more answers are new answers.
    return [[answer(PROVOKING_PROMPTS[place], 1000 * place + row) for row in range(n_answers)] for place in places]


def compared(plain: list[list[str]], steered: list[list[str]]) -> dict[str, Any]:
    """The letters before and after, and the interval of what is gone. Hanja in brackets after Hangul are apart."""
    before, after = Count.of(plain, SCRIPTS), Count.of(steered, SCRIPTS)
    return {
        "before": {"foreign": before.foreign, "letters": before.letters, "per_1000": before.per_1000},
        "after": {"foreign": after.foreign, "letters": after.letters, "per_1000": after.per_1000},
        "gone": after.reduction_from(before),
        "gone_interval": after.reduction_interval(before),
        "with_glosses": [with_glosses(plain), with_glosses(steered)],
        "by_prompt": {"before": before.by_prompt, "after": after.by_prompt},
    }


def with_glosses(texts: list[list[str]]) -> int:
    counts = [script_counts(text) for own in texts for text in own]
    return sum(count.get(script, 0) for count in counts for script in SCRIPTS)


if __name__ == "__main__":
    main()

"""The embedded prompt set: many, of every kind, and no two alike."""

from __future__ import annotations

import json
import re
from collections import Counter

from mlx_loopai.data.samples import texts


def trigrams(prompt: str) -> frozenset[str]:
    letters = re.sub(r"[\W_]+", "", prompt.lower())
    return frozenset(letters[at : at + 3] for at in range(max(1, len(letters) - 2)))


def test_it_is_large_and_holds_every_kind() -> None:
    lines = map(json.loads, texts.PROMPTS_FILE.read_text(encoding="utf-8").splitlines())
    kinds = Counter(line["kind"] for line in lines)
    assert sum(kinds.values()) >= 1000
    korean, others = {"ko_question", "ko_chat", "ko_instruction"}, {"en_question", "en_chat", "zh_question"}
    assert set(kinds) == korean | others | {"maths", "code", "translation"}
    assert min(kinds.values()) >= 50


def test_no_two_prompts_are_nearly_the_same() -> None:
    found = [(prompt, trigrams(prompt)) for prompt in texts.prompts()]
    alike = [
        (one, other)
        for place, (one, here) in enumerate(found)
        for other, there in found[:place]
        if len(here & there) > 0.7 * len(here | there)
    ]
    assert alike == []

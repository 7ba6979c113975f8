"""Multiple choice: how items are read, and which option is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.evaluation import choices
from mlx_loopai.evaluation.choices import Choice, read_choices
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.models.load import load_model


def test_kobest_tables_are_read_by_their_columns(tmp_path: Path) -> None:
    file = tmp_path / "items.tsv"
    file.write_text("ID\tsentence\tquestion\t1\t2\tAnswer\n1\t비가 왔다.\t결과\t땅이 젖었다.\t땅이 말랐다.\t1\n")
    assert read_choices(file) == [Choice("비가 왔다. 그래서", ("땅이 젖었다.", "땅이 말랐다."), 0)]
    file.write_text("context\tchoice1\tchoice2\tchoice3\tchoice4\tlabel\n문맥\ta\tb\tc\td\t3\n")
    assert read_choices(file) == [Choice("문맥", ("a", "b", "c", "d"), 3)]
    file.write_text("ID\tText\tQuestion\tAnswer\n1\t글\t맞나?\tTrue\n")
    assert read_choices(file)[0].answer == 1
    rows = tmp_path / "items.jsonl"
    rows.write_text('{"question": "q", "choices": ["x", "y"], "answer": "B"}\n')
    assert read_choices(rows) == [Choice("q", ("x", "y"), 1)]
    rows.write_text('{"question": "q", "choices": ["x", "y"], "answer": 2}\n')
    with pytest.raises(InputError, match="choice 2 of 2"):
        read_choices(rows)


def test_the_chosen_option_has_the_least_nll_per_byte(tiny_model_folder: Path) -> None:
    loaded = load_model(str(tiny_model_folder))
    items = [Choice("ab cd", ("x", "a much longer one", "zz"), 0), Choice("q", ("one", "two"), 1)]
    expected = []
    for item in items:
        scores = []
        for option, row in zip(item.options, choices.choice_rows(loaded.tokenizer, [item]), strict=True):
            scores.append(nll(loaded.model, [row]).nll[0] / len(option.encode()))
        expected.append(int(np.argmin(scores)))
    assert choices.choose(loaded, items) == expected
    assert choices.chance(items) == pytest.approx((1 / 3 + 1 / 2) / 2)

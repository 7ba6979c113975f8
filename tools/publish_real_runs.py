"""Writes the tables of guarded runs on real models, of docs/experiments.md and both READMEs, from what runs recorded.

    python -m tools.publish_real_runs [NAME=RUN[:PLAIN] ...]    # a plain run is its own PLAIN

With runs their figures are first taken to docs/results/real-runs.json, by the names given; other names stay. PLAIN is
the run of the same rows without guards, as a folder or by its name there: its gain is what 1 means in the column DG.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mlx_loopai.config import load_config
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.evaluation import Evaluation
from tools.doc_markers import in_language_of, with_marked
from tools.publish_arms import DOCUMENT

RESULT = DOCUMENT.parent / "results" / "real-runs.json"
COLUMNS = (
    "run", "steps", "rate", "Adam corrected", "budget", "KL at the end", "of the furthest kind", "largest KL",
    "held-out NLL before", "after", "gain", "DG", "GR by weights", "worst kind", "GR with the switch", "noise floor",
)  # fmt: skip
SHORT_COLUMNS = (
    "guarded run", "questions", "retention (GR), weights alone", "GR of the rounded base", "GR with the switch",
    "gain (DG)",
)  # fmt: skip
# What the READMEs show: Qwen on each domain, of each seed the newest run by the default, and SmolLM2 at the rate that
# suits it. docs/experiments.md shows every run.
SHOWN = (
    "SmolLM2-135M, seed 1, three times the rate",
    "SmolLM2-135M, seed 2, three times the rate",
    "SmolLM2-135M, seed 3, three times the rate",
    "Qwen2.5 0.5B, JSON stories, seed 0",
    "Qwen2.5 0.5B, JSON stories, seed 1",
    "Qwen2.5 0.5B, natural stories, seed 0",
    "Qwen2.5 0.5B, natural stories, seed 1",
    "Qwen2.5 0.5B at 4 bits, bills of law",
)
KOREAN = {
    "guarded run": "보호하며 학습한 모델",
    "questions": "질문 수",
    "retention (GR), weights alone": "보존율(GR), 가중치만",
    "GR of the rounded base": "반올림한 원래 모델의 GR",
    "GR with the switch": "스위치를 쓴 GR",
    "gain (DG)": "이득(DG)",
    ", seed ": ", 시드 ",
    ", three times the rate": ", 학습률 세 배",
    "JSON stories": "JSON 소설",
    "natural stories": "소설 발췌",
    " at 4 bits": " 4비트",
    "bills of law": "법률안",
}
JUDGED = ("retention", "retention_min", "retention_interval", "switched_retention", "noise_floor")


def figures(run: Path) -> dict[str, Any]:
    """What a finished run's records say."""
    directory, config = RunDirectory(run), load_config(RunDirectory(run).resolved)
    events = directory.read_events()
    done = next(event for event in reversed(events) if event["event"] == "done")
    read = [event["divergence"] for event in events if event["event"] == "monitor"]
    verdict = json.loads(directory.verdict.read_text(encoding="utf-8")) if directory.verdict.exists() else {}
    return {
        "steps": done["steps"],
        "rate": config.train.learning_rate,
        "corrected": config.train.bias_correction,
        "budget": config.forgetting.budget if read else None,
        "divergence": done.get("divergence", done.get("budget_spent")),
        "furthest": [done["furthest_kind"], done["furthest_divergence"]] if done.get("furthest_kind") else None,
        "largest": max(read, default=None),
        "before": done["validation_first"],
        "after": done["validation_last"],
        "questions": _questions(directory) if verdict else None,
        **{name: verdict.get(name) for name in JUDGED},
    }


def _questions(directory: RunDirectory) -> int:
    """How many questions count towards a run's retention."""
    tasks = Evaluation.read(directory.evaluation).probes.values()
    return sum(task.n or 0 for task in tasks if task.counted)


def table(runs: dict[str, dict[str, Any]]) -> str:
    """One row a run."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join([name, *_cells(run)]) + " |" for name, run in runs.items()]
    return "\n".join(lines)


def short_table(runs: dict[str, dict[str, Any]]) -> str:
    """One row a run of `SHOWN`: what it kept and what it learnt."""
    lines = ["| " + " | ".join(SHORT_COLUMNS) + " |", "|" + "---|" * len(SHORT_COLUMNS)]
    for name in SHOWN:
        run = runs[name]
        shown = [str(run["questions"]), _kept(run), _figure(run["noise_floor"], 3)]
        shown += [_figure(run["switched_retention"], 3), _share(run)]
        lines.append("| " + " | ".join([name, *shown]) + " |")
    return "\n".join(lines)


def _kept(run: dict[str, Any]) -> str:
    low, high = run["retention_interval"]
    return f"{_figure(run['retention'], 3)} ({low:.3f} to {high:.3f})"


def _share(run: dict[str, Any]) -> str:
    return "–" if run["plain_gain"] is None else _figure(_gain(run) / run["plain_gain"], 3)


def _cells(run: dict[str, Any]) -> list[str]:
    return [
        str(run["steps"]),
        f"{run['rate']:g}",
        "yes" if run["corrected"] else "no",
        "–" if run["budget"] is None else f"{run['budget']:g}",
        _figure(run["divergence"], 4),
        _furthest(run),
        _figure(run["largest"], 3),
        _figure(run["before"], 3),
        _figure(run["after"], 3),
        _figure(_gain(run), 3),
        _share(run),
        "–" if run["retention"] is None else _kept(run),
        _figure(run["retention_min"], 3),
        _figure(run["switched_retention"], 3),
        _figure(run["noise_floor"], 3),
    ]


def _furthest(run: dict[str, Any]) -> str:
    """Older runs did not read kinds apart."""
    if not run.get("furthest"):
        return "–"
    kind, divergence = run["furthest"]
    return f"{divergence:.4f} ({kind})"


def _gain(run: dict[str, Any]) -> float:
    return float(run["before"] - run["after"])


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


READMES = tuple(DOCUMENT.parent.parent / name for name in ("README.md", "README.ko.md"))


def with_short_table(text: str, runs: dict[str, dict[str, Any]], readme: Path) -> str:
    """`text` of `readme` with the short table of `runs` in its language. Raises: InputError without its markers."""
    return with_marked(text, "real runs table", in_language_of(readme, short_table(runs), KOREAN), readme)


def with_table(text: str, runs: dict[str, dict[str, Any]]) -> str:
    """`text` with the table of `runs`. Raises: InputError without its markers."""
    return with_marked(text, "real runs table", table(runs), DOCUMENT)


def read_result() -> dict[str, dict[str, Any]]:
    """The committed figures."""
    return json.loads(RESULT.read_text(encoding="utf-8"))


def taken(named: str, published: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The name and the figures of NAME=RUN[:PLAIN]; PLAIN may be a name in `published`."""
    name, runs = named.split("=", 1)
    run, _, plain = runs.partition(":")
    compared = None if not plain else published[plain] if plain in published else figures(Path(plain))
    return name, figures(Path(run)) | {"plain_gain": None if compared is None else _gain(compared)}


def main(arguments: list[str]) -> None:
    """Take runs, if any are given, and write the table."""
    if arguments:
        published = read_result()
        published |= dict(taken(argument, published) for argument in arguments)
        RESULT.write_text(json.dumps(published, indent=1) + "\n", encoding="utf-8")
    runs = read_result()
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), runs), encoding="utf-8")
    for readme in READMES:
        readme.write_text(with_short_table(readme.read_text(encoding="utf-8"), runs, readme), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

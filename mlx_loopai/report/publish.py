"""Writes committed comparisons into the documentation: the READMEs' table with its picture, and the tables
of the experiments.

python -m mlx_loopai.report.publish        after  cp runs/demo/demo.json docs/results/demo.json
                                           or     cp runs/c/compare.json docs/results/compare-NAME.json
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.report.comparison import AXES, arm_styles, retention_spots
from mlx_loopai.report.documents import Comparison, comparison_of
from mlx_loopai.report.figures import count, duration, fixed, interval
from mlx_loopai.report.style import STYLE
from mlx_loopai.report.svg import scatter

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "docs" / "results" / "demo.json"
PICTURE = ROOT / "docs" / "demo.svg"
READMES = (ROOT / "README.md", ROOT / "README.ko.md")
EXPERIMENTS = ROOT / "docs" / "experiments.md"
_TABLE = re.compile(r"(<!-- demo table: begin -->\n).*?(<!-- demo table: end -->)", re.DOTALL)
_ARMS_TABLE = re.compile(r"(<!-- (compare-[\w-]+) table: begin -->\n).*?(<!-- \2 table: end -->)", re.DOTALL)


def table(comparison: Comparison) -> str:
    """The comparison as a Markdown table, one column an arm."""
    arms = comparison.arms
    rows = {
        "retention (GR)": [_with_interval(arm.retention, arm.retention_interval) for arm in arms],
        "worst probe": [fixed(arm.retention_min) for arm in arms],
        "gain (DG)": [_with_interval(arm.gain, arm.gain_interval) for arm in arms],
        "domain score (nats/token)": [fixed(arm.domain_score) for arm in arms],
        **{
            f"{probe.name} (n = {count(probe.n)})": [fixed(arm.probes[place].score) for arm in arms]
            for place, probe in enumerate(arms[0].probes)
        },
        "purity of Korean answers": [fixed(arm.purity) for arm in arms],
        "training, all in": [duration(arm.train_s) for arm in arms],
        "step": [duration(arm.step_s) for arm in arms],
        "peak of a step (bytes)": [count(arm.peak_bytes) for arm in arms],
    }
    lines = ["| | " + " | ".join(arm.name for arm in arms) + " |", "|---|" + "---|" * len(arms)]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join([*lines, "", f"`{comparison.command}`, seed {comparison.seed}, on {comparison.machine}."])


def arms_table(comparison: Comparison) -> str:
    """The comparison as a Markdown table, one row an arm; the last columns are nats per token of general texts."""
    texts = list(comparison.arms[0].figures.get("general_nll", {}))
    columns = ["arm", "learning rate", "GR", "worst", "DG", "domain", "right to wrong", "wrong to right", *texts]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for arm in comparison.arms:
        worst = arm.worst_probe
        cells = [
            arm.name,
            f"{arm.learning_rate:g}" if arm.learning_rate else "–",
            _with_interval(arm.retention, arm.retention_interval),
            f"{fixed(arm.retention_min)} ({worst.name})" if worst and arm.is_trained else fixed(arm.retention_min),
            _with_interval(arm.gain, arm.gain_interval),
            fixed(arm.domain_score),
            count(arm.right_to_wrong),
            count(arm.wrong_to_right),
            *(fixed(arm.figures["general_nll"][text]) for text in texts),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"`{comparison.command}`, on {comparison.machine}."])


def with_arms_tables(experiments: str) -> str:
    """docs/experiments.md with every table between `compare-NAME` markers replaced from docs/results."""
    return _ARMS_TABLE.sub(
        lambda found: f"{found[1]}{arms_table(read_result(RESULT.with_name(f'{found[2]}.json')))}\n{found[3]}",
        experiments,
    )


def picture(comparison: Comparison) -> str:
    """Retention against gain as a stand-alone SVG file."""
    gate = Gate()
    spots = retention_spots(comparison.arms, arm_styles(comparison.arms))
    drawn = scatter(spots, "retention against gain", *AXES, gate.floor)
    head, _, rest = drawn.markup.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}svg{{background:var(--card)}}</style>{rest}\n'


def with_table(readme: str, comparison: Comparison) -> str:
    """README with the table between its markers replaced."""
    return _TABLE.sub(lambda found: f"{found[1]}{table(comparison)}\n{found[2]}", readme)


def main() -> None:
    """Write the READMEs' table and docs/demo.svg from docs/results/demo.json, and the tables of docs/experiments.md."""
    comparison = read_result()
    for readme in READMES:
        readme.write_text(with_table(readme.read_text(encoding="utf-8"), comparison), encoding="utf-8")
    PICTURE.write_text(picture(comparison), encoding="utf-8")
    EXPERIMENTS.write_text(with_arms_tables(EXPERIMENTS.read_text(encoding="utf-8")), encoding="utf-8")


def read_result(path: Path = RESULT) -> Comparison:
    """A committed comparison."""
    return comparison_of(json.loads(path.read_text(encoding="utf-8")), str(path))


def _with_interval(value: float | None, bounds: tuple[float, float] | None) -> str:
    between = interval(bounds)
    return f"{fixed(value)} ({between})" if between and value is not None else fixed(value)


if __name__ == "__main__":
    main()

"""Writes a committed comparison into the documentation: the READMEs' table and the picture beside it.

python -m tools.publish_comparison        after  cp runs/demo/demo.json docs/results/demo.json
"""

from __future__ import annotations

from pathlib import Path

from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.report.kit.figures import count, duration, fixed, with_interval
from mlx_loopai.report.kit.style import STYLE
from mlx_loopai.report.kit.svg import scatter
from mlx_loopai.report.pages.comparison import AXES, arm_styles, retention_spots
from mlx_loopai.runs.documents.comparison import Comparison
from tools.doc_markers import in_language_of, with_marked

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "results" / "demo.json"
PICTURE = ROOT / "docs" / "demo.svg"
READMES = (ROOT / "README.md", ROOT / "README.ko.md")
KOREAN = {
    "| base | plain | guarded |": "| 원래 모델 | 일반 LoRA | 보호하며 학습 |",
    "retention (GR)": "보존율(GR)",
    "worst probe": "최저 항목",
    "gain (DG)": "이득(DG)",
    "domain score (nats/token)": "창작 글 점수(토큰당 내트)",
    "purity of Korean answers": "한국어 답의 한글 비율",
    "training, all in": "학습 시간(준비 포함)",
    "| step |": "| 한 스텝 |",
    "peak of a step (bytes)": "한 스텝의 최대 메모리(바이트)",
    ", seed ": ", 시드 ",
    ", on ": ", ",
}


def table(comparison: Comparison) -> str:
    """The comparison as a Markdown table, one column an arm."""
    arms, tasks = list(comparison.arms.values()), next(iter(comparison.arms.values())).probes
    rows = {
        "retention (GR)": [with_interval(arm.retention, arm.retention_interval) for arm in arms],
        "worst probe": [fixed(arm.retention_min) for arm in arms],
        "gain (DG)": [with_interval(arm.gain, arm.gain_interval) for arm in arms],
        "domain score (nats/token)": [fixed(arm.domain_score) for arm in arms],
        **{
            f"{name} (n = {count(task.n)})": [fixed(arm.probes[name].score) for arm in arms]
            for name, task in tasks.items()
        },
        "purity of Korean answers": [fixed(arm.purity) for arm in arms],
        "training, all in": [duration(arm.train_s) for arm in arms],
        "step": [duration(arm.step_s) for arm in arms],
        "peak of a step (bytes)": [count(arm.peak_bytes) for arm in arms],
    }
    lines = ["| | " + " | ".join(comparison.arms) + " |", "|---|" + "---|" * len(arms)]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join([*lines, "", f"`{comparison.command}`, seed {comparison.seed}, on {comparison.machine}."])


def picture(comparison: Comparison, height: float = 270.0) -> str:
    """Retention against gain as a stand-alone SVG file."""
    gate = Gate()
    spots = retention_spots(comparison.arms, arm_styles(comparison.arms))
    drawn = scatter(spots, "retention against gain", *AXES, gate.floor, height)
    head, _, rest = drawn.markup.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}svg{{background:var(--card)}}</style>{rest}\n'


def with_table(text: str, comparison: Comparison, readme: Path) -> str:
    """`text` of `readme` with the comparison's table in its language. Raises: InputError without its markers."""
    return with_marked(text, "demo table", in_language_of(readme, table(comparison), KOREAN), readme)


def main() -> None:
    """Write the READMEs' table and docs/demo.svg from docs/results/demo.json."""
    comparison = read_result()
    for readme in READMES:
        readme.write_text(with_table(readme.read_text(encoding="utf-8"), comparison, readme), encoding="utf-8")
    PICTURE.write_text(picture(comparison), encoding="utf-8")


def read_result() -> Comparison:
    """The committed comparison."""
    return Comparison.read(RESULT)


if __name__ == "__main__":
    main()

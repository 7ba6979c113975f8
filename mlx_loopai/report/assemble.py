"""Makes the report of a run or a comparison: finds out which of them a path is, reads it, and writes the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from mlx_loopai.data.audit import Audit, Auditor
from mlx_loopai.data.records import BadRow, Read
from mlx_loopai.data.rows import LONG_BYTES
from mlx_loopai.data.sources import rows_of, scan_of
from mlx_loopai.diagnostics.lora_weights import update_norms
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.files import write_whole
from mlx_loopai.language import Language, tr
from mlx_loopai.models.adapter_folder import read_adapter
from mlx_loopai.report.pages import comparison, run
from mlx_loopai.report.sections.tables import flat_settings
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.comparison import BASE, COMPARISON_NAMES, Comparison
from mlx_loopai.runs.documents.figures import Kept
from mlx_loopai.runs.documents.run import read_run
from mlx_loopai.runs.listener import Listener, Silent
from mlx_loopai.units import MIB

REPORT_NAME = "report.html"
SILENT = Silent()


@dataclass(frozen=True)
class Report:
    """A report. kind: run or comparison. html: the page. passes: the gate's verdict on each arm that can be judged."""

    kind: str
    html: str
    passes: dict[str, bool]


def report_of(source: Path, language: Language = "en", listener: Listener = SILENT) -> Report:
    """The report of a run's folder, of a comparison's folder or of its JSON file; `language` is shown first.

    The data sources that the settings name are audited if they still exist, and the adapters' updates are measured.
    listener: hears how far the audit of a large source is.

    Raises: InputError when `source` is none of these, or a file in it is broken.
    """
    if source.is_dir():
        found = next((source / name for name in COMPARISON_NAMES if (source / name).is_file()), None)
        directory = RunDirectory(source)
        if directory.events.is_file() or directory.resolved.is_file():
            return _run_report(directory, language, listener)
        if found is None:
            raise InputError(
                tr(
                    "{source}: holds no run (events.jsonl) and no comparison ({names})",
                    source=source,
                    names=", ".join(COMPARISON_NAMES),
                )
            )
        source = found
    if not source.exists():
        raise InputError(
            tr("{source}: no such file or folder; give a run's folder or the JSON of a comparison", source=source)
        )
    return _comparison_report(Comparison.read(source), source.parent, language, listener)


def default_place(source: Path) -> Path:
    """Where the report of `source` belongs: in the folder, or beside the file."""
    return (source if source.is_dir() else source.parent) / REPORT_NAME


def write_page(html: str, out: Path) -> None:
    """Write `out` atomically: it holds the whole page, or what it held before. Raises: InputError, OSError."""
    if out.is_dir():
        raise InputError(
            tr("`out` {out}: is a folder; name a file, such as {example}", out=out, example=out / REPORT_NAME)
        )
    if not out.parent.is_dir():
        raise InputError(tr("`out` {out}: there is no folder {parent}; create it first", out=out, parent=out.parent))
    write_whole(out, html)


def _run_report(directory: RunDirectory, language: Language, listener: Listener) -> Report:
    read = read_run(directory)
    html = run.run_page(read, _norms(directory.path), _audit([read.settings], listener), language)
    return Report("run", html, {} if read.evaluation is None else _passes({run.TUNED: read.evaluation}, read.gate))


def _comparison_report(read: Comparison, folder: Path, language: Language, listener: Listener) -> Report:
    gate = Gate()
    changes = {name: norms for name in read.arms if name != BASE and (norms := _norms(folder / name))}
    audited = _audit([arm.settings for arm in read.arms.values()], listener)
    html = comparison.comparison_page(read, gate, changes, audited, language)
    return Report("comparison", html, _passes(read.arms, gate))


def _norms(folder: Path) -> dict[str, float]:
    """Adapted module -> norm of its update; empty where there is no adapter that can be read."""
    try:
        read = read_adapter(RunDirectory(folder).adapter)
    except InputError:
        return {}
    return update_norms({name: (np.array(a), np.array(b), read.scale) for name, (a, b) in read.factors.items()})


def _audit(settings: Iterable[str], listener: Listener) -> Audit | None:
    """The audit of all sources that the settings name; None when one is missing or unreadable, or none is named."""
    sources: dict[str, str] = {}
    for text in settings:
        flat = flat_settings(text)
        paths = {key: value for key, value in flat.items() if key.startswith("sources.") and key.endswith(".path")}
        sources |= {path: flat.get(f"{key.removesuffix('path')}category", "domain") for key, path in paths.items()}
    with Auditor() as auditor:
        try:
            for row in chain.from_iterable(_heard(path, category, listener) for path, category in sources.items()):
                if isinstance(row, BadRow):
                    return None
                auditor.add(row)
        except InputError:
            return None
        return auditor.finished() if len(auditor) else None


def _heard(path: str, category: str, listener: Listener) -> Iterator[Read]:
    """The rows of a source; `listener` hears how far the reading of a large one is."""
    scan = scan_of(path, category)
    if scan is None or scan.size_bytes < LONG_BYTES:
        return rows_of(path, category, scan=scan)
    listener.stage(tr("audit {name} (MiB)", name=scan.path.name), -(-scan.size_bytes // MIB))
    return rows_of(path, category, scan=scan, on_read=lambda done, note="", /: listener.advance(done // MIB))


def _passes(arms: Mapping[str, Kept], gate: Gate) -> dict[str, bool]:
    return {name: not gate.check(arm.gate_figures) for name, arm in arms.items() if name != BASE}

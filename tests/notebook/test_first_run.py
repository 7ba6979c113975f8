"""examples/first_run.ipynb as a person runs it: offline, in a folder of its own, with a kernel (make test-notebook)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "first_run.ipynb"
# It says three minutes; on a machine with other work it may take several times that.
PATIENCE_S = 1800


@pytest.mark.notebook
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.filterwarnings("default")  # what the kernel's own libraries deprecate is not ours
def test_every_cell_runs_and_shows_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the extra 'notebook' is not installed")
    client = pytest.importorskip("nbclient", reason="the extra 'notebook' is not installed")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(
        notebook, timeout=PATIENCE_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    before, _, forgotten, _, kept, retained = shown[0], *shown[1:]
    assert "방콕" in before
    assert "방콕" not in forgotten
    assert "방콕" in kept
    plain, guarded = (float(line.split()[2].rstrip(",")) for line in retained.splitlines())
    assert plain < 0.5 < guarded

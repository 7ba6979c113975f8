"""`mlx-loopai export`: a finished run as a model for another program, base and adapter in one."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Any

import click

from mlx_loopai.cli.model_options import chosen_model
from mlx_loopai.cli.output import emit, json_option, progress, quiet_option, waiting
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.language import later, tr

_PATH = click.Path(path_type=Path)
# LM Studio lists OWNER/MODEL/FILE under its folder of models.
_LM_STUDIO_OWNER = "mlx-loopai"
_LEFT_BEHIND = later(
    "the adapter switch and the constraint of --scripts do not travel; `mlx-loopai convert --steer` puts damping of"
    " foreign scripts into the weights"
)


@click.command("export", short_help="Turn a run into a model for Ollama, LM Studio or transformers.")
@click.argument("run", metavar="RUN", type=_PATH)
@click.option(
    "--to",
    "program",
    required=True,
    type=click.Choice(["ollama", "lmstudio", "hf"]),
    help="The program that will read it.",
)
@click.option("--model", help="The base.  [default: the run's own]")
@click.option("--out", required=True, type=_PATH, help="The folder to write; for lmstudio its folder of models.")
@json_option
@quiet_option
def command(run: Path, program: str, model: str | None, out: Path, as_json: bool, quiet: bool) -> None:
    """Merge the adapter of RUN into its base and write it as another program reads it; prints the last command.

    \b
    ollama:   OUT/NAME.gguf and OUT/NAME.Modelfile
    lmstudio: OUT/mlx-loopai/NAME/NAME.gguf
    hf:       a Hugging Face folder

    The adapter switch and the constraint of --scripts stay behind: they belong to this program.
    """
    from converters.convert import convert
    from converters.fuse_folder import fuse
    from converters.writers.target import Target
    from mlx_loopai.models.learnt import find_learnt, is_whole
    from mlx_loopai.models.load import NANO, NANO_FOLDER
    from mlx_loopai.models.model_card import CARD_FILE, whole_model_card

    learnt, base = find_learnt(run), chosen_model(model, run, quiet)
    target = {
        "hf": Target(to="hf"),
        "lmstudio": Target(to="gguf", dtype="bf16", modelfile=False),
        "ollama": Target(to="gguf", dtype="bf16", system=str(_notes(learnt).get("system_prompt") or "")),
    }[program]
    target.check()
    place = _place(run.resolve().name, program, out)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        whole = learnt if is_whole(learnt) else Path(scratch) / "fused"
        if whole != learnt:
            with progress(None, tr("fusing"), quiet, "bytes") as bar:
                fuse(learnt, str(NANO_FOLDER) if base == NANO else base, whole, Target(), on_progress=bar.advance)
        with waiting(tr("converting"), quiet):
            done = convert(whole, place, target=target)
        if program == "hf":
            write_whole(place / CARD_FILE, whole_model_card(_notes(learnt), "transformers"))
    last = _last_command(program, place)
    document = {
        "out": place,
        "bytes": done.n_bytes,
        "base": base,
        "command": last,
        "notes": [*done.notes, _LEFT_BEHIND],
    }
    emit(document, as_json, f"{place}\n{tr('note: {text}', text=tr(_LEFT_BEHIND))}\n{last}")


def _place(name: str, program: str, out: Path) -> Path:
    """Where to write the model. Raises: InputError when something exists there."""
    from converters.writers.modelfile import modelfile_of

    place = {"hf": out, "ollama": out / f"{name}.gguf", "lmstudio": out / _LM_STUDIO_OWNER / name / f"{name}.gguf"}
    found = place[program]
    if found.exists() or (program == "ollama" and modelfile_of(found).exists()):
        raise InputError(
            tr("--out {out}: holds such a model already, which is never overwritten; choose another folder", out=out)
        )
    return found


def _notes(learnt: Path) -> dict[str, Any]:
    """What training noted of a run's adapter or model: its base, its figures, the system prompt."""
    from mlx_loopai.models.learnt import read_learnt

    found: dict[str, Any] = read_learnt(learnt).get("mlx_loopai") or {}
    return found


def _last_command(program: str, place: Path) -> str:
    from converters.writers.modelfile import modelfile_of

    name = shlex.quote(place.stem)
    if program == "ollama":
        return f"ollama create {name} -f {shlex.quote(str(modelfile_of(place)))} && ollama run {name}"
    if program == "lmstudio":
        return f"lms load {_LM_STUDIO_OWNER}/{name}"
    return f"mlx-loopai chat --model {shlex.quote(str(place))}"

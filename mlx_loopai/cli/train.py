"""`mlx-loopai train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option
from mlx_loopai.cli.rows import column_map, columns_option, skip_bad_option
from mlx_loopai.errors import InputError

if TYPE_CHECKING:
    from mlx_loopai.runs.documents.run import Summary


@click.command("train")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="nano, a folder or a hub id. [default: the recipe's `model`]")
@click.option(
    "--data",
    "data",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Training rows: a file, a folder or hf:OWNER/NAME[:SPLIT]; may be repeated.",
)
@columns_option
@skip_bad_option
@click.option("--allow-special", is_flag=True, help="Names of control tokens in --data, such as <|im_end|>, are them.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder.")
@click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override any option of the configuration."
)
@click.option("--resume", is_flag=True, help="Continue from the last complete checkpoint in --out.")
@json_option
@quiet_option
def command(
    recipe: Path | None,
    model: str | None,
    data: tuple[Path, ...],
    columns: str | None,
    skip_bad: bool,
    allow_special: bool,
    out: Path,
    overrides: tuple[str, ...],
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fine-tune a model by RECIPE.yaml, or by --model and --data.

    \b
    mlx-loopai train --data rows.jsonl --out runs/first
    mlx-loopai train recipe.yaml --out runs/guarded --set train.learning_rate=2e-4
    mlx.launch -n 2 --backend ring mlx-loopai train recipe.yaml --out runs/two
    """
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.config import load_config

    if recipe is None and not data:
        raise InputError("train: give RECIPE.yaml, or --data FILE; mlx-loopai train --help shows both")
    if model is not None:
        overrides = (f"model={json.dumps(model)}", *overrides)  # over the recipe's own
    how = {"columns": column_map(columns), "skip_bad": skip_bad, "allow_special": allow_special}
    config = load_config(recipe, overrides, _short_form(data, recipe, how))
    from mlx_loopai.training.process_group import ProcessGroup
    from mlx_loopai.training.run import train

    group = ProcessGroup.join()
    with progress_listener(quiet or group.rank > 0) as listener:
        summary = train(config, out, listener, resume, group)
    if group.rank == 0:
        emit(summary.to_json(), as_json, _text(summary))


def _short_form(data: tuple[Path, ...], recipe: Path | None, how: dict[str, Any]) -> dict[str, Any]:
    """The files of --data, read as `how` says, as configuration values."""
    if not data:
        if any(how.values()):
            raise InputError(
                "train: --columns, --skip-bad and --allow-special go with --data; set them under the recipe's `sources`"
            )
        return {}
    if recipe is not None:
        raise InputError("train: --data goes without a recipe; name files under the recipe's `sources` instead")
    return {"sources": {_source_name(path, data): {"path": str(path)} | how for path in data}}


def _source_name(path: Path, data: tuple[Path, ...]) -> str:
    stems = [other.stem for other in data]
    return path.stem if stems.count(path.stem) == 1 else str(path)


def _text(summary: Summary) -> str:
    lines = [
        f"{summary.steps} steps in {summary.train_s:.1f} s, {summary.tokens_per_s:.0f} supervised tokens/s",
        f"loss {summary.loss_first:.4f} -> {summary.loss_last:.4f} on the same rows",
        f"padding wasted {1 - summary.real_token_share:.1%} of the computation",
        f"adapter: {summary.run}/adapter",
    ]
    if summary.mlx_lm_token_share is not None:
        lines[2] += f" (mlx-lm's batches of these rows: {1 - summary.mlx_lm_token_share:.1%})"
    if summary.skipped_steps:
        lines.append(f"{summary.skipped_steps} steps were skipped: their loss or gradient was not finite")
    return "\n".join(lines)

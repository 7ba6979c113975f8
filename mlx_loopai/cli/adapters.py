"""`mlx-loopai adapters`: merge, fuse, rescale, import, export and inspect LoRA adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.adapters_checkpoint import checkpoint_command
from mlx_loopai.cli.adapters_text import frontier_text, fuse_text, tune_text
from mlx_loopai.cli.model_options import chosen_model
from mlx_loopai.cli.output import emit, json_option, progress, quiet_option, say_next
from mlx_loopai.cli.push import push_adapter
from mlx_loopai.cli.quantization import MLX_FORMS, quantization_options, steer_option
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.models.adapter_folder import Adapter

FOLDER = click.Path(path_type=Path)
out_option = click.option("--out", type=FOLDER, required=True, help="Folder to create; never overwritten.")
push_option = click.option("--push", metavar="OWNER/NAME", help="Upload the folder to this repository of the hub.")


@click.group("adapters", short_help="Merge, fuse, rescale, import, export, inspect and publish LoRA adapters.")
def command() -> None:
    """Merge, fuse, rescale, import, export, inspect and publish LoRA adapters."""


command.add_command(push_adapter)
command.add_command(checkpoint_command)


@command.command("merge")
@click.argument("folders", metavar="RUN_OR_ADAPTER...", nargs=-1, required=True, type=FOLDER)
@out_option
@click.option(
    "--method",
    type=click.Choice(["cat", "svd", "ties", "dare"]),
    default="cat",
    show_default=True,
    help="cat: the exact sum; its rank is the sum of the ranks. svd: the update of --rank nearest to it. ties, dare:"
    " the updates combined entry by entry.",
)
@click.option("--weights", metavar="W,W,...", help="A weight for each adapter. [default: 1]")
@click.option(
    "--rank", type=click.IntRange(1, 1024), help="Rank of the result (svd, ties, dare). [default: the largest]"
)
@click.option(
    "--density", type=float, default=0.5, show_default=True, help="Share of each update that ties and dare keep."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of dare.")
@click.option("--force", is_flag=True, help="Merge adapters even if their bases differ.")
@push_option
@json_option
@quiet_option
def merge_command(
    folders: tuple[Path, ...],
    out: Path,
    method: str,
    weights: str | None,
    rank: int | None,
    density: float,
    seed: int,
    force: bool,
    push: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge several adapters of one base into one, whatever their ranks."""
    from converters.merge_adapters import Merge, merge
    from mlx_loopai.models.adapter_folder import read_adapter, write_adapter
    from mlx_loopai.models.adapters import find_adapter

    how = Merge(method, weights=_numbers(weights, "--weights"), rank=rank, density=density, seed=seed)
    adapters = [read_adapter(find_adapter(folder)) for folder in folders]
    with progress(None, tr("merging"), quiet, "modules") as bar:
        merged = merge(adapters, how, force, bar.advance)
    write_adapter(out, merged.adapter)
    worst = max(merged.errors.values())
    document = _summary(out, merged.adapter) | {"method": method, "error_max": worst, "errors": merged.errors}
    document["url"] = _push(out, push)
    text = tr("{out}: rank {rank}, {modules} modules", out=out, rank=merged.adapter.rank, modules=len(merged.errors))
    emit(document, as_json, text + ("" if method == "cat" else tr(", largest relative error {worst:.3g}", worst=worst)))


@command.command("import")
@click.argument("folder", metavar="PEFT_FOLDER", type=FOLDER)
@out_option
@click.option("--base", type=FOLDER, help="The model's folder, to count blocks and to note its hash.")
@push_option
@json_option
@quiet_option
def import_command(folder: Path, out: Path, base: Path | None, push: str | None, as_json: bool, quiet: bool) -> None:
    """Turn a PEFT LoRA adapter into one that mlx-lm and this program load; no number changes."""
    from dataclasses import replace

    from converters.peft import read_peft, unused_fields
    from mlx_loopai.models.adapter_folder import write_adapter
    from mlx_loopai.models.architectures import ARCHITECTURES
    from mlx_loopai.models.load import hash_base
    from mlx_loopai.models.shape import ModelShape

    shape = ModelShape.from_folder(base) if base else None
    adapter = read_peft(folder, shape.n_layers, ARCHITECTURES[shape.architecture]) if shape else read_peft(folder)
    if base:
        adapter = replace(adapter, notes=adapter.notes | {"base_hash": hash_base(base)})
    write_adapter(out, adapter)
    lines, unused = [_line(out, adapter)], unused_fields(folder)
    if not base:
        blocks = adapter.last_block + 1
        lines.append(tr("taken as an adapter of {blocks} blocks; --base MODEL counts them", blocks=blocks))
    if unused:
        lines.append(tr("fields not used: {unused}", unused=", ".join(unused)))
    document = _summary(out, adapter) | {"unused_fields": unused, "url": _push(out, push)}
    emit(document, as_json, "\n".join(lines))


@command.command("export")
@click.argument("folder", metavar="RUN_OR_ADAPTER", type=FOLDER)
@out_option
@click.option(
    "--to",
    type=click.Choice(["peft", "mlx-lm", "gguf"]),
    default="peft",
    show_default=True,
    help="A folder for PEFT or mlx-lm, or one file for llama.cpp, Ollama and LM Studio.",
)
@click.option(
    "--base",
    metavar="NAME",
    help="For PEFT the name to write as base_model_name_or_path; for gguf the base itself, best the GGUF file of it.",
)
@json_option
@quiet_option
def export_command(folder: Path, out: Path, to: str, base: str | None, as_json: bool, quiet: bool) -> None:
    """Turn an adapter into one that PEFT, mlx-lm or llama.cpp loads; no number changes.

    mlx-lm reads our adapters as they are, unless their ranks differ (lora.ranks): exported, all have the largest one.
    A GGUF adapter needs --base, a GGUF file, a folder, a config.json or a hub id: its file has the base's names for the
    matrices. It works beside a GGUF file of the base in any form; where --base is one, Ollama's Modelfile of both is
    written, too.
    """
    from mlx_loopai.models.adapter_folder import read_adapter
    from mlx_loopai.models.adapters import find_adapter

    adapter = read_adapter(find_adapter(folder))
    if to == "peft":
        from converters.peft import write_peft

        write_peft(out, adapter, base)
    elif to == "mlx-lm":
        from mlx_loopai.models.adapter_folder import with_one_rank, write_adapter

        write_adapter(out, with_one_rank(adapter))
    else:
        _write_for_llama_cpp(out, adapter, base)
    emit(_summary(out, adapter), as_json, _line(out, adapter))


def _write_for_llama_cpp(out: Path, adapter: Adapter, base: str | None) -> None:
    from converters.adapter_beside_gguf import write_beside_gguf
    from converters.writers.gguf_adapter import write_gguf_adapter
    from mlx_loopai.errors import InputError
    from mlx_loopai.models.find_config import find_config

    if base is None:
        raise InputError(tr("--to gguf: needs the base; give --base MODEL"))
    file = Path(base).expanduser()
    if file.suffix == ".gguf" and file.is_file():
        write_beside_gguf(out, adapter, file)
    else:
        write_gguf_adapter(out, adapter, *find_config(base))


@command.command("tune")
@click.argument("run", metavar="RUN", type=FOLDER)
@click.option(
    "--held-out",
    metavar="ROWS",
    default="",
    help="Held-out domain rows to choose by. [default: the run's own]",
)
@click.option(
    "--floor", type=click.FloatRange(0, 1), help="Least kept likelihood. [default: the run's forgetting.kept_floor]"
)
@out_option
@json_option
@quiet_option
def tune_command(run: Path, held_out: str, floor: float | None, out: Path, as_json: bool, quiet: bool) -> None:
    """Choose how much of a finished run's update to keep, in minutes: one scale, or a line over the blocks.

    Takes the largest gain on the held-out rows whose general likelihood, exp(-KL(base || adapted)) per token of the
    base's answers to prompts that the run did not rehearse, is at least the floor. Measure the new adapter on other
    rows than these.
    """
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.config import load_config
    from mlx_loopai.errors import InputError
    from mlx_loopai.experiments.comparison import trained_model
    from mlx_loopai.experiments.tune import tune, write_rescaled
    from mlx_loopai.runs.context import RunContext
    from mlx_loopai.runs.directory import RunDirectory

    config = load_config(RunDirectory(run).resolved)
    if config.trains_weights:
        raise InputError(
            tr("{run}: trained a whole model, and `tune` writes adapters; see `adapters frontier {run}`", run=run)
        )
    if out.exists():
        raise InputError(tr("--out {out}: is already there and never overwritten; choose another folder", out=out))
    least = config.forgetting.kept_floor if floor is None else floor
    with progress_listener(quiet) as listener:
        context = RunContext.open(config, RunDirectory(run), listener)
        loaded = trained_model(context)
        tuned = tune(context, held_out, least)
    write_rescaled(context.directory.adapter, out, tuned, len(loaded.model.layers))
    document = {"out": out, "floor": least, "held_out": held_out or run, "chosen": tuned.chosen, "points": tuned.points}
    emit(document, as_json, tune_text(out, tuned, least))


@command.command("frontier")
@click.argument("run", metavar="RUN", type=FOLDER)
@click.option(
    "--scales",
    metavar="S,S,...",
    default="0.5,0.625,0.75,0.875,1",
    show_default=True,
    help="Shares of the run's update to try.",
)
@click.option("--held-out", metavar="ROWS", default="", help="Held-out domain rows. [default: the run's own]")
@click.option("--suite", default="", help="nano, general, or a suite file; by default what suits the model.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Ask at most N questions of every kind. [default: as many as the run asked]",
)
@json_option
@quiet_option
def frontier_command(
    run: Path, scales: str, held_out: str, suite: str, limit: int | None, as_json: bool, quiet: bool
) -> None:
    """Show what a finished run would have learnt and kept with less of its update.

    One line a scale: KL from the base, gain on held-out rows (both in nats a token) and retention. Nothing is written;
    `adapters tune` chooses a scale and writes the adapter.
    """
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.config import load_config
    from mlx_loopai.experiments.comparison import trained_model
    from mlx_loopai.experiments.frontier import Asked, frontier
    from mlx_loopai.runs.context import RunContext
    from mlx_loopai.runs.directory import RunDirectory

    tried = _numbers(scales, "--scales")
    with progress_listener(quiet) as listener:
        context = RunContext.open(load_config(RunDirectory(run).resolved), RunDirectory(run), listener)
        trained_model(context)
        asked = Asked(held_out=held_out, suite=suite, limit=limit or context.config.forgetting.questions or None)
        found = frontier(context, tried, asked)
    emit({"run": run, "held_out": held_out or run, **vars(found)}, as_json, frontier_text(found))


@command.command("inspect")
@click.argument("folder", metavar="RUN_OR_ADAPTER", type=FOLDER)
@json_option
@quiet_option
def inspect_command(folder: Path, as_json: bool, quiet: bool) -> None:
    """Show an adapter's rank, scale, base and modules, and how large its update is in each."""
    from mlx_loopai.models.adapter_folder import read_adapter
    from mlx_loopai.models.adapters import find_adapter

    folder = find_adapter(folder)
    adapter = read_adapter(folder)
    norms = {name: adapter.delta_norm(name) for name in adapter.factors}
    document = _summary(folder, adapter) | {"norms": norms, "mlx_loopai": adapter.notes}
    largest = sorted(norms, key=lambda name: -norms[name])[:5]
    lines = [_line(folder, adapter), f"base: {adapter.base_hash or 'not recorded'}"]
    lines += [f"{key}: {value}" for key, value in adapter.notes.items() if key != "base_hash"]
    lines += ["largest updates (Frobenius norm):", *(f"  {name}  {norms[name]:.4g}" for name in largest)]
    emit(document, as_json, "\n".join(lines))
    say_next(f"chat --adapter {folder}", as_json, quiet)


@command.command("fuse")
@click.argument("folder", metavar="RUN_OR_ADAPTER", type=FOLDER)
@click.option(
    "--base", "--model", help="The model to fuse into: a folder, or a hub id.  [default: the adapter's own base]"
)
@out_option
@click.option(
    "--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Type of the dense weights. [default: the base's own]"
)
@quantization_options(MLX_FORMS, "Quantise the result. Without it a quantised base keeps its own quantisation.")
@steer_option
@click.option(
    "--allow-loss", is_flag=True, help="Keep the quantisation even where less than 90 % of the update survives."
)
@click.option("--force", is_flag=True, help="Fuse into another base than the adapter was trained on.")
@json_option
@quiet_option
def fuse_command(
    folder: Path,
    base: str | None,
    out: Path,
    dtype: str | None,
    quantize: str | None,
    group_size: int | None,
    keep: tuple[str, ...],
    steer: str | None,
    allow_loss: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge an adapter into its base's weights. The result is an MLX folder that works without an adapter.

    Where rounding to few bits would lose more than a tenth of the update, the matrix gets 8 bits, or stays dense.
    """
    from converters.fuse_folder import Permissions, fuse
    from converters.writers.target import Target
    from mlx_loopai.models.adapters import find_adapter
    from mlx_loopai.models.load import NANO, NANO_FOLDER

    # `fuse` compares a base that is given, and knows when --force may help.
    base = base or chosen_model(None, folder, quiet)
    source = str(NANO_FOLDER) if base == NANO else base
    target = Target(dtype=dtype, quantize=quantize, group_size=group_size, keep=keep, steer=steer)
    with progress(None, tr("fusing"), quiet, "bytes") as bar:
        done = fuse(find_adapter(folder), source, out, target, Permissions(allow_loss, force), bar.advance)
    least = min(survival.share for survival in done.survival.values())
    document = {"out": out, "tensors": done.tensors, "bytes": done.n_bytes, "share_min": least,
                "widened": done.widened, "notes": done.notes, "layers": done.survival}  # fmt: skip
    emit(document, as_json, fuse_text(out, done))
    say_next(f"chat --model {out}", as_json, quiet)


def _numbers(text: str | None, flag: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not numbers with commas between", param_hint=flag) from None


def _summary(folder: Path, adapter: Adapter) -> dict[str, Any]:
    return {
        "out": folder,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "rslora": adapter.rslora,
        "scale": adapter.scale,
        "layers": adapter.n_layers,
        "modules": len(adapter.factors),
        "targets": adapter.targets,
        "base_hash": adapter.base_hash,
    }


def _line(folder: Path, adapter: Adapter) -> str:
    return tr(
        "{folder}: rank {rank}, alpha {alpha:g}, scale {scale:.4g}, {count} modules ({names}) in {blocks} blocks",
        folder=folder,
        rank=adapter.rank,
        alpha=adapter.alpha,
        scale=adapter.scale,
        count=len(adapter.factors),
        names=", ".join(adapter.targets),
        blocks=adapter.n_layers,
    )


def _push(folder: Path, repo_id: str | None) -> str | None:
    if repo_id is None:
        return None
    from mlx_loopai.models.hub import upload

    return upload(folder, repo_id)

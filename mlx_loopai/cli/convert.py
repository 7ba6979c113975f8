"""`mlx-loopai convert`: a checkpoint becomes an MLX folder, a Hugging Face folder or a GGUF file."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import Progress, progress
from mlx_loopai.cli.quantization import GGUF_FORMS, MLX_FORMS, quantization_options, steer_option
from mlx_loopai.language import later, tr

if TYPE_CHECKING:
    from converters.convert import Conversion

_STAGES = {"write": later("converting"), "verify": later("verifying")}


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far."""
    with contextlib.suppress(OSError):
        # On Linux getrusage includes the parent's peak from before exec; this figure does not.
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback that shows one bar a stage: its name, the bytes done, all bytes."""
    with contextlib.ExitStack() as bars:
        shown: dict[str, Progress] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in shown:
                bars.close()
                shown[stage] = bars.enter_context(progress(total, tr(_STAGES[stage]), quiet, "bytes"))
            shown[stage].update(done)

        yield show


def _document(done: Conversion) -> dict[str, Any]:
    return {
        "out": str(done.out),
        "tensors": done.tensors,
        "bytes": done.n_bytes,
        "dtype": done.dtype,
        "peak_rss_bytes": peak_rss_bytes(),
        "notes": done.notes,
        "verify": None if done.verification is None else asdict(done.verification),
    }


def _print_summary(document: dict[str, Any]) -> None:
    from mlx_loopai.units import format_bytes

    click.echo(
        tr(
            "{out}: {tensors} tensors, {size} as {dtype}, peak memory {peak}",
            out=document["out"],
            tensors=document["tensors"],
            size=format_bytes(document["bytes"]),
            dtype=document["dtype"],
            peak=format_bytes(document["peak_rss_bytes"]),
        )
    )
    for note in document["notes"]:
        click.echo(f"note: {note}")
    checked = document["verify"]
    if checked:
        click.echo(
            tr(
                "verified: largest weight difference {max_abs:.3g} (relative {max_rel:.3g}), largest logit difference "
                "{logits_max_abs:.3g}",
                max_abs=checked["max_abs"],
                max_rel=checked["max_rel"],
                logits_max_abs=checked["logits_max_abs"],
            )
        )
        readings = ", ".join(f"{reader} {difference:.3g}" for reader, difference in checked["readings"].items())
        click.echo(
            tr(
                "logits beside other readings of the source: {readings}",
                readings=readings or tr("none that knows this architecture"),
            )
        )
        if checked["unread"]:
            names = ", ".join(checked["unread"][:4])
            click.echo(
                tr(
                    "tensors of the source that nothing read: {count}, such as {names}",
                    count=len(checked["unread"]),
                    names=names,
                )
            )


@click.command("convert", short_help="Convert a model between MLX, Hugging Face and GGUF, and quantise it.")
@click.argument("source")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder (gguf: file) to create; never overwritten."
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="Folder that holds tokenizer.json; without it the source's own is used (rebuilt from a GGUF file).",
)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id; without it the newest is taken.")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="Type of the weights; without it the source's own (bf16 for a quantised GGUF).",
)
@click.option(
    "--to",
    type=click.Choice(["mlx", "hf", "gguf"]),
    default="mlx",
    show_default=True,
    help="An MLX folder, a Hugging Face folder, or one GGUF file.",
)
@quantization_options(
    (*MLX_FORMS, *GGUF_FORMS),
    "Quantise the matrices: bits or a float form for mlx; q8_0, q4_0 or a K-quant (needs the extra `gguf`) for gguf.",
)
@click.option("--text-only", is_flag=True, help="Leave out what makes a model see; gguf always does.")
@steer_option
@click.option(
    "--verify", "check", is_flag=True, help="Compare every tensor, and logits in every reading of config.json."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("--quiet", is_flag=True, help="Show no progress and no summary; errors are still shown.")
def command(
    source: str,
    out: Path,
    revision: str | None,
    tokenizer: Path | None,
    dtype: str | None,
    to: str,
    quantize: str | None,
    group_size: int | None,
    keep: tuple[str, ...],
    text_only: bool,
    steer: str | None,
    check: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert SOURCE to an MLX folder, a Hugging Face folder or a GGUF file.

    SOURCE is a Hugging Face model folder (safetensors or torch .bin, in one file or in shards), a hub id such as
    Qwen/Qwen2.5-1.5B-Instruct, a GGUF file, or nano. Supported architectures: qwen2 (also 2.5), qwen3, qwen3_moe,
    qwen3_5, qwen3_5_moe, llama, mistral, gpt_neox, exaone4 and gemma3_text; the vision models qwen2_vl, qwen2_5_vl and
    qwen3_vl; and for `rag build --embedder` the encoders bert, roberta and xlm-roberta. When a conversion was killed,
    the same command continues it.
    """
    from converters.convert import Source, convert
    from converters.writers.target import Target
    from mlx_loopai.errors import Interrupted

    target = Target(
        to, dtype=dtype, quantize=quantize, group_size=group_size, keep=keep, steer=steer, text_only=text_only
    )
    try:
        with _progress(quiet) as on_progress:
            read = Source.of(source, revision, tokenizer)
            done = convert(read, out, target=target, check=check, on_progress=on_progress)
    except KeyboardInterrupt:
        if to == "gguf":
            said = tr("{out}: stopped by Ctrl-C; the same command starts over", out=out)
        else:
            said = tr("{out}: stopped by Ctrl-C; the same command continues after the files that are finished", out=out)
        raise Interrupted(said) from None
    document = _document(done)
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False))
    else:
        _print_summary(document)

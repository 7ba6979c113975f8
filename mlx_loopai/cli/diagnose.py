"""`mlx-loopai diagnose`: figures and pictures of the inside of a tokenizer, a model or an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.figures import table
from mlx_loopai.cli.model_options import adapter_option, chosen_model, model_option
from mlx_loopai.cli.output import emit, json_option, progress, quiet_option
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.data.tokens import TokenRow
    from mlx_loopai.diagnostics.tokenizer import TokenizerReport
    from mlx_loopai.generation.session import Session
    from mlx_loopai.models.load import LoadedModel
    from mlx_loopai.models.vision.pictures import Pictures

_out = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("diagnosis"), show_default=True, help="Folder to write into."
)


def _checked_pictures(_: click.Context, __: click.Parameter, wanted: bool) -> bool:
    """Said before anything is computed. Raises: InputError where nothing can draw."""
    if wanted:
        from mlx_loopai.diagnostics import plot

        plot.korean_font()
    return wanted


_pictures = click.option(
    "--pictures/--no-pictures", default=True, callback=_checked_pictures, help="Draw as well (needs matplotlib)."
)


@click.group("diagnose", short_help="Look inside a tokenizer, a model or an adapter.")
def command() -> None:
    """Look inside a tokenizer, a model or an adapter: arrays as npz files, and pictures of them."""


@command.command("attention")
@model_option
@adapter_option
@click.option(
    "--text", "file", type=click.Path(path_type=Path), help="UTF-8 text to read; each line is a sequence of its own."
)
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A picture that each line asks about; its tokens are counted apart. Repeatable.",
)
@_out
@_pictures
@json_option
@quiet_option
def attention_command(
    model: str | None,
    adapter: Path | None,
    file: Path | None,
    images: tuple[Path, ...],
    out: Path,
    pictures: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show where each head looks: at which scripts or pictures, how evenly, how far back."""
    from mlx_loopai.diagnostics import plot
    from mlx_loopai.diagnostics.attention import attention
    from mlx_loopai.diagnostics.tokenizer import token_class

    session = _session(model, adapter, quiet)
    loaded = session.loaded
    lines = _read(file).splitlines() if file else [text for pair in _pairs() for text in pair]
    shown: list[Pictures | None] | None = None
    if images:
        asked = [_asked(session, line, images) for line in lines if line.strip()]
        sequences, shown = [ids for ids, _ in asked], [seen for _, seen in asked]
    else:
        sequences = [ids for line in lines if len(ids := _ids(loaded, line)) > 1]
    if not sequences:
        raise InputError(tr("{file}: no line of two tokens or more; give a text", file=file))
    size = loaded.shape.vocab_size
    classes = [token_class(loaded.tokenizer.decode([token])) for token in range(size)]
    if images and loaded.vision is not None:
        classes[loaded.vision.settings.image_token] = "picture"
    found = attention(loaded.model, sequences, classes, shown)
    arrays = {"mass": found.mass, "entropy": found.entropy, "distance": found.distance}
    summary = {
        "classes": found.classes,
        "mass": dict(zip(found.classes, found.mass.mean((0, 1)).tolist(), strict=True)),
        "entropy": float(found.entropy.mean()),
        "distance": float(found.distance.mean()),
    }
    diagnosis = _Diagnosis("attention", arrays, summary, lambda path: plot.draw_attention(found, path))
    _finish(diagnosis, out, pictures, as_json, quiet)


@command.command("hidden")
@model_option
@adapter_option
@_out
@_pictures
@json_option
@quiet_option
def hidden_command(
    model: str | None, adapter: Path | None, out: Path, pictures: bool, as_json: bool, quiet: bool
) -> None:
    """Compare Korean with English sentences of the same meaning, layer by layer, before and after fine-tuning."""
    from mlx_loopai.diagnostics import plot
    from mlx_loopai.diagnostics.hidden import hidden

    loaded = _loaded(model, adapter, quiet)
    korean, english = zip(*_pairs(), strict=True)
    found = hidden(loaded.model, *([_ids(loaded, text) for text in texts] for texts in (korean, english)))
    arrays = vars(found)
    summary = {name: values.tolist() for name, values in arrays.items()}
    diagnosis = _Diagnosis("hidden", arrays, summary, lambda path: plot.draw_hidden(found, path))
    _finish(diagnosis, out, pictures, as_json, quiet)


@command.command("lora")
@click.argument("adapter", type=click.Path(path_type=Path))
@_out
@_pictures
@json_option
@quiet_option
def lora_command(adapter: Path, out: Path, pictures: bool, as_json: bool, quiet: bool) -> None:
    """Show how large an adapter's updates are, how many directions they use, and which stand out; needs no model."""
    import numpy as np

    from mlx_loopai.diagnostics import plot
    from mlx_loopai.diagnostics.lora_weights import updates
    from mlx_loopai.models.adapter_folder import read_adapter
    from mlx_loopai.models.adapters import find_adapter

    read = read_adapter(find_adapter(adapter))
    found = updates({name: (np.array(a), np.array(b), read.scale) for name, (a, b) in read.factors.items()})
    arrays = {name: update.singular_values for name, update in found.items()}
    modules = {
        name: {key: value for key, value in vars(update).items() if key != "singular_values"}
        for name, update in found.items()
    }
    summary = {
        "norm": float(np.sqrt(sum(update.norm**2 for update in found.values()))),
        "outliers": [name for name, update in found.items() if update.outlier],
        "modules": modules,
    }
    diagnosis = _Diagnosis("lora", arrays, summary, lambda path: plot.draw_updates(found, path))
    _finish(diagnosis, out, pictures, as_json, quiet)


@command.command("gradients")
@model_option
@adapter_option
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Rows whose gradients are taken.")
@click.option("--batches", default=8, show_default=True, type=click.IntRange(1), help="Batches of four rows.")
@_out
@_pictures
@json_option
@quiet_option
def gradients_command(
    model: str | None,
    adapter: Path | None,
    data: Path,
    batches: int,
    out: Path,
    pictures: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show how large the gradient of each adapted matrix is, and where it vanishes or explodes; nothing is trained."""
    from mlx_loopai.config import LoraOptions
    from mlx_loopai.data.encoding import encode_records
    from mlx_loopai.data.records import read_records
    from mlx_loopai.data.tokens import ChatEncoder
    from mlx_loopai.diagnostics import plot
    from mlx_loopai.diagnostics.gradients import gradient_flow
    from mlx_loopai.models.lora import apply_lora

    records = read_records(data)
    loaded = _loaded(model, adapter, quiet)
    if adapter is None:
        apply_lora(loaded.model, LoraOptions(), seed=0)
    rows, _ = encode_records(ChatEncoder(loaded.tokenizer), records, max_tokens=2048)
    chosen = [rows[start : start + 4] for start in range(0, len(rows), 4)][:batches]
    with progress(len(chosen), tr("gradients"), quiet, unit="batches") as bar:
        found = gradient_flow(loaded.model, _counted(loaded, bar.advance), chosen)
    arrays = {"norms": found.norms}
    summary = {"modules": found.modules, "vanishing": found.vanishing, "exploding": found.exploding}
    diagnosis = _Diagnosis("gradients", arrays, summary, lambda path: plot.draw_flow(found, path))
    _finish(diagnosis, out, pictures, as_json, quiet)


@command.command("tokenizer")
@click.option(
    "--model", default="nano", show_default=True, help="nano, a folder (tokenizer files are enough), a hub id."
)
@click.option(
    "--text",
    "files",
    multiple=True,
    metavar="NAME=FILE",
    help="UTF-8 text whose cost is counted. [default: built-in texts]",
)
@json_option
@quiet_option
def tokenizer_command(model: str, files: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Show how much of a vocabulary is Korean, and what Korean text costs in tokens compared with English."""
    from mlx_loopai.diagnostics.tokenizer import tokenizer_report
    from mlx_loopai.models.load import load_tokenizer, resolve_model

    texts = {name: [_read(path)] for name, path in map(_pair, files)} or _own_texts()
    found = tokenizer_report(load_tokenizer(resolve_model(model)), texts)
    emit({"model": model, **vars(found)}, as_json, _tokenizer_text(model, found))


def _own_texts() -> Mapping[str, Sequence[str]]:
    """The embedded hand-written explanations by language; they exist in both."""
    from mlx_loopai.data.samples import texts

    return {
        language: [line for block in texts.blocks(f"knowledge_{name}") for line in block.lines]
        for language, name in (("korean", "ko"), ("english", "en"))
    }


def _pair(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise InputError(tr("--text {text}: expected NAME=FILE, such as korean=story.txt", text=text))
    return name, Path(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            tr("{path}: cannot be read: {strerror}; give a text file", path=path, strerror=error.strerror)
        ) from None
    except UnicodeDecodeError:
        raise InputError(tr("{path}: not UTF-8; save it as UTF-8", path=path)) from None


def _tokenizer_text(model: str, found: TokenizerReport) -> str:
    lines = [
        tr(
            "{model}: {tokens} tokens, {share:.1%} of them Hangul; {without} of 11172 syllables have no token of their "
            "own",
            model=model,
            tokens=found.vocabulary,
            share=found.hangul_share,
            without=found.syllables_without_token,
        )
    ]
    lines += table([(f"  {name}", str(count)) for name, count in found.classes.items()])
    lines += [
        tr(
            "{language}: {rate:.3f} tokens a character over {characters} characters, {broken:.1%} of them parts of a "
            "character",
            language=language,
            rate=cost.tokens_per_character,
            characters=cost.characters,
            broken=cost.broken_share,
        )
        for language, cost in found.cost.items()
    ]
    if {"korean", "english"} <= found.cost.keys():
        times = found.relative_cost("korean", "english")
        lines.append(tr("Korean costs {times:.1f} times English per character", times=times))
    return "\n".join(lines)


def _session(model: str | None, adapter: Path | None, quiet: bool) -> Session:
    from mlx_loopai.generation.session import open_session

    return open_session(chosen_model(model, adapter, quiet), adapter)


def _loaded(model: str | None, adapter: Path | None, quiet: bool) -> LoadedModel:
    return _session(model, adapter, quiet).loaded


def _asked(session: Session, line: str, images: Sequence[Path]) -> tuple[list[int], Pictures]:
    """The tokens of a prompt that asks `line` about `images`, and the features for the pictures' tokens."""
    from mlx_loopai.data.images import given_picture
    from mlx_loopai.generation.prompts import single_prompt

    prompt = single_prompt(line, [given_picture(path) for path in images])
    ids = session.prompt_ids(prompt)  # refused where the model reads text only
    assert session.tools.eyes is not None
    return ids, session.tools.eyes.pictures(ids, session.pictures(prompt))


def _pairs() -> list[tuple[str, str]]:
    from mlx_loopai.data.samples import texts

    return texts.parallel_sentences()


def _ids(loaded: LoadedModel, text: str) -> list[int]:
    from mlx_loopai.data.tokens import text_start

    return [*text_start(loaded.tokenizer), *loaded.tokenizer.encode(text, add_special_tokens=False)]


def _counted(loaded: LoadedModel, advance: Callable[[], None]) -> Callable[[Sequence[TokenRow]], Any]:
    """The mean loss of a batch of rows, as training computes it."""
    import mlx.core as mx

    from mlx_loopai.data.batches import batch_of
    from mlx_loopai.models.gradient import Targets, batch_loss

    def loss(rows: Sequence[TokenRow]) -> mx.array:
        batch = batch_of(rows, [max(len(row.ids) for row in rows)])
        advance()
        targets = Targets.of(batch)
        ids = mx.array(batch.ids[:, :-1])
        (total,) = batch_loss(loaded.model, ids, targets)
        return total / max(1, int(batch.supervised[:, 1:].sum()))

    return loss


@dataclass(frozen=True)
class _Diagnosis:
    """A result: the arrays to save, a summary to print, and the function that draws the picture."""

    name: str
    arrays: Mapping[str, Any]
    summary: dict[str, Any]
    draw: Callable[[Path], None]


def _finish(found: _Diagnosis, out: Path, pictures: bool, as_json: bool, quiet: bool) -> None:
    """Write the arrays and the picture, and print the summary."""
    from mlx_loopai.diagnostics import plot

    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{found.name}.npz"]
    plot.save_arrays(files[0], found.arrays)
    if pictures:
        files.append(out / f"{found.name}.png")
        found.draw(files[1])
        if plot.korean_font() is None:
            click.echo(tr("no font with Hangul on this machine: the pictures are labelled in English"), err=True)
    document = {"files": [str(file) for file in files], **found.summary}
    lines = [f"{key}: {_short(value)}" for key, value in document.items() if key != "modules"]
    emit(document, as_json, "\n".join(lines))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value)) or "none"
    return str(value)

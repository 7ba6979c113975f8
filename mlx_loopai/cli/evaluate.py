"""`mlx-loopai evaluate`: what a model can do, and how much of that fine-tuning left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, progress, quiet_option, to_plain
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlx_loopai.data.records import Record
    from mlx_loopai.data.tokens import ChatEncoder
    from mlx_loopai.evaluation.measure import Measurement
    from mlx_loopai.evaluation.probes import Probe
    from mlx_loopai.models.load import LoadedModel

LM_EVAL = "lm-eval:"  # as evaluation.lm_eval, which --help does not import


@click.command("evaluate", short_help="Measure what a model kept of its general ability.")
@click.option("--model", default="nano", show_default=True, help="nano (embedded), a folder, or a hub id.")
@click.option("--adapter", type=click.Path(path_type=Path), help="Adapter folder, or a RUN that has one.")
@click.option(
    "--suite", help="Questions other than nano's: general (for any model), a YAML file, or lm-eval:TASK,TASK."
)
@click.option(
    "--text", "texts", type=click.Path(path_type=Path), help="Score a file of generated texts; no model is loaded."
)
@click.option("--references", type=click.Path(path_type=Path), help="Reference texts for --text, in the same order.")
@click.option(
    "--tokenize",
    type=click.Choice(["char", "ko-mecab"]),
    default="char",
    show_default=True,
    help="The units that BLEU counts.",
)
@click.option("--lid", is_flag=True, help="With --text: pass rates by fastText's language identifier as well.")
@click.option(
    "--english-words", type=click.Path(path_type=Path), help="With --lid: the words that count as English, one a line."
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Other answers to the prompts of --text; a judge model compares the two.",
)
@click.option("--judge-url", help="The judge's OpenAI-compatible API, such as http://127.0.0.1:8080/v1.")
@click.option("--judge-model", help="The judge's name at that API. A key is read from MLX_LOOPAI_JUDGE_KEY.")
@click.option(
    "--judgements",
    type=click.Path(path_type=Path),
    help="JSONL file that keeps the verdicts. [default: next to --text]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most N questions per probe (seeded): a quick look.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON document to this file as well.")
@json_option
@quiet_option
def command(
    model: str,
    adapter: Path | None,
    suite: str | None,
    texts: Path | None,
    references: Path | None,
    tokenize: str,
    limit: int | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    **text_options: Any,
) -> None:
    """Ask the model questions and judge its free answers.

    With --adapter the base answers them too. The retention then tells how much of the base's ability is left, and it is
    written on the adapter's card. The base's answers are kept in ~/.cache/mlx-loopai (or $MLX_LOOPAI_CACHE).

    With --text no model is asked: the texts of a file are scored. With --against a judge model compares them with
    others, pair by pair and in both orders, for consistency (일관성), creativity (창의성), language (언어 품질)
    and genre (장르 적합성).
    """
    from mlx_loopai.generation.session import find_adapter

    _check_out(out)
    for name, given in {"references": references, **text_options}.items():
        if given and texts is None:
            raise InputError(f"--{name.replace('_', '-')}: there is nothing to compare with it; add --text FILE")
    folder = find_adapter(adapter) if adapter is not None else None
    if texts is not None:
        from mlx_loopai.cli.text_scores import text_document, text_table

        document = text_document(texts, references, tokenize, text_options, quiet)
        text = text_table(document)
    elif suite is None:
        document = _probes(model, folder, limit, quiet)
        text = _table(document)
    elif suite.startswith(LM_EVAL):
        from mlx_loopai.cli.suite import lm_eval_document, lm_eval_table

        document = lm_eval_document(model, folder, suite, limit, quiet)
        text = lm_eval_table(document)
    else:
        from mlx_loopai.cli.suite import suite_document, suite_table

        document = suite_document(model, folder, suite, limit, quiet)
        text = suite_table(document)
    if folder is not None and document.get("retention") is not None:
        _note_on_card(folder, document, suite or "probes")
    if out is not None:
        _write(out, document)
    emit(document, as_json, text)


def _note_on_card(folder: Path, document: Mapping[str, Any], suite: str) -> None:
    from mlx_loopai.models.adapters import note_retention
    from mlx_loopai.runs.documents.evaluation import Evaluation
    from mlx_loopai.training.card import retention_figures

    found = Evaluation.from_json(to_plain(document), "evaluation")
    note_retention(folder, retention_figures(Path(suite).name, found))


def _probes(model: str, adapter: Path | None, limit: int | None, quiet: bool) -> dict[str, Any]:
    from mlx_loopai.data.samples import corpus
    from mlx_loopai.data.tokens import ChatEncoder
    from mlx_loopai.evaluation.measure import comparable, measure, report
    from mlx_loopai.evaluation.probes import nano_probes
    from mlx_loopai.models.load import load_model

    # Read before the model is loaded, so that a wrong folder is said at once.
    system_prompt = _system_prompt(adapter)
    loaded = load_model(model)
    encoder = ChatEncoder(loaded.tokenizer, system_prompt)
    probes = [probe.sample(limit) if limit else probe for probe in nano_probes()]
    held_out = corpus.held_out_texts()
    if adapter is not None:
        from mlx_loopai.models.adapters import load_adapter

        load_adapter(loaded.model, adapter, loaded.base_hash)
    base = _base(loaded, encoder, system_prompt, probes, held_out, quiet)
    tuned = None
    if adapter is not None:
        _say_what_counts(loaded, comparable(base.results), quiet)
        with progress(sum(len(probe.items) for probe in probes), "tuned", quiet, "answers") as shown:
            tuned = measure(loaded, encoder, probes, held_out, on_progress=shown.update)
    return report(model, str(adapter) if adapter else None, probes, base, tuned)


def _base(
    loaded: LoadedModel,
    encoder: ChatEncoder,
    system_prompt: str,
    probes: Sequence[Probe],
    held_out: Sequence[Record],
    quiet: bool,
) -> Measurement:
    """The base's measurement, from the cache when it is there."""
    from mlx_loopai.evaluation import base_cache
    from mlx_loopai.evaluation.measure import measure
    from mlx_loopai.evaluation.probes import MAX_ANSWER_TOKENS
    from mlx_loopai.models.lora import adapter_disabled

    path = base_cache.cache_path(loaded, system_prompt, probes, held_out, MAX_ANSWER_TOKENS)
    stored = base_cache.read(path, probes)
    if stored is not None:
        return stored
    total = sum(len(probe.items) for probe in probes)
    with adapter_disabled(loaded.model), progress(total, "base", quiet, "answers") as shown:
        found = measure(loaded, encoder, probes, held_out, on_progress=shown.update)
    base_cache.write(path, found)
    return found


def _system_prompt(adapter: Path | None) -> str:
    """The system prompt that the adapter was trained with: probes use the same."""
    from mlx_loopai.models.adapters import read_adapter_config

    if adapter is None:
        return ""
    ours = read_adapter_config(adapter).get("mlx_loopai") or {}
    return str(ours.get("system_prompt") or "")


def _say_what_counts(loaded: LoadedModel, names: Sequence[str], quiet: bool) -> None:
    from mlx_loopai.models.load import NANO_FOLDER

    if not quiet and loaded.path.resolve() != NANO_FOLDER.resolve():
        click.echo(
            "the probes are made for the nano model; retention counts those on which this base is well above chance: "
            + ", ".join(names),
            err=True,
        )


def _check_out(out: Path | None) -> None:
    """Said before the work, not after it."""
    if out is None:
        return
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; name a file in it, such as {out / 'evaluation.json'}")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; make it first")


def _write(out: Path, document: dict[str, Any]) -> None:
    write_whole(out, json.dumps(to_plain(document), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def _table(document: dict[str, Any]) -> str:
    tuned = document["tuned"] is not None
    header = f"{'probe':<10} {'n':>4} {'chance':>7} {'base':>6}"
    lines = [header + (f" {'tuned':>6} {'kept':>6} {'right->wrong':>13} {'wrong->right':>13}" if tuned else "")]
    for name, probe in document["probes"].items():
        line = f"{name:<10} {probe['n']:>4} {probe['chance']:>7.3f} {probe['base']:>6.3f}"
        if tuned:
            line += f" {probe['score']:>6.3f} " + _kept(probe)
        lines.append(line)
    if tuned:
        low, high = document["retention_interval"]
        lines += [
            "",
            f"retention   {document['retention']:.3f} (95 % interval {low:.3f} to {high:.3f})",
            f"worst probe {document['retention_min']:.3f}",
            f"perplexity  {document['base']['perplexity']:.2f} -> {document['perplexity']:.2f} (held-out text)",
            f"purity      {document['base']['purity']:.3f} -> {document['purity']:.3f} (answers to Korean chat)",
        ]
    else:
        lines += ["", f"perplexity  {document['perplexity']:.2f} (held-out text)"]
        lines.append(f"purity      {document['purity']:.3f} (answers to Korean chat)")
    return "\n".join(lines)


def _kept(probe: dict[str, Any]) -> str:
    if not probe["counted"]:
        return "  (base too near chance: not counted)"
    return f"{probe['capped']:>6.3f} {probe['right_to_wrong']:>13} {probe['wrong_to_right']:>13}"

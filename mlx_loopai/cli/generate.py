"""`mlx-loopai generate`: one prompt as a stream, or a file of prompts as a batch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, progress, quiet_option
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole

if TYPE_CHECKING:
    from mlx_loopai.data.records import Record
    from mlx_loopai.generation.constraint import Constraint, Tally
    from mlx_loopai.generation.engine import Generation, SamplingOptions
    from mlx_loopai.generation.prompts import Prompt
    from mlx_loopai.generation.session import Session

_FILE = click.Path(path_type=Path)
# Above this share of overruled first choices the text is the constraint's more than the model's.
_MUCH_MASKING = 0.1


@dataclass(frozen=True)
class _Output:
    out: Path | None
    as_json: bool
    quiet: bool


@dataclass(frozen=True)
class _Job:
    """Everything that is the same for all prompts of a call."""

    session: Session
    examples: Sequence[Record]
    options: SamplingOptions
    best_of: int
    constraint: Constraint | None
    tally: Tally

    @property
    def scripts(self) -> str:
        return str(self.constraint.scripts) if self.constraint else "off"


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that decide how tokens are chosen, under the names of SamplingOptions."""
    options = (
        click.option(
            "--temperature", type=float, default=0.7, show_default=True, help="0: always the likeliest token."
        ),
        click.option(
            "--top-p", type=float, default=0.9, show_default=True, help="Share of the probability kept; 1: all."
        ),
        click.option("--top-k", type=int, default=0, show_default=True, help="How many tokens are kept; 0: all."),
        click.option(
            "--repetition-penalty", type=float, default=1.0, show_default=True, help="Above 1: repeats less; 1: off."
        ),
        click.option("--max-tokens", type=int, default=256, show_default=True, help="Longest answer, in tokens."),
        click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same text."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def constraint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that decide which scripts an answer may be written in."""
    command = click.option("--code-fences", is_flag=True, help="Allow everything inside ``` fences.")(command)
    return click.option(
        "--scripts",
        default="ko+loanwords+gloss",
        show_default=True,
        help="Scripts an answer may use: off, or a sum of ko, latin, loanwords, gloss, han, emoji.",
    )(command)


@click.command("generate", short_help="Generate text from a prompt or a file of prompts.")
@click.argument("prompt", required=False)
@click.option("--prompts", type=_FILE, help=".txt with a prompt a line, or .jsonl rows with prompt or messages.")
@click.option("--model", default="nano", show_default=True, help="nano (embedded), a folder, or a hub id.")
@click.option("--adapter", type=_FILE, help="RUN/adapter folder (or RUN) of a training run on this model.")
@click.option("--few-shot", type=_FILE, help="Rows with a request and its answer, shown before every prompt.")
@click.option(
    "--genre", help="Examples and a system prompt that come with the program: 판타지, 로맨스, 동화, 시, 수필."
)
@click.option("--rag", type=_FILE, help="Index of `rag build`: its best passages are shown with each prompt.")
@click.option("--rag-top", type=click.IntRange(1, 20), default=3, show_default=True, help="How many passages.")
@click.option(
    "--best-of",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Write this many answers and keep the one that is most Korean and repeats least.",
)
@click.option("--system", help="System prompt; without it the one the adapter was trained with, if any.")
@sampling_options
@constraint_options
@click.option("--out", type=_FILE, help="With --prompts: write one JSON row per prompt to this .jsonl file.")
@json_option
@quiet_option
def command(
    prompt: str | None,
    prompts: Path | None,
    model: str,
    adapter: Path | None,
    few_shot: Path | None,
    genre: str | None,
    rag: Path | None,
    rag_top: int,
    best_of: int,
    system: str | None,
    scripts: str,
    code_fences: bool,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    **sampling: Any,
) -> None:
    """Answer PROMPT, or every prompt of a file.

    The text of one PROMPT appears as it is written. A file's prompts are answered together, in the file's order.

    --scripts: ko is Hangul, digits and punctuation; latin is free, loanwords makes Latin words dear unless the prompt
    holds them; gloss allows Hanja in brackets after Hangul, han everywhere.
    """
    from mlx_loopai.text.alphabet import Scripts

    policy = Scripts.parse(scripts)
    asked = _read_prompts(prompt, prompts, out)
    from mlx_loopai.generation.constraint import Tally, build_constraint
    from mlx_loopai.generation.engine import SamplingOptions
    from mlx_loopai.generation.genres import find_genre
    from mlx_loopai.generation.prompts import read_few_shot
    from mlx_loopai.generation.session import open_session
    from mlx_loopai.retrieval.store import read_manifest

    options = SamplingOptions(**sampling)
    examples = read_few_shot(few_shot) if few_shot else ()
    if genre is not None:
        chosen = find_genre(genre)
        examples = examples or chosen.records()
        system = chosen.system_prompt if system is None else system
    if rag is not None:
        read_manifest(rag)  # before the weights: a mistyped folder should not cost a minute of loading
    session = open_session(model, adapter, system)
    if rag is not None:
        asked = _grounded(asked, rag, rag_top, session, examples, options.max_tokens)
    constraint = build_constraint(session.loaded, policy, code_fences)
    job = _Job(session, examples, options, best_of, constraint, Tally())
    output = _Output(out, as_json, quiet)
    if prompts is None:
        _answer_one(job, asked[0], output)
    else:
        _answer_all(job, asked, output)
    if constraint is not None and not quiet:
        _warn_of_damage(job.tally)


def _grounded(
    prompts: list[Prompt], rag: Path, top: int, session: Session, examples: Sequence[Record], max_tokens: int
) -> list[Prompt]:
    """Each prompt with its passages of the index, as far as they fit before an answer of `max_tokens`."""
    from mlx_loopai.generation.grounding import ground_all
    from mlx_loopai.retrieval.index import open_index

    with open_index(rag) as index:
        return ground_all(prompts, lambda query: index.search(query, top), session, examples, max_tokens)


def _warn_of_damage(tally: Tally) -> None:
    if tally.argmax_masked > _MUCH_MASKING:
        click.echo(
            f"the constraint overruled the model's first choice at {tally.argmax_masked:.0%} of the tokens: "
            "the model itself writes other scripts; see `mlx-loopai evaluate`, or try --scripts off",
            err=True,
        )


def _read_prompts(prompt: str | None, prompts: Path | None, out: Path | None) -> list[Prompt]:
    from mlx_loopai.generation.prompts import read_prompts, single_prompt

    if prompt is None and prompts is None:
        raise InputError("no prompt; write one, or give a file of prompts with --prompts FILE")
    if prompts is None:
        if out is not None:
            raise InputError(f"--out {out}: only with --prompts FILE; the text of one prompt goes to standard output")
        return [single_prompt(prompt or "")]
    if prompt is not None:
        raise InputError(f"both a prompt and --prompts {prompts}; give one of them")
    if out is not None:
        _check_out(out, prompts)
    return read_prompts(prompts)


def _check_out(out: Path, prompts: Path) -> None:
    """What would fail after the work is done is said before it."""
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file in it")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.absolute().parent}; create it first")
    if out.exists() and prompts.exists() and out.samefile(prompts):
        raise InputError(f"--out {out}: is the file of prompts; name another")


def _answer_one(job: _Job, prompt: Prompt, output: _Output) -> None:
    ids = job.session.prompt_ids(prompt, job.examples)
    started = time.perf_counter()
    text, n_tokens, finished = _best(job, ids, output) if job.best_of > 1 else _streamed(job, ids, output)
    seconds = time.perf_counter() - started
    document = {
        "text": text,
        "prompt_tokens": len(ids),
        "generated_tokens": n_tokens,
        "tokens_per_s": n_tokens / seconds,
        "seed": job.options.seed,
        "scripts": job.scripts,
        "masked_mass": job.tally.masked_mass,
        "argmax_masked": job.tally.argmax_masked,
        "finished": finished,
        "sources": prompt.sources,
    }
    emit(document, output.as_json, "")


def _streamed(job: _Job, ids: list[int], output: _Output) -> tuple[str, int, bool]:
    """Show the answer as it is written. Returns: its text, its tokens, and whether the model ended it."""
    from mlx_loopai.generation.engine import generate_stream

    texts: list[str] = []
    n_tokens, finished = 0, False
    for piece in generate_stream(job.session.loaded, ids, job.options, job.constraint, job.tally):
        texts.append(piece.text)
        n_tokens += piece.token is not None
        finished = piece.finished
        if not output.as_json and piece.text:
            click.echo(piece.text, nl=False)
    if not output.as_json:
        click.echo()
    return "".join(texts), n_tokens, finished


def _best(job: _Job, ids: list[int], output: _Output) -> tuple[str, int, bool]:
    """The same for the best of several answers, shown when all are written."""
    (answer,) = _all_answers(job, [ids], output)
    if not output.as_json:
        click.echo(answer.text)
    return answer.text, len(answer.tokens), answer.finished


def _all_answers(job: _Job, ids: list[list[int]], output: _Output) -> list[Generation]:
    from mlx_loopai.generation.ranking import generate_best

    with progress(len(ids) * job.best_of, "generating", output.quiet, "answers") as shown:
        return generate_best(
            job.session.loaded,
            ids,
            job.options,
            job.best_of,
            lambda done, _: shown.update(done),
            job.constraint,
            job.tally,
        )


def _answer_all(job: _Job, prompts: list[Prompt], output: _Output) -> None:
    ids = [job.session.prompt_ids(prompt, job.examples) for prompt in prompts]
    started = time.perf_counter()
    answers = _all_answers(job, ids, output)
    seconds = time.perf_counter() - started
    results = [_row(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    n_tokens = sum(len(answer.tokens) for answer in answers)
    document = {
        "results": results,
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
        "generated_tokens": n_tokens,
        "tokens_per_s": n_tokens / seconds,
        "seed": job.options.seed,
        "scripts": job.scripts,
        "masked_mass": job.tally.masked_mass,
        "argmax_masked": job.tally.argmax_masked,
        "out": output.out,
    }
    if output.out is not None:
        _write_rows(output.out, results)
        emit(document, output.as_json, f"{output.out}: {len(results)} answers, {n_tokens} tokens")
    else:
        emit(document, output.as_json, "\n\n".join(f"> {row['prompt']}\n{row['text']}" for row in results))


def _row(prompt: Prompt, answer: Generation) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "text": answer.text,
        "prompt_tokens": answer.prompt_tokens,
        "generated_tokens": len(answer.tokens),
        "finished": answer.finished,
        "sources": [asdict(source) for source in prompt.sources],
    }


def _write_rows(out: Path, rows: list[dict[str, Any]]) -> None:
    """All rows or none: a full disk must not leave half a file under the name that was asked for."""
    write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

"""`mlx-loopai generate`: one prompt as a stream, or a file of prompts as a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.generation_options import adapter_when_option, generation_flags, read_flags
from mlx_loopai.cli.model_options import adapter_option, chosen_model, model_option
from mlx_loopai.cli.output import json_option, quiet_option, waiting
from mlx_loopai.cli.rag import chroma_url_option, rag_top_option
from mlx_loopai.cli.shown_options import genre_option, system_option
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.cli.answering import Question
    from mlx_loopai.data.records import Record
    from mlx_loopai.generation.answers import Standard
    from mlx_loopai.generation.grammar import Grammar
    from mlx_loopai.generation.prompts import Prompt
    from mlx_loopai.generation.session import AdapterWhen, Session
    from mlx_loopai.models.load import LoadedModel
    from mlx_loopai.models.prompt_cache import Prefix

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class _Given:
    """The options of a call, except those of generation."""

    prompt: str | None
    prompts: Path | None
    image: tuple[Path, ...]
    model: str | None
    adapter: Path | None
    adapter_when: AdapterWhen
    few_shot: Path | None
    genre: str | None
    rag: Path | None
    rag_top: int
    chroma_url: str | None
    best_of: int
    system: str | None
    retries: int | None
    max_removed: float | None
    json_schema: Path | None
    regex: str | None
    prompt_cache: Path | None
    draft_model: str | None
    out: Path | None
    as_json: bool
    quiet: bool


def _standard_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that decide which answers are accepted, and in which form."""
    options = (
        click.option(
            "--retries", type=click.IntRange(0), help="Judge each answer; write it again up to N times while it fails."
        ),
        click.option(
            "--max-removed",
            type=click.FloatRange(0, 1),
            help="Judge each answer: the largest share that the filter may remove.  [default: 0.1 with --retries]",
        ),
        click.option("--json-schema", type=_FILE, help="The answer is JSON of this schema (extra: grammar)."),
        click.option("--regex", help="The whole answer matches this regular expression (extra: grammar)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("generate", short_help="Generate text from a prompt or a file of prompts.")
@click.argument("prompt", required=False)
@click.option("--prompts", type=_FILE, help=".txt with one prompt a line, or .jsonl rows with prompt or messages.")
@click.option(
    "--image",
    type=_FILE,
    multiple=True,
    help="A PNG, JPEG or WebP picture that PROMPT shows (repeatable), for a model that sees (extra: vision).",
)
@model_option
@adapter_option
@adapter_when_option
@click.option("--few-shot", type=_FILE, help="Rows with a request and its answer, shown before every prompt.")
@genre_option
@click.option("--rag", type=_FILE, help="Index of `rag build`: its best passages are shown with each prompt.")
@rag_top_option
@chroma_url_option
@click.option(
    "--best-of",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Write this many answers and keep the one that is most Korean and repeats least.",
)
@system_option
@generation_flags()
@_standard_options
@click.option(
    "--prompt-cache",
    type=_FILE,
    help="A .safetensors file that keeps what was read of the prompts' common beginning (system prompt, examples).",
)
@click.option(
    "--draft-model",
    help="A smaller model of the same vocabulary that proposes tokens for one PROMPT: the same text, sooner.",
)
@click.option(
    "--out",
    type=_FILE,
    help="With --prompts: write one JSON row per prompt to this .jsonl file; the same command completes a file that is "
    "not whole.",
)
@json_option
@quiet_option
def command(**options: Any) -> None:
    """Answer PROMPT, or every prompt of a file.

    The text of one PROMPT appears as it is written. A file's prompts are answered together, in the file's order.
    With --retries or --max-removed an answer is judged first: if it declines, or the filter would remove
    too much, it is written again with the next seed. When none is accepted the exit status is 1.

    --scripts: ko is Hangul, digits and punctuation; latin allows Latin words freely; loanwords makes Latin words that
    the prompt does not hold less likely; gloss allows Hanja in brackets after Hangul, han everywhere.
    """
    generation = read_flags(options)
    given = _Given(**options)
    from mlx_loopai.text.alphabet import Scripts

    Scripts.parse(generation.scripts)  # quick checks come before the weights are loaded
    _check_together(given)
    asked = _read_prompts(given)
    from mlx_loopai.cli.answering import Job, Output, Question, answer_all, answer_one
    from mlx_loopai.generation.engine import load_draft
    from mlx_loopai.generation.session import answer_room

    model = chosen_model(given.model, given.adapter, given.quiet)
    with waiting(tr("loading {model}", model=model), given.quiet):
        session, examples = _session(given, model)
    loaded = session.loaded
    budget = loaded.max_positions - answer_room(generation, loaded.max_positions)
    asked = _grounded(asked, given, session, examples, budget)
    questions = [
        Question(one, session.prompt_ids(one, examples, generation), session.pictures(one, examples)) for one in asked
    ]
    job = Job(
        session=session,
        options=generation,
        best_of=given.best_of,
        grammar=_grammar(loaded, given),
        standard=_standard(given),
        draft=None if given.draft_model is None else load_draft(given.draft_model, loaded),
        prefix=_prefix(session, examples, questions, given),
    )
    output = Output(given.out, given.as_json, given.quiet)
    if given.prompts is None:
        answer_one(job, questions[0], output)
    else:
        answer_all(job, questions, output)


def _check_together(given: _Given) -> None:
    """Raises: InputError for options that exclude each other."""
    if given.json_schema is not None and given.regex is not None:
        raise InputError(tr("--json-schema and --regex: an answer has one form; give one of them"))
    batched = {
        "--prompts": given.prompts is not None,
        "--best-of": given.best_of > 1,
        "--retries or --max-removed": given.retries is not None or given.max_removed is not None,
        "--prompt-cache": given.prompt_cache is not None,
        "--image": bool(given.image),
    }
    for name, asked in batched.items():
        if asked and given.draft_model is not None:
            raise InputError(
                tr("--draft-model with {name}: it serves one streamed answer; give one of them", name=name)
            )
    for name in ("--prompts", "--prompt-cache"):
        if given.image and batched[name]:
            raise InputError(tr("--image with {name}: pictures belong to one PROMPT; give one of them", name=name))
    if given.prompt_cache is not None and given.adapter_when == "auto":
        raise InputError(
            tr("--prompt-cache with --adapter-when auto: base and adapter read prompts apart; give one of them")
        )
    if given.prompt_cache is not None and given.prompt_cache.suffix != ".safetensors":
        raise InputError(
            tr(
                "--prompt-cache {prompt_cache}: is a safetensors file; let its name end in .safetensors",
                prompt_cache=given.prompt_cache,
            )
        )


def _session(given: _Given, model: str) -> tuple[Session, Sequence[Record]]:
    """The opened model, and the examples to show it."""
    from mlx_loopai.generation.genres import shown_first
    from mlx_loopai.generation.session import open_session
    from mlx_loopai.retrieval.store import read_manifest

    examples, system = shown_first(given.genre, given.few_shot, given.system)
    if given.rag is not None:
        read_manifest(given.rag)  # before the weights: a mistyped folder should not cost a minute of loading
    return open_session(model, given.adapter, system, adapter_when=given.adapter_when), examples


def _grounded(
    prompts: list[Prompt], given: _Given, session: Session, examples: Sequence[Record], budget_tokens: int
) -> list[Prompt]:
    """Each prompt with its passages of the index --rag, if any, as far as they fit into `budget_tokens`."""
    if given.rag is None:
        return prompts
    from mlx_loopai.generation.grounding import ground_all
    from mlx_loopai.retrieval.index import open_index

    with open_index(given.rag, given.chroma_url) as index:
        return ground_all(prompts, lambda query: index.search(query, given.rag_top), session, examples, budget_tokens)


def _standard(given: _Given) -> Standard | None:
    from mlx_loopai.generation.answers import Standard

    chosen = {"retries": given.retries, "max_removed": given.max_removed}
    values: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    return Standard(**values) if values else None


def _grammar(loaded: LoadedModel, given: _Given) -> Grammar | None:
    from mlx_loopai.generation.grammar import json_schema_grammar, regex_grammar

    if given.json_schema is not None:
        return json_schema_grammar(loaded, given.json_schema)
    return None if given.regex is None else regex_grammar(loaded, given.regex)


def _prefix(
    session: Session, examples: Sequence[Record], questions: Sequence[Question], given: _Given
) -> Prefix | None:
    """The cache of the prompts' common beginning, from the file of --prompt-cache, or computed and stored there."""
    from mlx_loopai.generation.prompts import single_prompt
    from mlx_loopai.models.prompt_cache import cache_identity, compute_prefix, read_prefix, save_prefix, shared_tokens

    path, all_ids = given.prompt_cache, [question.ids for question in questions]
    # Not for prompts with pictures: their common beginning is more than its tokens.
    if (path is None and len(all_ids) == 1) or any(question.pictures for question in questions):
        return None
    # One more request shows where system prompt and examples end, even if there is only one prompt.
    tokens = shared_tokens([*all_ids, session.prompt_ids(single_prompt("?"), examples)])
    if not tokens:
        return None
    if path is None:
        return compute_prefix(session.loaded.model, tokens)
    identity = cache_identity(session.loaded.model, session.loaded.base_hash, session.adapter)
    if path.exists():
        found = read_prefix(path, identity, tokens)
        if not isinstance(found, str):
            return found
        if not given.quiet:
            click.echo(tr("{path}: computed anew, since {found}", path=path, found=found), err=True)
    prefix = compute_prefix(session.loaded.model, tokens)
    save_prefix(path, prefix, identity)
    return prefix


def _read_prompts(given: _Given) -> list[Prompt]:
    from mlx_loopai.data.images import given_picture
    from mlx_loopai.generation.prompts import read_prompts, single_prompt

    prompt, prompts, out = given.prompt, given.prompts, given.out
    if prompt is None and prompts is None:
        raise InputError(tr("no prompt; write one, or give a file of prompts with --prompts FILE"))
    if prompts is None:
        if out is not None:
            raise InputError(
                tr("--out {out}: only with --prompts FILE; the text of one prompt goes to standard output", out=out)
            )
        return [single_prompt(prompt or "", [given_picture(path) for path in given.image])]
    if prompt is not None:
        raise InputError(tr("both a prompt and --prompts {prompts}; give one of them", prompts=prompts))
    if out is not None:
        _check_out(out, prompts)
    return read_prompts(prompts)


def _check_out(out: Path, prompts: Path) -> None:
    """Refuse before the work what could not be written after it. Raises: InputError."""
    if out.is_dir():
        raise InputError(tr("--out {out}: is a folder; name a file in it", out=out))
    if not out.absolute().parent.is_dir():
        raise InputError(
            tr("--out {out}: there is no folder {parent}; create it first", out=out, parent=out.absolute().parent)
        )
    if out.exists() and prompts.exists() and out.samefile(prompts):
        raise InputError(tr("--out {out}: is the file of prompts; name another", out=out))
